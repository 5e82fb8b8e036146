//! The state of an organism between two beats, and how inputs change it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::decision::Action;
use super::genome::{Config, Genome, Ml, Weights};
use super::input::{Injection, Input, Sense};
use super::pid::Pid;

/// Maximum number of items each of `injected` and `sensed`, pending ones included (format, step 2).
pub const MAX_ITEMS: usize = 4096;

/// Anomalies in the risk window: the time of the ledger at which they joined, in seconds, and their number.
pub type Item = (f64, u64);

/// The state of an organism after a beat, exactly as a snapshot entry records it, and the anomalies that are pending
/// until the next pulse.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// The decision in force.
    pub action: Action,
    /// Running mean of the Balance core.
    pub balance_state: f64,
    /// Number of beats so far, held ones included.
    pub beat: u64,
    /// Pulse and PID parameters as last configured; `config.pulse.p` is the P in force.
    pub config: Config,
    /// The genome as last configured.
    pub genome: Genome,
    /// Injected anomalies in the risk window at the last pulse, in entry order.
    pub injected: Vec<Item>,
    /// The model in force. Injections change it without changing `genome.ml`.
    pub ml: Ml,
    /// State of the PID controller.
    pub pid: Pid,
    /// Sensed anomalies in the risk window at the last pulse, in entry order.
    pub sensed: Vec<Item>,
    /// Timestamp of the genesis entry, seconds since 1970.
    pub started: f64,
    /// τ, the time of the ledger in seconds (format, step 1). Unlike wall-clock time it does not advance during
    /// outages.
    pub tau: f64,
    /// Version of the engine as last configured.
    pub version: Arc<str>,
    /// The weights in force, as evolved.
    pub weights: Weights,
    /// Anomalies injected since the last pulse. Not part of a snapshot, which is never taken while any are pending.
    #[serde(skip)]
    pending_injected: Vec<u64>,
    /// Anomalies sensed since the last pulse.
    #[serde(skip)]
    pending_sensed: Vec<u64>,
}

/// Error of [`State::apply`]: the input is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// There are [`MAX_ITEMS`] injections in the risk window.
    #[error("{MAX_ITEMS} injections are in the risk window; retry when some have left it")]
    Full,
}

impl State {
    /// The initial state. `started` is the timestamp of the genesis entry, in seconds since 1970.
    #[must_use]
    pub fn genesis(version: &str, started: f64, genome: Genome, config: Config) -> Self {
        Self {
            action: Action::Noop,
            balance_state: 0.5,
            beat: 0,
            config,
            genome,
            injected: vec![],
            ml: genome.ml,
            pid: Pid::default(),
            sensed: vec![],
            started,
            tau: 0.0,
            version: version.into(),
            weights: genome.weights,
            pending_injected: vec![],
            pending_sensed: vec![],
        }
    }

    /// Returns whether an injection or sense is pending until the next pulse. No snapshot may be taken then.
    #[must_use]
    pub fn has_pending_anomalies(&self) -> bool {
        !self.pending_injected.is_empty() || !self.pending_sensed.is_empty()
    }

    /// `risk.anoms` plus the injected anomalies in the risk window.
    #[must_use]
    pub fn genome_anoms(&self) -> u64 {
        self.injected.iter().fold(self.genome.risk.anoms, |sum, &(_, anoms)| sum.saturating_add(anoms))
    }

    /// The sensed anomalies in the risk window.
    #[must_use]
    pub fn features_anoms(&self) -> u64 {
        self.sensed.iter().fold(0, |sum, &(_, anoms)| sum.saturating_add(anoms))
    }

    /// Applies an input, with effect from the next pulse.
    ///
    /// # Errors
    /// Returns [`ApplyError`] and leaves the state unchanged if the input is rejected. It must not be recorded then.
    pub fn apply(&mut self, input: &Input) -> Result<(), ApplyError> {
        match input {
            Input::Config(change) => {
                if let Some(weights) = &change.weights {
                    weights.apply(&mut self.weights);
                    weights.apply(&mut self.genome.weights);
                }
                if let Some(ml) = &change.ml {
                    ml.apply(&mut self.ml);
                    ml.apply(&mut self.genome.ml);
                }
                if let Some(risk) = &change.risk {
                    risk.apply(&mut self.genome.risk);
                }
                if let Some(thresholds) = &change.thresholds {
                    thresholds.apply(&mut self.genome.thresholds);
                }
                if let Some(evolution) = change.evolution {
                    self.genome.evolution = evolution;
                }
                if let Some(pulse) = &change.pulse {
                    pulse.apply(&mut self.config.pulse);
                }
                if let Some(pid) = &change.pid {
                    pid.apply(&mut self.config.pid);
                }
                if let Some(version) = &change.version {
                    self.version = version.as_str().into();
                }
            }
            Input::Injection(injection) => self.inject(injection)?,
            Input::Sense(sense) => {
                if sense.anoms > 0 && !sense.suppressed {
                    self.pending_sensed.push(sense.anoms);
                }
            }
            Input::Scale(scale) => self.config.pulse.p = scale.p,
            Input::Resume(_) => self.pid.last = None,
        }
        Ok(())
    }

    fn inject(&mut self, injection: &Injection) -> Result<(), ApplyError> {
        if let Some(anoms) = injection.anoms.filter(|&anoms| anoms > 0) {
            if self.injected.len() + self.pending_injected.len() >= MAX_ITEMS {
                return Err(ApplyError::Full);
            }
            self.pending_injected.push(anoms);
        }
        if let Some(weight) = injection.ml_weight {
            self.ml.ml_weight = weight;
        }
        if let Some(bias) = injection.ml_bias {
            self.ml.ml_bias = bias;
        }
        Ok(())
    }

    /// Returns the sense as it must be recorded: suppressed if there are already [`MAX_ITEMS`].
    #[must_use]
    pub fn suppress_excess(&self, mut sense: Sense) -> Sense {
        sense.suppressed |= self.sensed.len() + self.pending_sensed.len() >= MAX_ITEMS;
        sense
    }

    /// Advances the time of the ledger to the pulse at `timestamp` (format, step 1). Anomalies whose risk window has
    /// passed leave, pending ones join (format, step 2).
    pub(super) fn advance_time(&mut self, timestamp: f64) {
        let longest = f64::max(10.0, 2.0 * self.config.pulse.min_period());
        if let Some(last) = self.pid.last {
            self.tau += (timestamp - last).max(0.0).min(longest);
        }
        let (tau, window) = (self.tau, self.genome.risk.window);
        for (items, pending) in
            [(&mut self.injected, &mut self.pending_injected), (&mut self.sensed, &mut self.pending_sensed)]
        {
            if window > 0.0 {
                items.retain(|&(joined, _)| tau - joined < window);
            }
            items.extend(pending.drain(..).map(|anoms| (tau, anoms)));
        }
    }
}
