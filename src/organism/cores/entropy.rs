//! Entropy (E): how great the threat is.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

use super::{Finite, Reading};

/// Result of the Entropy core.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entropy {
    /// For people.
    #[serde(skip_deserializing)]
    pub explanation: Explanation,
    /// Bias in force.
    pub ml_bias: f64,
    /// Weight in force.
    pub ml_weight: f64,
    /// 0 to 1.
    pub threat_score: f64,
    /// All anomalies that count.
    pub total_anoms: u64,
    /// Version of the model.
    pub version: Arc<str>,
}

/// A sentence made when it is written: pending beats are held by the thousand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Explanation {
    genome_anoms: u64,
    features_anoms: u64,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} anomalies in the genome, {} sensed", self.genome_anoms, self.features_anoms)
    }
}

impl Serialize for Explanation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Finite for Entropy {
    fn is_finite(&self) -> bool {
        [self.ml_bias, self.ml_weight, self.threat_score].iter().all(|n| n.is_finite())
    }
}

/// 1 / (1 + e^−x), in double.
#[must_use]
pub fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + libm::exp(-x))
}

/// threat = sigmoid(ml_weight · all anomalies + ml_bias) (mission, "Entropy Model"; format 4).
#[must_use]
pub fn execute(reading: &Reading) -> Entropy {
    let total_anoms = reading.total_anoms();
    Entropy {
        explanation: Explanation {
            genome_anoms: reading.genome_anoms,
            features_anoms: reading.features_anoms,
        },
        ml_bias: reading.ml.ml_bias,
        ml_weight: reading.ml.ml_weight,
        threat_score: sigmoid(reading.ml.ml_weight * total_anoms as f64 + reading.ml.ml_bias),
        total_anoms,
        version: reading.version.clone(),
    }
}
