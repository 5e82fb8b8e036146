//! What goes in and out of the protocol.

use std::time::Duration;

use crate::mesh::event::{InjectionEvent, Outcome};
use crate::mesh::shares::Rate;
use crate::mesh::wire::Message;

/// Identifies a link. A new link to the same peer has a new id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// Bounds of a peer's memory.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Pending injections. One source of them takes no more than what is left for the others.
    pub pending: usize,
    /// Settled injections that a node remembers. Beyond it, it forgets the oldest: its collector still knows them.
    pub settled: usize,
    /// Injections and outcomes that are new here, from one peer. What exceeds it is dropped: peers offer it again.
    pub new: Rate,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            pending: 10_000,
            settled: 50_000,
            new: Rate { interval: Duration::from_millis(10), burst: 2_000 },
        }
    }
}

/// An action for the caller.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Send a message over one link.
    Send(LinkId, Message),
    /// Send a message over all links, except the one it was received from.
    Broadcast(Option<LinkId>, Message),
    /// Hand an injection to the ledger. Only at a collector, once per injection; the caller reports the result
    /// with [`Gossip::record_outcome`](super::Gossip::record_outcome).
    Collect(InjectionEvent),
    /// This peer saw an injection for the first time.
    FirstSeen(InjectionEvent),
    /// The outcome of an injection arrived.
    Settled(InjectionEvent, Outcome),
}

/// The state of an injection at this peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InjectionStatus {
    /// On its way to the ledger.
    Pending,
    /// Its outcome is known.
    Settled(Outcome),
}

/// Why a peer did not accept a client's injection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InjectError {
    /// The request is invalid; retrying it is useless.
    #[error("{0}")]
    Invalid(String),
    /// Too many injections are pending.
    #[error("too many injections are pending; retry with the same id")]
    Overloaded,
    /// The id is older than [`INJECTION_TTL`](super::INJECTION_TTL) and unknown here, so it may have been committed and forgotten.
    #[error(
        "the id is more than 10 minutes old and unknown to this node; look in the ledger whether it was committed"
    )]
    IdExpired,
}

/// A peer misbehaves: the caller has to close the link.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A message that the protocol does not allow.
    #[error("{0}")]
    Protocol(String),
    /// More messages than any honest peer sends.
    #[error("more injections and outcomes than an honest peer sends")]
    Flood,
}

/// Totals since the start, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Injections of other peers dropped for lack of room. Those peers offer them again.
    pub full: u64,
    /// Injections and outcomes dropped because their sender exceeded its rate.
    pub limited: u64,
    /// Injections dropped after [`INJECTION_TTL`](super::INJECTION_TTL) without an outcome.
    pub expired: u64,
    /// Duplicates: injections that were pending or settled already.
    pub known: u64,
}
