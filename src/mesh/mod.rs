//! The peer mesh: how an injection gets from any node to the one that holds the ledger, and what became of it
//! back to whoever asked.
//!
//! | module | what it is | knows |
//! |---|---|---|
//! | [`event`] | an injection, its id, its outcome | numbers |
//! | [`name`] | who somebody is | text |
//! | [`wire`] | frames and messages | bytes |
//! | [`gossip`] | the protocol: the state of one peer | the three above, no clock, no I/O |
//! | [`queue`] | the delivery queue, paced; outboxes | threads |
//! | [`identity`] | authority, certificates, who is let in | TLS |
//! | `link`, `dial` | links between peers and how they come up | sockets |
//! | [`metrics`] | what is counted | |
//! | [`peer`] | all of it together: [`Mesh`] | all of the above |
//!
//! # What is proven, and what not
//!
//! A peer is who its certificate says. An injection that comes from the peer that took it in names nobody: its
//! sender is its origin, and that is proven. An injection that was passed on carries its origin's name, and
//! that is the word of the peer that passed it on; the same holds for news of what became of an injection. So a
//! node of the same organism that was taken over can invent injections under other nodes' names and can lie to
//! its neighbours about outcomes. It cannot make an injection appear twice, and it cannot touch the ledger: a
//! collector takes nobody's word on that.

pub mod certificate_request;
mod dial;
pub mod event;
pub mod gossip;
pub mod identity;
mod link;
pub mod metrics;
pub mod name;
pub mod peer;
pub mod queue;
pub mod wire;

pub use dial::DialPolicy;
pub use event::{Injectable, InjectionEvent, InjectionId, InjectionPayload, Outcome};
pub use gossip::{INJECTION_RETENTION, INJECTION_TTL};
pub use identity::{Authority, Credentials};
pub use link::Bounds;
pub use metrics::Metrics;
pub use name::Identity;
pub use peer::{CommittedInjection, InjectionReceiver, Mesh, Options, OutcomeSender, Ticket};
