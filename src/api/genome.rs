//! The Genome custom resource.
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use super::conditions::conditions;
use super::{Action, GoDuration, bounds, rules, schema};

const DESCRIPTION: &str = "A Genome configures how an Organism decides: the weights of the four cores, the PID \
controller, the known risk, the threat model and the thresholds of the actions. At most one Organism is bound to a \
Genome. The weights evolve while the Organism beats; the evolved weights are in the status.";

/// spec is the desired state of the Genome. Every field is optional.
#[allow(clippy::duplicated_attributes)] // clippy considers the print columns duplicates of one another
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
    doc = "How an Organism decides: weights, PID controller, risk, threat model, thresholds.",
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
    /// weights are the weights of the four cores that evolution starts from. Changing one of them resets all four
    /// to this field. Otherwise the evolved weights (status.weights) are kept, also across restarts and when the
    /// same manifest is applied again.
    pub weights: Weights,
    /// pid configures the controller that adjusts the weight of Optimize at every beat.
    pub pid: Pid,
    /// risk sets the standing anomalies, and how long injected and sensed ones count.
    pub risk: Risk,
    /// ml sets the parameters of the threat model: threat = sigmoid(mlWeight · anomalies + bias).
    pub ml: Ml,
    /// thresholds are the scores at which each action is decided.
    pub thresholds: Thresholds,
    /// evolution is Enabled to evolve the weights at every beat, or Frozen to keep them for a fixed policy.
    /// Defaults to Enabled.
    pub evolution: Evolution,
}

impl JsonSchema for Genome {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Genome".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        schema::root::<GenomeSpec, GenomeStatus>(generator, DESCRIPTION)
    }
}

/// Weights of the four cores. Each is 0 to 1, and they must sum to 1 (±0.000001).
#[derive(Clone, Copy, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(default = "Weights::default")]
#[x_kube(validation = bounds::weight_sum_rule())]
pub struct Weights {
    /// regen is the weight of Regeneration (R), 0 to 1. Defaults to 0.25.
    #[x_kube(validation = bounds::REGEN.rule())]
    pub regen: f64,
    /// balance is the weight of Balance (B), 0 to 1. Defaults to 0.25.
    #[x_kube(validation = bounds::BALANCE.rule())]
    pub balance: f64,
    /// entropy is the weight of Entropy (E), which scores the threat, 0 to 1. Defaults to 0.15.
    #[x_kube(validation = bounds::ENTROPY.rule())]
    pub entropy: f64,
    /// optimize is the weight of Optimize (O), 0 to 1. The PID controller adjusts it. Defaults to 0.35.
    #[x_kube(validation = bounds::OPTIMIZE.rule())]
    pub optimize: f64,
}

impl Default for Weights {
    fn default() -> Self {
        Self { regen: 0.25, balance: 0.25, entropy: 0.15, optimize: 0.35 }
    }
}

/// A PID controller whose process variable is T_Λ.
#[derive(Clone, Copy, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(default = "Pid::default")]
pub struct Pid {
    /// kp is the proportional gain, 0 to 100. Defaults to 0.6.
    #[x_kube(validation = bounds::KP.rule())]
    pub kp: f64,
    /// ki is the integral gain, 0 to 100. Defaults to 0.1.
    #[x_kube(validation = bounds::KI.rule())]
    pub ki: f64,
    /// kd is the derivative gain, 0 to 100. Defaults to 0.05.
    #[x_kube(validation = bounds::KD.rule())]
    pub kd: f64,
    /// threshold is the setpoint: the target for T_Λ in seconds, 0 to 60. Defaults to 0.02.
    #[x_kube(validation = bounds::SETPOINT.rule())]
    pub threshold: f64,
}

impl Default for Pid {
    fn default() -> Self {
        Self { kp: 0.6, ki: 0.1, kd: 0.05, threshold: 0.02 }
    }
}

/// The anomalies that the threat model counts.
#[derive(Clone, Copy, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(default = "Risk::default")]
pub struct Risk {
    /// anoms is the number of standing anomalies, 0 to 1000000. They count until this field is changed,
    /// whatever the window. Patch it to inject anomalies. Defaults to 0.
    #[x_kube(validation = bounds::ANOMS.rule())]
    pub anoms: u64,
    /// window is how long an injected or sensed anomaly counts, in the ledger's own time, which excludes
    /// outages and suspension: 1ms to 24h, written as a duration such as 90s, or 0s for no expiry.
    /// Defaults to 60s.
    #[x_kube(validation = bounds::WINDOW.rule())]
    pub window: GoDuration,
}

