//! The committer: one task an organism, the only writer of its ledger's objects.
//!
//! A commit creates the segment, then replaces the head with the resourceVersion of our own last replace.
//! Only the second step commits. Whatever fails in between leaves a segment that no head lists, which the
//! next take-over deletes. A head of a higher epoch means that another operator took over: this process ends
//! and takes nothing back, so two operators can never fork a chain, and no rule rests on time.
//!
//! A full etcd is an ordinary event. It refuses every write: segments, heads, statuses and Events alike; reads
//! and deletions work. The organism beats on, and what it records waits in memory; when as much waits as may, its
//! beats are skipped, and no entry is dropped. The log says so once, and the commit is tried again every ten
//! seconds. Nothing is pruned to make room: a segment may go only when the head no longer lists it, and that
//! takes a write of the head. So the room comes from somebody else. When it is there, what is beyond the bound
//! is pruned before more comes in, or the ledger would fill etcd again at once.

mod merge;
mod retry;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Semaphore, mpsc, watch};

use self::merge::{Merge, MergeError, finished};
pub use self::retry::Fenced;
use self::retry::{Ended, FIRST_WAIT};
use super::Key;
use super::beater::Beater;
use super::budget::Budget;
use super::life::Job;
use super::metrics::Metrics;
use super::report::{Integrity, LedgerView, Report};
use crate::ledger::entry::{Origin, Record};
use crate::ledger::sealed::SealError;
use crate::ledger::{Chain, SealedSegment};
use crate::mesh::Known;
use crate::mesh::gossip::REMEMBER;
use crate::store::configmap::{ConfigMaps, Found, Why};
use crate::store::head::{Head, Listed, largest_merge};

/// From this number of segments on a commit waits for the merge under way: with the head, a merged segment
/// and its parts an organism stays below 80 objects.
const MANY_SEGMENTS: usize = 70;

/// What all committers share.
pub struct Shared {
    /// Acknowledged after each commit.
    pub beater: Beater,
    /// Counts what is written.
    pub budget: Arc<Budget>,
    /// Counts the rest.
    pub metrics: Arc<Metrics>,
    /// Calm commits take turns here, so that urgent ones find the API server free.
    pub calm: Semaphore,
    /// As many urgent ones at once as the API server takes.
    pub urgent: Semaphore,
    /// Merging decodes whole segments: one at a time keeps memory flat.
    pub merging: Semaphore,
    /// Where a fenced committer reports; the process ends.
    pub fenced: mpsc::Sender<Fenced>,
    /// Whether the operator is stopping.
    pub stopping: watch::Receiver<bool>,
}

/// What the watch on segments has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// This object was deleted.
    Deleted {
        /// Its name.
        name: String,
        /// Its UID.
        uid: String,
    },
    /// These names with these UIDs are all there are.
    Listed(BTreeSet<(String, String)>),
}

/// A ledger that is held, ready to be written.
pub struct Held {
    /// Where it lives.
    pub store: ConfigMaps,
    /// As it was last read or written.
    pub head: Head,
    /// Of that head.
    pub resource_version: String,
    /// Whose ledger it is.
    pub origin: Origin,
    /// Names of listed segments that are gone.
    pub lost: BTreeSet<String>,
    /// What is known about losses.
    pub integrity: Integrity,
    /// The injections that a retry must not bring in again, oldest first.
    pub known: Vec<Known>,
}

/// The committer of one organism.
pub struct Committer {
    key: Key,
    held: Held,
    retain: u64,
    shared: Arc<Shared>,
    report: watch::Sender<Report>,
    merging: Option<Merge>,
    /// Entries of the injections of the last [`REMEMBER`], oldest first, and when they were recorded. They are not
    /// pruned, so that whoever goes on with this ledger knows their ids.
    injections: VecDeque<(u64, Instant)>,
    /// Segments that cannot be merged with their neighbours.
    unmergeable: BTreeSet<String>,
    /// Whether the last write was refused because etcd is full.
    full: bool,
}

impl Committer {
    /// A committer of the ledger that is held.
    #[must_use]
    pub fn new(key: Key, held: Held, shared: Arc<Shared>, report: watch::Sender<Report>) -> Self {
        let now = Instant::now();
        // A machine may have started later than an injection was recorded.
        let recorded = |known: &Known| (known.entry, now.checked_sub(known.age).unwrap_or(now));
        Self {
            key,
            injections: held.known.iter().map(recorded).collect(),
            held,
            retain: u64::MAX,
            shared,
            report,
            merging: None,
            unmergeable: BTreeSet::new(),
            full: false,
        }
    }

