//! The actor of an organism: one task a UID, which owns and supervises everything that runs for it.
//!
//! | module | contents |
//! |---|---|
//! | [`mailbox`] | what an actor is sent |
//! | `plan` | what follows the end of a run, a failed recovery, an end (pure) |
//! | `children` | the supervised tasks |
//! | `run` | from a recovery to the end of the run that follows it |
//! | `end` | from Ending to Gone |
//! | [`Resources`] | what all actors share |
//!
//! There is one for each organism that this replica holds or takes over. States: Starting → Running → Ending → Gone.
//!
//! 1. Starting: the ledger is recovered as soon as there is a desired state. Events of its objects are kept.
//! 2. Running: engine, committer and collector work. When one of them ends (a fence, a panic), the run ends, and
//!    the actor is Starting again after a wait; other organisms are not affected.
//! 3. Ending: terminal. Pending entries are committed and the last status is written, where the [`End`] asks for it.
//! 4. Gone: nothing of it runs any more.
//!
//! Publisher and body's reconciler run from the first sight of the Organism to its end. All reports go straight to
//! the publisher; nothing comes back from a child but its exit.

mod children;
mod end;
pub mod mailbox;
mod plan;
mod resources;
mod run;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep_until};

use self::children::{Child, Children, Ended, Exit};
use self::mailbox::{End, Message};
pub use self::plan::STOP_TIMEOUT;
use self::plan::{RunEnd, wait_after};
pub use self::resources::{Bodies, Resources};
use super::adoption::Observer;
use super::beater::EngineHandle;
use super::body::Enforcing;
use super::body::index::{Nodes, ObservedStatus};
use super::body::reconciler::Handle as BodyHandle;
use super::budget::Account;
use super::committer::LedgerEvent;
use super::failure_log::FailureLog;
use super::key::Key;
use super::members::permit::Tenure;
use super::publisher::adoption::Adoption;
use super::publisher::autoscaling::Autoscaling;
use super::publisher::report::{NotReady, NotReadyReason, PublishedEnd, Report};
use super::publisher::{self, Publisher};
use crate::api;
use crate::runtime::{Desired, PauseReason};

/// Wait before it is read again whether the organism is still held.
const CONFIRM_RETRY: Duration = Duration::from_secs(1);

/// The actor of one organism.
pub struct Actor {
    key: Key,
    uid: String,
    resources: Arc<Resources>,
    organism: Arc<api::Organism>,
    desired: Option<Desired>,
    /// Why the organism cannot beat, found by the reconciler.
    blocked: Option<NotReady>,
    /// Why its ledger is not held, found by the last recovery or by the end of the last run.
    unrecovered: Option<NotReady>,
    nodes: Option<Nodes>,
    report: watch::Sender<Report>,
    published: PublishedEnd,
    account: Arc<Account>,
    /// Whether this replica may still beat it, and write its objects.
    tenure: Arc<Tenure>,
    /// What happened to objects of the ledger while that was not known.
    held_back: Vec<LedgerEvent>,
    snapshot_needed: Arc<Notify>,
    state: State,
    body: Option<BodyHandle>,
    /// What the response asks of the body.
    enforcing: watch::Sender<Option<Enforcing>>,
    /// Whether the workload in spec.workloadRef is the body; none without that.
    adoption: watch::Sender<Option<Adoption>>,
    /// Told when a pod of the body has changed.
    pods_changed: Arc<Notify>,
    /// The Organism as it was reconciled last, for response and sensors.
    organisms: watch::Sender<Arc<api::Organism>>,
    children: Children,
    /// Ends of runs in a row.
    ends: u32,
    /// Failed recoveries in a row.
    failed_recoveries: u32,
    recovery_log: FailureLog,
    /// Whether its namespace is being deleted.
    namespace_terminating: bool,
}

enum State {
    /// No ledger is held. `retry` is when the next recovery begins, where one is planned.
    Starting {
        events: Vec<LedgerEvent>,
        retry: Option<Instant>,
    },
    Running {
        engine: EngineHandle,
        events: mpsc::UnboundedSender<LedgerEvent>,
        since: Instant,
        epoch: u64,
    },
    Ending,
}

