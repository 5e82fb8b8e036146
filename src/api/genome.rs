//! The Genome: what an organism is like.
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use super::conditions::conditions;
use super::{Action, GoDuration, rules, schema};

const ABOUT: &str = "A Genome holds what an Organism is like: the weights of its four cores, its PID controller, \
its risk, its threat model and its thresholds. It is bound to at most one Organism, which evolves the weights; \
the evolved ones are in the status.";

/// What the user sets. Every field may be left out.
#[allow(clippy::duplicated_attributes)] // clippy takes the columns for one another
#[derive(Clone, CustomResource, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "genesis.venom.dev",
    version = "v1alpha1",
    kind = "Genome",
    namespaced,
    shortname = "gen",
    category = "venom",
    status = "GenomeStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "What an Organism is like: weights, PID, risk, model, thresholds.",
    schema = "manual",
    printcolumn(name = "Organism", type_ = "string", json_path = ".status.boundTo.name"),
    printcolumn(name = "R", type_ = "number", json_path = ".status.weights.regen"),
    printcolumn(name = "B", type_ = "number", json_path = ".status.weights.balance"),
    printcolumn(name = "E", type_ = "number", json_path = ".status.weights.entropy"),
    printcolumn(name = "O", type_ = "number", json_path = ".status.weights.optimize"),
    printcolumn(name = "Anoms", type_ = "integer", json_path = ".status.anoms"),
    printcolumn(name = "Threat", type_ = "number", json_path = ".status.threat"),
    printcolumn(name = "Action", type_ = "string", json_path = ".status.action"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(default = "GenomeSpec::default", rename_all = "camelCase")]
pub struct GenomeSpec {
    /// Weights that evolution starts from. Changing one sets all four anew; otherwise the evolved weights
    /// (see status.weights) stay, through restarts and re-applying too.
    pub weights: Weights,
    /// The controller that moves the weight of Optimize with every beat.
    pub pid: Pid,
    /// Anomalies that are known and how long injected and sensed ones count.
    pub risk: Risk,
    /// The threat model: threat = sigmoid(mlWeight · anomalies + bias).
    pub ml: Ml,
    /// Where each action begins.
    pub thresholds: Thresholds,
    /// Whether the weights evolve: Enabled (the default), or Frozen for a fixed policy.
    pub evolution: Evolution,
}

impl JsonSchema for Genome {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Genome".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        schema::root::<GenomeSpec, GenomeStatus>(generator, ABOUT)
    }
}

/// The weights of the four cores, each 0 to 1, together 1.
#[derive(Clone, Copy, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(default = "Weights::default")]
#[x_kube(validation = rules::weights_sum())]
pub struct Weights {
    /// R, Regeneration. Default 0.25.
    #[x_kube(validation = rules::number("spec.weights.regen", 0.0, 1.0, ""))]
    pub regen: f64,
    /// B, Balance. Default 0.25.
    #[x_kube(validation = rules::number("spec.weights.balance", 0.0, 1.0, ""))]
    pub balance: f64,
    /// E, Entropy (the threat). Default 0.15.
    #[x_kube(validation = rules::number("spec.weights.entropy", 0.0, 1.0, ""))]
    pub entropy: f64,
    /// O, Optimize. Default 0.35.
    #[x_kube(validation = rules::number("spec.weights.optimize", 0.0, 1.0, ""))]
    pub optimize: f64,
}

impl Default for Weights {
    fn default() -> Self {
        Self { regen: 0.25, balance: 0.25, entropy: 0.15, optimize: 0.35 }
    }
}

/// A PID controller on the beat's period T_Λ.
#[derive(Clone, Copy, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(default = "Pid::default")]
pub struct Pid {
    /// Proportional gain, 0 to 100. Default 0.6.
    #[x_kube(validation = rules::number("spec.pid.kp", 0.0, 100.0, ""))]
    pub kp: f64,
    /// Integral gain, 0 to 100. Default 0.1.
    #[x_kube(validation = rules::number("spec.pid.ki", 0.0, 100.0, ""))]
    pub ki: f64,
    /// Derivative gain, 0 to 100. Default 0.05.
    #[x_kube(validation = rules::number("spec.pid.kd", 0.0, 100.0, ""))]
    pub kd: f64,
    /// The T_Λ that the controller steers towards, in seconds, 0 to 60. Default 0.02.
    #[x_kube(validation = rules::number("spec.pid.threshold", 0.0, 60.0, " (seconds of T_Λ)"))]
    pub threshold: f64,
}

impl Default for Pid {
    fn default() -> Self {
        Self { kp: 0.6, ki: 0.1, kd: 0.05, threshold: 0.02 }
    }
}

