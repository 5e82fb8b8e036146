//! The publisher: one task an organism, the only writer of its status and of its Genome's evolved values.
//!
//! It never runs ahead of the head: what it shows comes from the committer, after the commit. A decision or
//! a condition that changed is written at once, the rest at the status interval.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;

use super::Key;
use super::body::autoscaling::Scaling;
use super::budget::Budget;
use super::metrics::Metrics;
use super::report::Report;
use crate::api;
use crate::store::CALL_TIMEOUT;

/// Wait before a failed write is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// Two writes that a change asks for are at least this far apart.
const SPACING: Duration = Duration::from_millis(200);
/// Two Events of one organism are at least this far apart.
const EVENT_SPACING: Duration = Duration::from_secs(1);
/// So many Events of one organism may wait.
const EVENTS: usize = 8;

/// What all publishers share.
pub struct Shared {
    /// For the API server.
    pub client: Client,
    /// For Events.
    pub recorder: Recorder,
    /// Says how often.
    pub budget: Arc<Budget>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Status writes take turns.
    pub turn: Semaphore,
    /// Told of an Organism that is gone although our finalizer was on it.
    pub gone: mpsc::UnboundedSender<(Key, String)>,
}

/// The publisher of one organism.
pub struct Publisher {
    key: Key,
    reference: ObjectReference,
    organism: Shown<api::Organism>,
    organism_status: api::OrganismStatus,
    genome: Option<(Shown<api::Genome>, api::GenomeStatus)>,
    genome_name: watch::Receiver<Option<String>>,
    shared: Arc<Shared>,
    last_event: Option<Instant>,
    events: VecDeque<Event>,
}

/// An object whose status is written.
struct Shown<K> {
    api: Api<K>,
    name: String,
    uid: String,
    resource_version: Option<String>,
    /// Whether the last write failed.
    failing: bool,
}

/// How a write went.
enum Written {
    Done,
    /// The object is gone, or is another one of that name.
    Gone,
    Failed,
}

impl Publisher {
    /// The publisher of `organism`, which lives by the Genome that `genome_name` says.
    #[must_use]
    pub fn new(
        key: Key,
        organism: &api::Organism,
        genome_name: watch::Receiver<Option<String>>,
        shared: Arc<Shared>,
    ) -> Self {
        let api = Api::namespaced(shared.client.clone(), &key.namespace);
        Self {
            reference: organism.object_ref(&()),
            organism: Shown {
                api,
                name: key.name.to_string(),
                uid: organism.metadata.uid.clone().unwrap_or_default(),
                resource_version: organism.metadata.resource_version.clone(),
                failing: false,
            },
            organism_status: organism.status.clone().unwrap_or_default(),
            genome: None,
            genome_name,
            key,
            shared,
            last_event: None,
            events: VecDeque::new(),
        }
    }

    /// Writes until the report's sender is gone; what is not shown by then is written once more.
    pub async fn run(mut self, mut reports: watch::Receiver<Report>) {
        let mut last: Option<Instant> = None;
        loop {
            let report = reports.borrow_and_update().clone();
            let next = report.organism_status(&self.key.name, &self.organism_status, Timestamp::now());
            let wait = match Change::between(&self.organism_status, &next) {
                Change::None => None,
                Change::Numbers => Some(self.shared.budget.status_interval()),
                Change::Standing => Some(SPACING),
            };
            let due = wait.map(|wait| last.map_or_else(Instant::now, |last| last + wait));
            if due.is_some_and(|due| due <= Instant::now()) {
                let written = self.write(&report, next).await;
                last = Some(Instant::now());
                match written {
                    Written::Done => {}
                    Written::Gone => {
                        // The receiver lives as long as the operator.
                        let _ = self.shared.gone.send((self.key.clone(), self.organism.uid.clone()));
                        return;
                    }
                    // Not slept away: the end of the reports is not to wait for it.
                    Written::Failed => last = Some(Instant::now() + RETRY),
                }
                continue;
            }
            tokio::select! {
                () = until(due) => {}
                () = until(self.event_due()) => self.announce().await,
                changed = reports.changed() => if changed.is_err() {
                    let report = reports.borrow().clone();
                    return self.end(&report).await;
                },
            }
        }
    }

