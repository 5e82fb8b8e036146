//! End-to-end tests: the operator as a pod, installed from the chart or the plain manifest, on a cluster that runs pods.
//! `make e2e` starts a cluster and builds the image. By hand:
//!
//!     KUBECONFIG=… VENOM_IMAGE=… cargo test --test e2e
//!
//! Tests that need a cluster but no pods are in tests/cluster, whose helpers are used here.
#![allow(clippy::unwrap_used, clippy::expect_used)] // clippy.toml's allowance does not reach a test's helpers

#[allow(dead_code)] // what tests/cluster asks of it
#[path = "../../tests/cluster/harness.rs"]
mod harness;
mod installation;
#[allow(dead_code)]
#[path = "../../tests/cluster/ledger.rs"]
mod ledger;
mod lifecycle;
mod nodes;
#[allow(dead_code)]
#[path = "../../tests/cluster/operator.rs"]
mod operator;
#[allow(dead_code)]
#[path = "../../tests/rederive/mod.rs"]
mod rederive;
mod response;
mod rights;
mod shop;
mod site;
#[allow(dead_code)]
#[path = "../../tests/cluster/world.rs"]
mod world;
