//! What a committer does about a write that failed: it retries the same write, for as long as it is the writer.
//!
//! Every cause may pass; rights that were taken away may come back. Only an operator that is stopping has no
//! time for that: an uninstallation takes its rights, and then its account, before its pod has ended. What is
//! refused then (403, or 401 without an account) is given up at once. Nothing committed is lost by that: the
//! next operator continues from there.

use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

use super::ledger::OwnedLedger;
use super::plan::{Fenced, fence};
use super::{Committer, Exit};
use crate::operator::publisher::report::FaultCause;
use crate::store::configmap::{StoreError, StoreErrorKind};
use crate::store::head::Head;
use crate::store::rebuild::newest_epoch;

/// Wait before the first retry of a write; doubled up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// Longest wait between two attempts.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// Wait between two attempts while etcd is full.
const FULL_WAIT: Duration = Duration::from_secs(10);

/// The attempts of one write.
pub(super) struct Attempts(ExponentialBackoff);

impl Attempts {
    pub(super) fn new() -> Self {
        let waits = ExponentialBuilder::new()
            .with_min_delay(FIRST_WAIT)
            .with_max_delay(LONGEST_WAIT)
            .without_max_times()
            .build();
        Self(waits)
    }
}

impl Committer {
    /// Reports and logs a failed write and waits until the next attempt; the beginning of a stop ends the wait.
    /// `cause` is what is wrong, where the object that is in the way tells more than the error.
    pub(super) async fn back_off(
        &mut self,
        error: &StoreError,
        cause: Option<FaultCause>,
        attempts: &mut Attempts,
    ) -> Result<(), Exit> {
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
        if matches!(error.kind, StoreErrorKind::NamespaceTerminating) {
            return Err(Exit::NamespaceTerminating);
        }
        let cause = cause.unwrap_or_else(|| FaultCause::Refused(error.to_string(), advice(&error.kind)));
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
        } else if !full && let Some(times) = self.failures.failed(&error.to_string(), Instant::now()) {
            tracing::warn!(organism = %self.key, %error, times, "commit failed; retrying");
        }
        self.faults.failed(cause);
        let wait = attempts.0.next().unwrap_or(LONGEST_WAIT);
        let wait = if full { FULL_WAIT } else { wait };
        // Once the operator is stopping this never changes again, so that every later wait is a whole one.
        let _ = tokio::time::timeout(wait, stopping.changed()).await;
        Ok(())
    }

    /// Notes that the head was written: the cluster takes writes.
    pub(super) fn note_success(&mut self) {
        self.resources.turns.committed();
        if self.failures.succeeded() {
            tracing::info!(organism = %self.key, "commits succeed again");
        }
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

    /// Creates the head again, unless another writer took the ledger over before it was deleted: a head that is gone
    /// cannot say so, but the names of segments have the epoch of their writer. A writer that has committed nothing
    /// leaves no trace.
    pub(super) async fn create_head(&self, next: &Head) -> Result<Result<String, StoreError>, Exit> {
        let OwnedLedger { store, head, origin, .. } = &self.ledger;
        let objects = match store.list().await {
            Ok(objects) => objects,
            Err(error) => return Ok(Err(error)),
        };
        match newest_epoch(&origin.name, &objects).filter(|epoch| *epoch > head.epoch) {
            Some(epoch) => Err(self.fenced(epoch, "another operator".into())),
            None => Ok(store.create_head(next).await),
        }
    }

    pub(super) fn fenced(&self, theirs: u64, holder: String) -> Exit {
        Exit::Fenced(Fenced { key: self.key.clone(), ours: self.ledger.head.epoch, theirs, holder })
    }
}

/// What to do about a write that the cluster refuses.
fn advice(kind: &StoreErrorKind) -> &'static str {
    let StoreErrorKind::Api(failure) = kind else {
        return match kind {
            StoreErrorKind::Full => "Make room in etcd, or raise its quota, and disarm its alarm.",
            StoreErrorKind::TimeOut => "Check the API server's load and the webhooks for ConfigMaps.",
            _ => "It is tried again every 5 s.",
        };
    };
    let text = failure.to_string();
    match &failure.0 {
        kube::Error::Api(status) if status.code == 403 && text.contains("exceeded quota") => {
            "Raise the namespace's ResourceQuota, or delete what is not needed."
        }
        kube::Error::Api(status) if text.contains("denied the request") || status.code == 422 => {
            "Change the policy or webhook that refuses it."
        }
        kube::Error::Api(status) if matches!(status.code, 401 | 403) => {
            "Give the operator's ServiceAccount its role back; installing the chart again does."
        }
        _ => "It is tried again every 5 s.",
    }
}
