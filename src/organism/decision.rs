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
