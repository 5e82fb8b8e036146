//! The part of an Organism's spec and status about what it senses and how it acts.
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::conditions::time;
use super::{Action, GoDuration, bounds, rules};

/// A workload in the same namespace that an Organism adopts as its body.
#[derive(Clone, Debug, Deserialize, Eq, Hash, KubeSchema, PartialEq, Serialize)]
pub struct WorkloadRef {
    /// kind is Deployment or StatefulSet. Required.
    pub kind: WorkloadKind,
    /// name is the name of the workload. It must have the annotation genesis.venom.dev/adoptable-by with the name of
    /// this Organism. Required.
    #[schemars(length(max = 253))]
    #[x_kube(validation = rules::WORKLOAD_NAME.rule())]
    pub name: String,
}

impl std::fmt::Display for WorkloadRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind.as_str(), self.name)
    }
}

/// Kind of an adopted workload.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
pub enum WorkloadKind {
    /// apps/v1.
    Deployment,
    /// apps/v1.
    StatefulSet,
}

impl WorkloadKind {
    /// The kind's name in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deployment => "Deployment",
            Self::StatefulSet => "StatefulSet",
        }
    }
}

/// Configuration of what the Organism senses.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(default = "Sensing::default")]
pub struct Sensing {
    /// weights are the anomalies that events of the pods count as.
    pub weights: SensingWeights,
    /// prometheus are queries that are evaluated by the Prometheus server of the operator, which its flag
    /// --prometheus-url names. At most 16.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub prometheus: Vec<PrometheusQuery>,
}

/// The number of anomalies that an event of a pod counts as, 0 to 1000. 0 turns the sensor off.
#[derive(Clone, Copy, Debug, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(default = "SensingWeights::default", rename_all = "camelCase")]
pub struct SensingWeights {
    /// restart is for a container that ended and was started again. Defaults to 2.
    #[x_kube(validation = bounds::RESTART.rule())]
    pub restart: u32,
    /// oomKill is for a container that was killed because it was out of memory. Defaults to 5.
    #[x_kube(validation = bounds::OOM_KILL.rule())]
    pub oom_kill: u32,
    /// crashLoop is for a container that ended and that the kubelet delays the restart of. Defaults to 5.
    #[x_kube(validation = bounds::CRASH_LOOP.rule())]
    pub crash_loop: u32,
    /// notReady is for a pod that was ready and no longer is. Defaults to 1.
    #[x_kube(validation = bounds::NOT_READY.rule())]
    pub not_ready: u32,
    /// eviction is for a pod that the kubelet evicted because its node was short of a resource. Defaults to 2.
    #[x_kube(validation = bounds::EVICTION.rule())]
    pub eviction: u32,
}

impl Default for SensingWeights {
    fn default() -> Self {
        Self { restart: 2, oom_kill: 5, crash_loop: 5, not_ready: 1, eviction: 2 }
    }
}

/// A query whose value counts as anomalies: min(max, (value − above) · anomsPerUnit), once an interval, if the value
/// exceeds `above`. The result must be a scalar or a vector of one element: add `or vector(0)` to a query that may have none.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PrometheusQuery {
    /// name identifies the query in the ledger and in messages. Required.
    #[schemars(length(max = 40))]
    #[x_kube(validation = rules::QUERY_NAME.rule())]
    pub name: String,
    /// query is an expression in PromQL. Required.
    #[schemars(length(min = 1, max = 4096))]
    pub query: String,
    /// interval is the time between two evaluations, 1s to 24h, written as a duration such as 30s. Defaults to 15s.
    #[serde(default = "PrometheusQuery::default_interval")]
    #[x_kube(validation = bounds::QUERY_INTERVAL.rule())]
    pub interval: GoDuration,
    /// above is the value up to which nothing is sensed. Defaults to 0.
    #[serde(default)]
    #[x_kube(validation = bounds::ABOVE.rule())]
    pub above: f64,
    /// anomsPerUnit is the number of anomalies for each unit that the value exceeds `above` by, 0 to 1000000.
    /// Defaults to 1.
    #[serde(default = "PrometheusQuery::default_anoms_per_unit")]
    #[x_kube(validation = bounds::ANOMS_PER_UNIT.rule())]
    pub anoms_per_unit: f64,
    /// max is the largest number of anomalies of one evaluation, 1 to 1000000. Defaults to 100.
    #[serde(default = "PrometheusQuery::default_max")]
    #[x_kube(validation = bounds::QUERY_MAX.rule())]
    pub max: u32,
}

impl PrometheusQuery {
    fn default_interval() -> GoDuration {
        GoDuration::from_secs(15)
    }

    fn default_anoms_per_unit() -> f64 {
        1.0
    }

    fn default_max() -> u32 {
        100
    }
}

/// Configuration of what decisions do.
#[derive(Clone, Copy, Debug, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(default = "Response::default", rename_all = "camelCase")]
pub struct Response {
    /// mode is Enforce to act on decisions, or Observe to record them and touch nothing. Defaults to Enforce, and
    /// with spec.workloadRef to Observe.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<ResponseMode>,
    /// releaseAfter is how long no QUARANTINE must have been decided before a quarantine ends, in the ledger's own
    /// time, 1ms to 24h or 0s, written as a duration such as 5m. Defaults to 60s.
    #[x_kube(validation = bounds::RELEASE_AFTER.rule())]
    pub release_after: GoDuration,
    /// services is what a quarantine does to the Services that select the pods: with Detach they get another selector
    /// label, so that they have no endpoints and most clients are refused at once; with Keep they are left alone, and
    /// clients may time out. Defaults to
    /// Detach.
    pub services: ServicesPolicy,
}

impl Default for Response {
    fn default() -> Self {
        Self { mode: None, release_after: GoDuration::from_secs(60), services: ServicesPolicy::default() }
    }
}

/// Whether decisions change the cluster.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub enum ResponseMode {
    /// Decisions are acted on.
    Enforce,
    /// Decisions are recorded, and so is what would be done.
    Observe,
}

impl ResponseMode {
    /// The name in specs, statuses and the ledger.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "Enforce",
            Self::Observe => "Observe",
        }
    }
}

/// What a quarantine does to the Services that select the pods.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub enum ServicesPolicy {
    /// They no longer select the pods.
    #[default]
    Detach,
    /// They are left alone.
    Keep,
}

/// What has been done about decisions.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ResponseStatus {
    /// mode is Enforce if decisions are acted on, Observe if they are only recorded.
    pub mode: ResponseMode,
    /// applied is what is in force now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<AppliedResponse>,
    /// wouldApply is what would be in force with mode Enforce.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub would_apply: Option<AppliedResponse>,
}

/// The response to one decision.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct AppliedResponse {
    /// action is the decision that it follows from.
    pub action: Action,
    /// entry is the index of the ledger entry that decided it.
    pub entry: u64,
    /// since is the time at which it was applied.
    #[schemars(schema_with = "time")]
    pub since: Time,
    /// what are the changes, one for each object.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub what: Vec<String>,
}
