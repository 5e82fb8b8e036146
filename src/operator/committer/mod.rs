//! The committer: one task an organism, the only writer of its ledger's objects.
//!
//! | module | contents |
//! |---|---|
//! | [`ledger`] | a ledger that this process has taken over |
//! | `plan` | what follows a failed write of the head (pure) |
//! | `retry` | waiting between the attempts of a write |
//! | [`merge`] | adjacent segments become one |
//!
//! A commit creates the segment, then replaces the head with the resourceVersion of our own last replace.
//! Only the second step commits. A failure in between leaves a segment that no head lists; the next take-over
//! deletes it. A head with a higher epoch means that another operator took over: this organism ends here and
//! takes nothing back, so two operators can never fork a chain, and that rests on no clock.
//!
//! A full etcd is an ordinary event. It refuses every write: segments, heads, statuses and Events alike; reads
//! and deletions work. The organism beats on, and its entries wait in memory; when their number reaches its
//! bound, beats are skipped, and no entry is dropped. The log says so once, and the commit is retried every ten
//! seconds. Nothing is pruned to make room: a segment may go only when the head no longer lists it, and that
//! takes a write of the head. So the room has to come from elsewhere. When it is there, entries beyond the bound
//! are pruned before more are stored, or the ledger would fill etcd again at once.

pub mod ledger;
pub mod merge;
pub mod plan;
mod retry;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Notify, Semaphore, SemaphorePermit, mpsc, watch};

use self::ledger::OwnedLedger;
use self::merge::{Merge, MergeError, finished};
use self::plan::{AfterFailedPut, Fenced, after_failed_put};
use self::retry::Attempts;
use super::budget::Budget;
use super::key::Key;
use super::metrics::Metrics;
use super::publisher::report::{CommittedLedger, LedgerFault, Report};
use crate::ledger::entry::Record;
use crate::ledger::sealed::SealError;
use crate::ledger::{Chain, SealedSegment};
use crate::mesh::CommittedInjection;
use crate::mesh::INJECTION_RETENTION;
use crate::runtime::{Batch, EngineStatus};
use crate::store::configmap::StoreErrorKind;
use crate::store::head::{Head, SegmentRef, largest_merge};

/// From this number of segments on a commit waits for the merge in progress: with the head, a merged segment
/// and its parts an organism stays below 80 objects.
const MANY_SEGMENTS: usize = 70;
/// Commits in flight that are not urgent. Each takes a connection, and an API server that gets a thousand
/// requests at once answers none of them in time.
const CALM_COMMITS: usize = 8;
/// Urgent commits in flight.
const URGENT_COMMITS: usize = 32;

/// What all committers share.
pub struct Resources {
    /// Counts bytes; sets how many bytes a ledger may keep.
    pub budget: Arc<Budget>,
    /// Counts commits and failures.
    pub metrics: Arc<Metrics>,
    /// Whether the operator is stopping.
    pub stopping: watch::Receiver<bool>,
    /// Calm commits take turns here, so that urgent ones find the API server free.
    calm: Semaphore,
    urgent: Semaphore,
    /// Merging decodes whole segments: one at a time keeps memory flat.
    merges: Semaphore,
}

impl Resources {
    /// For the committers of one process.
    #[must_use]
    pub fn new(budget: Arc<Budget>, metrics: Arc<Metrics>, stopping: watch::Receiver<bool>) -> Self {
        Self {
            budget,
            metrics,
            stopping,
            calm: Semaphore::new(CALM_COMMITS),
            urgent: Semaphore::new(URGENT_COMMITS),
            merges: Semaphore::new(1),
        }
    }

    /// A turn for one attempt of a write. It is given back before a failed attempt waits: an organism that
    /// cannot commit must not keep the others from it.
    async fn turn(&self, urgent: bool) -> Option<SemaphorePermit<'_>> {
        let turns = if urgent { &self.urgent } else { &self.calm };
        // Infallible: the semaphores are never closed.
        turns.acquire().await.ok()
    }
}

