//! The genomic PID controller: it holds T_Λ against a set point by moving the weight of the Optimize core.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::genome::PidGains;

/// Bound of the integral, either way (anti-windup).
const INTEGRAL_BOUND: f64 = 1.0;
/// An error smaller than this sets the integral to 0 (ε-reset). Seconds.
const EPSILON: f64 = 1e-4;
/// Bound of one beat's adjustment, either way.
const DELTA_BOUND: f64 = 0.05;
/// How many steps must have been stable for the controller to count as settled.
const SETTLED_AFTER: usize = 10;

/// What the controller keeps between beats, as a snapshot holds it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pid {
    /// Error of the last step, seconds; 0 before the first.
    pub error: f64,
    /// Integral of the error, seconds².
    pub integral: f64,
    /// Timestamp of the last pulse; none before the first and after a resume, when dt is 0.
    pub last: Option<f64>,
    /// `stable` of the last ten steps, oldest first.
    pub recent: Vec<bool>,
}

/// One computation, as an evolution entry records it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PidStep {
    /// kd · derivative.
    pub d_term: f64,
    /// What the Optimize weight moves by: −output, clamped.
    pub delta_o: f64,
    /// Change of the error since the last step; at most 0 when stable (ΔV).
    pub delta_v: f64,
    /// delta_v / dt, 0 where dt is 0.
    pub derivative: f64,
    /// Seconds since the last pulse, 0 on the first after genesis or resume.
    pub dt: f64,
    /// T_Λ − set point, seconds (ΔT).
    pub error: f64,
    /// ki · integral.
    pub i_term: f64,
    /// The integral after this step.
    pub integral: f64,
    /// p_term + i_term + d_term.
    pub output: f64,
    /// kp · error.
    pub p_term: f64,
    /// delta_v ≤ 0.
    pub stable: bool,
}

impl Pid {
    /// One step at the moment `timestamp` (seconds since 1970). Mission, "Genomic PID Controller"; format 6.
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

    /// Whether the last ten steps exist and were all stable; `None` before there are ten.
    #[must_use]
    pub fn settled(&self) -> Option<bool> {
        (self.recent.len() == SETTLED_AFTER).then(|| self.recent.iter().all(|&stable| stable))
    }
}

/// The last steps of a controller, for reports. Bounded as the mission has it, and no part of the state:
/// a snapshot does not hold it.
#[derive(Clone, Debug, Default)]
pub struct History(VecDeque<PidStep>);

impl History {
    /// How many steps are kept.
    pub const BOUND: usize = 1000;

    /// Adds a step; the oldest goes when there are more than [`Self::BOUND`].
    pub fn push(&mut self, step: PidStep) {
        if self.0.len() == Self::BOUND {
            self.0.pop_front();
        }
        self.0.push_back(step);
    }

    /// The steps kept, oldest first.
    pub fn steps(&self) -> impl ExactSizeIterator<Item = &PidStep> {
        self.0.iter()
    }
}
