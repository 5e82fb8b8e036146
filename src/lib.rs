//! VENOM Λ-GENESIS: an auditable autopilot for a group of pods.

pub mod api;
pub mod ledger;
pub mod operator;
pub mod organism;
pub mod store;
