//! VENOM Λ-GENESIS: an auditable autopilot for a group of pods.
//!
//! An Organism beats: it reads anomalies, scores the threat with a small model, decides one of five actions,
//! and writes each step into a ledger from which anyone, offline, can derive every decision anew.
//!
//! # The map
//!
//! | module | what it is | knows |
//! |---|---|---|
//! | [`organism`] | the engine: one beat is one function | numbers |
//! | [`ledger`] | entries, chain, Merkle tree, segments, replay | the engine's types |
//! | [`store`] | where ledgers live: ConfigMaps, a folder | I/O |
//! | `net` | listening, limits on unauthenticated clients | sockets |
//! | [`mesh`] | carries injections from any node to the collector, which holds the ledger | sockets, TLS; no ledger |
//! | [`node`] | a node as a process: certificate, HTTP servers, peers | the mesh |
//! | [`api`] | the two custom resources: fields, defaults, rules | Kubernetes' types |
//! | [`operator`] | reconcilers, bodies, beater, committer, publisher | all of the above |
//! | [`cli`] | one file a subcommand | all of the above |
//!
//! To follow one beat through the house: [`operator::beater`] wakes at a deadline and calls
//! [`organism::beat::open`]; [`organism::arbiter`] runs the cores; [`organism::beat::close`] decides and
//! evolves; [`operator::life`] records it with [`ledger::chain`]; [`operator::committer`] seals a segment and
//! replaces the head; [`operator::publisher`] shows it.
//!
//! # Architecture invariants
//!
//! `tests/house.rs` holds what can be held by a test.
//!
//! - `organism/` and `ledger/` know no clock, no I/O, no tokio, no Kubernetes, no `HashMap`: time comes in as
//!   an argument. Operator, `venom run`, replay and tests run the same beat function.
//! - `mesh/` and `node/` know no Kubernetes, no ledger and no engine; `mesh/gossip.rs`, the protocol, knows no
//!   clock, no I/O and no chance either: a simulated network runs what real nodes run. What a peer is called
//!   comes from its certificate, never from what it says.
//! - The segment codec does not use `organism/`: a codec that predicts with the engine would prove nothing.
//! - Only the committer writes the objects of a ledger that is held, only the keeper those of a body, and only the
//!   publisher a status. Nothing is shown, and nobody who injects is told anything, that is not committed.
//! - `exp` and `ln` come from the pinned `libm`; a change of the engine that alters bits raises
//!   [`organism::VERSION`], and replay says so.
//! - No `unsafe`; no `unwrap` or `expect` outside tests.

pub mod api;
pub mod cli;
pub mod ledger;
pub mod mesh;
mod net;
pub mod node;
pub mod operator;
pub mod organism;
pub mod store;