    /// Commits jobs and looks at notices until both channels close, or until the operator stops and may write
    /// no more. Hands the ledger back then.
    pub async fn run(
        mut self,
        mut jobs: mpsc::Receiver<Job>,
        mut notices: mpsc::UnboundedReceiver<Notice>,
    ) -> Held {
        if !self.held.lost.is_empty() {
            self.shared.beater.snapshot(&self.key);
        }
        loop {
            let done = tokio::select! {
                biased;
                job = jobs.recv() => match job {
                    Some(job) => self.job(job).await,
                    None => return self.end().await,
                },
                Some(notice) = notices.recv() => self.notice(notice).await,
                (parts, merged) = finished(&mut self.merging) => self.finish_merge(parts, merged).await,
            };
            match done {
                Ok(()) => {}
                Err(Ended::Fenced(fenced)) => {
                    // The receiver ends the process; nothing more may be written here.
                    let _ = self.shared.fenced.send(fenced).await;
                    std::future::pending::<()>().await;
                }
                Err(Ended::Dismissed) => {
                    self.shared.beater.end(&self.key, false).await;
                    return self.end().await;
                }
            }
        }
    }

    /// Whoever deletes the ledger next must not meet a merge that is still making its object.
    async fn end(self) -> Held {
        if let Some(merging) = self.merging {
            merging.end().await;
        }
        self.held
    }

    /// One job: 1. commit its entries, 2. show its view, 3. acknowledge, 4. tidy up.
    async fn job(&mut self, job: Job) -> Result<(), Ended> {
        let started = Instant::now();
        self.retain = job.retain;
        let shared = self.shared.clone();
        if !job.records.is_empty() {
            if self.held.head.segments.len() >= MANY_SEGMENTS && self.merging.is_some() {
                // Merging has fallen behind: what is pending meanwhile makes the next segment larger.
                let (parts, merged) = finished(&mut self.merging).await;
                self.finish_merge(parts, merged).await?;
            }
            // Never closed.
            let turns = if job.urgent { &shared.urgent } else { &shared.calm };
            let _turn = turns.acquire().await.ok();
            let bytes = self.commit(&job).await?;
            shared.budget.wrote(bytes);
            shared.metrics.committed(job.urgent, bytes, started.elapsed());
        }
        self.show(job.view);
        shared.beater.committed(&self.key);
        self.tidy().await
    }

    fn show(&self, view: Option<super::view::View>) {
        let retain_reduced = self.shared.budget.retain(self.retain) < self.retain;
        let mut ledger = LedgerView::of(&self.held.head, retain_reduced);
        ledger.replayable_from = self.replayable_from();
        let integrity = self.held.integrity.clone();
        self.report.send_modify(|report| {
            report.integrity = integrity;
            report.ledger = Some(ledger);
            if let Some(view) = view {
                report.view = Some(view);
            }
        });
    }

    /// The first genesis or snapshot after the last gap.
    fn replayable_from(&self) -> Option<crate::ledger::sealed::ReplayStart> {
        let segments = &self.held.head.segments;
        let gap = segments.iter().rposition(|it| self.held.lost.contains(&self.held.store.name_of(it)));
        segments[gap.map_or(0, |at| at + 1)..].iter().find_map(|it| it.start)
    }

    /// Stores the job's entries. Returns the bytes written.
    async fn commit(&mut self, job: &Job) -> Result<u64, Ended> {
        let mut bytes = 0;
        for (part, after) in self.seal(&job.before, &job.after, &job.records) {
            let object = self.create(&part).await?;
            let mut head = self.held.head.clone();
            let listed = Listed::new(&part, head.epoch, object, 0);
            let range = listed.first..listed.end();
            let injections: Vec<_> =
                job.injections.iter().copied().filter(|(entry, _)| range.contains(entry)).collect();
            head.add(listed, &after, &injections);
            bytes += part.entries.len() as u64 + self.put(head).await?;
            let now = Instant::now();
            self.injections.extend(injections.into_iter().map(|(entry, _)| (entry, now)));
        }
        Ok(bytes)
    }

    /// The entries between two ends of the chain as one segment, or as several where one would be too large,
    /// each with the end of the chain after it.
    fn seal(&self, before: &Chain, after: &Chain, records: &[Record]) -> Vec<(SealedSegment, Chain)> {
        match SealedSegment::seal(Some(&self.held.origin), before, after, records) {
            Ok(sealed) => vec![(sealed, after.clone())],
            Err(SealError::Encode(error)) if records.len() > 1 => {
                tracing::debug!(organism = %self.key, %error, "sealed in halves");
                let (left, right) = records.split_at(records.len() / 2);
                let mut middle = before.clone();
                for record in left {
                    // They were recorded once already.
                    let _ = middle.record(record);
                }
                let mut parts = self.seal(before, &middle, left);
                parts.extend(self.seal(&middle, after, right));
                parts
            }
            Err(error) => {
                tracing::error!(organism = %self.key, %error, "entries cannot be sealed");
                vec![]
            }
        }
    }

