//! The committer: one task an organism, the only writer of its ledger's objects.
//!
//! | module | contents |
//! |---|---|
//! | [`ledger`] | a ledger that this process has taken over |
//! | `plan` | what follows a failed write of the head (pure) |
//! | `seal` | entries become segments |
//! | `turns` | who writes next |
//! | `retry` | waiting between the attempts of a write |
//! | `faults` | what is reported of writes that fail |
//! | [`merge`] | adjacent segments become one |
//! | `housekeeping` | merged and pruned segments leave the head, then the cluster |
//! | `events` | what happens to the ledger's objects, and who owns them |
//! | `garbage` | segments that no head lists |
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

mod events;
mod faults;
mod garbage;
mod housekeeping;
pub mod ledger;
pub mod merge;
pub mod plan;
mod retry;
mod seal;
mod turns;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Notify, Semaphore, mpsc, watch};

use self::faults::Faults;
use self::ledger::OwnedLedger;
use self::merge::{Merge, MergeError, finished};
use self::plan::{AfterFailedPut, Fenced, after_failed_put};
use self::retry::Attempts;
use self::turns::{Turn, Turns};
use super::budget::{Account, Budget};
use super::codec::Codec;
use super::failure_log::FailureLog;
use super::key::Key;
use super::metrics::Metrics;
use super::publisher::report::{CommittedLedger, FaultCause, ReportSender};
use super::publisher::until;
use crate::api::OnDelete;
use crate::ledger::SealedSegment;
use crate::mesh::CommittedInjection;
use crate::runtime::{Batch, EngineStatus};
use crate::store::configmap::StoreErrorKind;
use crate::store::head::{Contents, Head, SegmentRef};
use crate::store::objects::Objects;

/// From this number of segments on a commit waits for the merge in progress: with the head, a merged segment
/// and its parts an organism stays below 80 objects.
const MANY_SEGMENTS: usize = 70;

/// What all committers share.
pub struct Resources {
    /// The limits.
    pub budget: Arc<Budget>,
    /// Counts commits and failures.
    pub metrics: Arc<Metrics>,
    /// Whether the operator is stopping.
    pub stopping: watch::Receiver<bool>,
    turns: Arc<Turns>,
    /// Merging decodes whole segments: one at a time keeps memory flat.
    merges: Semaphore,
    /// Encodes segments.
    codec: Arc<Codec>,
}

impl Resources {
    /// For the committers of one process.
    #[must_use]
    pub fn new(
        budget: Arc<Budget>,
        metrics: Arc<Metrics>,
        stopping: watch::Receiver<bool>,
        codec: Arc<Codec>,
    ) -> Self {
        Self { budget, metrics, stopping, codec, turns: Arc::default(), merges: Semaphore::new(1) }
    }
}

/// A batch to commit, and how to acknowledge it.
pub struct CommitRequest {
    /// What to commit. Boxed: a channel has room for 32 requests from the start.
    pub batch: Box<Batch>,
    /// Called once the batch is committed; never for a batch that is given up.
    pub acknowledge: Box<dyn FnOnce() + Send>,
}

/// What a committer is told besides batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LedgerEvent {
    /// An object was deleted.
    Deleted {
        /// Its name.
        name: String,
        /// Its UID.
        uid: String,
    },
    /// A new list: exactly these objects exist.
    Listed(Objects),
    /// They could not be listed after the ledger was taken over, for this reason.
    NotListed(String),
    /// What spec.ledger.onDelete asks for.
    OnDelete(OnDelete),
    /// The Organism is gone and its ledger stays: mark the head once all is committed.
    Retain,
    /// Another replica is to hold the ledger: mark the head once all is committed.
    Release,
}

impl LedgerEvent {
    /// The mark that it asks for.
    fn mark(&self) -> Option<Mark> {
        match self {
            Self::Retain => Some(Mark::Retained),
            Self::Release => Some(Mark::Released),
            _ => None,
        }
    }
}

