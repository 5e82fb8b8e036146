//! What an engine starts from.

use std::sync::Arc;
use std::time::Duration;

use super::desired::Desired;
use super::status::CurrentDecision;
use crate::ledger::Chain;
use crate::ledger::entry::{Continues, Origin};
use crate::organism::State;
use crate::organism::input::ResumeReason;
use crate::store::head::LastEnforcement;

/// What an engine starts from.
pub struct StartParams {
    /// The desired state at the start.
    pub desired: Desired,
    /// Epoch of the writer of the ledger, for the `resume` entry.
    pub epoch: u64,
    /// Name of the writer, for the `resume` entry.
    pub operator: Arc<str>,
    /// The ledger so far.
    pub history: History,
    /// The last enforcement entry that is committed.
    pub enforcement: Option<LastEnforcement>,
    /// Two batches are at least this far apart.
    pub batch_spacing: Duration,
    /// Shortest period of beats, whatever the spec asks for.
    pub min_period: Duration,
    /// Whether a changed decision or condition makes a batch due at once, because a status shows it.
    pub publishes: bool,
}

/// The ledger that an engine continues.
pub enum History {
    /// There is none: the first entry is a genesis.
    Empty {
        /// The Organism that the ledger belongs to; none outside a cluster.
        origin: Option<Origin>,
        /// The ledger that this one continues.
        continues: Option<Continues>,
    },
    /// A committed ledger, replayed.
    Recovered {
        /// The state after its last entry.
        state: Box<State>,
        /// The chain after its last entry.
        chain: Chain,
        /// The decision in force.
        decision: Option<CurrentDecision>,
        /// Why beating had stopped.
        reason: ResumeReason,
    },
}
