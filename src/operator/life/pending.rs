//! What an organism has recorded and not committed yet, and when that is to be committed.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::intake::Recorded;
use crate::ledger::canonical::NotCanonical;
use crate::ledger::entry::Record;
use crate::ledger::{Chain, Hash};
use crate::mesh::{Outcome, OutcomeSender};
use crate::operator::budget::Budget;
use crate::operator::view::View;

/// Two commits of an organism are at least this far apart.
const SPACING: Duration = Duration::from_millis(50);
/// At most so many records go into one segment.
const SEGMENT_RECORDS: usize = 4_000;
/// At most so many records wait; beyond, beats are skipped until a commit succeeds. Entries are never dropped.
const MOST_RECORDS: usize = 12_000;

/// What goes into one commit.
#[derive(Debug)]
pub struct Job {
    /// Entries in order; may be empty when only the view has changed.
    pub records: Vec<Record>,
    /// The chain before them.
    pub before: Chain,
    /// The chain after them.
    pub after: Chain,
    /// Index and moment of each injection among them.
    pub injections: Vec<(u64, f64)>,
    /// What may be published once they are committed; none where more is pending.
    pub view: Option<View>,
    /// Bytes to keep.
    pub retain: u64,
    /// A decision or a condition changed or an input came in.
    pub urgent: bool,
}

pub(super) struct Pending {
    jobs: mpsc::Sender<Job>,
    /// The chain after the last record.
    chain: Chain,
    /// The chain before the first one.
    committed: Chain,
    records: Vec<Record>,
    /// Injections among them, oldest first.
    injections: Vec<Recorded>,
    /// The injections of the job under way.
    under_way: Option<Vec<Recorded>>,
    last_commit: Instant,
    urgent: bool,
    changed: bool,
}

impl Pending {
    pub(super) fn new(jobs: mpsc::Sender<Job>, chain: Chain, now: Instant) -> Self {
        Self {
            jobs,
            committed: chain.clone(),
            chain,
            records: vec![],
            injections: vec![],
            under_way: None,
            last_commit: now,
            urgent: true,
            changed: true,
        }
    }

    pub(super) fn append(&mut self, record: Record) -> Result<(), NotCanonical> {
        self.chain.record(&record)?;
        self.records.push(record);
        Ok(())
    }

    /// The injection that was appended last is to be answered once it is committed.
    pub(super) fn injected(&mut self, recorded: Recorded) {
        self.injections.push(recorded);
    }

    /// Something to publish has changed, and is not to wait.
    pub(super) fn changed(&mut self) {
        (self.changed, self.urgent) = (true, true);
    }

    /// What was recorded is not to wait.
    pub(super) fn urge(&mut self) {
        self.urgent = true;
    }

    /// Index of the next entry.
    pub(super) fn size(&self) -> u64 {
        self.chain.size()
    }

    pub(super) fn last_hash(&self) -> &Hash {
        self.chain.last_hash()
    }

    /// Whether nothing more may be recorded until a commit succeeds.
    pub(super) fn is_full(&self) -> bool {
        self.records.len() >= MOST_RECORDS
    }

    /// Whether all is committed.
    pub(super) fn is_flushed(&self) -> bool {
        self.records.is_empty() && self.under_way.is_none()
    }

    /// When there is something to hand over; `interval` is how long calm beats may wait.
    pub(super) fn due(&self, interval: Duration, budget: &Budget) -> Option<Instant> {
        if self.under_way.is_some() || (self.records.is_empty() && !self.changed) {
            return None;
        }
        let hurry = self.urgent || self.records.len() >= SEGMENT_RECORDS;
        Some(self.last_commit + if hurry { SPACING } else { budget.commit_interval(interval) })
    }

    /// Hands over what is pending, or as much of it as one segment takes.
    pub(super) fn commit(&mut self, now: Instant, retain: u64, view: View) {
        let whole = self.records.len() <= SEGMENT_RECORDS;
        let records: Vec<Record> = self.records.drain(..self.records.len().min(SEGMENT_RECORDS)).collect();
        let after = if whole { self.chain.clone() } else { chain_after(&self.committed, &records) };
        let rest = self.injections.partition_point(|it| it.entry < after.size());
        let injections: Vec<Recorded> = self.injections.drain(..rest).collect();
        let job = Job {
            before: std::mem::replace(&mut self.committed, after.clone()),
            after,
            injections: injections.iter().map(|it| (it.entry, it.time)).collect(),
            view: whole.then_some(view),
            retain,
            urgent: self.urgent,
            records,
        };
        if self.jobs.try_send(job).is_ok() {
            self.under_way = Some(injections);
            self.last_commit = now;
            if whole {
                (self.urgent, self.changed) = (false, false);
            }
        }
        // A closed channel is a writer that has ended: the process is on its way out.
    }

    /// The job under way is committed: who injected is told.
    pub(super) fn committed(&mut self, answers: Option<&OutcomeSender>) {
        for Recorded { event, entry, .. } in self.under_way.take().into_iter().flatten() {
            if let Some(answers) = answers {
                answers.send(event, Outcome::Committed { entry });
            }
        }
    }
}

fn chain_after(chain: &Chain, records: &[Record]) -> Chain {
    let mut chain = chain.clone();
    for record in records {
        // They were recorded once already.
        let _ = chain.record(record);
    }
    chain
}
