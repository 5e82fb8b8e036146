//! One beat: pulse → four cores → decision vector → decision → PID → evolution.

use serde::{Deserialize, Serialize};

use super::arbiter::{Action, Details, aggregate, decide};
use super::cores::{Cores, Flows, Reading};
use super::genome::{Evolution, Weights};
use super::pid::PidStep;
use super::pulse::{Pulse, PulseError, t_lambda};
use super::state::State;

/// Everything one beat derived; the ledger makes its seven entries from it.
#[derive(Clone, Debug, PartialEq)]
pub struct Beat {
    /// The pulse, with the beat's one clock reading.
    pub pulse: Pulse,
    /// Anomalies sensed.
    pub features_anoms: u64,
    /// What the cores gave.
    pub flows: Flows,
    /// The decision; of a held beat the one before.
    pub action: Action,
    /// The decision vector; none in a held beat.
    pub details: Option<Details>,
    /// The PID's step and the weights it left.
    pub evolved: Evolved,
}

/// The end of a beat.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evolved {
    /// Number of the beat, from 1.
    pub beat: u64,
    /// The controller's step; none in a held beat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<PidStep>,
    /// Weights after the beat.
    pub weights: Weights,
}

impl Beat {
    /// Whether a core failed: then the beat neither escalates nor releases.
    #[must_use]
    pub fn held(&self) -> bool {
        self.details.is_none()
    }
}

/// A beat whose cores have not run yet.
#[derive(Debug)]
#[must_use = "a pulse that was opened has to be closed"]
pub struct Open {
    pulse: Pulse,
    /// What the cores are to read.
    pub reading: Reading,
}

/// Opens a beat at `timestamp` (seconds since 1970): the pulse, and what the cores are to read.
///
/// # Errors
/// [`PulseError`] when there is no T_Λ; then nothing has changed.
pub fn open(state: &mut State, timestamp: f64) -> Result<Open, PulseError> {
    let params = state.config.pulse;
    let t_lambda = t_lambda(params.k, params.p, params.t1, params.u)?;
    state.pass_time(timestamp);
    state.beat += 1;
    let pulse = Pulse {
        elapsed: timestamp - state.started,
        k: params.k,
        kp: params.k.saturating_mul(params.p),
        p: params.p,
        pulse_id: state.beat,
        t_lambda,
        timestamp,
    };
    let reading = Reading {
        t_lambda,
        genome_anoms: state.genome_anoms(),
        features_anoms: state.features_anoms(),
        weights: state.weights,
        ml: state.ml,
        gains: state.config.pid,
        balance_state: state.balance_state,
        version: state.version.clone(),
    };
    Ok(Open { pulse, reading })
}

/// Closes a beat with what the cores gave: decision, PID, evolution. With a failed core the beat is *held*:
/// the last action stands, and of the state only the ledger's time, the beat's number and the base of the
/// next dt have moved (format 8).
pub fn close(state: &mut State, open: Open, flows: Flows) -> Beat {
    let Open { pulse, reading } = open;
    let (details, pid) = match flows.all() {
        None => {
            state.pid.last = Some(pulse.timestamp);
            (None, None)
        }
        Some((regen, balance, entropy, optimize)) => {
            let details = aggregate(&reading.weights, regen, balance, entropy, optimize);
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
        features_anoms: reading.features_anoms,
        flows,
        action: state.action,
        details,
        evolved: Evolved { beat: state.beat, pid, weights: state.weights },
    }
}

/// One whole beat on this thread. The operator runs the same two halves with the cores on the arbiter's
/// workers in between.
///
/// # Errors
/// As [`open`].
pub fn beat(state: &mut State, timestamp: f64, cores: &Cores) -> Result<Beat, PulseError> {
    let open = open(state, timestamp)?;
    let flows = cores.run(&open.reading);
    Ok(close(state, open, flows))
}
