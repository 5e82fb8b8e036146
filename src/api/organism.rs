//! The Organism: a pulse, a body of nodes, a ledger.
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use super::conditions::{conditions, time};
use super::{Action, Autoscaling, ByteSize, GoDuration, Mesh, Metrics, Nodes, rules, schema};

const ABOUT: &str = "An Organism is a group of pods with an autopilot: it beats, senses anomalies, scores the threat, \
decides one of five actions, acts, and writes every step into a ledger from which each decision can be re-derived. \
All of spec may be left out.";

/// What the user sets. Every field may be left out.
#[allow(clippy::duplicated_attributes)] // clippy takes the columns for one another
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
    doc = "A group of pods with an autopilot: a pulse, a body of nodes, a ledger.",
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
    )
)]
#[serde(default = "OrganismSpec::default", rename_all = "camelCase")]
#[x_kube(validation = rules::rule(
    "!has(self.mesh) || self.mesh.port != self.metrics.port",
    "spec.mesh.port and spec.metrics.port must not be the same; change one of them",
))]
#[x_kube(validation = rules::rule(
    "!has(self.autoscaling) || !self.autoscaling.enabled || 'cpu' in self.nodes.resources.requests \
     || 'cpu' in self.nodes.resources.limits",
    "spec.nodes.resources.requests.cpu is what autoscaling measures by; write it, or set spec.autoscaling.enabled: false",
))]
pub struct OrganismSpec {
    /// The Genome to live by, in the same namespace. Default: the one of the Organism's own name, which is
    /// made if it does not exist.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub genome_ref: Option<GenomeRef>,
    /// Stop after this many beats, counted from genesis across restarts; raising it goes on. -1, the
    /// default, is for ever.
    #[x_kube(validation = rules::rule(
        "self == -1 || self >= 1",
        "spec.beats must be -1 (for ever) or at least 1; to keep it from beating, set spec.suspend: true",
    ))]
    pub beats: i64,
    /// Hold beating; the body stays. Default false.
    pub suspend: bool,
    /// How fast it beats: T_Λ = t1 · ln(u) / (1 − 1/(k·P)) seconds, P being the number of ready nodes.
    pub pulse: Pulse,
    /// The body: the pods of this Organism.
    pub nodes: Nodes,
    /// What sets the number of pods.
    pub autoscaling: Autoscaling,
    /// How the pods talk to one another.
    pub mesh: Mesh,
    /// Where the pods show their metrics.
    pub metrics: Metrics,
    /// Where every input, decision and action is recorded.
    pub ledger: Ledger,
}

impl Default for OrganismSpec {
    fn default() -> Self {
        Self {
            genome_ref: None,
            beats: -1,
            suspend: false,
            pulse: Pulse::default(),
            nodes: Nodes::default(),
            autoscaling: Autoscaling::default(),
            mesh: Mesh::default(),
            metrics: Metrics::default(),
            ledger: Ledger::default(),
        }
    }
}

impl OrganismSpec {
    /// How many beats to make since genesis, or `None` for no end.
    pub fn beats_limit(&self) -> Option<u64> {
        u64::try_from(self.beats).ok()
    }
}

impl Organism {
    /// The name of the Genome to live by: the one referred to, else the Organism's own.
    pub fn genome_name(&self) -> &str {
        let named = self.spec.genome_ref.as_ref().map(|genome| genome.name.as_str());
        named.or(self.metadata.name.as_deref()).unwrap_or_default()
    }
}

impl JsonSchema for Organism {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Organism".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        schema::root::<OrganismSpec, OrganismStatus>(generator, ABOUT)
    }
}

/// Names a Genome of the same namespace.
#[derive(Clone, Debug, Deserialize, Eq, Hash, KubeSchema, PartialEq, Serialize)]
pub struct GenomeRef {
    /// The Genome's name.
    #[schemars(length(max = 253))]
    #[x_kube(validation = rules::name("self", "spec.genomeRef.name"))]
    pub name: String,
}

