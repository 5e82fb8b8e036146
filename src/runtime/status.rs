//! What may be shown of an organism once a batch is committed.

use crate::organism::Action;
use crate::organism::decision::Rule;
use crate::organism::genome::Weights;

/// Whether an organism beats, and if not, why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It beats.
    Beating,
    /// `spec.suspend` is set.
    Suspended,
    /// `spec.beats` is reached.
    Completed,
    /// Its Genome was deleted or belongs to another Organism.
    GenomeNotFound,
}

/// The decision in force, and the beat that first made it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CurrentDecision {
    /// The decided action.
    pub action: Action,
    /// Timestamp of the beat that first decided it, seconds since 1970.
    pub since: f64,
    /// Index of that beat's action entry.
    pub entry: u64,
}

/// An organism as of the last entry of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineStatus {
    /// Whether it beats.
    pub phase: Phase,
    /// metadata.generation of the Organism that is acted on.
    pub generation: i64,
    /// metadata.generation of the Genome that is acted on.
    pub genome_generation: i64,
    /// Beats since genesis.
    pub beats: u64,
    /// P in force.
    pub p: u64,
    /// T_Λ at the last beat, in seconds; none before the first beat of this process.
    pub t_lambda: Option<f64>,
    /// The decision in force; none before the first beat.
    pub decision: Option<CurrentDecision>,
    /// Raw threat at the last beat that was not held.
    pub threat: Option<f64>,
    /// The expected gain at the last beat that was not held, a fraction.
    pub gain: Option<f64>,
    /// The rule that decided at the last beat of this process that was not held; for NOOP the one that was nearest to it.
    pub rule: Option<Rule>,
    /// Whether no QUARANTINE has been decided for `response.releaseAfter` of the ledger's own time.
    pub calm: bool,
    /// Evolved weights.
    pub weights: Option<Weights>,
    /// Anomalies inside the risk window, injected and sensed.
    pub anoms: Option<u64>,
    /// Whether the last ten beats that were not held were all stable; none before there are ten.
    pub stable: Option<bool>,
    /// Cores that failed at the last beat, with the reason of each.
    pub failed_cores: Vec<(String, String)>,
}

#[cfg(test)]
impl EngineStatus {
    /// The status of an organism that has beaten twelve times.
    pub(crate) fn for_tests() -> Self {
        Self {
            phase: Phase::Beating,
            generation: 3,
            genome_generation: 2,
            beats: 12,
            p: 5,
            t_lambda: Some(0.004_210_526_315_789_474),
            decision: Some(CurrentDecision { action: Action::Alert, since: 1_000.5, entry: 83 }),
            threat: Some(0.645_656_306_225_796),
            gain: None,
            rule: None,
            calm: true,
            weights: None,
            anoms: Some(5),
            stable: Some(true),
            failed_cores: vec![],
        }
    }
}
