//! Whether the HorizontalPodAutoscaler sets the number of nodes, and which field manager contests it. Pure.

use serde_json::Value;

use crate::api;

/// Who sets the number of nodes, as the condition AutoscalingActive states it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Autoscaling {
    /// The operator creates no pods: it runs without --node-image.
    NoBody,
    /// spec.autoscaling.enabled is false.
    Disabled,
    /// This field manager applies spec.nodes.replicas, so each apply undoes the autoscaler.
    Contested(String),
    /// The HorizontalPodAutoscaler does.
    Active,
}

impl Autoscaling {
    /// The setting of this Organism.
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
                "This operator creates no pods; start it with --node-image. P is spec.nodes.replicas.".into(),
            ),
            Self::Disabled => (
                "False",
                "Disabled",
                "spec.autoscaling.enabled is false; set spec.nodes.replicas yourself.".into(),
            ),
            Self::Contested(manager) => (
                "False",
                "ReplicasContested",
                format!(
                    "{manager} applies spec.nodes.replicas and so undoes the autoscaler. Remove that field from what it \
                     applies, or set spec.autoscaling.enabled: false."
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
            ("False", reason.clone(), format!("{sets}, but cannot compute it: {message}"))
        }
        Some(Scaling { desired, cpu, .. }) => {
            let at = cpu.map(|cpu| format!(", at {cpu} % of the CPU that pods request")).unwrap_or_default();
            ("True", "Active".into(), format!("{sets}: {desired}{at}."))
        }
    }
}

/// The status of a HorizontalPodAutoscaler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scaling {
    /// Desired number of nodes.
    pub desired: u64,
    /// CPU utilisation at which it came to this number, in per cent of what the node containers request.
    cpu: Option<u64>,
    /// Whether it can compute the number.
    active: bool,
    reason: String,
    message: String,
}

impl Scaling {
    /// Parses a status; none before the autoscaler has evaluated its metrics for the first time.
    #[must_use]
    pub fn of(status: &Value) -> Option<Self> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let conditions = status["conditions"].as_array()?;
        let of = |kind: &str| conditions.iter().find(|it| it["type"] == kind);
        // Without AbleToScale the metrics are not evaluated.
        let able = of("AbleToScale").filter(|it| it["status"] == "False");
        let active = able.or_else(|| of("ScalingActive"))?;
        let metrics = status["currentMetrics"].as_array().into_iter().flatten();
        let cpu = metrics.filter(|it| it["containerResource"]["name"] == "cpu");
        Some(Self {
            desired: status["desiredReplicas"].as_u64().unwrap_or_default(),
            cpu: cpu
                .filter_map(|it| it["containerResource"]["current"]["averageUtilization"].as_u64())
                .next(),
            active: active["status"] == "True",
            reason: text(&active["reason"]),
            message: text(&active["message"]),
        })
    }

    /// The status to show after `before`: while number, state and reason stay the same, the old one stays. An
    /// autoscaler updates its figures four times a minute; each would be a status write and an Event.
    #[must_use]
    pub fn after(before: Option<Self>, next: Option<Self>) -> Option<Self> {
        let decided = |it: &Self| (it.desired, it.active, it.reason.clone(), it.cpu.is_some());
        match (before, next) {
            (Some(before), Some(next)) if decided(&before) == decided(&next) => Some(before),
            (_, next) => next,
        }
    }
}

/// The field manager that owns spec.nodes.replicas by server-side apply. One that scales by /scale owns it by
/// an update, which the autoscaler's next update takes away.
fn contestant(organism: &api::Organism) -> Option<String> {
    let entries = organism.metadata.managed_fields.as_deref().unwrap_or_default();
    let applies = entries.iter().find(|entry| {
        let replicas = entry.fields_v1.as_ref().map(|fields| &fields.0["f:spec"]["f:nodes"]["f:replicas"]);
        entry.operation.as_deref() == Some("Apply")
            && entry.subresource.is_none()
            && replicas.is_some_and(|replicas| *replicas != Value::Null)
    });
    applies.map(|entry| entry.manager.clone().unwrap_or_else(|| "an unnamed field manager".into()))
}

#[cfg(test)]
mod tests;
