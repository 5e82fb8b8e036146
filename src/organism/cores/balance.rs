//! Balance (B): scores how much of the present state is worth conserving.

use serde::{Deserialize, Serialize};

use super::{CoreInput, Finite};

/// The T_Λ with the highest conservation score, in seconds. A constant of the mission, independent of the set point
/// of the PID.
const T_REFERENCE: f64 = 0.02;

/// The highest conservation score, at T_Λ = [`T_REFERENCE`].
pub const MOST_CONSERVE: f64 = 0.5;

/// Result of the Balance core.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Balance {
    /// Running mean: average of `conserve` and the previous value, starting at 0.5.
    pub balance_state: f64,
    /// Conservation score, 0 to [`MOST_CONSERVE`].
    pub conserve: f64,
    /// Derivative gain in force.
    pub kd: f64,
    /// Integral gain in force.
    pub ki: f64,
    /// Proportional gain in force.
    pub kp: f64,
}

impl Finite for Balance {
    fn is_finite(&self) -> bool {
        [self.balance_state, self.conserve, self.kd, self.ki, self.kp].iter().all(|n| n.is_finite())
    }
}

/// Computes conserve = clamp(0.3 + (1 − |T_Λ − 0.02|)·0.2, 0, 1); balance_state = (balance_state + conserve)/2
/// (mission, "BalanceCore"; format, step 4).
#[must_use]
pub fn execute(input: &CoreInput) -> Balance {
    let conserve = (0.3 + (1.0 - (input.t_lambda - T_REFERENCE).abs()) * 0.2).clamp(0.0, 1.0);
    Balance {
        balance_state: (input.balance_state + conserve) / 2.0,
        conserve,
        kd: input.gains.kd,
        ki: input.gains.ki,
        kp: input.gains.kp,
    }
}
