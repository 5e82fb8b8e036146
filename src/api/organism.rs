//! The Organism custom resource.
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use super::conditions::{conditions, time};
use super::{
    Action, Autoscaling, ByteSize, GoDuration, Mesh, Metrics, Nodes, Response, ResponseMode, ResponseStatus,
    Sensing, WorkloadRef, bounds, rules, schema,
};

const DESCRIPTION: &str = "An Organism is a group of pods with an autopilot: it beats, senses anomalies, scores the \
threat, decides one of five actions, acts, and records every step in a ledger from which each decision can be \
re-derived. Every field of spec is optional.";

/// spec is the desired state of the Organism. Every field is optional.
#[allow(clippy::duplicated_attributes)] // clippy considers the print columns duplicates of one another
#[derive(Clone, CustomResource, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "genesis.venom.dev",
    version = "v1alpha1",
    kind = "Organism",
    namespaced,
    shortname = "org",
    category = "venom",
    status = "OrganismStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "A group of pods with an autopilot: a pulse, a body of nodes and a ledger.",
    schema = "manual",
    scale(
        spec_replicas_path = ".spec.nodes.replicas",
        status_replicas_path = ".status.nodes.replicas",
        label_selector_path = ".status.nodes.selector"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "Beats", type_ = "integer", json_path = ".status.beats"),
    printcolumn(
        name = "T_Λ",
        type_ = "number",
        json_path = ".status.tLambda",
        description = "Seconds from beat to beat"
    ),
    printcolumn(
        name = "Nodes",
        type_ = "integer",
        json_path = ".status.nodes.ready",
        description = "Nodes that are ready"
    ),
    printcolumn(name = "Action", type_ = "string", json_path = ".status.decision.action"),
    printcolumn(
        name = "Entries",
        type_ = "integer",
        json_path = ".status.ledger.size",
        description = "Entries in the ledger"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Root",
        type_ = "string",
        json_path = ".status.ledger.merkleRoot",
        description = "Merkle root of the ledger",
        priority = 1
    ),
    printcolumn(
        name = "Mode",
        type_ = "string",
        json_path = ".status.response.mode",
        description = "Whether decisions are acted on",
        priority = 1
    ),
    printcolumn(
        name = "Holder",
        type_ = "string",
        json_path = ".status.ledger.holder",
        description = "Replica of the operator that beats it",
        priority = 1
    )
)]
#[serde(default = "OrganismSpec::default", rename_all = "camelCase")]
#[x_kube(validation = rules::PORTS_DIFFER.rule())]
#[x_kube(validation = rules::CPU_TO_SCALE_BY.rule())]
#[x_kube(validation = rules::NODES_OR_WORKLOAD.rule())]
pub struct OrganismSpec {
    /// genomeRef names the Genome that this Organism uses. It must be in the same namespace, and no other
    /// Organism may use it. Defaults to the Genome with the Organism's own name, which the operator creates
    /// if it does not exist.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub genome_ref: Option<GenomeRef>,
    /// beats is the number of beats after which the Organism completes, counted from genesis and across
    /// restarts. Raising it resumes beating. Must be -1 (no limit) or at least 1. Defaults to -1.
    #[x_kube(validation = bounds::beats_rule())]
    pub beats: i64,
    /// suspend stops the beat. The pods and the ledger remain. Defaults to false.
    pub suspend: bool,
    /// pulse sets the period between beats: T_Λ = t1 · ln(u) / (1 − 1/(k·P)) seconds, where P is the number of
    /// ready pods, and at least 1.
    pub pulse: Pulse,
    /// workloadRef names a Deployment or StatefulSet that is this Organism's body, instead of pods of its own. Nothing
    /// of it is written and none of its pods restarts. It takes part in no mesh. spec.nodes must be left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload_ref: Option<WorkloadRef>,
    /// nodes configures the pods of this Organism.
    pub nodes: Nodes,
    /// autoscaling configures the HorizontalPodAutoscaler that sets the number of pods.
    pub autoscaling: Autoscaling,
    /// mesh configures the mTLS connections between the pods.
    pub mesh: Mesh,
    /// metrics configures how the pods expose Prometheus metrics.
    pub metrics: Metrics,
    /// sensing configures which events and metrics count as anomalies.
    pub sensing: Sensing,
    /// ledger configures the record of every input, decision and action.
    pub ledger: Ledger,
    /// response configures what decisions do.
    pub response: Response,
}

