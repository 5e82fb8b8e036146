//! One beat: pulse → four cores → decision vector → decision → PID → evolution.

use serde::{Deserialize, Serialize};

use super::cores::{CoreInput, Cores, Flows};
use super::decision::{Action, Details, aggregate_recommendations, decide};
use super::genome::{Evolution, Weights};
use super::pid::PidStep;
use super::pulse::{Pulse, PulseError, t_lambda};
use super::state::State;

/// Everything that one beat derived. Its seven ledger entries are generated from it.
#[derive(Clone, Debug, PartialEq)]
pub struct Beat {
    /// The pulse, with the timestamp that all entries of the beat share.
    pub pulse: Pulse,
    /// Sensed anomalies in the risk window.
    pub features_anoms: u64,
    /// The results of the four cores.
    pub flows: Flows,
    /// The decision; in a held beat that of the previous beat.
    pub action: Action,
    /// The decision vector; `None` in a held beat.
    pub details: Option<Details>,
    /// The PID step and the weights after it.
    pub evolved: Evolved,
}

/// The last part of a beat, as an evolution entry records it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evolved {
    /// Number of the beat, from 1.
    pub beat: u64,
    /// The PID step; `None` in a held beat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<PidStep>,
    /// Weights after the beat; unchanged by a held beat.
    pub weights: Weights,
}

impl Beat {
    /// Returns whether the beat is held because a core failed. A held beat neither escalates nor releases.
    #[must_use]
    pub fn held(&self) -> bool {
        self.details.is_none()
    }
}

/// A beat between [`open`] and [`close`]: its cores have not run yet.
#[derive(Debug)]
#[must_use = "the state has counted this pulse; pass the beat to `close`"]
pub struct OpenBeat {
    pulse: Pulse,
    /// The input of the four cores.
    pub input: CoreInput,
}

/// Opens a beat at `timestamp`, in seconds since 1970: advances the time of the ledger, emits the pulse and prepares
/// the input of the cores.
///
/// # Errors
/// Returns [`PulseError`] and leaves `state` unchanged if T_Λ is undefined or the beats cannot be counted.
pub fn open(state: &mut State, timestamp: f64) -> Result<OpenBeat, PulseError> {
    let params = state.config.pulse;
    let t_lambda = t_lambda(params.k, params.p, params.t1, params.u)?;
    // A snapshot that somebody has forged may state any number.
    let beat = state.beat.checked_add(1).ok_or(PulseError::Domain("the number of beats is out of range"))?;
    state.advance_time(timestamp);
    state.beat = beat;
    let pulse = Pulse {
        elapsed: timestamp - state.started,
        k: params.k,
        kp: params.k.saturating_mul(params.p),
        p: params.p,
        pulse_id: state.beat,
        t_lambda,
        timestamp,
    };
    let input = CoreInput {
        t_lambda,
        genome_anoms: state.genome_anoms(),
        features_anoms: state.features_anoms(),
        weights: state.weights,
        ml: state.ml,
        gains: state.config.pid,
        balance_state: state.balance_state,
        version: state.version.clone(),
    };
    Ok(OpenBeat { pulse, input })
}

/// Closes a beat with the results of the cores: decision, PID step, evolution of the weights.
///
/// If a core failed, the beat is *held* (format, step 8): the previous action remains in force. Of the state, only
/// the time of the ledger, the beat number and the start of the next dt have changed.
pub fn close(state: &mut State, open: OpenBeat, flows: Flows) -> Beat {
    let OpenBeat { pulse, input } = open;
    let (details, pid) = match flows.results() {
        None => {
            state.pid.last = Some(pulse.timestamp);
            (None, None)
        }
        Some((regen, balance, entropy, optimize)) => {
            let details = aggregate_recommendations(&input.weights, regen, balance, entropy, optimize);
            state.action = decide(&details, &state.genome.thresholds);
            state.balance_state = balance.balance_state;
            let step = state.pid.step(&state.config.pid, pulse.t_lambda, pulse.timestamp);
            if state.genome.evolution == Evolution::Enabled {
                state.weights = state.weights.evolve(step.delta_o, entropy.threat_score, state.beat);
            }
            (Some(details), Some(step))
        }
    };
    Beat {
        pulse,
        features_anoms: input.features_anoms,
        flows,
        action: state.action,
        details,
        evolved: Evolved { beat: state.beat, pid, weights: state.weights },
    }
}

/// Runs a complete beat on this thread. The operator calls [`open`] and [`close`] itself and runs the cores on an
/// [`Arbiter`](super::Arbiter).
///
/// # Errors
/// As [`open`].
pub fn beat(state: &mut State, timestamp: f64, cores: &Cores) -> Result<Beat, PulseError> {
    let open = open(state, timestamp)?;
    let flows = cores.run(&open.input);
    Ok(close(state, open, flows))
}
