//! The body of an Organism: its node pods and the objects around them.
//!
//! | module | contents |
//! |---|---|
//! | [`build`] | a body as Kubernetes objects (pure) |
//! | [`index`] | the objects of all bodies as the watches observe them |
//! | `plan` | what to do about one object (pure) |
//! | `retry`, `fight` | when a write is tried again that failed, or that another client undoes (pure) |
//! | `rollout` | which bodies may replace their pods |
//! | `pods`, `foreign` | why pods are not ready; autoscalers of someone else |
//! | `writer` | the calls that write one object |
//! | [`reconciler`] | one task an Organism, the only writer of those objects |

pub mod build;
mod fight;
mod foreign;
pub mod index;
mod plan;
mod pods;
pub mod reconciler;
mod retry;
mod rollout;
mod writer;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use kube::Client;
use tokio::sync::Semaphore;

use self::build::{Installation, Kind};
use self::index::Index;
use super::hold::Hold;
use super::measures::Measures;
use super::metrics::Metrics;

/// Bodies that are written at once.
const WRITERS: usize = 8;

/// What the response to the decision in force asks of a body.
#[derive(Clone)]
pub struct Enforcing {
    /// What its objects are to be like.
    pub measures: Measures,
    /// Who asks: only the holder of the ledger may.
    pub hold: Arc<Hold>,
}

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
    /// Places for bodies that replace their pods.
    rollouts: Arc<Semaphore>,
}

impl Resources {
    /// For an operator with this number of watch scopes, of whose bodies this number may replace their pods at a time.
    #[must_use]
    pub fn new(
        client: Client,
        metrics: Arc<Metrics>,
        installation: Installation,
        scopes: usize,
        rollouts: usize,
    ) -> Self {
        let index = Index::new(scopes * Kind::ALL.len());
        let rollouts = Arc::new(Semaphore::new(rollouts));
        Self { client, metrics, installation, index, writers: Semaphore::new(WRITERS), rollouts }
    }
}

/// A hash of the JSON of an object.
fn hash(object: &impl serde::Serialize) -> u64 {
    let mut hasher = DefaultHasher::new();
    // Infallible for Kubernetes objects; keys are sorted.
    serde_json::to_string(object).unwrap_or_default().hash(&mut hasher);
    hasher.finish()
}
