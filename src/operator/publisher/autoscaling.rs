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
    pub fn condition(&self, scaling: Option<&Scaling>) -> (&'static str, String, String) {
        let (status, reason, message) = match self {
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
            Self::Active => return active(scaling),
        };
        (status, reason.into(), message)
    }
}

fn active(scaling: Option<&Scaling>) -> (&'static str, String, String) {
    let sets = "A HorizontalPodAutoscaler sets spec.nodes.replicas";
    match scaling {
        None => ("True", "Active".into(), format!("{sets}.")),
        Some(Scaling { active: false, reason, message, .. }) => {
            ("False", reason.clone(), format!("{sets}, and cannot now: {message}"))
        }
        Some(Scaling { desired, cpu, .. }) => {
            let at = cpu.map(|cpu| format!(", at {cpu} % of the CPU that pods request")).unwrap_or_default();
            ("True", "Active".into(), format!("{sets}: {desired}{at}."))
        }
    }
}

/// What an autoscaler says in its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scaling {
    /// Nodes that it wants.
    pub desired: u64,
    /// Use of CPU when it came to want so many, in per cent of what pods request.
    cpu: Option<u64>,
    /// Whether it can tell how many it wants.
    active: bool,
    /// Why, or why not, in a word.
    reason: String,
    /// And in a sentence.
    message: String,
}

impl Scaling {
    /// Nothing as long as the autoscaler has not looked.
    #[must_use]
    pub fn of(status: &Value) -> Option<Self> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let conditions = status["conditions"].as_array()?;
        let of = |kind: &str| conditions.iter().find(|it| it["type"] == kind);
        // One that cannot even scale has nothing to say of what it would.
        let able = of("AbleToScale").filter(|it| it["status"] == "False");
        let active = able.or_else(|| of("ScalingActive"))?;
        let metrics = status["currentMetrics"].as_array().into_iter().flatten();
        let cpu = metrics.filter(|it| it["resource"]["name"] == "cpu");
        Some(Self {
            desired: status["desiredReplicas"].as_u64().unwrap_or_default(),
            cpu: cpu.filter_map(|it| it["resource"]["current"]["averageUtilization"].as_u64()).next(),
            active: active["status"] == "True",
            reason: text(&active["reason"]),
            message: text(&active["message"]),
        })
    }

    /// What follows `before`: as long as the autoscaler wants the same, the CPU that it was decided at stands,
    /// and a failure is told of in the same words. Else there would be news four times a minute.
    #[must_use]
    pub fn after(before: Option<Self>, next: Option<Self>) -> Option<Self> {
        let decided = |it: &Self| (it.desired, it.active, it.reason.clone(), it.cpu.is_some());
        match (before, next) {
            (Some(before), Some(next)) if decided(&before) == decided(&next) => Some(before),
            (_, next) => next,
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