    /// Creates a segment's object, however long it takes. Returns its UID.
    async fn create(&mut self, sealed: &SealedSegment) -> Result<String, Ended> {
        let mut wait = FIRST_WAIT;
        loop {
            let error = match self.held.store.create_segment(sealed, self.held.head.epoch).await {
                Ok(uid) => return Ok(uid),
                Err(error) => error,
            };
            if matches!(error.why, Why::Conflict) {
                let name =
                    self.held.store.segment_name(self.held.head.epoch, sealed.head.first, sealed.head.count);
                self.show_stranger(Some(name));
            }
            self.complain(&error, &mut wait).await?;
            if self.full {
                self.prune().await?;
            }
            // While a segment cannot be made, see whether that is because we are no longer the writer.
            if let Ok(Some(found)) = self.held.store.head().await {
                self.check_fence(found.head.as_ref())?;
            }
        }
    }

    /// Replaces the head, however long it takes. Returns the bytes written.
    async fn put(&mut self, next: Head) -> Result<u64, Ended> {
        let mut wait = FIRST_WAIT;
        loop {
            let error = match self.held.store.put_head(&next, &self.held.resource_version).await {
                Ok(resource_version) => {
                    self.held.resource_version = resource_version;
                    break;
                }
                Err(error) => error,
            };
            // Whether it happened is for the object itself to say.
            match self.held.store.head().await {
                // It stays untouched, and we wait for it to go.
                Ok(Some(Found { head: None, .. })) => {
                    self.show_stranger(Some(self.held.store.head_name()));
                    self.complain(&error, &mut wait).await?;
                }
                Ok(Some(found)) => {
                    self.held.resource_version = found.resource_version;
                    if found.head.as_ref() == Some(&next) {
                        break;
                    }
                    self.check_fence(found.head.as_ref())?;
                    if found.head.as_ref() == Some(&self.held.head) && matches!(error.why, Why::Conflict) {
                        // Somebody touched labels or annotations: what the head says is what we wrote.
                        continue;
                    }
                    self.complain(&error, &mut wait).await?;
                }
                Ok(None) => match self.held.store.create_head(&next).await {
                    Ok(resource_version) => {
                        tracing::warn!(organism = %self.key, "the ledger's head was deleted; made anew");
                        self.held.resource_version = resource_version;
                        break;
                    }
                    Err(error) => self.complain(&error, &mut wait).await?,
                },
                Err(_) => self.complain(&error, &mut wait).await?,
            }
        }
        self.show_stranger(None);
        self.not_full();
        self.held.head = next;
        Ok(serde_json::to_vec(&self.held.head).map_or(0, |text| text.len() as u64))
    }

    /// Shows that an object which is not ours has a name that is, or that none has any more.
    fn show_stranger(&self, name: Option<String>) {
        self.report.send_if_modified(|report| {
            let changed = report.stranger != name;
            report.stranger = name;
            changed
        });
    }

    /// Prunes what is beyond the bound and starts merging what is ripe.
    async fn tidy(&mut self) -> Result<(), Ended> {
        self.prune().await?;
        self.start_merge();
        Ok(())
    }

    /// Starts merging eight segments beside the commits, unless that is under way.
    fn start_merge(&mut self) {
        if self.merging.is_some() {
            return;
        }
        let retain = self.shared.budget.retain(self.retain);
        let there = |it: &Listed| {
            let name = self.held.store.name_of(it);
            !self.held.lost.contains(&name) && !self.unmergeable.contains(&name)
        };
        let Some(range) = self.held.head.mergeable(largest_merge(retain), there) else { return };
        let parts = self.held.head.segments[range].to_vec();
        let Held { store, origin, head, .. } = &self.held;
        self.merging =
            Some(Merge::start(self.shared.clone(), store.clone(), origin.clone(), head.epoch, parts));
    }

