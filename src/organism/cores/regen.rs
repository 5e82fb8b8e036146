//! Regen (R): scores how urgent a repair is.

use serde::{Deserialize, Serialize};

use super::{CoreInput, Finite};

/// Result of the Regen core.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Regen {
    /// Cost of the repair: half its urgency.
    pub cost: f64,
    /// Urgency of the repair, 0 to 0.9.
    pub urgency: f64,
}

impl Finite for Regen {
    fn is_finite(&self) -> bool {
        self.cost.is_finite() && self.urgency.is_finite()
    }
}

/// Computes urgency = min(0.9, genome anomalies / 100) and cost = urgency · 0.5 (mission, "RegenCore"; format,
/// step 4).
#[must_use]
pub fn execute(input: &CoreInput) -> Regen {
    let urgency = (input.genome_anoms as f64 / 100.0).min(0.9);
    Regen { cost: urgency * 0.5, urgency }
}
