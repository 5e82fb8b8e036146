//! Regen (R): how urgent repair is.

use serde::{Deserialize, Serialize};

use super::{Finite, Reading};

/// Result of the Regen core.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Regen {
    /// Half the urgency.
    pub cost: f64,
    /// 0 to 0.9.
    pub urgency: f64,
}

impl Finite for Regen {
    fn is_finite(&self) -> bool {
        self.cost.is_finite() && self.urgency.is_finite()
    }
}

/// urgency = min(0.9, genome anomalies / 100), cost = urgency · 0.5 (mission, "RegenCore"; format 4).
#[must_use]
pub fn execute(reading: &Reading) -> Regen {
    let urgency = (reading.genome_anoms as f64 / 100.0).min(0.9);
    Regen { cost: urgency * 0.5, urgency }
}
