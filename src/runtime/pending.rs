//! Entries that are recorded but not committed, and when they are due.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::injections::RecordedInjection;
use super::status::EngineStatus;
use crate::ledger::canonical::NotCanonical;
use crate::ledger::entry::Record;
use crate::ledger::{Chain, Hash};
use crate::store::head::LastEnforcement;

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
    /// The same of each observation of a sensor.
    pub senses: Vec<(u64, f64)>,
    /// The enforcement entries among the records, by index.
    pub enforcements: Vec<(u64, LastEnforcement)>,
    /// The status after the last record.
    pub status: EngineStatus,
    /// Bytes of encoded segments to keep.
    pub retain: u64,
    /// Whether it goes ahead of others: a decision or a condition changed, or an input was recorded.
    pub urgent: bool,
    /// Whether the engine has ended and nothing follows.
    pub last: bool,
}

/// How long entries may wait for their commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitIntervals {
    /// Those of calm beats.
    pub calm: Duration,
    /// Inputs, such as injections. Zero unless the organism commits more than it may.
    pub input: Duration,
}

impl CommitIntervals {
    /// Inputs are committed at once, calm beats after `calm`.
    #[must_use]
    pub fn unlimited(calm: Duration) -> Self {
        Self { calm, input: Duration::ZERO }
    }
}

/// What is to be committed, and so how soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Urgency {
    Calm,
    /// An input: its sender waits for the commit.
    Input,
    /// A changed decision or condition, or the end.
    Decision,
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
    /// Index and time of observations among the records, oldest first.
    senses: Vec<(u64, f64)>,
    /// Enforcement entries among the records, oldest first.
    enforcements: Vec<(u64, LastEnforcement)>,
    /// The batch in flight; none when no batch is.
    in_flight: Option<InFlight>,
    last_batch: Instant,
    /// Two batches are at least this far apart.
    spacing: Duration,
    /// Whether a changed status is urgent.
    publishes: bool,
    urgency: Urgency,
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
            senses: vec![],
            enforcements: vec![],
            in_flight: None,
            last_batch: now,
            spacing,
            publishes,
            urgency: Urgency::Decision,
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

    /// Remembers that the record appended last is an observation of this time.
    pub(super) fn track_sense(&mut self, time: f64) {
        self.senses.push((self.size() - 1, time));
    }

    /// Remembers that the record appended last is this enforcement.
    pub(super) fn track_enforcement(&mut self, enforcement: LastEnforcement) {
        self.enforcements.push((self.size() - 1, enforcement));
    }

    /// Notes that the status has changed. Where it is published, the next batch is urgent.
    pub(super) fn mark_status_changed(&mut self) {
        self.status_changed = true;
        if self.publishes {
            self.mark_urgent();
        }
    }

    /// Notes that a changed spec changes the status. Where it is published, the next batch is as urgent as one with an
    /// input: whoever may write the spec can do so many times a second.
    pub(super) fn mark_spec_changed(&mut self) {
        self.status_changed = true;
        if self.publishes {
            self.mark_input();
        }
    }

    /// Notes that an input is among the records, or will be with the next beat.
    pub(super) fn mark_input(&mut self) {
        self.urgency = self.urgency.max(Urgency::Input);
    }

    /// Whether inputs wait for their commit.
    pub(super) fn has_input(&self) -> bool {
        self.urgency == Urgency::Input
    }

    /// Makes the next batch urgent.
    pub(super) fn mark_urgent(&mut self) {
        self.urgency = Urgency::Decision;
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

    /// When the next batch is due.
    pub(super) fn due(&self, intervals: CommitIntervals) -> Option<Instant> {
        if self.in_flight.is_some() || (self.records.is_empty() && !self.status_changed) {
            return None;
        }
        let wait = match self.urgency {
            _ if !self.cuts.is_empty() => self.spacing,
            Urgency::Calm => intervals.calm.max(self.spacing),
            Urgency::Input => intervals.input.max(self.spacing),
            Urgency::Decision => self.spacing,
        };
        Some(self.last_batch + wait)
    }

    /// Takes the oldest batch. `status` is that after the last record.
    pub(super) fn take_batch(
        &mut self,
        now: Instant,
        intervals: CommitIntervals,
        retain: u64,
        status: EngineStatus,
    ) -> Batch {
        let Cut { records, chain: after, status } = self.cuts.pop_front().unwrap_or_else(|| Cut {
            records: self.records.len(),
            chain: self.recorded.clone(),
            status,
        });
        let records: Vec<Record> = self.records.drain(..records).collect();
        let injections = self.injections.partition_point(|it| it.entry < after.size());
        let injections: Vec<RecordedInjection> = self.injections.drain(..injections).collect();
        let senses = self.senses.partition_point(|(index, _)| *index < after.size());
        let enforcements = self.enforcements.partition_point(|(index, _)| *index < after.size());
        let batch = Batch {
            senses: self.senses.drain(..senses).collect(),
            enforcements: self.enforcements.drain(..enforcements).collect(),
            before: std::mem::replace(&mut self.batched, after.clone()),
            after,
            injections: injections.iter().map(|it| (it.entry, it.time)).collect(),
            status,
            retain,
            urgent: match self.urgency {
                Urgency::Calm => false,
                // One that commits more than it may does not go ahead of others.
                Urgency::Input => intervals.input <= self.spacing,
                Urgency::Decision => true,
            },
            last: false,
            records,
        };
        self.in_flight = Some(InFlight { records: batch.records.len(), injections });
        self.last_batch = now;
        if self.records.is_empty() {
            (self.urgency, self.status_changed) = (Urgency::Calm, false);
        }
        batch
    }

    /// Ends the batch in flight. Returns its injections.
    pub(super) fn acknowledge(&mut self) -> Vec<RecordedInjection> {
        self.in_flight.take().map(|it| it.injections).unwrap_or_default()
    }
}