impl Default for OrganismSpec {
    fn default() -> Self {
        Self {
            genome_ref: None,
            beats: -1,
            suspend: false,
            pulse: Pulse::default(),
            workload_ref: None,
            nodes: Nodes::default(),
            autoscaling: Autoscaling::default(),
            mesh: Mesh::default(),
            metrics: Metrics::default(),
            sensing: Sensing::default(),
            ledger: Ledger::default(),
            response: Response::default(),
        }
    }
}

impl OrganismSpec {
    /// The number of beats since genesis after which the organism completes; `None` for no limit.
    pub fn beats_limit(&self) -> Option<u64> {
        u64::try_from(self.beats).ok()
    }

    /// Whether decisions are acted on: as `response.mode` says, and without it only for a body of its own.
    pub fn response_mode(&self) -> ResponseMode {
        let default = if self.workload_ref.is_some() { ResponseMode::Observe } else { ResponseMode::Enforce };
        self.response.mode.unwrap_or(default)
    }

    /// Whether the operator manages an autoscaler: as `autoscaling.enabled` says, and without it only for a body of its
    /// own.
    pub fn autoscaling_enabled(&self) -> bool {
        self.autoscaling.enabled.unwrap_or(self.workload_ref.is_none())
    }
}

impl Organism {
    /// The name of this Organism's Genome: that of `spec.genomeRef`, or else the Organism's own.
    pub fn genome_name(&self) -> &str {
        let referenced = self.spec.genome_ref.as_ref().map(|genome| genome.name.as_str());
        referenced.or(self.metadata.name.as_deref()).unwrap_or_default()
    }
}

impl JsonSchema for Organism {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Organism".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        schema::root::<OrganismSpec, OrganismStatus>(generator, DESCRIPTION)
    }
}

/// A reference to a Genome in the same namespace.
#[derive(Clone, Debug, Deserialize, Eq, Hash, KubeSchema, PartialEq, Serialize)]
pub struct GenomeRef {
    /// name is the name of the Genome. Required.
    #[schemars(length(max = 253))]
    #[x_kube(validation = rules::GENOME_NAME.rule())]
    pub name: String,
}

/// The parameters of T_Λ.
#[derive(Clone, Copy, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(default = "Pulse::default", rename_all = "camelCase")]
pub struct Pulse {
    /// k is the number of parallel flows per pod, 2 to 1000. Higher values shorten T_Λ. Defaults to 4.
    #[x_kube(validation = bounds::k_min_rule())]
    #[x_kube(validation = bounds::k_max_rule())]
    pub k: u32,
    /// t1 is the base time in seconds, 1e-9 to 60. T_Λ is proportional to it. Defaults to 0.001.
    #[x_kube(validation = bounds::T1.rule())]
    pub t1: f64,
    /// u is the compression factor, above 1 and at most 1000000. T_Λ is proportional to its natural logarithm.
    /// Defaults to 54.598150033144236, which is e^4.
    #[x_kube(validation = bounds::u_rule())]
    pub u: f64,
    /// minPeriod is the shortest time between two beats, 1ms to 24h, written as a duration such as 500ms. It
    /// delays beats but does not change T_Λ. Defaults to no minimum.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = bounds::MIN_PERIOD.rule())]
    pub min_period: Option<GoDuration>,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { k: 4, t1: 0.001, u: 54.598150033144236, min_period: None }
    }
}

/// Configuration of the ledger.
#[derive(Clone, Debug, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(default = "Ledger::default", rename_all = "camelCase")]
pub struct Ledger {
    /// commitInterval is the interval at which beats without a change are committed, 1ms to 24h, written as a
    /// duration such as 500ms. A new decision and every input are committed at once. The operator commits less often
    /// while its write budget is exhausted. Defaults to 1s.
    #[x_kube(validation = bounds::COMMIT_INTERVAL.rule())]
    pub commit_interval: GoDuration,
    /// retain limits how much of the ledger stays in the cluster.
    pub retain: Retain,
    /// onDelete is what happens to the ledger when the Organism is deleted. With Delete, Kubernetes deletes it,
    /// whether an operator runs or not. Retain keeps it, and a later Organism with the same name continues it. A
    /// change is carried over to the objects of the ledger within seconds; status.ledger.onDelete is what is in
    /// force. Defaults to Delete.
    pub on_delete: OnDelete,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            commit_interval: GoDuration::from_secs(1),
            retain: Retain::default(),
            on_delete: OnDelete::default(),
        }
    }
}

