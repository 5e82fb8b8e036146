//! What the status of a pod tells. Pure.
//!
//! A pod's status is looked at as a whole, so an event that is seen twice, by this process or by an earlier one, has the
//! same subject both times.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::Resource;
use serde::Deserialize;

use crate::api::SensingWeights;

/// Reasons of the condition DisruptionTarget of pods that somebody has decided to remove.
const VOLUNTARY: [&str; 4] =
    ["EvictionByEvictionAPI", "PreemptionByScheduler", "DeletionByTaintManager", "DeletionByPodGC"];

/// A pod as it is watched: only what is compared is deserialized.
#[derive(Clone, Debug, Deserialize, Resource)]
#[resource(inherit = core::Pod)]
pub struct WatchedPod {
    metadata: ObjectMeta,
    #[serde(default)]
    status: Status,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    phase: String,
    reason: String,
    start_time: Option<Timestamp>,
    conditions: Vec<Condition>,
    container_statuses: Vec<ContainerStatus>,
    /// Sidecars are among them: they restart as other containers do.
    init_container_statuses: Vec<ContainerStatus>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Condition {
    #[serde(rename = "type")]
    type_: String,
    status: String,
    reason: String,
    last_transition_time: Option<Timestamp>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ContainerStatus {
    name: String,
    restart_count: u32,
    state: ContainerState,
    last_state: ContainerState,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct ContainerState {
    running: Option<serde::de::IgnoredAny>,
    waiting: Option<Waiting>,
    terminated: Option<Terminated>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Waiting {
    reason: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Terminated {
    reason: String,
    finished_at: Option<Timestamp>,
}

/// What is remembered of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its UID.
    pub uid: String,
    /// Whether it is being removed on purpose: nothing of it is sensed.
    pub leaving: bool,
    /// How often each container has been started again.
    pub restarts: BTreeMap<String, u32>,
    /// What its status tells.
    pub events: Vec<Event>,
}

/// Something that has happened to a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What it is.
    pub kind: Kind,
    /// The container; none for the whole pod.
    pub container: Option<String>,
    /// Number of the container's instance that has ended, from 1; 0 for the whole pod.
    pub instance: u32,
    /// When it happened, by the clock of the kubelet or the controller that noticed it.
    pub at: Option<Timestamp>,
}

/// Kinds of events of pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A container ended and was started again.
    Restart,
    /// A container was killed because it was out of memory.
    OomKill,
    /// A container ended, and its restart is delayed because it has ended before.
    CrashLoop,
    /// The pod was ready and is not any more.
    NotReady,
    /// The kubelet evicted the pod because its node was short of something.
    Eviction,
}

impl Kind {
    /// The name in the ledger and in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::OomKill => "oomKill",
            Self::CrashLoop => "crashLoop",
            Self::NotReady => "notReady",
            Self::Eviction => "eviction",
        }
    }

    /// The anomalies that it counts as.
    #[must_use]
    pub fn weight(self, weights: &SensingWeights) -> u32 {
        match self {
            Self::Restart => weights.restart,
            Self::OomKill => weights.oom_kill,
            Self::CrashLoop => weights.crash_loop,
            Self::NotReady => weights.not_ready,
            Self::Eviction => weights.eviction,
        }
    }

    /// Whether it may be what isolation itself has caused.
    #[must_use]
    pub fn may_come_from_isolation(self) -> bool {
        matches!(self, Self::NotReady | Self::Eviction)
    }
}

impl Event {
    /// What identifies it in the ledger.
    #[must_use]
    pub fn subject(&self, pod: &str) -> String {
        match (&self.container, self.kind) {
            (Some(container), _) => format!("{pod}/{container}/{}", self.instance),
            (None, Kind::Eviction) => format!("{pod}/evicted"),
            (None, _) => {
                let at = self.at.map(|at| at.as_second()).unwrap_or_default();
                format!("{pod}/ready/{at}")
            }
        }
    }
}

impl Pod {
    /// What a watched pod tells.
    #[must_use]
    pub fn of(pod: &WatchedPod) -> Self {
        let Status { phase, reason, start_time, conditions, .. } = &pod.status;
        let mut events = vec![];
        let containers = pod.status.container_statuses.iter().chain(&pod.status.init_container_statuses);
        let restarts = containers.map(|it| (it.name.clone(), it.restart_count)).collect();
        // An init container that has completed runs again when the pod's sandbox is replaced.
        let inits = pod.status.init_container_statuses.iter().filter(|it| !completed(it));
        events.extend(pod.status.container_statuses.iter().chain(inits).filter_map(termination));
        let condition = |kind: &str| conditions.iter().find(|it| it.type_ == kind);
        if phase == "Failed" && reason == "Evicted" {
            let at = [condition("DisruptionTarget"), condition("Ready")];
            let at = at.into_iter().flatten().find_map(|it| it.last_transition_time);
            events.push(Event { kind: Kind::Eviction, container: None, instance: 0, at });
        }
        // A pod that has never been ready has this condition since its start.
        // Where the node is lost its controller changes Ready alone: what becomes of such pods is not their doing.
        let own = condition("ContainersReady").is_none_or(|it| it.status == "False");
        let ready = condition("Ready").filter(|it| it.status == "False" && phase == "Running");
        let ready = ready.filter(|it| own || it.reason == "ReadinessGatesNotReady");
        let lost = ready.filter(|it| {
            let started = start_time.map(|it| it + SignedDuration::from_secs(1));
            it.last_transition_time > started && started.is_some()
        });
        events.extend(lost.map(|it| Event {
            kind: Kind::NotReady,
            container: None,
            instance: 0,
            at: it.last_transition_time,
        }));
        let disrupted = condition("DisruptionTarget")
            .is_some_and(|it| it.status == "True" && VOLUNTARY.contains(&it.reason.as_str()));
        Self {
            restarts,
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            leaving: disrupted || pod.metadata.deletion_timestamp.is_some(),
            events,
        }
    }
}

fn completed(container: &ContainerStatus) -> bool {
    let ended = container.state.terminated.as_ref().or(container.last_state.terminated.as_ref());
    ended.is_some_and(|it| it.reason == "Completed")
}

/// The last termination of a container, once it is clear what follows it. The kubelet starts the container again, or says
/// that it waits; what has just ended may come to either.
fn termination(container: &ContainerStatus) -> Option<Event> {
    let ContainerStatus { name, restart_count, state, last_state } = container;
    let before = restart_count.checked_add(1)?;
    let oom = |it: &Terminated| it.reason == "OOMKilled";
    let (kind, instance, ended) = match (state, &last_state.terminated) {
        (ContainerState { terminated: Some(ended), .. }, _) if oom(ended) => (Kind::OomKill, before, ended),
        (ContainerState { running: Some(_), .. }, Some(ended)) => {
            (if oom(ended) { Kind::OomKill } else { Kind::Restart }, *restart_count, ended)
        }
        (ContainerState { waiting: Some(waiting), .. }, Some(ended))
            if oom(ended) || waiting.reason == "CrashLoopBackOff" =>
        {
            (if oom(ended) { Kind::OomKill } else { Kind::CrashLoop }, before, ended)
        }
        _ => return None,
    };
    Some(Event { kind, container: Some(name.clone()), instance, at: ended.finished_at })
}

#[cfg(test)]
mod tests;
