//! Entries that are recorded but not committed, and when they are due.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::injections::RecordedInjection;
use super::status::EngineStatus;
use crate::ledger::canonical::NotCanonical;
use crate::ledger::entry::Record;
use crate::ledger::{Chain, Hash};

/// From this number of records on a batch ends with the next beat, so that its segment stays well below a
/// ConfigMap's limit.
const BATCH_RECORDS: usize = 4_000;
/// Upper bound on the pending records of one organism, whatever its share of memory is. Beyond it beats are skipped
/// until a commit succeeds; no entry is ever dropped.
pub const MAX_PENDING: usize = 12_000;

/// What one commit stores.
#[derive(Debug)]
pub struct Batch {
    /// Records in order. Empty when only the status has changed.
    pub records: Vec<Record>,
    /// The chain before the first record.
    pub before: Chain,
    /// The chain after the last record.
    pub after: Chain,
    /// Entry index and time (seconds since 1970) of each injection among the records.
    pub injections: Vec<(u64, f64)>,
    /// The status after the last record.
    pub status: EngineStatus,
    /// Bytes of encoded segments to keep.
    pub retain: u64,
    /// Whether a decision or a condition changed or an input was recorded: such a batch goes ahead of others.
    pub urgent: bool,
}

/// The end of a batch that is not the newest: the status that is committed with it has to be that of its last record.
struct Cut {
    /// Number of records since the previous cut.
    records: usize,
    chain: Chain,
    status: EngineStatus,
}

struct InFlight {
    records: usize,
    injections: Vec<RecordedInjection>,
}

pub(super) struct Pending {
    /// The chain after the last record.
    recorded: Chain,
    /// The chain before the first record.
    batched: Chain,
    records: Vec<Record>,
    /// Where batches end among the records, oldest first.
    cuts: VecDeque<Cut>,
    /// Injections among the records, oldest first.
    injections: Vec<RecordedInjection>,
    /// The batch in flight; none when no batch is.
    in_flight: Option<InFlight>,
    last_batch: Instant,
    /// Two batches are at least this far apart.
    spacing: Duration,
    /// Whether a changed status is urgent.
    publishes: bool,
    urgent: bool,
    status_changed: bool,
}

impl Pending {
    pub(super) fn new(chain: Chain, spacing: Duration, publishes: bool, now: Instant) -> Self {
        Self {
            batched: chain.clone(),
            recorded: chain,
            records: vec![],
            cuts: VecDeque::new(),
            injections: vec![],
            in_flight: None,
            last_batch: now,
            spacing,
            publishes,
            urgent: true,
            status_changed: true,
        }
    }

    pub(super) fn append(&mut self, record: Record) -> Result<(), NotCanonical> {
        self.recorded.record(&record)?;
        self.records.push(record);
        Ok(())
    }

    /// Remembers that the record appended last is this injection: it is answered after its commit.
    pub(super) fn track_injection(&mut self, recorded: RecordedInjection) {
        self.injections.push(recorded);
    }

    /// Notes that the status has changed. Where it is published, the next batch is urgent.
    pub(super) fn mark_status_changed(&mut self) {
        self.status_changed = true;
        self.urgent |= self.publishes;
    }

    /// Makes the next batch urgent.
    pub(super) fn mark_urgent(&mut self) {
        self.urgent = true;
    }

    /// Index of the next entry.
    pub(super) fn size(&self) -> u64 {
        self.recorded.size()
    }

    pub(super) fn last_hash(&self) -> &Hash {
        self.recorded.last_hash()
    }

    /// Records that are not known to be committed: all of them are in memory.
    pub(super) fn held(&self) -> usize {
        self.records.len() + self.in_flight.as_ref().map_or(0, |it| it.records)
    }

    /// Whether the records since the last cut are enough for a batch.
    pub(super) fn wants_cut(&self) -> bool {
        self.after_last_cut() >= BATCH_RECORDS
    }

    fn after_last_cut(&self) -> usize {
        self.records.len() - self.cuts.iter().map(|it| it.records).sum::<usize>()
    }

    /// Ends a batch with the record appended last, after which the status is `status`.
    pub(super) fn cut(&mut self, status: EngineStatus) {
        let records = self.after_last_cut();
        self.cuts.push_back(Cut { records, chain: self.recorded.clone(), status });
    }

    /// Whether everything recorded is committed.
    pub(super) fn is_flushed(&self) -> bool {
        self.records.is_empty() && self.in_flight.is_none()
    }

    /// When the next batch is due; `interval` is how long records that are not urgent may wait.
    pub(super) fn due(&self, interval: Duration) -> Option<Instant> {
        if self.in_flight.is_some() || (self.records.is_empty() && !self.status_changed) {
            return None;
        }
        let soon = self.urgent || !self.cuts.is_empty();
        Some(self.last_batch + if soon { self.spacing } else { interval })
    }

    /// Takes the oldest batch. `status` is that after the last record.
    pub(super) fn take_batch(&mut self, now: Instant, retain: u64, status: EngineStatus) -> Batch {
        let Cut { records, chain: after, status } = self.cuts.pop_front().unwrap_or_else(|| Cut {
            records: self.records.len(),
            chain: self.recorded.clone(),
            status,
        });
        let records: Vec<Record> = self.records.drain(..records).collect();
        let injections = self.injections.partition_point(|it| it.entry < after.size());
        let injections: Vec<RecordedInjection> = self.injections.drain(..injections).collect();
        let batch = Batch {
            before: std::mem::replace(&mut self.batched, after.clone()),
            after,
            injections: injections.iter().map(|it| (it.entry, it.time)).collect(),
            status,
            retain,
            urgent: self.urgent,
            records,
        };
        self.in_flight = Some(InFlight { records: batch.records.len(), injections });
        self.last_batch = now;
        if self.records.is_empty() {
            (self.urgent, self.status_changed) = (false, false);
        }
        batch
    }

    /// Ends the batch in flight. Returns its injections.
    pub(super) fn acknowledge(&mut self) -> Vec<RecordedInjection> {
        self.in_flight.take().map(|it| it.injections).unwrap_or_default()
    }
}