    /// Puts the merged segment into the head in place of its parts, then deletes these.
    async fn finish_merge(
        &mut self,
        parts: Vec<Listed>,
        merged: Result<Listed, MergeError>,
    ) -> Result<(), Ended> {
        let listed = match merged {
            Ok(listed) => listed,
            Err(error) => {
                // Merging can wait; the next commit tries again, unless it would end the same way.
                tracing::warn!(organism = %self.key, %error, "not merged");
                if matches!(error, MergeError::Merge(_)) {
                    self.unmergeable.extend(parts.iter().map(|it| self.held.store.name_of(it)));
                }
                return Ok(());
            }
        };
        let mut head = self.held.head.clone();
        let Some(at) = head.segments.windows(parts.len()).position(|window| window == parts) else {
            // Pruned meanwhile: the merged object is garbage for the next take-over.
            return Ok(());
        };
        let bytes = listed.bytes;
        head.segments.splice(at..at + parts.len(), [listed]);
        let bytes = bytes + self.put(head).await?;
        self.shared.budget.wrote(bytes);
        self.remove(&parts).await;
        self.show(None);
        Ok(())
    }

    async fn prune(&mut self) -> Result<(), Ended> {
        let retain = self.shared.budget.retain(self.retain);
        while self.injections.front().is_some_and(|(_, recorded)| recorded.elapsed() > REMEMBER) {
            self.injections.pop_front();
        }
        let keep = self.injections.front().map_or(u64::MAX, |&(entry, _)| entry);
        let count = self.held.head.prunable(retain, keep);
        if count == 0 {
            return Ok(());
        }
        let mut head = self.held.head.clone();
        let parts = head.prune(count);
        let bytes = self.put(head).await?;
        self.shared.budget.wrote(bytes);
        self.remove(&parts).await;
        for part in &parts {
            self.held.lost.remove(&self.held.store.name_of(part));
        }
        self.held.integrity = integrity(&self.held.head, &self.held.lost, &self.held.store);
        self.show(None);
        Ok(())
    }

    /// Deletes objects that the head no longer lists. One that stays is garbage for the next take-over.
    async fn remove(&self, parts: &[Listed]) {
        for part in parts {
            let name = self.held.store.name_of(part);
            if let Err(error) = self.held.store.delete(&name, &part.object).await {
                tracing::warn!(organism = %self.key, %error, "left behind");
            }
        }
    }

    /// What the watch saw: a head or a listed segment that is gone was removed by somebody else.
    async fn notice(&mut self, notice: Notice) -> Result<(), Ended> {
        let head_name = self.held.store.head_name();
        let headless = match &notice {
            Notice::Deleted { name, .. } => *name == head_name,
            Notice::Listed(there) => !there.iter().any(|(name, _)| *name == head_name),
        };
        if headless {
            // Now, not with the next commit: there may be none before this process ends.
            self.put(self.held.head.clone()).await?;
        }
        let listed = |it: &Listed| (self.held.store.name_of(it), it.object.clone());
        let gone: Vec<Listed> = match &notice {
            Notice::Deleted { name, uid } => self
                .held
                .head
                .segments
                .iter()
                .filter(|it| listed(it) == (name.clone(), uid.clone()))
                .cloned()
                .collect(),
            Notice::Listed(there) => {
                let missing = self.held.head.segments.iter().filter(|it| !there.contains(&listed(it)));
                let mut gone = vec![];
                for it in missing {
                    // The list may be older than the segment: ask.
                    if matches!(self.held.store.listed(it).await, Ok(None)) {
                        gone.push(it.clone());
                    }
                }
                gone
            }
        };
        let fresh: Vec<_> =
            gone.into_iter().filter(|it| self.held.lost.insert(self.held.store.name_of(it))).collect();
        if fresh.is_empty() {
            return Ok(());
        }
        // No replay can start in it, whatever it held.
        for segment in &mut self.held.head.segments {
            if self.held.lost.contains(&self.held.store.name_of(segment)) {
                segment.start = None;
            }
        }
        self.shared.metrics.lost(fresh.len());
        self.held.integrity = integrity(&self.held.head, &self.held.lost, &self.held.store);
        tracing::error!(organism = %self.key, segments = fresh.len(), integrity = ?self.held.integrity, "segments lost");
        self.show(None);
        self.shared.beater.snapshot(&self.key);
        Ok(())
    }
}

/// What is known of losses: from the first to the last entry of the segments that are gone, or what the head
/// says of the generation before.
#[must_use]
pub fn integrity(head: &Head, lost: &BTreeSet<String>, store: &ConfigMaps) -> Integrity {
    let mut gone = head.segments.iter().filter(|it| lost.contains(&store.name_of(it)));
    match (gone.next(), head.lost_tail) {
        (Some(first), _) => {
            let last = gone.next_back().unwrap_or(first);
            Integrity::SegmentLost(first.first, last.end().saturating_sub(1))
        }
        (None, Some((first, last))) => Integrity::TailLost(first, last),
        (None, None) => Integrity::Verified,
    }
}
