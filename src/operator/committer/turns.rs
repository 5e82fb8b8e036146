//! Who writes next. Each write takes a connection, and an API server that gets a thousand requests at once answers none of
//! them in time.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Commits in flight that are not urgent. Urgent ones find the API server free.
const CALM_COMMITS: usize = 8;
/// Urgent commits in flight.
const URGENT_COMMITS: usize = 32;

/// A turn for one attempt of a write. It is given back before a failed attempt waits: an organism that cannot commit must
/// not keep the others from it.
pub(super) type Turn = Option<OwnedSemaphorePermit>;

/// The turns of all committers.
pub(super) struct Turns {
    calm: Arc<Semaphore>,
    urgent: Arc<Semaphore>,
    /// When a commit has succeeded last.
    committed: Mutex<Option<Instant>>,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            calm: Arc::new(Semaphore::new(CALM_COMMITS)),
            urgent: Arc::new(Semaphore::new(URGENT_COMMITS)),
            committed: Mutex::default(),
        }
    }
}

impl Turns {
    /// The next turn.
    pub(super) async fn next(&self, urgent: bool) -> Turn {
        let turns = if urgent { &self.urgent } else { &self.calm };
        // Infallible: the semaphores are never closed.
        turns.clone().acquire_owned().await.ok()
    }

    /// Notes that a commit has succeeded.
    pub(super) fn committed(&self) {
        *self.committed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// When a commit of any organism has succeeded last.
    pub(super) fn last_committed(&self) -> Option<Instant> {
        *self.committed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
