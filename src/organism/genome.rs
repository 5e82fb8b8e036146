//! The parameters of an organism, with their names in the ledger, and the evolution of its weights.
//!
//! Fields are declared in alphabetical order of their ledger names, as canonical JSON requires.

use serde::{Deserialize, Serialize};

/// Minimum and maximum of the Optimize weight before normalization.
const OPTIMIZE_BOUNDS: (f64, f64) = (0.1, 0.9);
/// Minimum and maximum of the Entropy weight before normalization.
const ENTROPY_BOUNDS: (f64, f64) = (0.05, 0.30);
/// Entropy weight before normalization while the threat is at most 0.5.
const ENTROPY_AT_REST: f64 = 0.10;

/// The weight of each core in the decision vector. The weights sum to 1 after every beat that evolves them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Weights {
    /// Weight of the Balance core.
    #[serde(rename = "B")]
    pub balance: f64,
    /// Weight of the Entropy core.
    #[serde(rename = "E")]
    pub entropy: f64,
    /// Weight of the Optimize core.
    #[serde(rename = "O")]
    pub optimize: f64,
    /// Weight of the Regen core.
    #[serde(rename = "R")]
    pub regen: f64,
}

impl Default for Weights {
    fn default() -> Self {
        Self { balance: 0.25, entropy: 0.15, optimize: 0.35, regen: 0.25 }
    }
}

impl Weights {
    /// Returns the weights after one beat (mission, "Genome Evolution"; format, step 7).
    ///
    /// O changes by the `delta_o` of the PID. E follows from the threat and the new O (hybrid feedback). Then all four
    /// are divided by R + B + E + O. The order of the operations determines the bits of the result.
    #[must_use]
    pub fn evolve(self, delta_o: f64, threat: f64, beat: u64) -> Self {
        let optimize = (self.optimize + delta_o).clamp(OPTIMIZE_BOUNDS.0, OPTIMIZE_BOUNDS.1);
        let entropy = if threat > 0.5 {
            0.15 * threat * libm::exp(-(beat as f64) / 50.0) * (1.0 - optimize / 0.3)
        } else {
            ENTROPY_AT_REST
        };
        let entropy = entropy.clamp(ENTROPY_BOUNDS.0, ENTROPY_BOUNDS.1);
        let total = self.regen + self.balance + entropy + optimize;
        Self {
            balance: self.balance / total,
            entropy: entropy / total,
            optimize: optimize / total,
            regen: self.regen / total,
        }
    }

    /// The largest (B, O) that these weights can have now or after any number of beats, if no config changes them and
    /// none is negative.
    ///
    /// After a beat O is o / (R + B + E + o), where o is at most 0.9 before the division, E at least 0.05, and R + B
    /// may have decayed to nothing: hence 0.9/0.95. Likewise R + B is what o of at least 0.1 and E of at least 0.05
    /// leave of 1, unless it is more now. A beat does not change the ratio of B to R.
    #[must_use]
    pub fn bounds(&self) -> (f64, f64) {
        let most_optimize = OPTIMIZE_BOUNDS.1 / (OPTIMIZE_BOUNDS.1 + ENTROPY_BOUNDS.0);
        let rest = self.regen + self.balance;
        let share = if rest > 0.0 { self.balance / rest } else { 0.0 };
        let most_rest = 1.0 - OPTIMIZE_BOUNDS.0 - ENTROPY_BOUNDS.0;
        (share * rest.max(most_rest), self.optimize.max(most_optimize))
    }
}

/// Risk of the organism, in anomalies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Risk {
    /// Anomalies that count in every beat, whatever is injected or sensed.
    pub anoms: u64,
    /// The risk window: how long an injected or sensed anomaly counts, in seconds of the time of the ledger. 0.0 means
    /// without end.
    #[serde(default)]
    pub window: f64,
}

/// The model of the Entropy core: threat = sigmoid(ml_weight · anomalies + ml_bias).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ml {
    /// Intercept.
    #[serde(default)]
    pub ml_bias: f64,
    /// Coefficient of the number of anomalies.
    pub ml_weight: f64,
}

