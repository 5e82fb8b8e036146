//! Tests that need a real API server. [`harness`] connects to one or starts one.
#![allow(clippy::unwrap_used, clippy::expect_used)] // clippy.toml's allowance does not reach a test's helpers

mod admission;
mod adoption;
mod available;
mod beats;
mod body;
mod decisions;
mod deletion;
mod evidence;
mod fights;
mod full;
mod genomes;
mod harness;
mod http;
mod injections;
mod issuer;
mod kills;
mod ledger;
mod loss;
mod operator;
mod outage;
mod pruning;
#[allow(dead_code)] // parts are used by other test targets only
#[path = "../rederive/mod.rs"]
mod rederive;
mod refusals;
mod repair;
mod rights;
mod rollouts;
mod service;
mod shown;
mod world;
