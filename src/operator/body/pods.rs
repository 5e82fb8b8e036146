//! Why the pods of a body are not ready, from the pods themselves. They are not watched: a body that is not whole for
//! some seconds lists a few of its pods, and again at growing intervals as long as the reason is the same.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use tokio::time::Instant;

use crate::operator::publisher::body::{PodFault, PodFaultKind, Workload};

/// Upper bound on the pods that are looked at.
pub(super) const MAX_PODS: u32 = 50;
/// A body that is not whole for less is not looked at: its pods are starting.
const GRACE: Duration = Duration::from_secs(5);
/// First interval between two looks; doubled up to [`LONGEST_INTERVAL`].
const FIRST_INTERVAL: Duration = Duration::from_secs(15);
/// Longest interval between two looks.
const LONGEST_INTERVAL: Duration = Duration::from_secs(300);
/// A container that runs for longer than this should be ready.
const START_UP: Duration = Duration::from_secs(30);

/// When to look at the pods of a body, and what was found.
#[derive(Debug, Default)]
pub(super) struct PodLooks {
    state: Option<Incomplete>,
}

/// Since when a body is not whole.
#[derive(Debug)]
struct Incomplete {
    next: Instant,
    interval: Duration,
    last: Option<Instant>,
    seen: (u64, Workload),
    found: Option<PodFault>,
}

impl PodLooks {
    /// Notes the state of the Deployment. Returns how long the next look has to wait, if there is to be one.
    pub(super) fn observe(
        &mut self,
        workload: Option<&Workload>,
        ready: u64,
        now: Instant,
    ) -> Option<Duration> {
        let Some(workload) = workload.filter(|it| ready < it.wanted || it.rolling) else {
            self.state = None;
            return None;
        };
        let seen = (ready, workload.clone());
        let state = self.state.get_or_insert_with(|| Incomplete {
            next: now + GRACE,
            interval: FIRST_INTERVAL,
            last: None,
            seen: seen.clone(),
            found: None,
        });
        if state.seen != seen {
            state.seen = seen;
            // What was found may be over.
            state.interval = FIRST_INTERVAL;
            state.next = state.next.min(state.last.map_or(state.next, |last| last + FIRST_INTERVAL));
        }
        Some(state.next.saturating_duration_since(now))
    }

    /// Notes what a look has found.
    pub(super) fn looked(&mut self, found: Option<PodFault>, now: Instant) {
        if let Some(state) = &mut self.state {
            if state.found != found {
                // What changes is looked at as often as at first.
                state.interval = FIRST_INTERVAL;
            }
            state.found = found;
            state.last = Some(now);
            state.next = now + state.interval;
            state.interval = (state.interval * 2).min(LONGEST_INTERVAL);
        }
    }

    /// What the last look has found.
    pub(super) fn found(&self) -> Option<&PodFault> {
        self.state.as_ref()?.found.as_ref()
    }
}

/// The most important of what keeps these pods from being ready.
pub(super) fn fault(pods: &[Pod], now: Timestamp) -> Option<PodFault> {
    let mut found: BTreeMap<PodFaultKind, PodFault> = BTreeMap::new();
    for pod in pods.iter().filter(|it| it.metadata.deletion_timestamp.is_none()) {
        let Some((kind, words)) = pod.status.as_ref().and_then(|status| fault_of(status, now)) else {
            continue;
        };
        let pod = pod.name_any();
        match found.get_mut(&kind) {
            // The first by name, so that the message stays as it is.
            Some(known) if known.pod <= pod => known.others += 1,
            known => {
                let others = known.map_or(0, |known| known.others + 1);
                found.insert(kind, PodFault { kind, pod, others, words });
            }
        }
    }
    found.into_values().next()
}

fn fault_of(status: &PodStatus, now: Timestamp) -> Option<(PodFaultKind, String)> {
    let phase = status.phase.as_deref().unwrap_or_default();
    if phase == "Failed" {
        let words = [status.reason.as_deref(), status.message.as_deref()];
        let words: Vec<_> = words.into_iter().flatten().collect();
        return Some((PodFaultKind::PodFailed, or(&words.join(": "), "its containers have ended")));
    }
    let condition = |kind: &str| status.conditions.iter().flatten().find(|it| it.type_ == kind);
    if let Some(unscheduled) = condition("PodScheduled").filter(|it| it.status == "False") {
        let words = unscheduled.message.as_deref().unwrap_or_default();
        return Some((PodFaultKind::Unschedulable, or(words, "it is not scheduled")));
    }
    let init = status.init_container_statuses.iter().flatten();
    let containers = || status.container_statuses.iter().flatten();
    if let Some(found) = init.chain(containers()).filter_map(waiting).min() {
        return Some(found);
    }
    let ready = condition("Ready").is_some_and(|it| it.status == "True");
    let runs_long = |it: &ContainerStatus| {
        let running = it.state.as_ref().and_then(|state| state.running.as_ref());
        let since = running.and_then(|running| running.started_at.as_ref());
        since.is_some_and(|since| now.duration_since(since.0).unsigned_abs() > START_UP)
    };
    (!ready && containers().any(|it| !it.ready && runs_long(it)))
        .then(|| (PodFaultKind::NoCertificate, String::new()))
}

/// Why a container waits, if that is a fault.
fn waiting(status: &ContainerStatus) -> Option<(PodFaultKind, String)> {
    let waiting = status.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref().unwrap_or_default();
    let kind = match reason {
        "" | "ContainerCreating" | "PodInitializing" => return None,
        "CrashLoopBackOff" => PodFaultKind::CrashLoop,
        _ if reason.contains("Image") || reason == "RegistryUnavailable" => PodFaultKind::ImageUnavailable,
        _ => PodFaultKind::ContainerFailed,
    };
    let mut words = format!("container {}: {reason}", status.name);
    if let Some(message) = waiting.message.as_ref().filter(|it| !it.is_empty()) {
        words += &format!(": {}", message.trim_end_matches('.'));
    }
    let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    if let Some(last) = last.filter(|_| kind == PodFaultKind::CrashLoop) {
        let reason = last.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        words += &format!("; it last exited with code {}{reason}", last.exit_code);
    }
    Some((kind, words))
}

fn or(words: &str, otherwise: &str) -> String {
    if words.is_empty() { otherwise.into() } else { words.to_owned() }
}

#[cfg(test)]
mod tests;