impl Actor {
    /// The actor of `organism`.
    #[must_use]
    pub fn new(organism: Arc<api::Organism>, resources: Arc<Resources>) -> Self {
        // The published numbers stay until the watches report others.
        let published = organism.status.as_ref().and_then(|status| status.nodes.as_ref());
        let (ready_nodes, nodes) = match &resources.bodies {
            Some(_) => published.map_or((0, 0), |nodes| (nodes.ready.into(), nodes.replicas.into())),
            None => (0, organism.spec.nodes.replicas.into()),
        };
        let key = Key::of(&organism);
        Self {
            account: Account::new(key.namespace.clone()),
            tenure: Tenure::new(resources.ownership.members.permit.clone()),
            key,
            uid: organism.metadata.uid.clone().unwrap_or_default(),
            resources,
            organisms: watch::Sender::new(organism.clone()),
            organism,
            desired: None,
            blocked: None,
            unrecovered: None,
            nodes: None,
            report: watch::Sender::new(Report { ready_nodes, nodes, ..Report::default() }),
            published: PublishedEnd::default(),
            held_back: vec![],
            snapshot_needed: Arc::new(Notify::new()),
            state: State::Starting { events: vec![], retry: None },
            body: None,
            enforcing: watch::Sender::new(None),
            adoption: watch::Sender::new(None),
            pods_changed: Arc::new(Notify::new()),
            children: Children::default(),
            ends: 0,
            failed_recoveries: 0,
            recovery_log: FailureLog::default(),
            namespace_terminating: false,
        }
    }