/// A batch to commit, and how to acknowledge it.
pub struct CommitRequest {
    /// What to commit.
    pub batch: Batch,
    /// Called once the batch is committed; never for a batch that is given up.
    pub acknowledge: Box<dyn FnOnce() + Send>,
}

/// What the watch has seen of a ledger's objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectEvent {
    /// An object was deleted.
    Deleted {
        /// Its name.
        name: String,
        /// Its UID.
        uid: String,
    },
    /// A new list: exactly these names with these UIDs exist.
    Listed(BTreeSet<(String, String)>),
}

/// Why a committer ended.
#[derive(Debug)]
pub enum Exit {
    /// The engine is gone, and all that it handed over is committed.
    Finished,
    /// Another writer holds the ledger.
    Fenced(Fenced),
    /// The operator is stopping and may no longer write.
    AccessRevoked,
    /// Entries cannot be stored, for this reason. Nothing of them is committed.
    Failed(String),
}

/// The committer of one organism.
pub struct Committer {
    key: Key,
    ledger: OwnedLedger,
    /// Bytes to keep, of the last batch.
    retain: u64,
    /// Whether the batch that is being committed is urgent.
    urgent: bool,
    resources: Arc<Resources>,
    report: watch::Sender<Report>,
    /// Notified when segments are missing: a snapshot makes the ledger replayable again.
    snapshot_needed: Arc<Notify>,
    merging: Option<Merge>,
    /// Entries of the injections of the last [`INJECTION_RETENTION`], oldest first, and when they were recorded. They are not
    /// pruned, so that the next writer of this ledger knows their ids.
    injections: VecDeque<(u64, Instant)>,
    /// Segments that do not fit into one segment with their neighbours.
    unmergeable: BTreeSet<String>,
    /// Whether the last write was refused because etcd is full.
    etcd_full: bool,
}

impl Committer {
    /// The committer of `ledger`.
    #[must_use]
    pub fn new(
        key: Key,
        ledger: OwnedLedger,
        resources: Arc<Resources>,
        report: watch::Sender<Report>,
        snapshot_needed: Arc<Notify>,
    ) -> Self {
        let now = Instant::now();
        // The machine may have started later than the injection was recorded.
        let recorded = |known: &CommittedInjection| (known.entry, now.checked_sub(known.age).unwrap_or(now));
        Self {
            key,
            injections: ledger.known.iter().map(recorded).collect(),
            ledger,
            retain: u64::MAX,
            urgent: false,
            resources,
            report,
            snapshot_needed,
            merging: None,
            unmergeable: BTreeSet::new(),
            etcd_full: false,
        }
    }

    /// Commits batches and handles object events until the channel of batches closes, or until this process is
    /// no longer the writer.
    pub async fn run(
        mut self,
        mut batches: mpsc::Receiver<CommitRequest>,
        mut events: mpsc::UnboundedReceiver<ObjectEvent>,
    ) -> Exit {
        if !self.ledger.lost.is_empty() {
            self.snapshot_needed.notify_one();
        }
        let exit = loop {
            let done = tokio::select! {
                biased;
                request = batches.recv() => match request {
                    Some(request) => self.commit(request).await,
                    None => break Exit::Finished,
                },
                Some(event) = events.recv() => self.object_event(event).await,
                (parts, merged) = finished(&mut self.merging) => self.finish_merge(parts, merged).await,
            };
            if let Err(exit) = done {
                break exit;
            }
        };
        if let Some(merge) = self.merging.take() {
            merge.end().await;
        }
        exit
    }

