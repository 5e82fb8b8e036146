//! Whether the HorizontalPodAutoscaler sets the number of nodes, and which field manager contests it. Pure.

use serde_json::Value;

use crate::api;

/// Field manager that takes over spec.nodes.replicas for a moment, so that the number does not fall to its default
/// when another one stops to apply it. The messages propose it.
const HANDOVER: &str = "venom-handover";
/// Annotation of `kubectl apply` without --server-side, and of tools that work as it does.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Who sets the number of nodes, as the condition AutoscalingActive states it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Autoscaling {
    /// The operator creates no pods: it runs without --node-image.
    NoBody,
    /// spec.autoscaling.enabled is false.
    Disabled,
    /// It is not true for an adopted workload, which is scaled as it was before.
    LeftAlone,
    /// This field manager sets spec.nodes.replicas, which undoes the autoscaler.
    Contested(Contestant),
    /// The HorizontalPodAutoscaler does.
    Active,
}

/// A field manager that sets spec.nodes.replicas again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contestant {
    /// It does so by server-side apply.
    Applies(String),
    /// It does so by client-side apply: the field is in the annotation of the last one, so the next one sets it.
    LastApplied(String),
    /// It has updated the number after the autoscaler had set it.
    Updated(String),
}

impl Contestant {
    fn message(&self) -> String {
        match self {
            Self::Applies(manager) => format!(
                "{manager} applies spec.nodes.replicas and so undoes the autoscaler. To hand the field over, apply it \
                 with the present number by kubectl apply --server-side --field-manager={HANDOVER}, then remove it \
                 from what {manager} applies; the number would fall to the default otherwise. Or set \
                 spec.autoscaling.enabled: false."
            ),
            Self::LastApplied(manager) => format!(
                "The next apply by {manager} sets spec.nodes.replicas and so undoes the autoscaler. Remove the field \
                 from the manifest, and before you apply that, run kubectl apply set-last-applied -f FILE; the number \
                 would fall to the default otherwise. Or set spec.autoscaling.enabled: false."
            ),
            Self::Updated(manager) => format!(
                "{manager} has set spec.nodes.replicas after the autoscaler. Let it patch other fields only: a \
                 replacement without the field sets the default. Or set spec.autoscaling.enabled: false."
            ),
        }
    }
}

impl Autoscaling {
    /// The setting of this Organism, whose autoscaler has this status.
    #[must_use]
    pub fn of(organism: &api::Organism, has_body: bool, scaling: Option<&Scaling>) -> Self {
        let has_scaled = scaling.is_some_and(|it| it.has_scaled);
        match contestant(organism, has_scaled) {
            _ if !has_body => Self::NoBody,
            _ if organism.spec.workload_ref.is_some() => {
                if organism.spec.autoscaling_enabled() {
                    Self::Active
                } else {
                    Self::LeftAlone
                }
            }
            _ if !organism.spec.autoscaling_enabled() => Self::Disabled,
            Some(contestant) => Self::Contested(contestant),
            None => Self::Active,
        }
    }

    /// Status, reason and message of the condition, where `foreign` is an autoscaler of someone else.
    #[must_use]
    pub fn condition(
        &self,
        scaling: Option<&Scaling>,
        foreign: Option<&str>,
    ) -> (&'static str, String, String) {
        let (status, reason, message) = match (self, foreign) {
            (Self::NoBody, _) => (
                "False",
                "NoBody",
                "This operator creates no pods; start it with --node-image. P is spec.nodes.replicas.".into(),
            ),
            (_, Some(foreign)) => (
                "False",
                "ForeignAutoscaler",
                format!(
                    "{foreign}; its number of pods is left as it is. Delete it, or set spec.autoscaling.enabled: false \
                     and, where the operator makes the pods, let it scale the Organism."
                ),
            ),
            (Self::Disabled, None) => (
                "False",
                "Disabled",
                "spec.autoscaling.enabled is false; set spec.nodes.replicas yourself.".into(),
            ),
            (Self::LeftAlone, None) => (
                "False",
                "Disabled",
                "The workload is scaled as it was before; with spec.autoscaling.enabled: true the operator makes an \
                 autoscaler for it."
                    .into(),
            ),
            (Self::Contested(contestant), None) => ("False", "ReplicasContested", contestant.message()),
            (Self::Active, None) => return active(scaling),
        };
        (status, reason.into(), message)
    }
}

fn active(scaling: Option<&Scaling>) -> (&'static str, String, String) {
    let sets = "A HorizontalPodAutoscaler sets the number of pods";
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
    /// Whether it has ever changed the number.
    has_scaled: bool,
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
        let resource = |it: &Value| [it["containerResource"].clone(), it["resource"].clone()];
        let mut cpu = metrics.flat_map(resource).filter(|it| it["name"] == "cpu");
        Some(Self {
            desired: status["desiredReplicas"].as_u64().unwrap_or_default(),
            cpu: cpu.find_map(|it| it["current"]["averageUtilization"].as_u64()),
            active: active["status"] == "True",
            has_scaled: status["lastScaleTime"].is_string(),
            reason: text(&active["reason"]),
            message: text(&active["message"]),
        })
    }

    /// Whether another autoscaler selects the same pods.
    #[must_use]
    pub fn collides(&self) -> bool {
        self.reason == "AmbiguousSelector"
    }

    /// The status to show after `before`: while number, state and reason stay the same, the old one stays. An
    /// autoscaler updates its figures four times a minute; each would be a status write and an Event.
    #[must_use]
    pub fn after(before: Option<Self>, next: Option<Self>) -> Option<Self> {
        let decided = |it: &Self| (it.desired, it.active, it.has_scaled, it.reason.clone(), it.cpu.is_some());
        match (before, next) {
            (Some(before), Some(next)) if decided(&before) == decided(&next) => Some(before),
            (_, next) => next,
        }
    }
}

/// The field manager that sets spec.nodes.replicas besides the autoscaler, which owns the field by an update of
/// /scale once it `has_scaled`. An update before that proves nothing: the creation owns every default.
fn contestant(organism: &api::Organism, has_scaled: bool) -> Option<Contestant> {
    let metadata = &organism.metadata;
    let entries = metadata.managed_fields.as_deref().unwrap_or_default();
    let owner = |operation: &str| {
        // The watch keeps only managers that have set this field.
        let found = entries.iter().find(|entry| {
            entry.operation.as_deref() == Some(operation)
                && entry.subresource.is_none()
                && entry.manager.as_deref() != Some(HANDOVER)
        });
        found.map(|entry| entry.manager.clone().unwrap_or_else(|| "an unnamed field manager".into()))
    };
    if let Some(manager) = owner("Apply") {
        return Some(Contestant::Applies(manager));
    }
    let updated = owner("Update");
    let last = metadata.annotations.as_ref().and_then(|it| it.get(LAST_APPLIED));
    let last: Option<Value> = last.and_then(|it| serde_json::from_str(it).ok());
    if last.is_some_and(|it| !it["spec"]["nodes"]["replicas"].is_null()) {
        return Some(Contestant::LastApplied(updated.unwrap_or_else(|| "kubectl apply".into())));
    }
    updated.filter(|_| has_scaled).map(Contestant::Updated)
}

#[cfg(test)]
mod tests;