/// Limit of the ledger in the cluster. Older entries are pruned; the Merkle root still covers them.
#[derive(Clone, Copy, Debug, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(default = "Retain::default")]
pub struct Retain {
    /// bytes is the stored size to retain, 256Ki to 16Mi, written as a quantity in a string, such as 4Mi. The
    /// operator may retain less to keep the ledgers of all Organisms within its own limit. Defaults to 4Mi.
    #[x_kube(validation = bounds::RETAIN_BYTES.rule())]
    pub bytes: ByteSize,
}

impl Default for Retain {
    fn default() -> Self {
        Self { bytes: ByteSize::mebibytes(4) }
    }
}

/// What happens to the ledger when its Organism is deleted.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub enum OnDelete {
    /// The ledger is deleted with the Organism.
    #[default]
    Delete,
    /// The ledger stays for a later Organism with the same name.
    Retain,
}

/// status is the observed state of the Organism. It is never ahead of what the ledger has committed. Numbers are
/// rounded to four digits; the ledger has the exact values.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct OrganismStatus {
    /// conditions are Ready, Beating, PulseStable, CoresHealthy, LedgerIntact, BodyAvailable, MeshReachable,
    /// AutoscalingActive, Quarantined, Sensing and, with spec.workloadRef, Adopted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
    /// beats is the number of beats since genesis.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beats: Option<u64>,
    /// tLambda is T_Λ at the last beat, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub t_lambda: Option<f64>,
    /// decision is the decision in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
    /// response is what has been done about decisions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response: Option<ResponseStatus>,
    /// nodes is the observed state of the pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<NodesStatus>,
    /// ledger is the committed state of the ledger.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ledger: Option<LedgerStatus>,
    /// observedGeneration is the metadata.generation that this status reflects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// A decision and its place in the ledger.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Decision {
    /// action is the decided action: QUARANTINE, ALERT, APPLY_BALANCE, APPLY_OPTIMIZE or NOOP.
    pub action: Action,
    /// threat is the raw threat score at the last beat, 0 to 1.
    pub threat: f64,
    /// since is the time at which this action was first decided.
    #[schemars(schema_with = "time")]
    pub since: Time,
    /// entry is the index of the ledger entry that first decided this action.
    pub entry: u64,
    /// rule is the rule that decided at the last beat or, for NOOP, the one that was nearest to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// margin is the distance of the rule's value from its threshold, negative if it was not reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub margin: Option<f64>,
}

/// Observed state of the pods.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NodesStatus {
    /// ready is the number of ready pods. T_Λ is computed with at least 1.
    pub ready: u32,
    /// replicas is the number of existing pods.
    pub replicas: u32,
    /// selector is the label selector of the pods in string form, for the scale subresource.
    pub selector: String,
    /// appliedHash is a hash of the objects of the body as the operator has applied them. An operator that starts and
    /// finds them so writes none of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub applied_hash: Option<String>,
}

/// Committed state of the ledger.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LedgerStatus {
    /// generation counts the ledgers of this name, from 1. Indices and sizes refer to this generation only. It is
    /// not metadata.generation.
    pub generation: u64,
    /// size is the number of entries since genesis, pruned ones included.
    pub size: u64,
    /// merkleRoot is the Merkle root over all entries since genesis, SHA3-256 in hexadecimal.
    pub merkle_root: String,
    /// lastHash is the hash of the last entry, SHA3-256 in hexadecimal.
    pub last_hash: String,
    /// segments is the number of ConfigMaps that hold the retained entries.
    pub segments: u32,
    /// bytes is the stored size of all retained segments.
    pub bytes: u64,
    /// holder is the replica of the operator that has committed these entries and goes on with them. Its Lease is in the
    /// operator's namespace.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub holder: String,
    /// onDelete is what happens to the ledger when the Organism is deleted now. It is absent while a change of
    /// spec.ledger.onDelete is being carried over to the objects of the ledger.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_delete: Option<OnDelete>,
    /// replayableFrom is the first genesis or snapshot entry that is retained. A replay starts there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replayable_from: Option<ReplayableFrom>,
}

/// The entry at which a replay starts.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct ReplayableFrom {
    /// index is the index of the entry.
    pub index: u64,
    /// time is the time at which the entry was recorded.
    #[schemars(schema_with = "time")]
    pub time: Time,
}