impl Default for Ml {
    fn default() -> Self {
        Self { ml_bias: 0.0, ml_weight: 0.12 }
    }
}

/// Thresholds of the decision rule.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Thresholds {
    /// ALERT if the raw threat is at least this.
    pub alert: f64,
    /// APPLY_OPTIMIZE if the weighted gain is greater than this.
    pub gain: f64,
    /// QUARANTINE if the raw threat is at least this.
    pub quarantine: f64,
    /// APPLY_BALANCE only if the weighted urgency is less than this.
    pub repair: f64,
    /// APPLY_BALANCE only if the weighted conservation score is greater than this.
    pub stability: f64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { alert: 0.60, gain: 0.1, quarantine: 0.85, repair: 0.1, stability: 0.25 }
    }
}

/// Whether the weights evolve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Evolution {
    /// The weights evolve in every beat.
    #[default]
    Enabled,
    /// The weights stay as configured. The PID still runs and is recorded.
    Frozen,
}

/// The parameters from the Genome that a ledger records under `genome`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Genome {
    /// Whether the weights evolve.
    #[serde(default)]
    pub evolution: Evolution,
    /// The threat model.
    pub ml: Ml,
    /// Risk, in anomalies.
    pub risk: Risk,
    /// Thresholds of the decision rule.
    #[serde(default)]
    pub thresholds: Thresholds,
    /// The weights as last configured, before evolution.
    pub weights: Weights,
}

/// Parameters of the pulse.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PulseParams {
    /// Number of parallel flows, at least 1.
    pub k: u64,
    /// Minimum period between two beats in seconds. Without it, or with 0.0, the period is T_Λ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_period: Option<f64>,
    /// Number of nodes, at least 1.
    pub p: u64,
    /// Base time in seconds.
    pub t1: f64,
    /// U of the mission's formula, which uses only its logarithm.
    pub u: f64,
}

impl Default for PulseParams {
    fn default() -> Self {
        Self { k: 4, min_period: None, p: 5, t1: 0.001, u: 54.598_150_033_144_236 }
    }
}

impl PulseParams {
    /// Minimum period between two beats in seconds; 0.0 if none is set.
    #[must_use]
    pub fn min_period(&self) -> f64 {
        self.min_period.unwrap_or(0.0)
    }
}

/// Gains of the PID controller.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PidGains {
    /// Derivative gain.
    pub kd: f64,
    /// Integral gain.
    pub ki: f64,
    /// Proportional gain.
    pub kp: f64,
    /// Set point of T_Λ, in seconds.
    pub t_threshold: f64,
}

impl Default for PidGains {
    fn default() -> Self {
        Self { kd: 0.05, ki: 0.1, kp: 0.6, t_threshold: 0.02 }
    }
}

/// The parameters that a ledger records under `config`: pulse and PID.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// PID gains and set point.
    pub pid: PidGains,
    /// Parameters of the pulse.
    pub pulse: PulseParams,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn evolution_stays_within_the_bounds(
            start in prop::array::uniform4(0.0..1.0_f64),
            steps in prop::collection::vec((-0.05..=0.05_f64, 0.0..1.0_f64), 1..200),
        ) {
            let [balance, entropy, optimize, regen] = start;
            let mut weights = Weights { balance, entropy, optimize, regen };
            let (most_balance, most_optimize) = weights.bounds();
            for (beat, (delta_o, threat)) in (1..).zip(steps) {
                weights = weights.evolve(delta_o, threat, beat);
                prop_assert!(weights.balance <= most_balance * (1.0 + 1e-12), "{weights:?} {most_balance}");
                prop_assert!(weights.optimize <= most_optimize * (1.0 + 1e-12), "{weights:?} {most_optimize}");
            }
        }
    }

    /// A long calm and then a threat just above a half: E falls to its least while R + B are nearly nothing.
    #[test]
    fn the_bound_of_optimize_is_nearly_reached() {
        let mut weights = Weights::default();
        for beat in 1..2_000 {
            weights = weights.evolve(0.05, 0.5, beat);
        }
        weights = weights.evolve(0.05, 0.53, 2_000);
        assert!(weights.optimize > 0.946, "{weights:?}");
    }
}
