//! Everything that has to be known to go on beating, and how inputs change it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::arbiter::Action;
use super::genome::{Config, Genome, Ml, Weights};
use super::input::{Injection, Input, Sense};
use super::pid::Pid;

/// At most so many items each of injected and sensed count or wait (format 2).
pub const ITEM_BOUND: usize = 4096;

/// What joined and still counts: the ledger's own time at which it joined, and how many anomalies.
pub type Item = (f64, u64);

/// The state of an organism after a beat, exactly as a snapshot entry holds it, and what waits for the next.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Last decision.
    pub action: Action,
    /// The Balance core's memory.
    pub balance_state: f64,
    /// Beats so far, held ones too.
    pub beat: u64,
    /// Pulse and PID as last given; `config.pulse.p` is the P in force.
    pub config: Config,
    /// The genome as last given.
    pub genome: Genome,
    /// Injected anomalies that counted at the last pulse, in entry order.
    pub injected: Vec<Item>,
    /// The model in force: an injection may have moved it from `genome.ml`.
    pub ml: Ml,
    /// The controller.
    pub pid: Pid,
    /// Sensed anomalies that counted at the last pulse, in entry order.
    pub sensed: Vec<Item>,
    /// Timestamp of the genesis entry, seconds since 1970.
    pub started: f64,
    /// The ledger's own time in seconds.
    pub tau: f64,
    /// Version in force.
    pub version: Arc<str>,
    /// The evolved weights.
    pub weights: Weights,
    /// Injected since the last pulse. A snapshot never stands while something waits.
    #[serde(skip)]
    waiting_injected: Vec<u64>,
    /// Sensed since the last pulse.
    #[serde(skip)]
    waiting_sensed: Vec<u64>,
}

/// Why an input changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// [`ITEM_BOUND`] items count or wait.
    #[error("{ITEM_BOUND} injections count already; try again when some have left the risk window")]
    Full,
}

impl State {
    /// The state at genesis.
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
            waiting_injected: vec![],
            waiting_sensed: vec![],
        }
    }

    /// Whether an injection or sense waits for its pulse; then no snapshot may stand.
    #[must_use]
    pub fn waits(&self) -> bool {
        !self.waiting_injected.is_empty() || !self.waiting_sensed.is_empty()
    }

    /// risk.anoms and what was injected and still counts.
    #[must_use]
    pub fn genome_anoms(&self) -> u64 {
        self.injected.iter().fold(self.genome.risk.anoms, |sum, &(_, anoms)| sum.saturating_add(anoms))
    }

    /// What was sensed and still counts.
    #[must_use]
    pub fn features_anoms(&self) -> u64 {
        self.sensed.iter().fold(0, |sum, &(_, anoms)| sum.saturating_add(anoms))
    }

    /// Takes an input in: it is in force from the next pulse.
    ///
    /// # Errors
    /// [`Refused`]: then nothing has changed and nothing may be recorded.
    pub fn apply(&mut self, input: &Input) -> Result<(), Refused> {
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
                    self.waiting_sensed.push(sense.anoms);
                }
            }
            Input::Scale(scale) => self.config.pulse.p = scale.p,
            Input::Resume(_) => self.pid.last = None,
        }
        Ok(())
    }

    fn inject(&mut self, injection: &Injection) -> Result<(), Refused> {
        if let Some(anoms) = injection.anoms.filter(|&anoms| anoms > 0) {
            if self.injected.len() + self.waiting_injected.len() >= ITEM_BOUND {
                return Err(Refused::Full);
            }
            self.waiting_injected.push(anoms);
        }
        if let Some(weight) = injection.ml_weight {
            self.ml.ml_weight = weight;
        }
        if let Some(bias) = injection.ml_bias {
            self.ml.ml_bias = bias;
        }
        Ok(())
    }

    /// The sense as it is to be recorded: suppressed where no further one may count.
    #[must_use]
    pub fn admit(&self, mut sense: Sense) -> Sense {
        sense.suppressed |= self.sensed.len() + self.waiting_sensed.len() >= ITEM_BOUND;
        sense
    }

    /// Advances the ledger's own time to the pulse at `timestamp` (format 1) and lets anomalies leave and
    /// join (format 2).
    pub(super) fn pass_time(&mut self, timestamp: f64) {
        let longest = f64::max(10.0, 2.0 * self.config.pulse.min_period());
        if let Some(last) = self.pid.last {
            self.tau += (timestamp - last).max(0.0).min(longest);
        }
        let (tau, window) = (self.tau, self.genome.risk.window);
        for (items, waiting) in
            [(&mut self.injected, &mut self.waiting_injected), (&mut self.sensed, &mut self.waiting_sensed)]
        {
            if window > 0.0 {
                items.retain(|&(joined, _)| tau - joined < window);
            }
            items.extend(waiting.drain(..).map(|anoms| (tau, anoms)));
        }
    }
}
