//! The publisher: one task an organism, the only writer of its status and of its Genome's evolved values.
//!
//! | module | contents |
//! |---|---|
//! | [`report`] | what is known of an organism |
//! | [`autoscaling`] | who sets the number of nodes (pure) |
//! | [`body`], [`mesh`] | whether the nodes are ready, and whether they can be reached (pure) |
//! | [`response`], [`sensing`] | what is done about decisions, whether all is sensed (pure) |
//! | [`blind`] | what is not known because a watch fails (pure) |
//! | [`status`] | the statuses made from a report (pure) |
//! | [`conditions`] | a list of conditions (pure) |
//! | [`events`] | which Event a change is worth (pure) |
//! | [`genomes`] | the Genomes that are watched |
//! | [`writer`] | a status write with resourceVersion |
//!
//! A status never runs ahead of the head: the committer reports after its commit. A changed decision or
//! condition is written at once, other changes at the status interval. That an organism is about to beat is written
//! only where that takes long.

pub mod adoption;
pub mod autoscaling;
pub mod blind;
pub mod body;
pub mod conditions;
pub mod events;
pub mod genomes;
pub mod mesh;
pub mod report;
pub mod response;
pub mod sensing;
pub mod status;
pub mod writer;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use kube::api::Api;
use kube::runtime::events::{Event, Recorder};
use kube::{Client, Resource};
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::Instant;

use self::blind::FailingWatches;
use self::genomes::Genomes;
use self::report::{PublishedEnd, Report};
use self::writer::{StatusWriter, WriteOutcome, genome_patch, organism_patch};
use super::budget::Account;
use super::key::Key;
use super::members::permit::Tenure;
use super::metrics::Metrics;
use crate::api;
use crate::store::CALL_TIMEOUT;

/// Wait before a failed write is retried.
const RETRY: Duration = Duration::from_secs(1);
/// Two writes of changed decisions or conditions are at least this far apart.
const URGENT_SPACING: Duration = Duration::from_millis(200);
/// Two Events of one organism are at least this far apart.
const EVENT_SPACING: Duration = Duration::from_secs(1);
/// Upper bound on queued Events of one organism; beyond it the newest are dropped.
const MAX_QUEUED_EVENTS: usize = 8;
/// How long an organism may be about to beat before its status says so: most of them beat sooner, and a status costs the
/// API server more than anything else that a start writes.
const ABOUT_TO_BEAT: Duration = Duration::from_secs(3);
/// For how long after its end has begun a last status is written in which only numbers are newer. A stop must not take as
/// long as the statuses of thousands of organisms; the ledger has the numbers.
const LAST_NUMBERS: Duration = Duration::from_millis(500);

/// What all publishers share.
pub struct Resources {
    /// Client for statuses.
    pub client: Client,
    /// Recorder for Events.
    pub recorder: Recorder,
    /// Counts writes and failures.
    pub metrics: Arc<Metrics>,
    /// Bounds status writes in flight.
    pub writes: Semaphore,
    /// The Genomes that are watched.
    pub genomes: Genomes,
    /// Watches that fail.
    pub failing: watch::Receiver<FailingWatches>,
}

/// Why a publisher ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The report's senders are gone, and the last report is written.
    Finished,
    /// The Organism is gone, or another one has its name.
    OrganismGone,
}

/// The publisher of one organism.
pub struct Publisher {
    key: Key,
    reference: ObjectReference,
    organism: StatusWriter<api::Organism>,
    organism_status: api::OrganismStatus,
    published: PublishedEnd,
    genome: Option<(StatusWriter<api::Genome>, api::GenomeStatus)>,
    account: Arc<Account>,
    tenure: Arc<Tenure>,
    resources: Arc<Resources>,
    started: Instant,
    /// When a status was written last, or is to be taken as written.
    last: Option<Instant>,
    last_event: Option<Instant>,
    events: VecDeque<Event>,
}

impl Publisher {
    /// The publisher of `organism`; `account` sets the status interval, and nothing is written outside of `tenure`.
    #[must_use]
    pub fn new(
        key: Key,
        organism: &api::Organism,
        account: Arc<Account>,
        tenure: Arc<Tenure>,
        resources: Arc<Resources>,
        published: PublishedEnd,
    ) -> Self {
        let api = Api::namespaced(resources.client.clone(), &key.namespace);
        Self {
            reference: organism.object_ref(&()),
            organism: StatusWriter::new(api, &key.name, &organism.metadata),
            organism_status: organism.status.clone().unwrap_or_default(),
            published,
            genome: None,
            key,
            account,
            tenure,
            resources,
            started: Instant::now(),
            last: None,
            last_event: None,
            events: VecDeque::new(),
        }
    }

