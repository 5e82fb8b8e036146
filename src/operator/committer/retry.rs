//! What a committer does about a write that failed: it tries the same again, for as long as it is the writer.
//!
//! Whatever it was may pass, rights that were taken away may come back. Only an operator that is stopping has
//! no time for that: uninstalling takes its rights, and then its account, before its pod has ended. What is
//! refused to it then (403, and 401 without an account) is given up at once. Nothing that was committed is lost
//! with it: the next operator goes on from there.

use std::time::Duration;

use super::Committer;
use crate::operator::Key;
use crate::store::configmap::{StoreError, StoreErrorKind};
use crate::store::head::Head;

/// How long to wait before the first retry of a write; doubled up to [`LONGEST_WAIT`].
pub(super) const FIRST_WAIT: Duration = Duration::from_millis(100);
/// Longest wait between two tries.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// Wait between two tries while the store's database is full.
const FULL_WAIT: Duration = Duration::from_secs(10);

/// Another operator holds the ledger.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "organism {key}: another operator took the ledger over with epoch {theirs}, ours is {ours}; this process ends"
)]
pub struct Fenced {
    /// The organism.
    pub key: Key,
    /// Epoch of this writer.
    pub ours: u64,
    /// Epoch that was found.
    pub theirs: u64,
}

/// Why a committer writes no more.
pub(super) enum Ended {
    /// It is no longer the writer.
    Fenced(Fenced),
    /// The operator is stopping and has no rights any more.
    Dismissed,
}

impl Committer {
    /// Says what failed and waits until it is to be tried again; not when the operator begins to stop.
    pub(super) async fn complain(&mut self, error: &StoreError, wait: &mut Duration) -> Result<(), Ended> {
        self.shared.metrics.api_error("ledger");
        let mut stopping = self.shared.stopping.clone();
        if *stopping.borrow_and_update() && error.kind.is_denied() {
            tracing::warn!(
                organism = %self.key,
                %error,
                "the operator stops and may no longer write: what was pending is left"
            );
            return Err(Ended::Dismissed);
        }
        let full = matches!(error.kind, StoreErrorKind::Full);
        if full && !self.full {
            self.full = true;
            tracing::warn!(
                organism = %self.key,
                %error,
                "etcd is full: what is recorded waits in memory and is tried again every {} s; make room in etcd \
                 (delete, compact, defragment), or raise its quota, and disarm its alarm",
                FULL_WAIT.as_secs()
            );
        } else if !full && *wait == FIRST_WAIT {
            tracing::warn!(organism = %self.key, %error, "commit delayed");
        }
        let pause = if full { FULL_WAIT } else { *wait };
        // Once it stops that changes no more, so that every later wait is a whole one.
        let _ = tokio::time::timeout(pause, stopping.changed()).await;
        *wait = (*wait * 2).min(LONGEST_WAIT);
        Ok(())
    }

    /// The head was written: what was said of a full etcd holds no more.
    pub(super) fn not_full(&mut self) {
        if std::mem::take(&mut self.full) {
            tracing::info!(organism = %self.key, "etcd takes writes again");
        }
    }

    pub(super) fn check_fence(&self, found: Option<&Head>) -> Result<(), Ended> {
        let ours = self.held.head.epoch;
        match found {
            Some(theirs) if theirs.epoch > ours || theirs.uid != self.held.head.uid => {
                Err(Ended::Fenced(Fenced { key: self.key.clone(), ours, theirs: theirs.epoch }))
            }
            _ => Ok(()),
        }
    }
}