    /// The last status and the Events that still wait: there will be no other moment for them.
    async fn end(mut self, report: &Report) {
        let next = report.organism_status(&self.key.name, &self.organism_status, Timestamp::now());
        if Change::between(&self.organism_status, &next) != Change::None {
            self.write(report, next).await;
        }
        while !self.events.is_empty() {
            self.announce().await;
        }
    }

    async fn write(&mut self, report: &Report, next: api::OrganismStatus) -> Written {
        let shared = self.shared.clone();
        // Never closed.
        let _turn = shared.turn.acquire().await.ok();
        let written = self.organism.write(&organism_patch(&next), &self.shared).await;
        if matches!(written, Written::Done) {
            // Of more than wait already the newest go: they come from an organism that flutters.
            let event = event(&self.organism_status, &next, report.scaling.as_ref());
            self.events.extend(event.filter(|_| self.events.len() < EVENTS));
            self.organism_status = next;
        }
        self.write_genome(report).await;
        written
    }

    /// The Genome's status is written only when a value that it shows has changed.
    async fn write_genome(&mut self, report: &Report) {
        let name = self.genome_name.borrow_and_update().clone();
        let Some(name) = name else {
            self.genome = None;
            return;
        };
        if self.genome.as_ref().is_none_or(|(shown, _)| shown.name != name) {
            let api: Api<api::Genome> = Api::namespaced(self.shared.client.clone(), &self.key.namespace);
            let Ok(Ok(genome)) = tokio::time::timeout(CALL_TIMEOUT, api.get(&name)).await else { return };
            let shown = Shown {
                api,
                name,
                uid: genome.metadata.uid.unwrap_or_default(),
                resource_version: genome.metadata.resource_version,
                failing: false,
            };
            self.genome = Some((shown, genome.status.unwrap_or_default()));
        }
        let Some((shown, before)) = &mut self.genome else { return };
        let Some(next) = report.genome_status(before, Timestamp::now()) else { return };
        if next == *before {
            return;
        }
        match shown.write(&genome_patch(&next), &self.shared).await {
            Written::Done => *before = next,
            // Read afresh the next time: it may be another Genome of that name.
            Written::Gone => self.genome = None,
            Written::Failed => {}
        }
    }

    fn event_due(&self) -> Option<Instant> {
        self.events.front()?;
        Some(self.last_event.map_or_else(Instant::now, |last| last + EVENT_SPACING))
    }

    /// Sends the oldest Event that waits.
    async fn announce(&mut self) {
        let Some(event) = self.events.pop_front() else { return };
        self.last_event = Some(Instant::now());
        let publish = self.shared.recorder.publish(&event, &self.reference);
        if !matches!(tokio::time::timeout(CALL_TIMEOUT, publish).await, Ok(Ok(()))) {
            self.shared.metrics.api_error("event");
        }
    }
}

/// Comes at `due`; never where there is nothing to come.
async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

impl<K> Shown<K>
where
    K: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
{
    /// Patches the status with the resourceVersion last seen; after a conflict with the one that is there.
    async fn write(&mut self, status: &Value, shared: &Shared) -> Written {
        for _ in 0..3 {
            let patch = json!({
                "metadata": {"uid": self.uid, "resourceVersion": self.resource_version},
                "status": status,
            });
            let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
            let call = self.api.patch_status(&self.name, &params, &patch);
            match tokio::time::timeout(CALL_TIMEOUT, call).await {
                Ok(Ok(object)) => {
                    self.resource_version = object.meta().resource_version.clone();
                    self.failing = false;
                    shared.metrics.status_written();
                    return Written::Done;
                }
                Ok(Err(kube::Error::Api(error))) if error.is_not_found() => return Written::Gone,
                Ok(Err(kube::Error::Api(error))) if error.is_conflict() => {
                    match tokio::time::timeout(CALL_TIMEOUT, self.api.get_metadata_opt(&self.name)).await {
                        Ok(Ok(Some(there))) if there.metadata.uid.as_deref() == Some(&self.uid) => {
                            self.resource_version = there.metadata.resource_version;
                        }
                        Ok(Ok(_)) => return Written::Gone,
                        _ => break,
                    }
                }
                Ok(Err(error)) => {
                    // Once: the next tries follow every few seconds, and mostly fail for the same reason.
                    if !self.failing {
                        tracing::warn!(object = self.name, %error, "status not written; tried again");
                    }
                    break;
                }
                Err(_) => break,
            }
        }
        self.failing = true;
        shared.metrics.api_error("status");
        Written::Failed
    }
}

