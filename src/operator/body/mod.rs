//! The body of an Organism: its node pods and the objects around them.
//!
//! | module | contents |
//! |---|---|
//! | [`build`] | a body as Kubernetes objects (pure) |
//! | [`index`] | the objects of all bodies as the watches observe them |
//! | `plan` | what to do about one object (pure) |
//! | [`reconciler`] | one task an Organism, the only writer of those objects |

pub mod build;
pub mod index;
mod plan;
pub mod reconciler;

use std::sync::Arc;

use kube::Client;
use tokio::sync::Semaphore;

use self::build::{Installation, Kind};
use self::index::Index;
use super::metrics::Metrics;

/// Bodies that are written at once.
const WRITERS: usize = 8;

/// What the reconcilers of all bodies share.
pub struct Resources {
    /// Client for the objects.
    pub client: Client,
    /// Counts failures.
    pub metrics: Arc<Metrics>,
    /// Settings of the operator that bodies are built from.
    pub installation: Installation,
    /// The observed objects.
    pub index: Index,
    writers: Semaphore,
}

impl Resources {
    /// For an operator with this number of watch scopes.
    #[must_use]
    pub fn new(client: Client, metrics: Arc<Metrics>, installation: Installation, scopes: usize) -> Self {
        let index = Index::new(scopes * Kind::ALL.len());
        Self { client, metrics, installation, index, writers: Semaphore::new(WRITERS) }
    }
}
