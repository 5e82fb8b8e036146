//! What a committer does about a write that failed: it retries the same write, for as long as it is the writer.
//!
//! Every cause may pass; rights that were taken away may come back. Only an operator that is stopping has no
//! time for that: an uninstallation takes its rights, and then its account, before its pod has ended. What is
//! refused then (403, or 401 without an account) is given up at once. Nothing committed is lost by that: the
//! next operator continues from there.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

use super::plan::{Fenced, fence};
use super::{Committer, Exit};
use crate::store::configmap::{StoreError, StoreErrorKind};
use crate::store::head::Head;

/// Wait before the first retry of a write; doubled up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// Longest wait between two attempts.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// Wait between two attempts while etcd is full.
const FULL_WAIT: Duration = Duration::from_secs(10);

/// The attempts of one write.
pub(super) struct Attempts {
    waits: ExponentialBackoff,
    failed: usize,
}

impl Attempts {
    pub(super) fn new() -> Self {
        let waits = ExponentialBuilder::new()
            .with_min_delay(FIRST_WAIT)
            .with_max_delay(LONGEST_WAIT)
            .without_max_times()
            .build();
        Self { waits, failed: 0 }
    }
}

impl Committer {
    /// Logs the first failure of a write and waits until the next attempt; the beginning of a stop ends the wait.
    pub(super) async fn back_off(&mut self, error: &StoreError, attempts: &mut Attempts) -> Result<(), Exit> {
        self.resources.metrics.api_error("ledger");
        let mut stopping = self.resources.stopping.clone();
        if *stopping.borrow_and_update() && error.kind.is_denied() {
            tracing::warn!(
                organism = %self.key,
                %error,
                "the operator is stopping and may no longer write; pending entries are dropped"
            );
            return Err(Exit::AccessRevoked);
        }
        let full = matches!(error.kind, StoreErrorKind::Full);
        if full && !self.etcd_full {
            self.etcd_full = true;
            tracing::warn!(
                organism = %self.key,
                %error,
                "etcd is full: entries wait in memory and are retried every {} s; make room in etcd (delete, \
                 compact, defragment), or raise its quota, and disarm its alarm",
                FULL_WAIT.as_secs()
            );
        } else if !full && attempts.failed == 0 {
            tracing::warn!(organism = %self.key, %error, "commit failed; retrying");
        }
        attempts.failed += 1;
        let wait = attempts.waits.next().unwrap_or(LONGEST_WAIT);
        let wait = if full { FULL_WAIT } else { wait };
        // Once the operator is stopping this never changes again, so that every later wait is a whole one.
        let _ = tokio::time::timeout(wait, stopping.changed()).await;
        Ok(())
    }

    /// Notes that the head was written: etcd takes writes.
    pub(super) fn clear_etcd_full(&mut self) {
        if std::mem::take(&mut self.etcd_full) {
            tracing::info!(organism = %self.key, "etcd takes writes again");
        }
    }

    pub(super) fn check_fence(&self, found: Option<&Head>) -> Result<(), Exit> {
        match found.and_then(|found| fence(&self.ledger.head, found)) {
            Some((epoch, holder)) => Err(self.fenced(epoch, holder)),
            None => Ok(()),
        }
    }

    pub(super) fn fenced(&self, theirs: u64, holder: String) -> Exit {
        Exit::Fenced(Fenced { key: self.key.clone(), ours: self.ledger.head.epoch, theirs, holder })
    }
}
