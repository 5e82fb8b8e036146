//! One running organism between its beats: what it records, what waits to be committed, when it is due.
//!
//! | module | contents |
//! |---|---|
//! | [`desired`] | the desired state, made from the two specs |
//! | [`engine`] | [`Engine`]: deadlines, recorded inputs, snapshot cadence, the decision in force |
//! | `injections` | injections that wait for the next beat |
//! | [`pace`] | how the beats compare with what the spec asks for |
//! | [`pending`] | entries that are recorded but not committed, and the [`Batch`] that commits them |
//! | [`start`] | what an engine starts from |
//! | [`status`] | what may be shown of an organism once a batch is committed |
//!
//! The operator's beater and `venom run` drive the same engine. A driver opens the beat that is due
//! ([`Engine::open_beat`]), runs the cores, closes the beat ([`Engine::close_beat`]), hands over the batch that
//! is due ([`Engine::take_batch`]) and reports its commit ([`Engine::acknowledge`]).
//!
//! Architecture Invariant: no clock, no I/O, no channel, no tokio, no Kubernetes client. Time comes in as an
//! argument: an [`std::time::Instant`] for deadlines, seconds since 1970 for the ledger.

pub mod desired;
pub mod engine;
mod injections;
pub mod pace;
pub mod pending;
pub mod start;
pub mod status;

pub use desired::{Desired, PauseReason};
pub use engine::{Engine, EngineError};
pub use pace::Pace;
pub use pending::{Batch, CommitIntervals, MAX_PENDING};
pub use start::{History, StartParams};
pub use status::{CurrentDecision, EngineStatus, Phase};

#[cfg(test)]
mod tests;