    /// Writes every change of the report until its senders are gone, then what is not written yet.
    pub async fn run(&mut self, mut reports: watch::Receiver<Report>) -> Exit {
        let mut failing = self.resources.failing.clone();
        loop {
            let due = self.due(&reports.borrow_and_update());
            if due.is_some_and(|due| due <= Instant::now()) {
                // That nothing beats is said for as long as nobody else has published anything newer.
                let lapsed = failing.borrow_and_update().lease.is_some();
                if !lapsed && !self.tenure.is_valid() {
                    tokio::select! {
                        () = self.tenure.until_valid() => {}
                        Ok(()) = failing.changed() => {}
                        changed = reports.changed() => if changed.is_err() {
                            // It may be another replica's by now.
                            return Exit::Finished;
                        },
                    }
                    continue;
                }
                // Boxed: the task waits most of the time, and need not have room for what a write needs.
                let written = Box::pin(self.write(&mut reports)).await;
                self.last = Some(Instant::now());
                match written {
                    WriteOutcome::Done => {}
                    WriteOutcome::Gone => return Exit::OrganismGone,
                    // Not a sleep: the end of the reports must not wait for it.
                    WriteOutcome::Failed => self.last = Some(Instant::now() + RETRY),
                }
                continue;
            }
            tokio::select! {
                () = until(due) => {}
                () = until(self.event_due()) => Box::pin(self.publish_event()).await,
                // An error means that the operator is stopping.
                Ok(()) = failing.changed() => {}
                changed = reports.changed() => if changed.is_err() {
                    let report = reports.borrow().clone();
                    Box::pin(self.finish(report)).await;
                    return Exit::Finished;
                },
            }
        }
    }

    fn next_status(&self, report: &Report) -> api::OrganismStatus {
        let failing = self.resources.failing.borrow();
        status::organism_status(report, &self.key, &failing, &self.organism_status, Timestamp::now())
    }

    /// When the status that `report` asks for is to be written; none where it is written already.
    fn due(&self, report: &Report) -> Option<Instant> {
        let spaced = self.last.map_or(self.started, |last| last + URGENT_SPACING);
        match Change::between(&self.organism_status, &self.next_status(report)) {
            Change::None => None,
            // The last ones are written once nothing changes any more, if they are written soon.
            Change::Numbers if report.ends.is_some() => None,
            // Those that an earlier holder has published are as good for as long as these would be.
            Change::Numbers => Some(self.last.unwrap_or(self.started) + self.account.status_interval()),
            Change::Urgent
                if report.is_about_to_beat() && self.resources.failing.borrow().lease.is_none() =>
            {
                Some(spaced.max(self.started + ABOUT_TO_BEAT))
            }
            Change::Urgent => Some(spaced),
        }
    }

    /// Writes the last status and the queued Events, without spacing.
    async fn finish(&mut self, report: Report) {
        match Change::between(&self.organism_status, &self.next_status(&report)) {
            Change::None => {}
            Change::Numbers => {
                let resources = self.resources.clone();
                let until = report.ends.unwrap_or_else(Instant::now) + LAST_NUMBERS;
                // A timeout that has passed still lets a turn through that is free.
                let late = until <= Instant::now();
                if !late && let Ok(turn) = tokio::time::timeout_at(until, resources.writes.acquire()).await {
                    self.write_with(turn.ok(), &report).await;
                }
            }
            Change::Urgent => {
                let resources = self.resources.clone();
                let turn = resources.writes.acquire().await.ok();
                self.write_with(turn, &report).await;
            }
        }
        while !self.events.is_empty() {
            self.publish_event().await;
        }
    }

    /// Writes what is due once it is this organism's turn. That may be less than before: an organism that was about to beat
    /// when it got in line may beat by then, as its status says already.
    async fn write(&mut self, reports: &mut watch::Receiver<Report>) -> WriteOutcome {
        let resources = self.resources.clone();
        // Infallible: the semaphore is never closed.
        let turn = resources.writes.acquire().await.ok();
        let report = reports.borrow_and_update().clone();
        match self.due(&report) {
            Some(due) if due <= Instant::now() => self.write_with(turn, &report).await,
            _ => WriteOutcome::Done,
        }
    }