    /// Runs until it is ended, its Organism is gone, or another replica has the organism. Returns whether it is the last.
    pub async fn run(&mut self, mut mailbox: mpsc::UnboundedReceiver<Message>) -> bool {
        self.start_publisher();
        let mut adoption = self.adoption.subscribe();
        let mut terms = self.resources.ownership.members.permit.terms();
        let bodies = self.resources.bodies.clone();
        let mut listed = bodies.is_none();
        loop {
            let retry = match &self.state {
                State::Starting { retry, .. } => *retry,
                _ => None,
            };
            tokio::select! {
                message = mailbox.recv() => match message {
                    Some(Message::End(end, done)) => {
                        if end == End::Lost {
                            tracing::warn!(organism = %self.key, "another replica has taken it over");
                        }
                        Box::pin(self.end(end)).await;
                        let _ = done.send(());
                        return false;
                    }
                    Some(message) => self.handle(message),
                    None => {
                        Box::pin(self.end(End::Stop)).await;
                        return false;
                    }
                },
                Some(ended) = self.children.next() => {
                    if let ControlFlow::Break(end) = self.child_ended(ended) {
                        Box::pin(self.end(end)).await;
                        return end == End::Lost;
                    }
                }
                () = sleep_until(retry.unwrap_or_else(Instant::now)), if retry.is_some() => {
                    self.start_recovery();
                }
                () = self.snapshot_needed.notified() => {
                    if let State::Running { engine, .. } = &self.state {
                        engine.request_snapshot();
                    }
                }
                // Infallible, as the next one: this holds the sender.
                Ok(()) = terms.changed() => self.confirm_tenure(),
                Ok(()) = adoption.changed() => self.observe_body(),
                () = wait_until_listed(bodies.as_ref()), if !listed => {
                    listed = true;
                    self.observe_body();
                }
            }
        }
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::Organism(organism) => self.set_organism(organism),
            Message::Desired(desired, genome) => self.set_desired(*desired, genome),
            Message::NotReady(not_ready) => self.set_not_ready(not_ready),
            Message::BodyChanged => self.observe_body(),
            Message::PodsChanged => self.pods_changed.notify_one(),
            // What happened while another replica may have held the ledger is no loss.
            Message::LedgerObjects(event) if !self.tenure.is_valid() => self.held_back.push(event),
            Message::LedgerObjects(event) => match &mut self.state {
                State::Running { events, .. } => drop(events.send(event)),
                State::Starting { events, .. } => events.push(event),
                State::Ending => {}
            },
            // Handled in `run`.
            Message::End(..) => {}
        }
    }

    fn set_organism(&mut self, organism: Arc<api::Organism>) {
        let on_delete = organism.spec.ledger.on_delete;
        let changed = on_delete != self.organism.spec.ledger.on_delete;
        let other_workload = organism.spec.workload_ref != self.organism.spec.workload_ref;
        self.organism = organism;
        self.organisms.send_replace(self.organism.clone());
        if let State::Running { events, .. } = &self.state
            && changed
        {
            let _ = events.send(LedgerEvent::OnDelete(on_delete));
        }
        let adopts = self.organism.spec.workload_ref.is_some();
        if other_workload || (adopts && !self.children.is_running(Child::Adoption)) {
            self.start_adoption();
        }
        let has_body = self.resources.bodies.is_some();
        let replicas = u64::from(self.organism.spec.nodes.replicas);
        self.report.send_if_modified(|report| {
            let nodes = if has_body { report.nodes } else { replicas };
            let autoscaling = Some(Autoscaling::of(&self.organism, has_body, report.scaling.as_ref()));
            let changed = report.autoscaling != autoscaling || report.nodes != nodes;
            (report.autoscaling, report.nodes) = (autoscaling, nodes);
            changed
        });
        match &self.body {
            Some(body) => body.set_organism(&self.organism),
            None if self.namespace_terminating => {}
            None => self.start_body(),
        }
    }

    fn set_desired(&mut self, desired: Desired, genome: String) {
        self.blocked = None;
        let changed = self.desired.as_ref() != Some(&desired);
        self.desired = Some(desired);
        if changed {
            self.retry_afresh();
        }
        self.report_not_ready();
        self.report.send_if_modified(|report| report.genome.replace(genome) != report.genome);
        match &self.state {
            State::Running { .. } => self.apply_desired(),
            State::Starting { retry: None, .. } => self.start_recovery(),
            State::Starting { .. } | State::Ending => {}
        }
    }

    /// Reports why the organism cannot beat. One that runs pauses: it keeps its ledger and loses its Genome.
    fn set_not_ready(&mut self, not_ready: NotReady) {
        let of_genome =
            matches!(not_ready.reason, NotReadyReason::GenomeNotFound | NotReadyReason::GenomeInUse);
        if let Some(desired) = self.desired.as_mut().filter(|_| of_genome) {
            desired.pause = Some(PauseReason::GenomeNotFound);
            desired.generation = not_ready.generation;
        }
        self.blocked = Some(not_ready);
        self.report_not_ready();
        if of_genome {
            self.report.send_modify(|report| report.genome = None);
        }
        self.apply_desired();
    }

    /// Reports what keeps the organism from beating; what the reconciler found goes first.
    fn report_not_ready(&self) {
        let not_ready = self.blocked.as_ref().or(self.unrecovered.as_ref());
        self.report.send_if_modified(|report| {
            let changed = report.not_ready.as_ref() != not_ready;
            report.not_ready = not_ready.cloned();
            changed
        });
    }

    fn not_ready(&self, reason: NotReadyReason, message: String) -> Option<NotReady> {
        let generation = self.organism.metadata.generation.unwrap_or_default();
        Some(NotReady { reason, message, generation })
    }

    /// Takes over what the watches observe of the body: P follows the ready nodes.
    fn observe_body(&mut self) {
        let Some(Bodies { reconcilers, .. }) = &self.resources.bodies else { return };
        if let Some(body) = &self.body {
            body.wake();
        }
        if !reconcilers.index.is_listed() {
            return;
        }
        let adoption = self.adoption.borrow().clone();
        let ObservedStatus { mut nodes, mut workload, scaling } =
            reconcilers.index.status(&self.key, &self.uid);
        if let Some(adoption) = &adoption {
            let adopted = adoption.adopted();
            nodes =
                adopted.map_or_else(Nodes::default, |it| Nodes { ready: it.ready, replicas: it.replicas });
            workload = adopted.map(|it| it.workload.clone());
        }
        let autoscaling = Some(Autoscaling::of(&self.organism, true, scaling.as_ref()));
        self.report.send_if_modified(|report| {
            let before = report.clone();
            (report.ready_nodes, report.nodes, report.workload) = (nodes.ready, nodes.replicas, workload);
            (report.scaling, report.autoscaling) = (scaling, autoscaling);
            (report.adoption, report.workload_ref) = (adoption, self.organism.spec.workload_ref.clone());
            before != *report
        });
        if self.nodes.replace(nodes) != Some(nodes) {
            self.apply_desired();
        }
    }

    /// The desired state with P in force: with a body the number of ready nodes.
    fn desired_now(&self) -> Option<Desired> {
        let mut desired = self.desired.clone()?;
        desired.config.pulse.p = self.nodes.map_or(desired.config.pulse.p, Nodes::p);
        Some(desired)
    }

    fn apply_desired(&self) {
        if let State::Running { engine, .. } = &self.state
            && let Some(desired) = self.desired_now()
        {
            engine.set_desired(desired);
        }
    }

    fn start_publisher(&mut self) {
        let resources = self.resources.publishers.clone();
        let (account, published) = (self.account.clone(), self.published.clone());
        let tenure = self.tenure.clone();
        let mut publisher =
            Publisher::new(self.key.clone(), &self.organism, account, tenure, resources, published);
        let reports = self.report.subscribe();
        self.children.spawn(Child::Publisher, async move { Exit::Publisher(publisher.run(reports).await) });
    }

    fn start_body(&mut self) {
        let Some(Bodies { reconcilers, .. }) = &self.resources.bodies else { return };
        let (organism, report) = (self.organism.clone(), self.report.clone());
        let enforcing = self.enforcing.subscribe();
        let adoption = self.adoption.subscribe();
        let (handle, task) = BodyHandle::new(
            reconcilers.clone(),
            self.key.clone(),
            organism,
            report,
            enforcing,
            adoption,
            self.tenure.clone(),
        );
        self.body = Some(handle);
        self.children.spawn(Child::Body, async {
            task.await;
            Exit::Other
        });
    }

    /// Observes the workload in spec.workloadRef, if there is one.
    fn start_adoption(&mut self) {
        let Some(Bodies { adoptions, .. }) = &self.resources.bodies else { return };
        self.children.abort(Child::Adoption);
        let reference = self.organism.spec.workload_ref.clone();
        self.adoption.send_if_modified(|adoption| {
            let next = reference.as_ref().map(|_| Adoption::Looking);
            let changed = *adoption != next;
            *adoption = next;
            changed
        });
        let Some(reference) = reference else { return };
        let (key, resources) = (self.key.clone(), adoptions.clone());
        let (adoption, pods_changed) = (self.adoption.clone(), self.pods_changed.clone());
        let mut observer = Observer::new(key, reference, resources, adoption, pods_changed);
        self.children.spawn(Child::Adoption, async move {
            observer.run().await;
            Exit::Other
        });
    }

    /// Handles the end of a task. Breaks where nothing is left to do.
    fn child_ended(&mut self, ended: Ended) -> ControlFlow<End> {
        match ended {
            Ended::Exit(Exit::Publisher(publisher::Exit::OrganismGone)) => {
                tracing::info!(organism = %self.key, "the Organism is gone");
                return ControlFlow::Break(End::Deleted);
            }
            Ended::Exit(Exit::Recovery(outcome)) => return self.recovered(*outcome),
            Ended::Exit(Exit::Committer(exit)) => return self.end_run(&RunEnd::Committer(exit)),
            Ended::Exit(Exit::Confirmed(false)) => {
                tracing::warn!(
                    organism = %self.key,
                    "another replica has taken it over while this one could not renew its Lease"
                );
                return ControlFlow::Break(End::Lost);
            }
            Ended::Exit(Exit::Confirmed(true)) => self.confirmed(),
            Ended::Exit(Exit::Listed(outcome)) => self.listed(outcome),
            Ended::Exit(Exit::Publisher(publisher::Exit::Finished) | Exit::Other) | Ended::Aborted => {}
            Ended::Panic(Child::Committer) => return self.end_run(&RunEnd::Panic("committer")),
            Ended::Panic(Child::Collector) => return self.end_run(&RunEnd::Panic("collector")),
            Ended::Panic(Child::Sensors) => return self.end_run(&RunEnd::Panic("sensors")),
            Ended::Panic(Child::Response) => return self.end_run(&RunEnd::Panic("response")),
            Ended::Panic(child) => {
                tracing::error!(organism = %self.key, task = ?child, "a task panicked; starting it again");
                self.resources.metrics.restarted("panic");
                match child {
                    Child::Publisher => self.start_publisher(),
                    Child::Body => self.start_body(),
                    Child::Adoption => self.start_adoption(),
                    Child::Confirmation => self.confirm_tenure(),
                    Child::List => self.start_list(run::LIST_RETRY),
                    _ => self.plan_recovery(wait_after(1)),
                }
            }
        }
        ControlFlow::Continue(())
    }

    /// The permit had lapsed and is given again: reads from the head whether the organism is still held, until that
    /// can be told. A recovery begins anew.
    fn confirm_tenure(&mut self) {
        self.children.abort(Child::Confirmation);
        self.children.abort(Child::Recovery);
        let epoch = match &self.state {
            State::Running { epoch, .. } => Some(*epoch),
            State::Starting { .. } | State::Ending => None,
        };
        let (resources, tenure) = (self.resources.clone(), self.tenure.clone());
        let (key, uid) = (self.key.clone(), self.uid.clone());
        let term = *resources.ownership.members.permit.terms().borrow();
        self.children.spawn(Child::Confirmation, async move {
            loop {
                let client = resources.ledger_client.clone();
                if let Ok(lost) = resources.ownership.is_lost(client, &key, &uid, epoch).await {
                    if !lost {
                        tenure.confirm(term);
                    }
                    return Exit::Confirmed(!lost);
                }
                tokio::time::sleep(CONFIRM_RETRY).await;
            }
        });
    }

    /// The organism is still held: goes on with what had to wait for that.
    fn confirmed(&mut self) {
        let held_back = std::mem::take(&mut self.held_back);
        match &mut self.state {
            State::Running { events, .. } => held_back.into_iter().for_each(|event| drop(events.send(event))),
            State::Starting { events, .. } => {
                events.extend(held_back);
                self.failed_recoveries = 0;
                self.start_recovery();
            }
            State::Ending => {}
        }
    }
}

async fn wait_until_listed(bodies: Option<&Bodies>) {
    if let Some(Bodies { reconcilers, .. }) = bodies {
        reconcilers.index.wait_until_listed().await;
    }
}

#[cfg(test)]
mod tests;