/// What the head says at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    Retained,
    Released,
}

impl Mark {
    /// Nobody holds the ledger any more. The epoch makes sure that nothing is committed after it.
    fn set(self, head: &mut Head) {
        head.retained = self == Self::Retained;
        head.disown();
    }
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
    /// The namespace is being deleted, and with it the ledger: nothing more can be stored.
    NamespaceTerminating,
    /// Entries cannot be stored, for this reason. Nothing of them is committed.
    Failed(String),
}

/// What a committer does next.
enum Work {
    Commit(CommitRequest),
    Event(LedgerEvent),
    ListMerged(Vec<SegmentRef>, Result<SegmentRef, MergeError>),
    WriteOwners,
}

/// The committer of one organism.
pub struct Committer {
    key: Key,
    ledger: OwnedLedger,
    /// Bytes to keep, of the last batch.
    retain: u64,
    /// Whether the batch that is being committed is urgent.
    urgent: bool,
    /// Counts bytes; sets how many bytes the ledger may keep.
    account: Arc<Account>,
    /// Bytes that the ledger held when it was last within its share, or when it was taken over.
    held: u64,
    resources: Arc<Resources>,
    report: ReportSender,
    /// Notified when segments are missing: a snapshot makes the ledger replayable again.
    snapshot_needed: Arc<Notify>,
    merging: Option<Merge>,
    /// Entries of the injections of the last half hour, oldest first, and when they were recorded. They are not
    /// pruned, so that the next writer of this ledger knows their ids.
    injections: VecDeque<(u64, Instant)>,
    /// Segments that do not fit into one segment with their neighbours.
    unmergeable: BTreeSet<String>,
    /// Whether the last write was refused because etcd is full.
    etcd_full: bool,
    faults: Arc<Faults>,
    failures: FailureLog,
    /// When ownerReferences are brought in line with spec.ledger.onDelete; none when they are.
    owners_due: Option<tokio::time::Instant>,
    /// How the head is to be marked at the end.
    mark: Option<Mark>,
}

impl Committer {
    /// The committer of `ledger`.
    #[must_use]
    pub fn new(
        key: Key,
        ledger: OwnedLedger,
        resources: Arc<Resources>,
        account: Arc<Account>,
        report: ReportSender,
        snapshot_needed: Arc<Notify>,
    ) -> Self {
        account.holds(ledger.head.bytes());
        let faults =
            Arc::new(Faults::new(report.clone(), resources.metrics.clone(), resources.turns.clone()));
        let now = Instant::now();
        // The machine may have started later than the injection was recorded.
        let recorded = |known: &CommittedInjection| (known.entry, now.checked_sub(known.age).unwrap_or(now));
        let injections = ledger.known.injections.iter().map(recorded).collect();
        Self {
            key,
            injections,
            owners_due: ledger.misowned.then(tokio::time::Instant::now),
            held: ledger.head.bytes(),
            account,
            ledger,
            retain: u64::MAX,
            urgent: false,
            report,
            snapshot_needed,
            merging: None,
            unmergeable: BTreeSet::new(),
            etcd_full: false,
            faults,
            failures: FailureLog::default(),
            mark: None,
            resources,
        }
    }

