//! T_Λ, the length of one beat.

use serde::{Deserialize, Serialize};

/// Minimum of T_Λ in seconds.
const MIN_T_LAMBDA: f64 = 1e-6;

/// T_Λ is undefined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PulseError {
    /// k·P is not greater than 1.
    #[error("stability condition: k·P must be above 1; raise k or add a node")]
    Stability,
    /// A parameter is outside the domain of the formula.
    #[error("{0}")]
    Domain(&'static str),
}

/// Computes T_Λ(k, P, U) = max(1e-6, t1·ln(u) / (1 − 1/(k·P))) in seconds (mission, "T_Λ Pulse"; format, step 3).
///
/// # Errors
/// Returns [`PulseError::Stability`] if k or P is 0 or k·P is 1, and [`PulseError::Domain`] if `t1` or `u` is not
/// finite, `t1` is negative, `u` is not positive or the result is not finite.
pub fn t_lambda(k: u64, p: u64, t1: f64, u: f64) -> Result<f64, PulseError> {
    if k < 1 || p < 1 || (k == 1 && p == 1) {
        return Err(PulseError::Stability);
    }
    if !t1.is_finite() {
        return Err(PulseError::Domain("t1 must be a finite number"));
    }
    if !u.is_finite() {
        return Err(PulseError::Domain("u must be a finite number"));
    }
    if t1 < 0.0 {
        return Err(PulseError::Domain("t1 must be at least 0"));
    }
    if u <= 0.0 {
        return Err(PulseError::Domain("u must be above 0"));
    }
    let t = t1 * libm::log(u) / (1.0 - 1.0 / (k as f64 * p as f64));
    if !t.is_finite() {
        return Err(PulseError::Domain("T_Λ is not a finite number; lower t1 or u"));
    }
    Ok(t.max(MIN_T_LAMBDA))
}

/// The pulse that opens a beat.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pulse {
    /// Seconds since genesis.
    pub elapsed: f64,
    /// Number of parallel flows.
    pub k: u64,
    /// k·P.
    pub kp: u64,
    /// Number of nodes.
    pub p: u64,
    /// Number of the pulse, from 1.
    pub pulse_id: u64,
    /// T_Λ: length of this beat in seconds.
    pub t_lambda: f64,
    /// Timestamp of the beat, in seconds since 1970. All entries of the beat share it.
    pub timestamp: f64,
}
