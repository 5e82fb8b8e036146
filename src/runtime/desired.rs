//! The desired state of a running organism, made from the specs of an Organism and its Genome.

use std::time::Duration;

use crate::api;
use crate::mesh::Injectable;
use crate::organism::genome::{
    Config, Evolution, Genome, Ml, PidGains, PulseParams, Risk, Thresholds, Weights,
};

/// What the two specs ask for.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired {
    /// Weights, risk, model and thresholds, from the Genome.
    pub genome: Genome,
    /// The pulse from the Organism, the PID gains from the Genome; `pulse.p` is P.
    pub config: Config,
    /// The beat after which the organism has completed; none means never.
    pub beats: Option<u64>,
    /// Why the organism should not beat; none means that it should.
    pub pause: Option<PauseReason>,
    /// How long entries that change no decision may wait for their commit.
    pub commit_interval: Duration,
    /// Bytes of encoded segments to keep in the cluster.
    pub retain: u64,
    /// metadata.generation of the Organism.
    pub generation: i64,
    /// metadata.generation of the Genome.
    pub genome_generation: i64,
    /// Range of model weights that an injection may set.
    pub injectable: Injectable,
    /// How long no QUARANTINE must have been decided before a quarantine ends, in seconds of the ledger's own time.
    pub release_after: f64,
}

/// Why an organism should not beat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PauseReason {
    /// `spec.suspend` is set.
    Suspended,
    /// Its Genome was deleted or belongs to another Organism.
    GenomeNotFound,
}

impl Desired {
    /// The desired state that `organism` and `genome` describe. P is `spec.nodes.replicas`; an organism with
    /// node pods replaces it by the number of ready ones, which no spec contains.
    #[must_use]
    pub fn from_specs(organism: &api::Organism, genome: &api::Genome) -> Self {
        let spec = &organism.spec;
        Self {
            genome: self::genome(&genome.spec),
            config: config(spec, &genome.spec),
            beats: spec.beats_limit(),
            pause: spec.suspend.then_some(PauseReason::Suspended),
            commit_interval: spec.ledger.commit_interval.get(),
            retain: spec.ledger.retain.bytes.bytes(),
            generation: organism.metadata.generation.unwrap_or_default(),
            genome_generation: genome.metadata.generation.unwrap_or_default(),
            injectable: Injectable { min: genome.spec.ml.injectable.min, max: genome.spec.ml.injectable.max },
            release_after: spec.response.release_after.as_secs_f64(),
        }
    }
}

#[cfg(test)]
impl Desired {
    /// The mission's parameters, for tests.
    pub(crate) fn for_tests() -> Self {
        Self {
            genome: Genome::default(),
            config: Config::default(),
            beats: None,
            pause: None,
            commit_interval: Duration::from_secs(1),
            retain: 4 << 20,
            generation: 1,
            genome_generation: 1,
            injectable: Injectable::default(),
            release_after: 60.0,
        }
    }
}

/// The engine's genome that a Genome's spec describes.
#[must_use]
pub fn genome(spec: &api::GenomeSpec) -> Genome {
    let api::GenomeSpec { weights, risk, ml, thresholds, evolution, .. } = spec;
    Genome {
        evolution: match evolution {
            api::Evolution::Enabled => Evolution::Enabled,
            api::Evolution::Frozen => Evolution::Frozen,
        },
        ml: Ml { ml_bias: ml.bias, ml_weight: ml.ml_weight },
        risk: Risk { anoms: risk.anoms, window: risk.window.as_secs_f64() },
        thresholds: Thresholds {
            alert: thresholds.alert,
            gain: thresholds.gain,
            quarantine: thresholds.quarantine,
            repair: thresholds.repair,
            stability: thresholds.stability,
        },
        weights: Weights {
            balance: weights.balance,
            entropy: weights.entropy,
            optimize: weights.optimize,
            regen: weights.regen,
        },
    }
}

/// Pulse parameters and PID gains. P is `spec.nodes.replicas`, at least 1.
#[must_use]
pub fn config(organism: &api::OrganismSpec, genome: &api::GenomeSpec) -> Config {
    let api::Pulse { k, t1, u, min_period } = organism.pulse;
    let api::Pid { kp, ki, kd, threshold } = genome.pid;
    Config {
        pid: PidGains { kd, ki, kp, t_threshold: threshold },
        pulse: PulseParams {
            k: k.into(),
            min_period: min_period.map(api::GoDuration::as_secs_f64),
            p: u64::from(organism.nodes.replicas).max(1),
            t1,
            u,
        },
    }
}
