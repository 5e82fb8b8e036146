//! VENOM as users install it: the image as a pod, from the chart or the plain manifest, on a cluster whose
//! nodes run pods. `make e2e` raises one and builds the image; by hand:
//!
//!     KUBECONFIG=… VENOM_IMAGE=… cargo test --test e2e
//!
//! What a cluster is needed for but no pod is in tests/cluster, from where the helpers come.
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
mod rights;
mod site;
#[allow(dead_code)]
#[path = "../../tests/cluster/world.rs"]
mod world;
