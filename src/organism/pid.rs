//! The genomic PID controller. The controlled variable is T_Λ; the manipulated variable is the weight of the
//! Optimize core.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::genome::PidGains;

/// Limit of the absolute value of the integral (anti-windup), in seconds².
const INTEGRAL_BOUND: f64 = 1.0;
/// The integral is reset to 0 while the absolute error is below this, in seconds (ε-reset).
const EPSILON: f64 = 1e-4;
/// Limit of the absolute value of `delta_o` per beat.
const DELTA_BOUND: f64 = 0.05;
/// Number of consecutive stable steps after which the controller counts as settled.
const SETTLED_AFTER: usize = 10;

/// State of the controller between beats, as a snapshot records it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pid {
    /// Error of the last step, seconds; 0 before the first.
    pub error: f64,
    /// Integral of the error, seconds².
    pub integral: f64,
    /// Timestamp of the last pulse, in seconds since 1970. `None` before the first pulse and after a resume: the next
    /// dt is then 0.
    pub last: Option<f64>,
    /// `stable` of the last [`SETTLED_AFTER`] steps, oldest first.
    pub recent: Vec<bool>,
}

/// One step of the controller, as an evolution entry records it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PidStep {
    /// kd · derivative.
    pub d_term: f64,
    /// Change of the Optimize weight: −output, clamped to ±0.05.
    pub delta_o: f64,
    /// Change of the error since the last step (ΔV), in seconds.
    pub delta_v: f64,
    /// delta_v / dt; 0 if dt is 0.
    pub derivative: f64,
    /// Seconds since the last pulse; 0 for the first pulse after genesis or resume.
    pub dt: f64,
    /// T_Λ − set point (ΔT), in seconds.
    pub error: f64,
    /// ki · integral.
    pub i_term: f64,
    /// The integral after this step.
    pub integral: f64,
    /// p_term + i_term + d_term.
    pub output: f64,
    /// kp · error.
    pub p_term: f64,
    /// Whether delta_v ≤ 0.
    pub stable: bool,
}

impl Pid {
    /// Computes one step at `timestamp`, in seconds since 1970 (mission, "Genomic PID Controller"; format, step 6).
    pub fn step(&mut self, gains: &PidGains, t_lambda: f64, timestamp: f64) -> PidStep {
        let dt = self.last.map_or(0.0, |last| (timestamp - last).max(0.0));
        let error = t_lambda - gains.t_threshold;
        let integral = if error.abs() < EPSILON {
            0.0
        } else {
            (self.integral + error * dt).clamp(-INTEGRAL_BOUND, INTEGRAL_BOUND)
        };
        let delta_v = error - self.error;
        let derivative = if dt == 0.0 { 0.0 } else { delta_v / dt };
        let (p_term, i_term, d_term) = (gains.kp * error, gains.ki * integral, gains.kd * derivative);
        let output = p_term + i_term + d_term;
        let stable = delta_v <= 0.0;

        self.error = error;
        self.integral = integral;
        self.last = Some(timestamp);
        if self.recent.len() == SETTLED_AFTER {
            self.recent.remove(0);
        }
        self.recent.push(stable);

        PidStep {
            d_term,
            delta_o: (-output).clamp(-DELTA_BOUND, DELTA_BOUND),
            delta_v,
            derivative,
            dt,
            error,
            i_term,
            integral,
            output,
            p_term,
            stable,
        }
    }

    /// Returns whether the last ten steps were all stable, or `None` if there have been fewer than ten.
    #[must_use]
    pub fn settled(&self) -> Option<bool> {
        (self.recent.len() == SETTLED_AFTER).then(|| self.recent.iter().all(|&stable| stable))
    }
}

/// The last steps of a controller, for reports. Its size is the one that the mission gives. It is not part of the
/// state: a snapshot does not contain it.
#[derive(Clone, Debug, Default)]
pub struct History(VecDeque<PidStep>);

impl History {
    /// Maximum number of steps.
    pub const CAPACITY: usize = 1000;

    /// Adds a step, and drops the oldest one beyond [`Self::CAPACITY`].
    pub fn push(&mut self, step: PidStep) {
        if self.0.len() == Self::CAPACITY {
            self.0.pop_front();
        }
        self.0.push_back(step);
    }

    /// The steps, oldest first.
    pub fn steps(&self) -> impl ExactSizeIterator<Item = &PidStep> {
        self.0.iter()
    }
}
