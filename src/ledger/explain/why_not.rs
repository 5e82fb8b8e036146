//! What another action would have needed at the explained beat.

use serde::Serialize;

use super::beat::{BeatFacts, Given};
use crate::organism::Action;
use crate::organism::cores::balance::MOST_CONSERVE;
use crate::organism::cores::entropy::sigmoid;
use crate::organism::cores::optimize::{GAIN_PER_WEIGHT, MOST_GAIN};
use crate::organism::decision::Comparison;
use crate::organism::genome::{Evolution, Ml, Thresholds, Weights};
use crate::organism::state::MAX_ITEMS;

/// Why an action was not decided, and what it would have needed while everything else was as it was.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WhyNot {
    /// The action.
    pub action: Action,
    /// Whether it was decided after all. In a held beat it was the decision of an earlier one.
    pub decided: bool,
    /// The comparisons of its rule that do not hold. None for NOOP, which has no rule, and in a held beat.
    pub missing: Vec<Comparison>,
    /// The earlier rule that applied, and so decided.
    pub preceded_by: Option<Action>,
    /// The total numbers of anomalies that the threat rules would have let decide this action: both of them apply
    /// before all others. `None`: no number would.
    pub anomalies: Option<Span>,
    /// For APPLY_BALANCE, the numbers of anomalies of Genome and injections that keep repair_score below its
    /// threshold. `None`: no number does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub genome_anomalies: Option<Span>,
    /// For APPLY_BALANCE and APPLY_OPTIMIZE, how far weights limit the compared quantity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<WeightLimit>,
    /// Whether any anomalies and any T_Λ would have decided it, with model, weights and thresholds as they were.
    pub reachable: bool,
}

/// Numbers of anomalies, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Span {
    /// The lowest.
    pub from: u64,
    /// The highest; `None` means without end.
    pub to: Option<u64>,
}

impl Span {
    /// Whether `anoms` is one of them.
    #[must_use]
    pub fn contains(&self, anoms: u64) -> bool {
        self.from <= anoms && self.to.is_none_or(|to| anoms <= to)
    }
}

/// How a core's weight limits a quantity that has to be above a threshold.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WeightLimit {
    /// Name of the weight: `B` or `O`.
    pub name: &'static str,
    /// Its value at the pulse.
    pub value: f64,
    /// The threshold that the quantity has to be above.
    pub limit: f64,
    /// What it would have to be above, with everything else at its best.
    pub needed: f64,
    /// The most that the quantity can be with this weight: stability ≤ 0.5·B, opt_gain = min(0.5, 0.12·O)·O.
    pub most: f64,
    /// The most that it can be with any weights that evolution can bring about; as `most` if evolution is Frozen. `None`
    /// if a weight is negative, for then there is no bound.
    pub most_evolved: Option<f64>,
    /// Whether evolution is Enabled.
    pub evolves: bool,
}

/// More anomalies than can count: that is 4,096 injections, as many senses and risk.anoms, of 1,000,000 each.
const END: u64 = (2 * MAX_ITEMS as u64 + 1) * 1_000_000 + 1;

impl WhyNot {
    /// Why `action` was not decided at `beat`.
    #[must_use]
    pub fn of(action: Action, beat: &BeatFacts) -> Self {
        let given = &beat.given;
        let own = beat.rules.iter().find(|it| it.rule.action == action);
        let comparisons = own.map_or(&[][..], |it| &it.rule.comparisons);
        let applies = |rule: Action| beat.rules.iter().any(|it| it.rule.action == rule && it.applies);
        let Given { thresholds, weights, .. } = given;
        let anomalies = span_of(action, &given.ml, thresholds);
        let genome_anomalies =
            span(0, end(|anoms| (anoms as f64 / 100.0).min(0.9) * weights.regen < thresholds.repair));
        let weight = WeightLimit::of(action, given);
        // A long T_Λ brings stability down to 0.
        let past_balance = thresholds.stability >= 0.0 || !applies(Action::ApplyBalance);
        let rule_within_reach = match action {
            Action::Quarantine | Action::Alert => true,
            Action::ApplyBalance => {
                genome_anomalies.is_some() && weight.is_some_and(|it| it.most > thresholds.stability)
            }
            Action::ApplyOptimize => past_balance && weight.is_some_and(|it| it.most > thresholds.gain),
            Action::Noop => past_balance && !applies(Action::ApplyOptimize),
        };
        Self {
            action,
            decided: beat.action == action,
            missing: comparisons.iter().filter(|it| !it.holds()).copied().collect(),
            preceded_by: beat
                .rules
                .iter()
                .take_while(|it| it.rule.action != action)
                .find(|it| it.applies)
                .map(|it| it.rule.action),
            reachable: anomalies.is_some() && rule_within_reach,
            anomalies,
            genome_anomalies: genome_anomalies.filter(|_| action == Action::ApplyBalance),
            weight,
        }
    }
}