    /// Commits batches and handles object events until the channel of batches closes, or until this process is
    /// no longer the writer.
    pub async fn run(
        &mut self,
        mut batches: mpsc::Receiver<CommitRequest>,
        mut events: mpsc::UnboundedReceiver<LedgerEvent>,
    ) -> Exit {
        if !self.ledger.lost.is_empty() {
            self.snapshot_needed.notify_one();
        }
        self.report_on_delete();
        let faults = self.faults.clone();
        let exit = loop {
            let work = tokio::select! {
                biased;
                request = batches.recv() => match request {
                    Some(request) => {
                        if request.batch.last
                            && let Err(exit) = Box::pin(self.last_events(&mut events)).await
                        {
                            break exit;
                        }
                        Work::Commit(request)
                    }
                    None => {
                        let ended = Box::pin(self.last_events(&mut events)).await;
                        break ended.err().unwrap_or(Exit::Finished);
                    }
                },
                Some(event) = events.recv() => Work::Event(event),
                (parts, merged) = finished(&mut self.merging) => Work::ListMerged(parts, merged),
                () = until(self.owners_due) => Work::WriteOwners,
            };
            // Boxed: the task waits most of the time, and need not have room for all kinds of work meanwhile.
            if let Err(exit) = faults.watch(Box::pin(self.work(work))).await {
                break exit;
            }
        };
        if let Some(merge) = self.merging.take() {
            merge.end().await;
        }
        match self.mark {
            Some(mark) if matches!(exit, Exit::Finished) => {
                Box::pin(self.mark_head(mark)).await.err().unwrap_or(exit)
            }
            _ => exit,
        }
    }

    /// Takes in who is to own the objects, and how the head is to be marked: both were told before the engine ended. The
    /// rest is for the next writer of the ledger, who lists its objects.
    async fn last_events(&mut self, events: &mut mpsc::UnboundedReceiver<LedgerEvent>) -> Result<(), Exit> {
        while let Ok(event) = events.try_recv() {
            if event.mark().is_some() || matches!(event, LedgerEvent::OnDelete(_)) {
                self.ledger_event(event).await?;
            }
        }
        Ok(())
    }

    async fn work(&mut self, work: Work) -> Result<(), Exit> {
        match work {
            Work::Commit(request) => self.commit(request).await,
            Work::Event(event) => self.ledger_event(event).await,
            Work::ListMerged(parts, merged) => self.finish_merge(parts, merged).await,
            Work::WriteOwners => self.write_owners().await,
        }
    }

    /// 1. Store the entries. 2. Report the status. 3. Acknowledge. 4. Prune and merge.
    async fn commit(&mut self, request: CommitRequest) -> Result<(), Exit> {
        let started = Instant::now();
        let CommitRequest { batch, acknowledge } = request;
        let batch: Arc<Batch> = batch.into();
        (self.retain, self.urgent) = (batch.retain, batch.urgent);
        if !batch.records.is_empty() {
            if self.ledger.head.segments.len() >= MANY_SEGMENTS && self.merging.is_some() {
                // Merging has fallen behind. What becomes pending meanwhile makes the next segment larger.
                let (parts, merged) = finished(&mut self.merging).await;
                self.finish_merge(parts, merged).await?;
            }
            let bytes = self.store(&batch).await?;
            self.account.wrote(bytes);
            self.resources.metrics.committed(batch.urgent, bytes, started.elapsed());
        }
        self.report(Some(batch.status.clone()));
        acknowledge();
        if batch.last {
            // The head may be another's by now.
            return Ok(());
        }
        self.prune().await?;
        self.note_held();
        self.start_merge();
        Ok(())
    }

    /// Reports the ledger as it is now, and with it the engine's status where it has changed: both of one commit.
    fn report(&self, status: Option<EngineStatus>) {
        let retain_reduced = self.retain_now() < self.retain;
        self.account.holds(self.ledger.head.bytes());
        let mut ledger = CommittedLedger::of(&self.ledger.head, retain_reduced);
        ledger.replayable_from = self.ledger.replayable_from();
        let (integrity, listed) = (self.ledger.integrity.clone(), self.ledger.listed.clone());
        self.report.send_modify(|report| {
            (report.integrity, report.listed) = (integrity, listed);
            report.ledger = Some(ledger);
            if let Some(status) = status {
                report.engine = Some(status);
            }
        });
    }

