//! The engine: one organism's state and the pure function that advances it by one beat.
//!
//! | module | what it is |
//! |---|---|
//! | [`genome`] | the parameters: weights, risk, model, thresholds, pulse, PID gains; and evolution |
//! | [`input`] | what changes them from outside: config, injection, sense, scale, resume |
//! | [`pulse`] | T_Λ, the length of a beat |
//! | [`cores`] | Regen, Balance, Entropy, Optimize |
//! | [`arbiter`] | runs the cores on four workers, weighs their results, decides |
//! | [`pid`] | the genomic PID controller |
//! | [`state`] | everything a snapshot holds; taking inputs in |
//! | [`beat`] | one beat: pulse, flows, decision, evolution |
//!
//! Architecture Invariant: nothing here knows a clock, I/O, tokio, Kubernetes or a `HashMap`. Time comes in
//! as an argument, so the operator, `venom run`, `replay` and the tests run the same function and get the
//! same bits. Formulas are those of the mission document; where it is silent, of the ledger format page,
//! cited here as "format" with the number of its derivation step.

pub mod arbiter;
pub mod beat;
pub mod cores;
pub mod genome;
pub mod input;
pub mod pid;
pub mod pulse;
pub mod state;

pub use arbiter::{Action, Arbiter};
pub use beat::Beat;
pub use genome::{Config, Genome};
pub use input::Input;
pub use state::State;

/// Version of the engine: raised whenever a change alters the bits of any number it derives.
pub const VERSION: &str = "0.1.0";
