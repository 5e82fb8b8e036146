//! The condition MeshReachable: whether the operator has a link to the nodes' mesh. Pure.

/// The operator's link to the mesh of an organism.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MeshLink {
    /// It is up.
    Up,
    /// No node has an address.
    NoNodes,
    /// It went down, or is not up yet, for less than a minute.
    Connecting,
    /// No node could be reached for a minute, for this reason.
    Unreachable(String),
}

impl MeshLink {
    /// Status, reason and message of the condition.
    #[must_use]
    pub fn condition(&self) -> (&'static str, &'static str, String) {
        match self {
            Self::Up => ("True", "Linked", "The operator is linked to a node and takes injections.".into()),
            Self::NoNodes => ("Unknown", "NoNodes", "No node has an address yet.".into()),
            Self::Connecting => ("Unknown", "Connecting", "The operator is connecting to a node.".into()),
            Self::Unreachable(why) => (
                "False",
                "Unreachable",
                format!(
                    "The operator has reached no node for a minute ({why}). Injections wait at the nodes, and expire there \
                     after ten minutes. Check the NetworkPolicies between the operator and the nodes."
                ),
            ),
        }
    }
}