    /// 1. Store the entries. 2. Report the status. 3. Acknowledge. 4. Prune and merge.
    async fn commit(&mut self, request: CommitRequest) -> Result<(), Exit> {
        let started = Instant::now();
        let CommitRequest { batch, acknowledge } = request;
        (self.retain, self.urgent) = (batch.retain, batch.urgent);
        if !batch.records.is_empty() {
            if self.ledger.head.segments.len() >= MANY_SEGMENTS && self.merging.is_some() {
                // Merging has fallen behind. What becomes pending meanwhile makes the next segment larger.
                let (parts, merged) = finished(&mut self.merging).await;
                self.finish_merge(parts, merged).await?;
            }
            let bytes = self.store(&batch).await?;
            self.resources.budget.wrote(bytes);
            self.resources.metrics.committed(batch.urgent, bytes, started.elapsed());
        }
        self.report(batch.status);
        acknowledge();
        self.prune().await?;
        self.start_merge();
        Ok(())
    }

    /// Reports the ledger as it is now, and with it the engine's status, if it belongs to this commit.
    fn report(&self, status: Option<EngineStatus>) {
        let retain_reduced = self.resources.budget.retain(self.retain) < self.retain;
        let mut ledger = CommittedLedger::of(&self.ledger.head, retain_reduced);
        ledger.replayable_from = self.ledger.replayable_from();
        let integrity = self.ledger.integrity.clone();
        self.report.send_modify(|report| {
            report.integrity = integrity;
            report.ledger = Some(ledger);
            if let Some(status) = status {
                report.engine = Some(status);
            }
        });
    }

    /// Stores a batch's entries. Returns the bytes written.
    async fn store(&mut self, batch: &Batch) -> Result<u64, Exit> {
        let mut bytes = 0;
        for (part, after) in self.seal(&batch.before, &batch.after, &batch.records)? {
            let object = self.create_segment(&part).await?;
            let mut head = self.ledger.head.clone();
            let listed = SegmentRef::new(&part, head.epoch, object, 0);
            let range = listed.first..listed.end();
            let injections: Vec<_> =
                batch.injections.iter().copied().filter(|(entry, _)| range.contains(entry)).collect();
            head.append(listed, &after, &injections);
            bytes += part.entries.len() as u64 + self.put_head(head).await?;
            let now = Instant::now();
            self.injections.extend(injections.into_iter().map(|(entry, _)| (entry, now)));
        }
        Ok(bytes)
    }

    /// The entries between two ends of the chain as one segment, or as several where one would be too large,
    /// each with the end of the chain after it.
    fn seal(
        &self,
        before: &Chain,
        after: &Chain,
        records: &[Record],
    ) -> Result<Vec<(SealedSegment, Chain)>, Exit> {
        match SealedSegment::seal(Some(&self.ledger.origin), before, after, records) {
            Ok(sealed) => Ok(vec![(sealed, after.clone())]),
            Err(SealError::Encode(error)) if records.len() > 1 => {
                tracing::debug!(organism = %self.key, %error, "sealing in halves");
                let (left, right) = records.split_at(records.len() / 2);
                let mut middle = before.clone();
                for record in left {
                    // Infallible: the engine has recorded each of them before.
                    let _ = middle.record(record);
                }
                let mut parts = self.seal(before, &middle, left)?;
                parts.extend(self.seal(&middle, after, right)?);
                Ok(parts)
            }
            Err(error) => Err(Exit::Failed(format!("cannot seal a segment: {error}"))),
        }
    }

    /// Creates a segment's object, however many attempts that takes. Returns its UID.
    async fn create_segment(&mut self, sealed: &SealedSegment) -> Result<String, Exit> {
        let mut attempts = Attempts::new();
        loop {
            let resources = self.resources.clone();
            let turn = resources.turn(self.urgent).await;
            let error = match self.ledger.store.create_segment(sealed, self.ledger.head.epoch).await {
                Ok(uid) => return Ok(uid),
                Err(error) => error,
            };
            drop(turn);
            if matches!(error.kind, StoreErrorKind::Conflict) {
                let (epoch, head) = (self.ledger.head.epoch, &sealed.head);
                let name = self.ledger.store.segment_name(epoch, head.first, head.count);
                self.report_fault(Some(LedgerFault::NameTaken(name)));
            }
            self.back_off(&error, &mut attempts).await?;
            if self.etcd_full {
                self.prune().await?;
            }
            // It may fail because this process is no longer the writer.
            if let Ok(Some(found)) = self.ledger.store.head().await {
                self.check_fence(found.head.as_ref())?;
            }
        }
    }

