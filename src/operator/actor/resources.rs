//! What all actors share.

use std::sync::Arc;

use kube::Client;
use tokio::sync::Semaphore;

use crate::operator::beater::Beater;
use crate::operator::codec::Codec;
use crate::operator::metrics::Metrics;
use crate::operator::ownership::Ownership;
use crate::operator::recovery::lists::SharedLists;
use crate::operator::{adoption, body, collector, committer, publisher, response, sensing};

/// What all actors share.
pub struct Resources {
    /// Client for ledgers: it never retries by itself.
    pub ledger_client: Client,
    /// Which organisms this replica holds.
    pub ownership: Arc<Ownership>,
    /// Runs the engines.
    pub beater: Arc<Beater>,
    /// For committers.
    pub committers: Arc<committer::Resources>,
    /// For publishers.
    pub publishers: Arc<publisher::Resources>,
    /// For bodies and their meshes; none where the operator creates no pods.
    pub bodies: Option<Bodies>,
    /// Lists of ledger objects.
    pub lists: SharedLists,
    /// Opens and replays segments.
    pub codec: Arc<Codec>,
    /// Bounds the recoveries in progress.
    pub recoveries: Semaphore,
    /// Bounds the organisms that are being given back: the others beat until it is their turn.
    pub hand_overs: Semaphore,
    /// Counts ends of runs.
    pub metrics: Arc<Metrics>,
}

/// What bodies need.
#[derive(Clone)]
pub struct Bodies {
    /// For their reconcilers.
    pub reconcilers: Arc<body::Resources>,
    /// For the collectors of their meshes.
    pub collectors: Arc<collector::Resources>,
    /// For what is sensed.
    pub sensors: Arc<sensing::Resources>,
    /// For workloads that are adopted.
    pub adoptions: Arc<adoption::Resources>,
    /// For what is done about decisions.
    pub responses: Arc<response::Resources>,
}