/// What kind of difference there is between two statuses.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    None,
    Numbers,
    Standing,
}

impl Change {
    fn between(before: &api::OrganismStatus, next: &api::OrganismStatus) -> Self {
        let standing = |status: &api::OrganismStatus| {
            let conditions: Vec<_> = status
                .conditions
                .iter()
                .map(|it| (it.type_.clone(), it.status.clone(), it.reason.clone(), it.message.clone()))
                .collect();
            let nodes = status.nodes.clone();
            (conditions, status.decision.as_ref().map(|it| it.entry), status.observed_generation, nodes)
        };
        if standing(before) != standing(next) {
            Self::Standing
        } else if before == next {
            Self::None
        } else {
            Self::Numbers
        }
    }
}

/// A merge patch of a whole status: what is absent is taken away.
fn patch_of<T: Serialize>(status: &T, fields: &[&str]) -> Value {
    let mut patch = json!(status);
    if let Value::Object(patch) = &mut patch {
        for field in fields {
            patch.entry(*field).or_insert(Value::Null);
        }
    }
    patch
}

fn organism_patch(status: &api::OrganismStatus) -> Value {
    patch_of(status, &["decision", "tLambda"])
}

fn genome_patch(status: &api::GenomeStatus) -> Value {
    // The claim belongs to the reconciler.
    let mut patch = patch_of(status, &[]);
    if let Value::Object(patch) = &mut patch {
        patch.remove("boundTo");
    }
    patch
}

/// The Event that a change of status is worth.
fn event(
    before: &api::OrganismStatus,
    next: &api::OrganismStatus,
    scaling: Option<&Scaling>,
) -> Option<Event> {
    let made = |type_, reason: &str, note: String| {
        Some(Event { type_, reason: reason.into(), note: Some(note), action: "Beat".into(), secondary: None })
    };
    let standing = |status: &api::OrganismStatus, kind: &str| {
        status.conditions.iter().find(|it| it.type_ == kind).map(|it| (it.status.clone(), it.reason.clone()))
    };
    for kind in ["LedgerIntact", "CoresHealthy", "Ready"] {
        let now = standing(next, kind);
        // Taking over is how every organism starts: no news.
        let waits = now.as_ref().is_some_and(|(_, reason)| reason == "WaitingForFirstCommit");
        let bad = now.as_ref().is_some_and(|(status, _)| status == "False");
        if now != standing(before, kind) && !waits && (bad || standing(before, kind).is_some()) {
            let condition = next.conditions.iter().find(|it| it.type_ == kind)?;
            let type_ = if bad { EventType::Warning } else { EventType::Normal };
            return made(
                type_,
                &condition.reason,
                format!("{kind}={}: {}", condition.status, condition.message),
            );
        }
    }
    // What the autoscaler wants now, or that it no longer can say; when it starts it never can.
    let of = |status: &api::OrganismStatus| {
        let found = status.conditions.iter().find(|it| it.type_ == "AutoscalingActive");
        found.map(|it| (it.status == "True", it.message.clone()))
    };
    if let (Some((true, was)), Some((active, message))) = (of(before), of(next))
        && was != message
    {
        let type_ = if active { EventType::Normal } else { EventType::Warning };
        // Events of one action are counted, and the first one's words stay.
        let action = scaling.map_or_else(|| "Scale".into(), |it| format!("ScaleTo{}", it.desired));
        return made(type_, "Autoscaling", message).map(|event| Event { action, ..event });
    }
    let (was, is) = (before.decision.as_ref().map(|it| it.action), next.decision.as_ref()?);
    if was == Some(is.action) {
        return None;
    }
    let (type_, reason) = match is.action {
        api::Action::Quarantine => (EventType::Warning, "Quarantine"),
        api::Action::Alert => (EventType::Warning, "Alert"),
        api::Action::ApplyBalance => (EventType::Normal, "ApplyBalance"),
        api::Action::ApplyOptimize => (EventType::Normal, "ApplyOptimize"),
        api::Action::Noop => (EventType::Normal, "Noop"),
    };
    made(
        type_,
        reason,
        format!("{} decided at threat {}; ledger entry {}", is.action.as_str(), is.threat, is.entry),
    )
}