/// The parameters of T_Λ.
#[derive(Clone, Copy, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(default = "Pulse::default", rename_all = "camelCase")]
pub struct Pulse {
    /// Parallel flows, 2 to 1000. Default 4.
    #[x_kube(validation = rules::rule(
        "self >= 2",
        "k must be at least 2: with one ready node k·P would be 1 and T_Λ undefined",
    ))]
    #[x_kube(validation = rules::rule("self <= 1000", "spec.pulse.k must be at most 1000; write 2 to 1000"))]
    pub k: u32,
    /// Base time in seconds, 1e-9 to 60. Default 0.001.
    #[x_kube(validation = rules::number("spec.pulse.t1", 1e-9, 60.0, " (seconds)"))]
    pub t1: f64,
    /// Compression, above 1 and at most 1000000. Default 54.598150033144236, which is e^4.
    #[x_kube(validation = rules::rule(
        "self > 1.0 && self <= 1000000.0",
        "spec.pulse.u must be above 1 (ln(u) must be positive) and at most 1000000; e^4 is 54.598150033144236",
    ))]
    pub u: f64,
    /// Never beat more often than this, 1ms to 24h; it slows the beat, T_Λ stays what it is. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::duration("spec.pulse.minPeriod"))]
    pub min_period: Option<GoDuration>,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { k: 4, t1: 0.001, u: 54.598150033144236, min_period: None }
    }
}

/// Where every input, decision and action is recorded.
#[derive(Clone, Debug, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(default = "Ledger::default", rename_all = "camelCase")]
pub struct Ledger {
    /// How often calm beats are stored, 1ms to 24h. A decision that changes and every input are stored at
    /// once. Default 1s.
    #[x_kube(validation = rules::duration("spec.ledger.commitInterval"))]
    pub commit_interval: GoDuration,
    /// How much of the ledger stays in the cluster.
    pub retain: Retain,
    /// What becomes of the ledger when the Organism is deleted: Delete (the default), or Retain to leave it
    /// for a later Organism of this name to continue.
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

/// How much of the ledger stays in the cluster. Older entries are pruned; its Merkle root goes on covering
/// them.
#[derive(Clone, Copy, Debug, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(default = "Retain::default")]
pub struct Retain {
    /// Stored size to keep, 256Ki to 16Mi, as a quantity (always a string). Default 4Mi.
    #[x_kube(validation = rules::byte_size("spec.ledger.retain.bytes"))]
    pub bytes: ByteSize,
}

impl Default for Retain {
    fn default() -> Self {
        Self { bytes: ByteSize::mebibytes(4) }
    }
}

/// What becomes of the ledger when its Organism is deleted.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub enum OnDelete {
    /// It is deleted with the Organism.
    #[default]
    Delete,
    /// It stays, marked as retained.
    Retain,
}

/// What the operator reports; never ahead of what its ledger has committed. Numbers are
/// rounded to four digits: the ledger has the exact ones.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct OrganismStatus {
    /// Ready, Beating, PulseStable, CoresHealthy, LedgerIntact, AutoscalingActive.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
    /// Beats since genesis.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beats: Option<u64>,
    /// T_Λ at the last beat, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub t_lambda: Option<f64>,
    /// The decision in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
    /// The body as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<NodesStatus>,
    /// The ledger as it is committed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ledger: Option<LedgerStatus>,
    /// The metadata.generation that the organism acts on, or deliberately holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// A decision, and where in the ledger it stands.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Decision {
    /// QUARANTINE, ALERT, APPLY_BALANCE, APPLY_OPTIMIZE or NOOP.
    pub action: Action,
    /// The raw threat at the last beat, 0 to 1.
    pub threat: f64,
    /// When this action was first decided.
    #[schemars(schema_with = "time")]
    pub since: Time,
    /// Index of the ledger's entry that first decided it.
    pub entry: u64,
}

/// The body as it is.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(default)]
pub struct NodesStatus {
    /// Pods that are ready. At least one is assumed for T_Λ.
    pub ready: u32,
    /// Pods that there are.
    pub replicas: u32,
    /// Label selector of the pods, for autoscalers.
    pub selector: String,
}

/// The ledger as it is committed.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LedgerStatus {
    /// Which ledger of this name it is, counted from 1: indices and sizes mean nothing without it.
    pub generation: u64,
    /// Entries since genesis.
    pub size: u64,
    /// Merkle root over all of them, SHA3-256 in hexadecimal.
    pub merkle_root: String,
    /// Hash of the last entry, SHA3-256 in hexadecimal.
    pub last_hash: String,
    /// ConfigMaps that hold what is retained.
    pub segments: u32,
    /// What they hold together, in bytes.
    pub bytes: u64,
    /// The first snapshot in what is retained: a replay starts there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replayable_from: Option<ReplayableFrom>,
}

/// Where a replay starts.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct ReplayableFrom {
    /// Index of the entry.
    pub index: u64,
    /// Its timestamp.
    #[schemars(schema_with = "time")]
    pub time: Time,
}