    /// Replaces the head, however many attempts that takes. Returns the bytes written.
    async fn put_head(&mut self, next: Head) -> Result<u64, Exit> {
        let mut attempts = Attempts::new();
        let resources = self.resources.clone();
        loop {
            let turn = resources.turn(self.urgent).await;
            let error = match self.ledger.store.put_head(&next, &self.ledger.resource_version).await {
                Ok(resource_version) => {
                    self.ledger.resource_version = resource_version;
                    break;
                }
                Err(error) => error,
            };
            let found = self.ledger.store.head().await;
            drop(turn);
            // Not that of an object of someone else: the next attempt must not replace it.
            if let Ok(Some(found)) = &found
                && found.head.is_some()
            {
                self.ledger.resource_version.clone_from(&found.resource_version);
            }
            match after_failed_put(&next, &self.ledger.head, &error, &found) {
                AfterFailedPut::Committed => break,
                AfterFailedPut::Fenced(epoch, holder) => return Err(self.fenced(epoch, holder)),
                AfterFailedPut::RetryNow => {}
                AfterFailedPut::Create => match self.ledger.store.create_head(&next).await {
                    Ok(resource_version) => {
                        tracing::warn!(organism = %self.key, "the ledger's head was deleted; created it again");
                        self.ledger.resource_version = resource_version;
                        break;
                    }
                    Err(error) => self.back_off(&error, &mut attempts).await?,
                },
                AfterFailedPut::NameTaken => {
                    self.report_fault(Some(LedgerFault::NameTaken(self.ledger.store.head_name())));
                    self.back_off(&error, &mut attempts).await?;
                }
                AfterFailedPut::Unreadable(why) => {
                    let name = self.ledger.store.head_name();
                    self.report_fault(Some(LedgerFault::HeadUnreadable(name, why)));
                    self.back_off(&error, &mut attempts).await?;
                }
                AfterFailedPut::Retry => self.back_off(&error, &mut attempts).await?,
            }
        }
        self.report_fault(None);
        self.clear_etcd_full();
        self.ledger.head = next;
        Ok(serde_json::to_vec(&self.ledger.head).map_or(0, |text| text.len() as u64))
    }

    fn report_fault(&self, fault: Option<LedgerFault>) {
        self.report.send_if_modified(|report| {
            let changed = report.ledger_fault != fault;
            report.ledger_fault = fault;
            changed
        });
    }

    /// Starts merging adjacent segments beside the commits, unless a merge is in progress.
    fn start_merge(&mut self) {
        if self.merging.is_some() {
            return;
        }
        let retain = self.resources.budget.retain(self.retain);
        let exists = |it: &SegmentRef| {
            !self.ledger.is_lost(it) && !self.unmergeable.contains(&self.ledger.store.name_of(it))
        };
        let Some(range) = self.ledger.head.mergeable(largest_merge(retain), exists) else { return };
        let parts = self.ledger.head.segments[range].to_vec();
        let OwnedLedger { store, origin, head, .. } = &self.ledger;
        self.merging =
            Some(Merge::start(self.resources.clone(), store.clone(), origin.clone(), head.epoch, parts));
    }

