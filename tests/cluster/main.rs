//! Tests that need a real API server. [`harness`] connects to one or starts one.
#![allow(clippy::unwrap_used, clippy::expect_used)] // clippy.toml's allowance does not reach a test's helpers

mod admission;
mod adopted;
mod adoption;
mod available;
mod beats;
mod body;
mod crashes;
mod decisions;
mod deletion;
mod denial;
mod doors;
mod evidence;
mod fairness;
mod fights;
mod forged;
mod full;
mod genomes;
mod harness;
mod http;
mod injections;
mod issuer;
mod kills;
mod ledger;
mod loss;
mod observed;
mod operator;
mod outage;
mod policies;
mod printed;
mod prometheus;
#[allow(dead_code)] // parts are used by other test targets only
mod proxy;
mod pruning;
#[allow(dead_code)] // parts are used by other test targets only
#[path = "../rederive/mod.rs"]
mod rederive;
mod refusals;
mod release;
mod repair;
mod replicas;
mod response;
mod rights;
mod rollouts;
mod sensing;
mod service;
mod shown;
mod stale;
mod training;
mod world;
