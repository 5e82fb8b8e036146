//! Whether an autoscaler sets the number of nodes, and who gets in its way. Pure.

use serde_json::Value;

use crate::api;

/// What the condition AutoscalingActive says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Autoscaling {
    /// The operator makes no bodies.
    NoBody,
    /// spec.autoscaling.enabled is false.
    Disabled,
    /// This manager applies spec.nodes.replicas, over and over.
    Contested(String),
    /// There is one, and nobody gets in its way.
    Active,
}

impl Autoscaling {
    /// Of this Organism.
    #[must_use]
    pub fn of(organism: &api::Organism, has_body: bool) -> Self {
        match contestant(organism) {
            _ if !has_body => Self::NoBody,
            _ if !organism.spec.autoscaling.enabled => Self::Disabled,
            Some(manager) => Self::Contested(manager),
            None => Self::Active,
        }
    }

    /// Status, reason and message of the condition.
    #[must_use]
    pub fn condition(&self) -> (&'static str, &'static str, String) {
        match self {
            Self::NoBody => (
                "False",
                "NoBody",
                "This operator makes no pods; start it with --node-image. P is spec.nodes.replicas.".into(),
            ),
            Self::Disabled => {
                ("False", "Disabled", "By spec.autoscaling.enabled; spec.nodes.replicas is yours.".into())
            }
            Self::Contested(manager) => (
                "False",
                "ReplicasContested",
                format!(
                    "{manager} applies spec.nodes.replicas and so undoes what the autoscaler sets. Remove that field \
                     from what it applies, or set spec.autoscaling.enabled: false."
                ),
            ),
            Self::Active => ("True", "Active", "A HorizontalPodAutoscaler sets spec.nodes.replicas.".into()),
        }
    }
}

/// Who owns spec.nodes.replicas by applying it. Whoever scales once owns it too, but by an update; an
/// autoscaler's own update takes it from everybody.
fn contestant(organism: &api::Organism) -> Option<String> {
    let entries = organism.metadata.managed_fields.as_deref().unwrap_or_default();
    let applies = entries.iter().find(|entry| {
        let replicas = entry.fields_v1.as_ref().map(|fields| &fields.0["f:spec"]["f:nodes"]["f:replicas"]);
        entry.operation.as_deref() == Some("Apply")
            && entry.subresource.is_none()
            && replicas.is_some_and(|replicas| *replicas != Value::Null)
    });
    applies.map(|entry| entry.manager.clone().unwrap_or_else(|| "somebody".into()))
}

#[cfg(test)]
mod tests;