    /// Lists the merged segment in place of its parts, then deletes these.
    async fn finish_merge(
        &mut self,
        parts: Vec<SegmentRef>,
        merged: Result<SegmentRef, MergeError>,
    ) -> Result<(), Exit> {
        let listed = match merged {
            Ok(listed) => listed,
            Err(error) => {
                tracing::warn!(organism = %self.key, %error, "cannot merge segments");
                if matches!(error, MergeError::Merge(_)) {
                    self.unmergeable.extend(parts.iter().map(|it| self.ledger.store.name_of(it)));
                }
                return Ok(());
            }
        };
        let mut head = self.ledger.head.clone();
        let Some(at) = head.segments.windows(parts.len()).position(|window| window == parts) else {
            // They were pruned meanwhile: the next take-over deletes the merged segment.
            return Ok(());
        };
        let bytes = listed.bytes;
        head.segments.splice(at..at + parts.len(), [listed]);
        let bytes = bytes + self.put_head(head).await?;
        self.resources.budget.wrote(bytes);
        self.delete(&parts).await;
        self.report(None);
        Ok(())
    }

    /// Takes the oldest segments beyond the bound of bytes off the head, then deletes them.
    async fn prune(&mut self) -> Result<(), Exit> {
        let retain = self.resources.budget.retain(self.retain);
        while self.injections.front().is_some_and(|(_, recorded)| recorded.elapsed() > INJECTION_RETENTION) {
            self.injections.pop_front();
        }
        let keep = self.injections.front().map_or(u64::MAX, |&(entry, _)| entry);
        let count = self.ledger.head.prunable(retain, keep);
        if count == 0 {
            return Ok(());
        }
        let mut head = self.ledger.head.clone();
        let parts = head.prune(count);
        let bytes = self.put_head(head).await?;
        self.resources.budget.wrote(bytes);
        self.delete(&parts).await;
        self.ledger.forget(&parts);
        self.report(None);
        Ok(())
    }

    /// Deletes segments that the head no longer lists. The next take-over deletes those that stay.
    async fn delete(&mut self, parts: &[SegmentRef]) {
        for part in parts {
            let name = self.ledger.store.name_of(part);
            if let Err(error) = self.ledger.store.delete(&name, &part.object).await {
                tracing::warn!(organism = %self.key, %error, "cannot delete a segment that is no longer listed");
            }
        }
    }

    /// Creates a deleted head again, and reports segments that someone else deleted.
    async fn object_event(&mut self, event: ObjectEvent) -> Result<(), Exit> {
        let head_name = self.ledger.store.head_name();
        let head_is_gone = match &event {
            ObjectEvent::Deleted { name, .. } => *name == head_name,
            ObjectEvent::Listed(existing) => !existing.iter().any(|(name, _)| *name == head_name),
        };
        if head_is_gone {
            // At once, not with the next commit: there may be none before this process ends.
            self.put_head(self.ledger.head.clone()).await?;
        }
        let missing = self.missing(&event).await;
        let fresh = self.ledger.mark_lost(missing);
        if fresh > 0 {
            self.resources.metrics.lost(fresh);
            let integrity = &self.ledger.integrity;
            tracing::error!(organism = %self.key, segments = fresh, ?integrity, "segments are missing");
            self.report(None);
            self.snapshot_needed.notify_one();
        }
        Ok(())
    }

    /// Names of listed segments that are missing after `event`.
    async fn missing(&self, event: &ObjectEvent) -> Vec<String> {
        let mut missing = vec![];
        for segment in &self.ledger.head.segments {
            let name = self.ledger.store.name_of(segment);
            let is_missing = match event {
                ObjectEvent::Deleted { name: deleted, uid } => *deleted == name && *uid == segment.object,
                // The list may be older than the segment: a GET decides.
                ObjectEvent::Listed(existing) => {
                    !existing.contains(&(name.clone(), segment.object.clone()))
                        && matches!(self.ledger.store.listed(segment).await, Ok(None))
                }
            };
            if is_missing {
                missing.push(name);
            }
        }
        missing
    }
}

#[cfg(test)]
mod tests;