    /// Stores a batch's entries. Returns the bytes written.
    async fn store(&mut self, batch: &Arc<Batch>) -> Result<u64, Exit> {
        let mut bytes = 0;
        let mut parts = self.seal(batch).await?.into_iter().peekable();
        while let Some((part, after)) = parts.next() {
            let (object, turn) = self.create_segment(&part).await?;
            let mut head = self.ledger.head.clone();
            let listed = SegmentRef::new(&part, head.epoch, object, 0);
            let range = listed.first..listed.end();
            let within = |all: &[(u64, f64)]| -> Vec<(u64, f64)> {
                all.iter().copied().filter(|(entry, _)| range.contains(entry)).collect()
            };
            let (injections, senses) = (within(&batch.injections), within(&batch.senses));
            let entries: Vec<u64> = injections.iter().map(|it| it.0).collect();
            let enforcement = batch.enforcements.iter().rev().find(|(entry, _)| range.contains(entry));
            let enforcement = enforcement.map(|it| it.1.clone());
            head.append(listed, &after, Contents { injections, senses, enforcement });
            if batch.last
                && parts.peek().is_none()
                && let Some(mark) = self.mark.take()
            {
                // With the last entries: whoever waits for the mark need not wait for another write.
                mark.set(&mut head);
            }
            bytes += part.entries.len() as u64 + self.put_head(head, Some(turn)).await?;
            let now = Instant::now();
            self.injections.extend(entries.into_iter().map(|entry| (entry, now)));
        }
        Ok(bytes)
    }

    /// Creates a segment's object, however many attempts that takes. Returns its UID, and the turn: it is for the head too,
    /// or all segments of many organisms would be written before the first head.
    async fn create_segment(&mut self, sealed: &SealedSegment) -> Result<(String, Turn), Exit> {
        let mut attempts = Attempts::new();
        loop {
            let turn = self.faults.turn(self.urgent).await;
            let error = match self.ledger.store.create_segment(sealed, self.ledger.head.epoch).await {
                Ok(uid) => return Ok((uid, turn)),
                Err(error) => error,
            };
            drop(turn);
            let taken = matches!(error.kind, StoreErrorKind::Conflict).then(|| {
                let (epoch, head) = (self.ledger.head.epoch, &sealed.head);
                FaultCause::NameTaken(self.ledger.store.segment_name(epoch, head.first, head.count))
            });
            self.back_off(&error, taken, &mut attempts).await?;
            if self.etcd_full {
                self.prune().await?;
            }
            // It may fail because this process is no longer the writer.
            if let Ok(Some(found)) = self.ledger.store.head().await {
                self.check_fence(found.head.as_ref())?;
            }
        }
    }

    /// Replaces the head, however many attempts that takes; the first in `turn`, if there is one. Returns the bytes written.
    async fn put_head(&mut self, next: Head, mut turn: Option<Turn>) -> Result<u64, Exit> {
        let mut attempts = Attempts::new();
        loop {
            let turn = match turn.take() {
                Some(turn) => turn,
                None => self.faults.turn(self.urgent).await,
            };
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
                AfterFailedPut::Overtaken => {
                    let what =
                        "an earlier writer has made the ledger's deleted head again and committed more";
                    return Err(Exit::Failed(what.into()));
                }
                AfterFailedPut::RetryNow => {}
                AfterFailedPut::Create => match self.create_head(&next).await? {
                    Ok(resource_version) => {
                        tracing::warn!(organism = %self.key, "the ledger's head was deleted; created it again");
                        self.ledger.resource_version = resource_version;
                        break;
                    }
                    Err(error) => self.back_off(&error, None, &mut attempts).await?,
                },
                AfterFailedPut::NameTaken => {
                    let cause = FaultCause::NameTaken(self.ledger.store.head_name());
                    self.back_off(&error, Some(cause), &mut attempts).await?;
                }
                AfterFailedPut::Unreadable(message) => {
                    self.back_off(&error, Some(FaultCause::HeadUnreadable(message)), &mut attempts).await?;
                }
                AfterFailedPut::Retry => self.back_off(&error, None, &mut attempts).await?,
            }
        }
        self.faults.passed();
        self.note_success();
        self.ledger.head = next;
        Ok(serde_json::to_vec(&self.ledger.head).map_or(0, |text| text.len() as u64))
    }
}

#[cfg(test)]
mod tests;
