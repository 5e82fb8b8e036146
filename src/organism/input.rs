//! What reaches an organism from outside, as the ledger records it.

use serde::{Deserialize, Serialize};

use super::genome::{Config, Evolution, Genome};

/// One input: in force from the next pulse.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Input {
    /// A spec changed.
    Config(Box<ConfigChange>),
    /// Somebody injected anomalies or a model weight.
    Injection(Injection),
    /// A sensor saw something.
    Sense(Sense),
    /// Nodes came or went.
    Scale(Scale),
    /// Beating starts again.
    Resume(Resume),
}

/// What a changed spec sets; only what changed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ConfigChange {
    /// Who changed it, where that identity is authenticated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Whether weights move.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evolution: Option<Evolution>,
    /// The model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ml: Option<MlChange>,
    /// PID gains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<PidChange>,
    /// The pulse.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pulse: Option<PulseChange>,
    /// Known risk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub risk: Option<RiskChange>,
    /// Where actions begin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thresholds: Option<ThresholdsChange>,
    /// Version of the engine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<WeightsChange>,
}

/// A struct of optional fields that overwrites the fields it names, and its opposite: the fields in which
/// two values differ.
macro_rules! change {
    ($(#[$doc:meta])* $name:ident of $whole:ty { $($(#[$field_doc:meta])* $field:ident: $type:ty $(= $rename:literal)?),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        pub struct $name {
            $($(#[$field_doc])*
            #[serde(default, skip_serializing_if = "Option::is_none" $(, rename = $rename)?)]
            pub $field: Option<$type>,)*
        }

        impl $name {
            /// Sets the fields that are named.
            pub fn apply(&self, whole: &mut $whole) {
                $(if let Some(value) = self.$field { whole.$field = value.into(); })*
            }

            /// The fields of `new` that differ from `old`, or nothing.
            #[must_use]
            pub fn between(old: &$whole, new: &$whole) -> Option<Self> {
                let change = Self { $($field: (old.$field != new.$field).then_some(new.$field).and_then(Into::into),)* };
                (change != Self::default()).then_some(change)
            }
        }
    };
}

change!(
    /// Changed weights.
    WeightsChange of super::genome::Weights {
        /// Balance.
        balance: f64 = "B",
        /// Entropy.
        entropy: f64 = "E",
        /// Optimize.
        optimize: f64 = "O",
        /// Regen.
        regen: f64 = "R",
    }
);
change!(
    /// Changed risk.
    RiskChange of super::genome::Risk {
        /// Anomalies that count at every beat.
        anoms: u64,
        /// Seconds an anomaly counts.
        window: f64,
    }
);
change!(
    /// A changed model.
    MlChange of super::genome::Ml {
        /// Bias.
        ml_bias: f64,
        /// Weight.
        ml_weight: f64,
    }
);
change!(
    /// Changed thresholds.
    ThresholdsChange of super::genome::Thresholds {
        /// ALERT.
        alert: f64,
        /// APPLY_OPTIMIZE.
        gain: f64,
        /// QUARANTINE.
        quarantine: f64,
        /// APPLY_BALANCE, upper.
        repair: f64,
        /// APPLY_BALANCE, lower.
        stability: f64,
    }
);
change!(
    /// A changed pulse.
    PulseChange of super::genome::PulseParams {
        /// Parallel flows.
        k: u64,
        /// Least seconds between beats; 0.0 takes an earlier one away.
        min_period: f64,
        /// Nodes. Our own ledgers change it by `scale` alone.
        p: u64,
        /// Base time.
        t1: f64,
        /// U.
        u: f64,
    }
);
change!(
    /// Changed gains.
    PidChange of super::genome::PidGains {
        /// Derivative gain.
        kd: f64,
        /// Integral gain.
        ki: f64,
        /// Proportional gain.
        kp: f64,
        /// Set point.
        t_threshold: f64,
    }
);

impl ConfigChange {
    /// What `new` sets that differs from what was last recorded; nothing where nothing does. P is left out:
    /// it changes by `scale`. Of weights always all four are named, so that a reader needs no evolved value.
    #[must_use]
    pub fn between(old: (&Genome, &Config), new: (&Genome, &Config)) -> Option<Self> {
        let ((old_genome, old_config), (new_genome, new_config)) = (old, new);
        let mut pulse_target = new_config.pulse;
        pulse_target.p = old_config.pulse.p;
        // There is no null in an entry: no period and a period of 0.0 are the same pace.
        if old_config.pulse.min_period() == new_config.pulse.min_period() {
            pulse_target.min_period = old_config.pulse.min_period;
        } else if pulse_target.min_period.is_none() {
            pulse_target.min_period = Some(0.0);
        }
        let weights = new_genome.weights;
        let change = Self {
            by: None,
            evolution: (old_genome.evolution != new_genome.evolution).then_some(new_genome.evolution),
            ml: MlChange::between(&old_genome.ml, &new_genome.ml),
            pid: PidChange::between(&old_config.pid, &new_config.pid),
            pulse: PulseChange::between(&old_config.pulse, &pulse_target),
            risk: RiskChange::between(&old_genome.risk, &new_genome.risk),
            thresholds: ThresholdsChange::between(&old_genome.thresholds, &new_genome.thresholds),
            version: None,
            weights: (old_genome.weights != weights).then_some(WeightsChange {
                balance: Some(weights.balance),
                entropy: Some(weights.entropy),
                optimize: Some(weights.optimize),
                regen: Some(weights.regen),
            }),
        };
        (change != Self::default()).then_some(change)
    }
}

/// Anomalies or a model weight that somebody injected.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Injection {
    /// Anomalies to count from the next pulse on, for the risk window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anoms: Option<u64>,
    /// Who, where authenticated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Where it came in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The client's own id; a retry keeps it.
    pub id: String,
    /// Bias from the next pulse on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ml_bias: Option<f64>,
    /// Weight from the next pulse on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ml_weight: Option<f64>,
}

/// What a sensor saw.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sense {
    /// Anomalies to count.
    pub anoms: u64,
    /// What was seen.
    pub kind: String,
    /// Who saw it.
    pub source: String,
    /// On what.
    pub subject: String,
    /// Recorded, but counts 0.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suppressed: bool,
}

/// P changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scale {
    /// P before.
    pub from: u64,
    /// P from the next pulse on.
    pub p: u64,
}

/// Beating starts again after it had stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// Epoch of the writer.
    pub epoch: u64,
    /// Who writes from here on.
    pub operator: String,
    /// Why it had stopped.
    pub reason: ResumeReason,
}

/// Why beating had stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ResumeReason {
    /// The process ended.
    Restart,
    /// Another operator held the ledger.
    #[serde(rename = "takeover")]
    TakeOver,
    /// `spec.suspend` was set.
    Unsuspended,
    /// `spec.beats` was reached.
    BeatsRaised,
    /// There was no Genome.
    GenomeBack,
}
