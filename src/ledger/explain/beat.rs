//! The numbers of one beat, as recorded.

use serde::Serialize;

use super::inputs::{Counted, Inputs};
use super::quote;
use crate::ledger::entry::Data;
use crate::ledger::hex;
use crate::ledger::replay::RecordedBeat;
use crate::organism::cores::Flow;
use crate::organism::decision::{Details, Rule, rules};
use crate::organism::genome::{Evolution, Ml, Thresholds, Weights};
use crate::organism::{Action, State};

/// A beat: what counted, what the cores made of it, and what the rules made of that.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BeatFacts {
    /// Its number, from 1.
    pub beat: u64,
    /// Its time in seconds since 1970.
    pub timestamp: f64,
    /// What it decided.
    pub action: Action,
    /// Whether it was held: a core failed, no rule was evaluated, and the decision of the beat before stood.
    pub held: bool,
    /// Index of the first of its seven entries.
    pub first_entry: u64,
    /// Index of its action entry.
    pub action_entry: u64,
    /// SHA3-256 of the action entry, in hexadecimal digits.
    pub action_hash: String,
    /// Index of the last of its entries.
    pub last_entry: u64,
    /// T_Λ in seconds.
    pub t_lambda: f64,
    /// The anomalies.
    pub anomalies: Counted,
    /// The threat model in force.
    pub model: Model,
    /// The four cores: Regen, Balance, Entropy, Optimize.
    pub cores: Vec<CoreFacts>,
    /// Index of the entry that last set a threshold; the genesis or snapshot of the replay if none did since.
    pub thresholds_set_by: u64,
    /// Index of the entry that last set weights, from which they have evolved; likewise.
    pub weights_set_by: u64,
    /// The rules in the order in which they are tried; none in a held beat. If none applies, the decision is NOOP.
    pub rules: Vec<RuleFacts>,
    /// What the rules were given.
    #[serde(skip)]
    pub(super) given: Given,
}

/// What the rules of a beat depend on, in the engine's own types.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Given {
    /// `None` in a held beat.
    pub(super) details: Option<Details>,
    pub(super) thresholds: Thresholds,
    pub(super) weights: Weights,
    pub(super) ml: Ml,
    pub(super) evolution: Evolution,
}

/// The threat model: threat_score = sigmoid(mlWeight · anomalies + mlBias).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Model {
    /// Coefficient of the number of anomalies.
    pub ml_weight: f64,
    /// Intercept.
    pub ml_bias: f64,
    /// Index of the entry that last set one of them; the genesis or snapshot of the replay if none did since.
    pub set_by: u64,
}

/// What a core contributed.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CoreFacts {
    /// `R`, `B`, `E` or `O`.
    pub core: Flow,
    /// Name of its number in the ledger, such as `urgency`.
    pub quantity: &'static str,
    /// Its number; `None` if the core failed.
    pub value: Option<f64>,
    /// The core's weight at the pulse.
    pub weight: f64,
    /// Name of the product in the ledger, such as `repair_score`.
    pub product_name: &'static str,
    /// value · weight, as recorded; `None` in a held beat.
    pub product: Option<f64>,
    /// Why the core failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// A rule and its outcome.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleFacts {
    /// The action, and the comparisons that must all hold.
    #[serde(flatten)]
    pub rule: Rule,
    /// Whether they all hold.
    pub applies: bool,
    /// Whether it decided: the first rule that applies does.
    pub decided: bool,
}

impl BeatFacts {
    /// Reads `beat`, after which the state is `state`. Returns `None` if an entry is not what a replay makes sure of.
    pub(super) fn read(beat: &RecordedBeat, state: &State, inputs: &Inputs) -> Option<Self> {
        let [pulse, flow_entries @ .., action, evolution] = beat.entries.as_slice() else { return None };
        let (Data::Pulse(first), Data::Action(decided)) = (pulse.data().ok()?, action.data().ok()?) else {
            return None;
        };
        // `{}` in a held beat.
        let details: Option<Details> = serde_json::from_value(decided.details).ok();
        let genome = &state.genome;
        let rules = details.map_or_else(Vec::new, |details| rules(&details, &genome.thresholds).into());
        let flow = |entry| match entry {
            Data::FlowResult(flow) => Some(flow),
            _ => None,
        };
        let flows =
            flow_entries.iter().map(|it| it.data().ok().and_then(flow)).collect::<Option<Vec<_>>>()?;
        let cores = flows.iter().map(|it| {
            let weights = &beat.weights;
            let (quantity, weight, product_name, product) = match it.flow {
                Flow::R => ("urgency", weights.regen, "repair_score", details.map(|it| it.repair_score)),
                Flow::B => ("conserve", weights.balance, "stability", details.map(|it| it.stability)),
                Flow::E => ("threat_score", weights.entropy, "threat", details.map(|it| it.threat)),
                Flow::O => ("expected_gain", weights.optimize, "opt_gain", details.map(|it| it.opt_gain)),
            };
            let value = it.result.as_ref().and_then(|result| result[quantity].as_f64());
            let failed = it.failed.as_deref().map(quote);
            CoreFacts { core: it.flow, quantity, value, weight, product_name, product, failed }
        });
        let recorded = |name: &str| {
            let entropy = flows.iter().find(|it| it.flow == Flow::E).and_then(|it| it.result.as_ref());
            entropy.and_then(|it| it[name].as_f64())
        };
        let ml = Ml {
            ml_weight: recorded("ml_weight").unwrap_or(state.ml.ml_weight),
            ml_bias: recorded("ml_bias").unwrap_or(state.ml.ml_bias),
        };
        Some(Self {
            beat: first.pulse.pulse_id,
            timestamp: action.timestamp,
            action: decided.action,
            held: decided.held,
            first_entry: pulse.index,
            action_entry: action.index,
            action_hash: hex(&action.hash),
            last_entry: evolution.index,
            t_lambda: first.pulse.t_lambda,
            anomalies: inputs.counted(state),
            model: Model { ml_weight: ml.ml_weight, ml_bias: ml.ml_bias, set_by: inputs.set_by.model },
            cores: cores.collect(),
            thresholds_set_by: inputs.set_by.thresholds,
            weights_set_by: inputs.set_by.weights,
            rules: rules
                .into_iter()
                .map(|rule| RuleFacts {
                    applies: rule.applies(),
                    // No two rules are for the same action.
                    decided: rule.action == decided.action,
                    rule,
                })
                .collect(),
            given: Given {
                details,
                thresholds: genome.thresholds,
                weights: beat.weights,
                ml,
                evolution: genome.evolution,
            },
        })
    }
}