impl Default for Risk {
    fn default() -> Self {
        Self { anoms: 0, window: GoDuration::from_secs(60) }
    }
}

/// Parameters of the threat model.
#[derive(Clone, Copy, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(default = "Ml::default", rename_all = "camelCase")]
pub struct Ml {
    /// mlWeight is what each anomaly adds to the argument of the sigmoid, -100 to 100. An injection may override
    /// it within injectable. Defaults to 0.12.
    #[x_kube(validation = bounds::ML_WEIGHT.rule())]
    pub ml_weight: f64,
    /// bias is the argument of the sigmoid without anomalies, -100 to 100. With 0 the threat is 0.5 when there
    /// are no anomalies. Defaults to 0.
    #[x_kube(validation = bounds::BIAS.rule())]
    pub bias: f64,
    /// injectable is the range of mlWeight that an injection may set. Injections outside it are rejected.
    pub injectable: Injectable,
}

impl Default for Ml {
    fn default() -> Self {
        Self { ml_weight: 0.12, bias: 0.0, injectable: Injectable::default() }
    }
}

/// The range of mlWeight that an injection may set, inclusive.
#[derive(Clone, Copy, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(default = "Injectable::default")]
#[x_kube(validation = rules::INJECTABLE_ORDER.rule())]
pub struct Injectable {
    /// min is the lower bound, -100 to 100. Must not be above max. Defaults to 0.01.
    #[x_kube(validation = bounds::INJECTABLE_MIN.rule())]
    pub min: f64,
    /// max is the upper bound, -100 to 100. Defaults to 1.
    #[x_kube(validation = bounds::INJECTABLE_MAX.rule())]
    pub max: f64,
}

impl Default for Injectable {
    fn default() -> Self {
        Self { min: 0.01, max: 1.0 }
    }
}

/// Scores at which each action is decided. The rules are tried in the order of these fields and the first that
/// holds is decided; if none holds, the action is NOOP.
#[derive(Clone, Copy, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(default = "Thresholds::default")]
pub struct Thresholds {
    /// quarantine is the raw threat at or above which QUARANTINE is decided, 0 to 1. Defaults to 0.85.
    #[x_kube(validation = bounds::QUARANTINE.rule())]
    pub quarantine: f64,
    /// alert is the raw threat at or above which ALERT is decided, 0 to 1. Defaults to 0.6.
    #[x_kube(validation = bounds::ALERT.rule())]
    pub alert: f64,
    /// stability is the weighted stability above which APPLY_BALANCE is decided, 0 to 1, provided that the repair
    /// score is below repair. Defaults to 0.25, which the default weights never reach.
    #[x_kube(validation = bounds::STABILITY.rule())]
    pub stability: f64,
    /// repair is the weighted repair score below which APPLY_BALANCE may be decided, 0 to 1. Defaults to 0.1.
    #[x_kube(validation = bounds::REPAIR.rule())]
    pub repair: f64,
    /// gain is the weighted expected gain above which APPLY_OPTIMIZE is decided, 0 to 1. Defaults to 0.1, which
    /// the default weights never reach.
    #[x_kube(validation = bounds::GAIN.rule())]
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
    /// Every beat adjusts the weights.
    #[default]
    Enabled,
    /// The weights are kept. The PID controller still runs, and its output is recorded.
    Frozen,
}

/// status is the observed state of the Genome. Numbers are rounded to four digits; the ledger has the exact values.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GenomeStatus {
    /// weights are the evolved weights of the four cores.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<Weights>,
    /// threat is the raw threat score at the last beat, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threat: Option<f64>,
    /// anoms is the number of anomalies that counted at the last beat: standing, injected and sensed ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anoms: Option<u64>,
    /// injectedTotal is the number of injections committed to the Organism's ledger since its genesis.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub injected_total: Option<u64>,
    /// action is the last decided action: QUARANTINE, ALERT, APPLY_BALANCE, APPLY_OPTIMIZE or NOOP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<Action>,
    /// boundTo is the Organism that uses this Genome. No other Organism can use it until that one is deleted or
    /// refers to another Genome.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bound_to: Option<BoundTo>,
    /// conditions are the observed conditions of the Genome.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
    /// observedGeneration is the metadata.generation that the Organism acts on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// The Organism that a Genome is bound to.
#[derive(Clone, Debug, Default, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
#[serde(default)]
pub struct BoundTo {
    /// name is the name of the Organism, in the namespace of the Genome.
    pub name: String,
    /// uid is the UID of the Organism. It tells an Organism from a later one with the same name.
    pub uid: String,
}
