//! Optimize (O): what optimising would gain.

use serde::{Deserialize, Serialize};

use super::{Finite, Reading};

/// Result of the Optimize core.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Optimize {
    /// 0 to 0.5.
    pub expected_gain: f64,
}

impl Finite for Optimize {
    fn is_finite(&self) -> bool {
        self.expected_gain.is_finite()
    }
}

/// expected_gain = min(0.5, O · 0.12) with O the core's own weight (mission, "OptimizeCore"; format 4).
#[must_use]
pub fn execute(reading: &Reading) -> Optimize {
    Optimize { expected_gain: (reading.weights.optimize * 0.12).min(0.5) }
}
