//! The peer mesh: carries injections from any node to the collector, which holds the ledger, and their outcomes
//! back to the clients.
//!
//! | module | contents | depends on |
//! |---|---|---|
//! | [`event`] | an injection: id, payload, outcome | |
//! | [`spiffe`] | peer identities | |
//! | [`wire`] | messages and framing | the above |
//! | [`shares`] | who may take how much: rates, shares, memory | no clock, no I/O |
//! | [`gossip`] | the protocol: the state machine of one peer | the above; no clock, no I/O |
//! | [`queue`] | the paced delivery queue, one outbox per link | threads |
//! | [`clock`] | waiting for a time of the wall clock | time |
//! | [`identity`] | CA, certificates, verification of peers | TLS |
//! | [`certificate_request`] | how a node requests its certificate | |
//! | `link`, `dial` | links between peers, and how they come up | sockets |
//! | [`metrics`] | Prometheus metrics | |
//! | [`peer`] | a running peer: [`Mesh`] | all of the above |
//!
//! # What is authenticated
//!
//! A peer's identity is the one in its certificate. An injection that comes from its origin carries no name: the
//! sender is the origin, and its certificate proves that. A forwarded injection carries its origin's name, and only
//! the forwarding peer vouches for it; the same holds for outcomes. A compromised node can therefore invent
//! injections in the name of other nodes of its organism, and report false outcomes to its neighbours, which tell them to
//! their clients: an acknowledgement is as good as the nodes between its client and the collector. It cannot
//! make the ledger record an injection twice within [`INJECTION_RETENTION`], and it cannot change the ledger: a collector accepts outcomes from its
//! own ledger only.
//!
//! Nor can it keep the others' injections out. Each peer takes what is new from each other one at a bounded rate, keeps
//! room for every source of injections, and offers them from each source in turn. A peer that sends more than an honest
//! one does loses its link. What a compromised node can do is to hold up what it alone carries: an operator's only link.

pub mod certificate_request;
pub mod clock;
mod dial;
pub mod event;
pub mod gossip;
pub mod identity;
mod link;
pub mod metrics;
pub mod peer;
pub mod queue;
pub mod shares;
pub mod spiffe;
pub mod wire;

pub use dial::DialPolicy;
pub use event::{Injectable, InjectionEvent, InjectionId, InjectionPayload, Outcome};
pub use gossip::{INJECTION_RETENTION, INJECTION_TTL, InjectError, InjectionStatus};
pub use identity::{Authority, Credentials};
pub use link::LinkLimits;
pub use metrics::Metrics;
pub use peer::{CommittedInjection, InjectionReceiver, Mesh, Options, OutcomeSender, Ticket};
pub use shares::CollectorMemory;
pub use spiffe::Identity;