/// Anomalies that are known.
#[derive(Clone, Copy, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(default = "Risk::default")]
pub struct Risk {
    /// Standing number of anomalies, 0 to 1000000: they count until this field says otherwise. Patch it to
    /// inject. Default 0.
    #[x_kube(validation = rules::integer("spec.risk.anoms", 0, 1_000_000))]
    pub anoms: u64,
    /// How long an injected or sensed anomaly counts, in the organism's own time: 1ms to 24h, or 0s for
    /// ever. Default 60s.
    #[x_kube(validation = rules::duration_or_zero("spec.risk.window"))]
    pub window: GoDuration,
}

impl Default for Risk {
    fn default() -> Self {
        Self { anoms: 0, window: GoDuration::from_secs(60) }
    }
}

/// The threat model's two parameters.
#[derive(Clone, Copy, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(default = "Ml::default", rename_all = "camelCase")]
pub struct Ml {
    /// How much each anomaly adds, -100 to 100. Default 0.12.
    #[x_kube(validation = rules::number("spec.ml.mlWeight", -100.0, 100.0, ""))]
    pub ml_weight: f64,
    /// What is added without any anomaly, -100 to 100: 0 means a threat of 0.5 when calm. Default 0.
    #[x_kube(validation = rules::number("spec.ml.bias", -100.0, 100.0, ""))]
    pub bias: f64,
    /// Which mlWeight an injection may set; others are refused.
    pub injectable: Injectable,
}

impl Default for Ml {
    fn default() -> Self {
        Self { ml_weight: 0.12, bias: 0.0, injectable: Injectable::default() }
    }
}

/// Which mlWeight an injection may set.
#[derive(Clone, Copy, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(default = "Injectable::default")]
#[x_kube(validation = rules::rule(
    "!has(self.min) || self.min <= self.max",
    "spec.ml.injectable.min must not be above max; lower it or raise max",
))]
pub struct Injectable {
    /// The least, -100 to 100. Default 0.01.
    #[x_kube(validation = rules::number("spec.ml.injectable.min", -100.0, 100.0, ""))]
    pub min: f64,
    /// The most, -100 to 100. Default 1.
    #[x_kube(validation = rules::number("spec.ml.injectable.max", -100.0, 100.0, ""))]
    pub max: f64,
}

impl Default for Injectable {
    fn default() -> Self {
        Self { min: 0.01, max: 1.0 }
    }
}

/// Where each action begins. The first that applies is decided, from the top.
#[derive(Clone, Copy, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(default = "Thresholds::default")]
pub struct Thresholds {
    /// QUARANTINE from this raw threat on, 0 to 1. Default 0.85.
    #[x_kube(validation = rules::number("spec.thresholds.quarantine", 0.0, 1.0, ""))]
    pub quarantine: f64,
    /// ALERT from this raw threat on, 0 to 1. Default 0.6.
    #[x_kube(validation = rules::number("spec.thresholds.alert", 0.0, 1.0, ""))]
    pub alert: f64,
    /// APPLY_BALANCE above this weighted stability, 0 to 1, while the repair score is below `repair`.
    /// Default 0.25, which the default weights never reach.
    #[x_kube(validation = rules::number("spec.thresholds.stability", 0.0, 1.0, ""))]
    pub stability: f64,
    /// APPLY_BALANCE only below this weighted repair score, 0 to 1. Default 0.1.
    #[x_kube(validation = rules::number("spec.thresholds.repair", 0.0, 1.0, ""))]
    pub repair: f64,
    /// APPLY_OPTIMIZE above this weighted gain, 0 to 1. Default 0.1, which the gain formula never reaches.
    #[x_kube(validation = rules::number("spec.thresholds.gain", 0.0, 1.0, ""))]
    pub gain: f64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { quarantine: 0.85, alert: 0.60, stability: 0.25, repair: 0.1, gain: 0.1 }
    }
}

/// Whether the weights evolve.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub enum Evolution {
    /// Every beat moves them.
    #[default]
    Enabled,
    /// They stay as they are; the PID controller runs and is recorded.
    Frozen,
}

/// What the operator reports. Numbers are rounded to four digits: the ledger has the exact
/// ones.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GenomeStatus {
    /// The weights as they have evolved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<Weights>,
    /// The last raw threat, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threat: Option<f64>,
    /// All anomalies that counted at the last beat: standing, injected and sensed ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anoms: Option<u64>,
    /// Injections committed to the organism's ledger since its genesis.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub injected_total: Option<u64>,
    /// The last decision: QUARANTINE, ALERT, APPLY_BALANCE, APPLY_OPTIMIZE or NOOP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<Action>,
    /// The Organism that this Genome is bound to. A bound Genome cannot be used by another Organism.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bound_to: Option<BoundTo>,
    /// Conditions of this Genome.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
    /// The metadata.generation that the organism acts on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// The Organism that a Genome is bound to.
#[derive(Clone, Debug, Default, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
#[serde(default)]
pub struct BoundTo {
    /// Its name, in the Genome's namespace.
    pub name: String,
    /// Its UID: another Organism of the same name is another one.
    pub uid: String,
}
