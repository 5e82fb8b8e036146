//! What the response to a decision changes in the objects of a body. Pure.

/// The label that a quarantine's selectors use, and that no pod carries: `spec` may not contain keys of this prefix.
pub const QUARANTINE_LABEL: &str = "genesis.venom.dev/quarantine";

/// What the response to a decision changes in the objects of a body. The default changes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measures {
    /// The pods exchange traffic with DNS, their peers and the operator only.
    pub isolated: bool,
    /// What the autoscaler may do.
    pub scaling: ScalingLimit,
    /// The autoscaler's target utilization in percent, instead of that of the spec.
    pub utilization: Option<u32>,
}

/// What an autoscaler may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ScalingLimit {
    /// What its rules say.
    #[default]
    Free,
    /// It may not remove pods.
    NoScaleDown,
    /// It may neither add nor remove pods.
    Frozen,
}

impl ScalingLimit {
    /// The `selectPolicy` of its rules for scaling up and down; none leaves them as they are.
    #[must_use]
    pub fn select_policies(self) -> (Option<&'static str>, Option<&'static str>) {
        match self {
            Self::Free => (None, None),
            Self::NoScaleDown => (None, Some("Disabled")),
            Self::Frozen => (Some("Disabled"), Some("Disabled")),
        }
    }
}
