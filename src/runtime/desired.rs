//! From the two specs to what the engine runs on. Pure.

use super::life::{Pause, Wanted};
use crate::api;
use crate::mesh::Injectable;
use crate::organism::genome::{
    Config, Evolution, Genome, Ml, PidGains, PulseParams, Risk, Thresholds, Weights,
};

/// The genome of the engine that a Genome's spec describes.
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

/// Pulse and PID: the pulse from the Organism, the PID from its Genome. P is the number of replicas, at
/// least 1; with a body it is the number of nodes that are ready instead, which no spec knows.
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

/// All that the two objects ask of a life.
#[must_use]
pub fn wanted(organism: &api::Organism, genome: &api::Genome) -> Wanted {
    let spec = &organism.spec;
    Wanted {
        genome: self::genome(&genome.spec),
        config: config(spec, &genome.spec),
        beats: spec.beats_limit(),
        pause: spec.suspend.then_some(Pause::Suspended),
        commit_interval: spec.ledger.commit_interval.get(),
        retain: spec.ledger.retain.bytes.bytes(),
        generation: organism.metadata.generation.unwrap_or_default(),
        genome_generation: genome.metadata.generation.unwrap_or_default(),
        injectable: Injectable { min: genome.spec.ml.injectable.min, max: genome.spec.ml.injectable.max },
    }
}
