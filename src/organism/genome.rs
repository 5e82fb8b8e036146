//! The parameters of an organism under the names they have in the ledger, and how its weights evolve.
//!
//! Fields stand in alphabetical order of their ledger names, as canonical JSON wants them.

use serde::{Deserialize, Serialize};

/// Lowest and highest weight of the Optimize core after an adjustment.
const OPTIMIZE_BOUNDS: (f64, f64) = (0.1, 0.9);
/// Lowest and highest weight of the Entropy core before normalisation.
const ENTROPY_BOUNDS: (f64, f64) = (0.05, 0.30);
/// Weight of the Entropy core while the threat is at most 0.5.
const ENTROPY_AT_REST: f64 = 0.10;

/// What each core's result counts in the decision vector. Plain numbers; they sum to 1 after every beat.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Weights {
    /// Balance.
    #[serde(rename = "B")]
    pub balance: f64,
    /// Entropy.
    #[serde(rename = "E")]
    pub entropy: f64,
    /// Optimize.
    #[serde(rename = "O")]
    pub optimize: f64,
    /// Regen.
    #[serde(rename = "R")]
    pub regen: f64,
}

impl Default for Weights {
    fn default() -> Self {
        Self { balance: 0.25, entropy: 0.15, optimize: 0.35, regen: 0.25 }
    }
}

impl Weights {
    /// The weights after one beat (mission, "Genome Evolution"; format 7): O moves by the PID's `delta_o`,
    /// E follows the threat with hybrid feedback from the O just made, then all four are divided by their
    /// sum R + B + E + O, added in that order.
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
}

/// Known risk of the body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Risk {
    /// Anomalies that count at every beat.
    pub anoms: u64,
    /// How long an injected or sensed anomaly counts, in seconds of the ledger's own time; 0.0 is for ever.
    #[serde(default)]
    pub window: f64,
}

/// The model of the Entropy core: threat = sigmoid(ml_weight · anomalies + ml_bias).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ml {
    /// Added to the weighted anomalies.
    #[serde(default)]
    pub ml_bias: f64,
    /// What one anomaly adds.
    pub ml_weight: f64,
}

impl Default for Ml {
    fn default() -> Self {
        Self { ml_bias: 0.0, ml_weight: 0.12 }
    }
}

/// Where each action begins.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Thresholds {
    /// ALERT from this raw threat on.
    pub alert: f64,
    /// APPLY_OPTIMIZE above this weighted gain.
    pub gain: f64,
    /// QUARANTINE from this raw threat on.
    pub quarantine: f64,
    /// APPLY_BALANCE only below this weighted urgency.
    pub repair: f64,
    /// APPLY_BALANCE above this weighted conservation score.
    pub stability: f64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { alert: 0.60, gain: 0.1, quarantine: 0.85, repair: 0.1, stability: 0.25 }
    }
}

/// Whether the weights move.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Evolution {
    /// Every beat.
    #[default]
    Enabled,
    /// Never: the PID runs and is recorded, the weights stay as given.
    Frozen,
}

/// The half of the parameters that a Genome gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Genome {
    /// Whether the weights move.
    #[serde(default)]
    pub evolution: Evolution,
    /// The threat model.
    pub ml: Ml,
    /// Known risk.
    pub risk: Risk,
    /// Where each action begins.
    #[serde(default)]
    pub thresholds: Thresholds,
    /// The first weights, or those last given.
    pub weights: Weights,
}

/// What T_Λ is made from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PulseParams {
    /// Parallel flows, at least 1.
    pub k: u64,
    /// Least seconds between two beats; missing or 0.0: T_Λ alone sets the pace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_period: Option<f64>,
    /// Nodes, at least 1.
    pub p: u64,
    /// Base time in seconds.
    pub t1: f64,
    /// U of the mission's formula; only its logarithm enters.
    pub u: f64,
}

impl Default for PulseParams {
    fn default() -> Self {
        Self { k: 4, min_period: None, p: 5, t1: 0.001, u: 54.598_150_033_144_236 }
    }
}

impl PulseParams {
    /// Least seconds between two beats, 0.0 where none is set.
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
    /// Set point of T_Λ in seconds.
    pub t_threshold: f64,
}

impl Default for PidGains {
    fn default() -> Self {
        Self { kd: 0.05, ki: 0.1, kp: 0.6, t_threshold: 0.02 }
    }
}

/// The other half of the parameters: pulse and PID.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// PID gains and set point.
    pub pid: PidGains,
    /// What T_Λ is made from.
    pub pulse: PulseParams,
}
