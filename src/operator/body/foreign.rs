//! HorizontalPodAutoscalers of someone else that scale a body. They are not watched: most clusters have many. The
//! namespace's are listed when there is a sign of one, and once in a while.

use std::time::Duration;

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use kube::{Resource, ResourceExt};
use tokio::time::Instant;

use crate::api;
use crate::api::labels::ORGANISM_LABEL;

/// Interval between two looks without any sign.
const CALM: Duration = Duration::from_secs(600);
/// Interval while there is one: it may be gone.
const WHILE_FOUND: Duration = Duration::from_secs(60);
/// Interval while something has set the Deployment's replicas, or the autoscalers say that they collide.
const ON_SIGN: Duration = Duration::from_secs(15);

/// When to look for foreign autoscalers, and what was found.
#[derive(Debug)]
pub(super) struct ForeignAutoscalers {
    last: Option<Instant>,
    /// Spreads the first looks of many bodies.
    first: Instant,
    found: Option<String>,
}

impl ForeignAutoscalers {
    pub(super) fn new(now: Instant) -> Self {
        Self { last: None, first: now + CALM.mul_f64(fastrand::f64()), found: None }
    }

    /// How long the next look has to wait, where `sign` is whether there is a sign of one.
    pub(super) fn wait(&self, sign: bool, now: Instant) -> Duration {
        let interval = match (sign, &self.found) {
            (true, None) => ON_SIGN,
            (_, Some(_)) => WHILE_FOUND,
            (false, None) => CALM,
        };
        let due = match self.last {
            Some(last) => last + interval,
            None if sign => now,
            None => self.first,
        };
        due.saturating_duration_since(now)
    }

    /// Notes what a look has found.
    pub(super) fn looked(&mut self, found: Option<String>, now: Instant) {
        self.found = found;
        self.last = Some(now);
    }

    /// Retries a failed look like one with a sign.
    pub(super) fn failed(&mut self, now: Instant) {
        self.last = Some(now);
    }

    /// What the last look has found, as messages name it.
    pub(super) fn found(&self) -> Option<&str> {
        self.found.as_deref()
    }
}

/// Selects the autoscalers that are not the operator's.
pub(super) fn selector() -> String {
    format!("!{ORGANISM_LABEL}")
}

/// The first of these autoscalers that scales the workload, or the Organism itself where the operator's own
/// autoscaler does. One that KEDA has made is named with its ScaledObject.
pub(super) fn find(
    autoscalers: &[HorizontalPodAutoscaler],
    workload: (&str, &str),
    organism: Option<&str>,
) -> Option<String> {
    let aims_here = |it: &&HorizontalPodAutoscaler| {
        let target = &it.spec.scale_target_ref;
        let group = target.api_version.as_deref().unwrap_or_default().split('/').next().unwrap_or_default();
        let (kind, name) = (&*target.kind, &*target.name);
        (group == "apps" && (kind, name) == workload)
            || (group == api::Organism::group(&())
                && kind == api::Organism::kind(&())
                && Some(name) == organism)
    };
    let found = autoscalers.iter().find(aims_here)?;
    let target = &found.spec.scale_target_ref;
    let owner = found.owner_references().iter().find(|it| it.controller == Some(true));
    let of = owner.map(|it| format!(" of {} {}", it.kind, it.name)).unwrap_or_default();
    Some(format!("HorizontalPodAutoscaler {}{of} scales {} {}", found.name_any(), target.kind, target.name))
}

#[cfg(test)]
mod tests;