impl WeightLimit {
    fn of(action: Action, given: &Given) -> Option<Self> {
        let Given { thresholds, weights, evolution, .. } = given;
        let (most_balance, most_optimize) = weights.bounds();
        let stability = |weight: f64| MOST_CONSERVE * weight;
        let gain = |weight: f64| (weight * GAIN_PER_WEIGHT).min(MOST_GAIN) * weight;
        let (name, value, limit) = match action {
            Action::ApplyBalance => ("B", weights.balance, thresholds.stability),
            Action::ApplyOptimize => ("O", weights.optimize, thresholds.gain),
            _ => return None,
        };
        let (needed, most, most_evolved) = match action {
            Action::ApplyBalance => (limit / MOST_CONSERVE, stability(value), stability(most_balance)),
            _ => (needed_optimize(limit), gain(value), gain(most_optimize)),
        };
        let Weights { balance, entropy, optimize, regen } = *weights;
        let is_bounded = [balance, entropy, optimize, regen].iter().all(|&it| it >= 0.0);
        let most_evolved = match evolution {
            Evolution::Enabled => is_bounded.then_some(most_evolved),
            Evolution::Frozen => Some(most),
        };
        Some(Self {
            name,
            value,
            limit,
            needed,
            most,
            most_evolved,
            evolves: *evolution == Evolution::Enabled,
        })
    }
}

/// The O above which opt_gain = min(0.5, 0.12·O)·O exceeds `gain`.
fn needed_optimize(gain: f64) -> f64 {
    let rising = (gain.max(0.0) / GAIN_PER_WEIGHT).sqrt();
    if rising * GAIN_PER_WEIGHT < MOST_GAIN { rising } else { gain / MOST_GAIN }
}

/// The total numbers of anomalies at which the threat rules leave the decision to `action`'s rule. The threat rises with
/// the number of anomalies, or falls where ml_weight is negative. `None`: no number does.
#[must_use]
pub fn span_of(action: Action, ml: &Ml, thresholds: &Thresholds) -> Option<Span> {
    let reaches = |anoms: u64, limit: f64| sigmoid(ml.ml_weight * anoms as f64 + ml.ml_bias) >= limit;
    if ml.ml_weight < 0.0 {
        let end_of = |limit: f64| end(|anoms| reaches(anoms, limit));
        let (quarantine, alert) = (end_of(thresholds.quarantine), end_of(thresholds.alert));
        match action {
            Action::Quarantine => span(0, quarantine),
            Action::Alert => span(quarantine, alert),
            _ => span(quarantine.max(alert), END),
        }
    } else {
        let start_of = |limit: f64| end(|anoms| !reaches(anoms, limit));
        let (quarantine, alert) = (start_of(thresholds.quarantine), start_of(thresholds.alert));
        match action {
            Action::Quarantine => span(quarantine, END),
            Action::Alert => span(alert, quarantine),
            _ => span(0, quarantine.min(alert)),
        }
    }
}

/// The numbers from `from` to before `end`.
fn span(from: u64, end: u64) -> Option<Span> {
    (from < end).then(|| Span { from, to: (end < END).then(|| end - 1) })
}

/// The first number of anomalies for which `holds` is false, or [`END`]. Where it is false, it is so for all larger
/// numbers.
fn end(holds: impl Fn(u64) -> bool) -> u64 {
    let (mut low, mut high) = (0, END);
    while low < high {
        let middle = low + (high - low) / 2;
        if holds(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}
