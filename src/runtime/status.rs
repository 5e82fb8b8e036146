//! What may be shown of an organism once a commit has succeeded.

use crate::organism::Action;
use crate::organism::genome::Weights;

/// Where an organism stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It beats at its pace.
    Beating,
    /// It beats slower than it should: a budget is used up.
    Throttled,
    /// `spec.suspend`.
    Suspended,
    /// `spec.beats` is reached.
    Completed,
    /// Its Genome is gone.
    GenomeNotFound,
}

/// A decision, and where it was first made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decided {
    /// Which.
    pub action: Action,
    /// Timestamp of the beat that first decided it, seconds since 1970.
    pub since: f64,
    /// Index of that beat's action entry.
    pub entry: u64,
}

/// An organism as of its last committed entry.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// Where it stands.
    pub standing: Standing,
    /// metadata.generation of the Organism that is acted on.
    pub generation: i64,
    /// metadata.generation of the Genome that is acted on.
    pub genome_generation: i64,
    /// Beats since genesis.
    pub beats: u64,
    /// P in force.
    pub p: u64,
    /// T_Λ at the last beat, in seconds; none before the first of this process.
    pub t_lambda: Option<f64>,
    /// The decision in force.
    pub decided: Option<Decided>,
    /// Raw threat at the last beat that was not held.
    pub threat: Option<f64>,
    /// Evolved weights.
    pub weights: Option<Weights>,
    /// All anomalies that count.
    pub anoms: Option<u64>,
    /// Whether the last ten beats that were not held were all stable; none before there are ten.
    pub settled: Option<bool>,
    /// The cores that failed at the last beat, with their reasons.
    pub failed: Vec<(String, String)>,
}
