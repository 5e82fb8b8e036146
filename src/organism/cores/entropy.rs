//! Entropy (E): scores the threat.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

use super::{CoreInput, Finite};

/// Result of the Entropy core.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entropy {
    /// Free text for human readers.
    #[serde(skip_deserializing)]
    pub explanation: Explanation,
    /// Bias of the model in force.
    pub ml_bias: f64,
    /// Weight of the model in force.
    pub ml_weight: f64,
    /// Threat, 0 to 1.
    pub threat_score: f64,
    /// All anomalies that count in this beat.
    pub total_anoms: u64,
    /// Version of the model.
    pub version: Arc<str>,
}

/// The explanation of a threat score. The text is generated on serialization, because thousands of pending beats are
/// kept in memory.
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

/// Computes 1 / (1 + e^−x) in double precision.
#[must_use]
pub fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + libm::exp(-x))
}

/// Computes threat = sigmoid(ml_weight · total anomalies + ml_bias) (mission, "Entropy Model"; format, step 4).
#[must_use]
pub fn execute(input: &CoreInput) -> Entropy {
    let total_anoms = input.total_anoms();
    Entropy {
        explanation: Explanation { genome_anoms: input.genome_anoms, features_anoms: input.features_anoms },
        ml_bias: input.ml.ml_bias,
        ml_weight: input.ml.ml_weight,
        threat_score: sigmoid(input.ml.ml_weight * total_anoms as f64 + input.ml.ml_bias),
        total_anoms,
        version: input.version.clone(),
    }
}
