//! The engine: the state of one organism, and the pure function that advances it by one beat.
//!
//! | module | content |
//! |---|---|
//! | [`genome`] | the parameters: weights, risk, model, thresholds, pulse, PID gains; their evolution |
//! | [`input`] | external inputs: config, injection, sense, scale, resume |
//! | [`pulse`] | T_Λ, the length of a beat |
//! | [`cores`] | Regen, Balance, Entropy, Optimize |
//! | [`arbiter`] | parallel execution of the cores |
//! | [`decision`] | decision vector and decision rule |
//! | [`pid`] | the genomic PID controller |
//! | [`state`] | the state of an organism, and how inputs change it |
//! | [`beat`] | one beat: pulse, flows, decision, evolution |
//!
//! Architecture Invariant: no clock, no I/O, no tokio, no Kubernetes and no `HashMap`, whose iteration order is
//! random. Time is an argument. The operator, `venom run`, `replay` and the tests therefore run the same function
//! and get the same bits. Formulas are those of the mission document; where it is silent, those of
//! `docs/ledger-format.md`, cited as "format" with the number of the derivation step.

pub mod arbiter;
pub mod beat;
pub mod cores;
pub mod decision;
pub mod genome;
pub mod input;
pub mod pid;
pub mod pulse;
pub mod state;

pub use arbiter::Arbiter;
pub use beat::Beat;
pub use decision::Action;
pub use genome::{Config, Genome};
pub use input::Input;
pub use state::State;

/// Version of the engine. It must be raised by any change that alters the bits of a derived number.
pub const VERSION: &str = "0.1.0";