    /// Writes the status, and the Genome's if that has changed, in this turn.
    async fn write_with(&mut self, _turn: Option<SemaphorePermit<'_>>, report: &Report) -> WriteOutcome {
        let resources = self.resources.clone();
        let next = self.next_status(report);
        // Whoever was stopped for a while does not know yet that another operator has taken over.
        let end = |status: &api::OrganismStatus| status.ledger.as_ref().map(|it| (it.generation, it.size));
        let newer = |found: &api::Organism| {
            let found = found.status.as_ref().and_then(end);
            end(&next).is_some_and(|next| found > Some(next))
        };
        let written = self.organism.write(&organism_patch(&next), &resources.metrics, newer).await;
        if written == WriteOutcome::Done {
            let events = events::events(&self.organism_status, &next, report.scaling.as_ref());
            self.events.extend(events);
            self.events.truncate(MAX_QUEUED_EVENTS);
            self.published.set(&next);
            self.organism_status = next;
        }
        self.write_genome(report).await;
        written
    }

    /// Writes the Genome's status if a value that it shows has changed.
    async fn write_genome(&mut self, report: &Report) {
        let Some(name) = &report.genome else {
            self.genome = None;
            return;
        };
        if self.genome.as_ref().is_none_or(|(writer, _)| writer.name() != name) {
            let api: Api<api::Genome> = Api::namespaced(self.resources.client.clone(), &self.key.namespace);
            let genome = match self.resources.genomes.bound_to(&self.key, name, self.organism.uid()) {
                Some(genome) => genome,
                None => match tokio::time::timeout(CALL_TIMEOUT, api.get(name)).await {
                    Ok(Ok(genome)) => genome,
                    _ => return,
                },
            };
            let writer = StatusWriter::new(api, name, &genome.metadata);
            self.genome = Some((writer, genome.status.unwrap_or_default()));
        }
        let Some((writer, before)) = &mut self.genome else { return };
        let Some(next) = status::genome_status(report, before, Timestamp::now()) else { return };
        if next == *before {
            return;
        }
        match writer.write(&genome_patch(&next), &self.resources.metrics, |_| false).await {
            WriteOutcome::Done => *before = next,
            // Read again next time: there may be another Genome of that name.
            WriteOutcome::Gone => self.genome = None,
            WriteOutcome::Failed => {}
        }
    }

    fn event_due(&self) -> Option<Instant> {
        self.events.front()?;
        Some(self.last_event.map_or_else(Instant::now, |last| last + EVENT_SPACING))
    }

    async fn publish_event(&mut self) {
        let Some(event) = self.events.pop_front() else { return };
        self.last_event = Some(Instant::now());
        let publish = self.resources.recorder.publish(&event, &self.reference);
        if !matches!(tokio::time::timeout(CALL_TIMEOUT, publish).await, Ok(Ok(()))) {
            self.resources.metrics.api_error("event");
        }
    }
}

/// Returns at `due`; never where there is none.
pub(super) async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// How two statuses differ.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    None,
    /// In numbers that change with every beat.
    Numbers,
    /// In a decision, a condition, the observed generation or the nodes.
    Urgent,
}

impl Change {
    fn between(before: &api::OrganismStatus, next: &api::OrganismStatus) -> Self {
        let urgent = |status: &api::OrganismStatus| {
            // How much of a ledger may be kept is a share: it changes with each organism that comes or goes, and at a
            // start and a stop all of them do.
            let is_share = |it: &Condition| it.type_ == "LedgerIntact" && it.status == "True";
            let conditions: Vec<_> = status
                .conditions
                .iter()
                .map(|it| {
                    let why = (!is_share(it)).then(|| (it.reason.clone(), it.message.clone()));
                    (it.type_.clone(), it.status.clone(), why)
                })
                .collect();
            let (nodes, response) = (status.nodes.clone(), status.response.clone());
            let decided = status.decision.as_ref().map(|it| it.entry);
            let holder = status.ledger.as_ref().map(|it| it.holder.clone());
            (conditions, decided, status.observed_generation, nodes, response, holder)
        };
        if urgent(before) != urgent(next) {
            Self::Urgent
        } else if before == next {
            Self::None
        } else {
            Self::Numbers
        }
    }
}

#[cfg(test)]
mod tests;
