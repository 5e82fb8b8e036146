//! External inputs of an organism, as the ledger records them.

use serde::{Deserialize, Serialize};

use super::genome::{Config, Evolution, Genome};

/// An input. It takes effect at the next pulse.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Input {
    /// The spec changed.
    Config(Box<ConfigChange>),
    /// A client injected anomalies or model parameters.
    Injection(Injection),
    /// A sensor observed anomalies.
    Sense(Sense),
    /// The number of nodes changed.
    Scale(Scale),
    /// Beating resumed after an interruption.
    Resume(Resume),
}

/// A change of the spec. Only the changed fields are set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ConfigChange {
    /// Identity of the author, if it is authenticated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Whether the weights evolve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evolution: Option<Evolution>,
    /// Parameters of the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ml: Option<MlChange>,
    /// Gains and set point of the PID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<PidChange>,
    /// Parameters of the pulse.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pulse: Option<PulseChange>,
    /// Risk, in anomalies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub risk: Option<RiskChange>,
    /// Thresholds of the decision rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thresholds: Option<ThresholdsChange>,
    /// Version of the engine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Weights of the cores; they replace the evolved ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<WeightsChange>,
}

/// Defines a partial update of a struct: the same fields, each optional, with a method that applies the update and
/// one that computes it as the difference between two values.
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
            /// Overwrites the fields that are set in this update.
            pub fn apply(&self, whole: &mut $whole) {
                $(if let Some(value) = self.$field { whole.$field = value.into(); })*
            }

            /// Returns the fields of `new` that differ from `old`, or `None` if there are none.
            #[must_use]
            pub fn between(old: &$whole, new: &$whole) -> Option<Self> {
                let change = Self { $($field: (old.$field != new.$field).then_some(new.$field).and_then(Into::into),)* };
                (change != Self::default()).then_some(change)
            }
        }
    };
}

change!(
    /// Update of the weights.
    WeightsChange of super::genome::Weights {
        /// Weight of the Balance core.
        balance: f64 = "B",
        /// Weight of the Entropy core.
        entropy: f64 = "E",
        /// Weight of the Optimize core.
        optimize: f64 = "O",
        /// Weight of the Regen core.
        regen: f64 = "R",
    }
);
change!(
    /// Update of the risk.
    RiskChange of super::genome::Risk {
        /// Anomalies that count in every beat.
        anoms: u64,
        /// Risk window in seconds.
        window: f64,
    }
);
change!(
    /// Update of the model.
    MlChange of super::genome::Ml {
        /// Intercept.
        ml_bias: f64,
        /// Coefficient of the number of anomalies.
        ml_weight: f64,
    }
);
change!(
    /// Update of the thresholds.
    ThresholdsChange of super::genome::Thresholds {
        /// Threshold of ALERT.
        alert: f64,
        /// Threshold of APPLY_OPTIMIZE.
        gain: f64,
        /// Threshold of QUARANTINE.
        quarantine: f64,
        /// Upper threshold of the weighted urgency for APPLY_BALANCE.
        repair: f64,
        /// Lower threshold of the weighted conservation score for APPLY_BALANCE.
        stability: f64,
    }
);
change!(
    /// Update of the pulse parameters.
    PulseChange of super::genome::PulseParams {
        /// Number of parallel flows.
        k: u64,
        /// Minimum period between two beats in seconds; 0.0 removes an earlier one.
        min_period: f64,
        /// Number of nodes. Ledgers written by this version change it only by `scale`.
        p: u64,
        /// Base time in seconds.
        t1: f64,
        /// U of the mission's formula.
        u: f64,
    }
);
change!(
    /// Update of the PID gains.
    PidChange of super::genome::PidGains {
        /// Derivative gain.
        kd: f64,
        /// Integral gain.
        ki: f64,
        /// Proportional gain.
        kp: f64,
        /// Set point of T_Λ, in seconds.
        t_threshold: f64,
    }
);

impl ConfigChange {
    /// Returns the parameters of `new` that differ from the last recorded ones, or `None` if there are none.
    ///
    /// P is excluded, because it changes only by `scale`. If a weight differs, all four are set, so that the entry does
    /// not depend on evolved values.
    #[must_use]
    pub fn between(old: (&Genome, &Config), new: (&Genome, &Config)) -> Option<Self> {
        let ((old_genome, old_config), (new_genome, new_config)) = (old, new);
        let mut pulse_target = new_config.pulse;
        pulse_target.p = old_config.pulse.p;
        // An entry cannot contain null, and no period means the same as a period of 0.0.
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

/// Anomalies or model parameters injected by a client.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Injection {
    /// Anomalies that count from the next pulse on, for the length of the risk window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anoms: Option<u64>,
    /// Identity of the client, if it is authenticated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// The node or endpoint that received the injection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Id chosen by the client. Retries use the same id and are recorded once.
    pub id: String,
    /// New bias of the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ml_bias: Option<f64>,
    /// New weight of the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ml_weight: Option<f64>,
}

/// An observation of a sensor.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sense {
    /// Number of anomalies.
    pub anoms: u64,
    /// Kind of the observation.
    pub kind: String,
    /// The sensor.
    pub source: String,
    /// The observed object and event, unique for each observation.
    pub subject: String,
    /// Whether the observation is recorded without counting.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suppressed: bool,
}

/// A change of P, the number of nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scale {
    /// Previous P.
    pub from: u64,
    /// P from the next pulse on.
    pub p: u64,
}

/// Beating resumed after an interruption.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// Epoch of the writer.
    pub epoch: u64,
    /// Identity of the writer of the following entries.
    pub operator: String,
    /// Reason for the interruption.
    pub reason: ResumeReason,
}

/// Reason for an interruption of beating.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ResumeReason {
    /// The process was restarted.
    Restart,
    /// Another operator replica took the ledger over.
    #[serde(rename = "takeover")]
    TakeOver,
    /// `spec.suspend` was set.
    Unsuspended,
    /// `spec.beats` was reached and then raised.
    BeatsRaised,
    /// The Genome was missing.
    GenomeBack,
}
