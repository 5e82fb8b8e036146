//! The decision rule: from the results of the four cores to one of five actions.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::cores::{Balance, Entropy, Optimize, Regen};
use super::genome::{Thresholds, Weights};

/// The decision of a beat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Action {
    /// Isolate the pods of the organism from the network.
    Quarantine,
    /// Report the threat; change nothing.
    Alert,
    /// Keep the present size: do not scale down.
    ApplyBalance,
    /// Run the pods at a higher utilization.
    ApplyOptimize,
    /// Do nothing.
    #[default]
    Noop,
}

impl Action {
    /// All actions, in the order in which [`decide`] tries them.
    pub const ALL: [Self; 5] =
        [Self::Quarantine, Self::Alert, Self::ApplyBalance, Self::ApplyOptimize, Self::Noop];

    /// Name of the action in the ledger.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Quarantine => "QUARANTINE",
            Self::Alert => "ALERT",
            Self::ApplyBalance => "APPLY_BALANCE",
            Self::ApplyOptimize => "APPLY_OPTIMIZE",
            Self::Noop => "NOOP",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The decision vector: the result of each core, raw and multiplied by the weight of the core.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Details {
    /// expected_gain · O.
    pub opt_gain: f64,
    /// conserve.
    pub raw_conserve: f64,
    /// expected_gain.
    pub raw_gain: f64,
    /// threat_score.
    pub raw_threat: f64,
    /// urgency.
    pub raw_urgency: f64,
    /// urgency · R.
    pub repair_score: f64,
    /// conserve · B.
    pub stability: f64,
    /// threat_score · E.
    pub threat: f64,
}

/// Combines the four results into the decision vector (format, step 5).
#[must_use]
pub fn aggregate_recommendations(
    weights: &Weights,
    r: &Regen,
    b: &Balance,
    e: &Entropy,
    o: &Optimize,
) -> Details {
    Details {
        opt_gain: o.expected_gain * weights.optimize,
        raw_conserve: b.conserve,
        raw_gain: o.expected_gain,
        raw_threat: e.threat_score,
        raw_urgency: r.urgency,
        repair_score: r.urgency * weights.regen,
        stability: b.conserve * weights.balance,
        threat: e.threat_score * weights.entropy,
    }
}

/// Returns the action of the first rule that applies (mission, "Decision Thresholds"; format, step 5).
#[must_use]
pub fn decide(details: &Details, thresholds: &Thresholds) -> Action {
    if details.raw_threat >= thresholds.quarantine {
        Action::Quarantine
    } else if details.raw_threat >= thresholds.alert {
        Action::Alert
    } else if details.stability > thresholds.stability && details.repair_score < thresholds.repair {
        Action::ApplyBalance
    } else if details.opt_gain > thresholds.gain {
        Action::ApplyOptimize
    } else {
        Action::Noop
    }
}

/// One comparison of a decision rule.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The compared field of [`Details`].
    pub quantity: &'static str,
    /// Its value.
    pub value: f64,
    /// `>=`, `>` or `<`.
    pub relation: &'static str,
    /// The field of [`Thresholds`].
    pub threshold: &'static str,
    /// The threshold's value.
    pub limit: f64,
    /// Distance from the threshold; negative where the comparison does not hold.
    pub margin: f64,
}

impl Comparison {
    fn new(
        (quantity, value): (&'static str, f64),
        relation: &'static str,
        (threshold, limit): (&'static str, f64),
    ) -> Self {
        let margin = if relation == "<" { limit - value } else { value - limit };
        Self { quantity, value, relation, threshold, limit, margin }
    }

    /// Whether it holds. Without distance only `>=` does.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.margin > 0.0 || (self.relation == ">=" && self.margin == 0.0)
    }
}

/// One rule of [`decide`] with its numbers. It applies if all comparisons hold.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rule {
    /// What it decides.
    pub action: Action,
    /// What it compares.
    pub comparisons: Vec<Comparison>,
}

impl Rule {
    /// Whether it applies. The first rule that does decides.
    #[must_use]
    pub fn applies(&self) -> bool {
        self.comparisons.iter().all(Comparison::holds)
    }

    /// The comparison that is farthest from holding, or nearest to not holding.
    #[must_use]
    pub fn tightest(&self) -> Option<&Comparison> {
        self.comparisons.iter().min_by(|a, b| a.margin.total_cmp(&b.margin))
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, it) in self.comparisons.iter().enumerate() {
            let and = if at == 0 { "" } else { " and " };
            write!(f, "{and}{} {} thresholds.{}", it.quantity, it.relation, it.threshold)?;
        }
        Ok(())
    }
}

/// The rules of [`decide`] in order, with the numbers of one beat.
#[must_use]
pub fn rules(details: &Details, thresholds: &Thresholds) -> [Rule; 4] {
    let threat = ("raw_threat", details.raw_threat);
    let rule = |action, comparisons| Rule { action, comparisons };
    [
        rule(Action::Quarantine, vec![Comparison::new(threat, ">=", ("quarantine", thresholds.quarantine))]),
        rule(Action::Alert, vec![Comparison::new(threat, ">=", ("alert", thresholds.alert))]),
        rule(
            Action::ApplyBalance,
            vec![
                Comparison::new(("stability", details.stability), ">", ("stability", thresholds.stability)),
                Comparison::new(("repair_score", details.repair_score), "<", ("repair", thresholds.repair)),
            ],
        ),
        rule(
            Action::ApplyOptimize,
            vec![Comparison::new(("opt_gain", details.opt_gain), ">", ("gain", thresholds.gain))],
        ),
    ]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_first_rule_that_applies_is_what_is_decided(
            values in prop::array::uniform4(0.0..1.0_f64),
            thresholds in prop::array::uniform5(0.0..1.0_f64),
            on_the_edge in any::<bool>(),
        ) {
            let [raw_threat, stability, repair_score, opt_gain] = values;
            let [mut quarantine, alert, edge, repair, gain] = thresholds;
            if on_the_edge {
                quarantine = raw_threat;
            }
            let details = Details {
                opt_gain,
                raw_conserve: 0.0,
                raw_gain: 0.0,
                raw_threat,
                raw_urgency: 0.0,
                repair_score,
                stability,
                threat: 0.0,
            };
            let thresholds = Thresholds { alert, gain, quarantine, repair, stability: edge };
            let rules = rules(&details, &thresholds);
            let fired = rules.iter().find(|rule| rule.applies()).map_or(Action::Noop, |rule| rule.action);
            prop_assert_eq!(fired, decide(&details, &thresholds));
        }
    }
}
