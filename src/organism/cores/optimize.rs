//! Optimize (O): estimates the gain of an optimization.

use serde::{Deserialize, Serialize};

use super::{CoreInput, Finite};

/// Expected gain per unit of the weight of this core.
pub const GAIN_PER_WEIGHT: f64 = 0.12;
/// The highest expected gain.
pub const MOST_GAIN: f64 = 0.5;

/// Result of the Optimize core.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Optimize {
    /// Expected gain, 0 to 0.5.
    pub expected_gain: f64,
}

impl Finite for Optimize {
    fn is_finite(&self) -> bool {
        self.expected_gain.is_finite()
    }
}

/// Computes expected_gain = min(0.5, O · 0.12), where O is the weight of this core (mission, "OptimizeCore"; format,
/// step 4).
#[must_use]
pub fn execute(input: &CoreInput) -> Optimize {
    Optimize { expected_gain: (input.weights.optimize * GAIN_PER_WEIGHT).min(MOST_GAIN) }
}
