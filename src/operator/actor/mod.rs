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
//! | `standby` | waiting while another operator holds the ledger |
//!
//! States: Starting → Running → Ending → Gone.
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
mod standby;

use std::ops::ControlFlow;
use std::sync::Arc;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep_until};

use self::children::{Child, Children, Ended, Exit};
use self::mailbox::{End, Message};
use self::plan::{RunEnd, wait_after};
pub use self::resources::{Bodies, Resources};
use super::beater::EngineHandle;
use super::body::index::{Nodes, ObservedStatus};
use super::body::reconciler::Handle as BodyHandle;
use super::committer::LedgerEvent;
use super::failure_log::FailureLog;
use super::key::Key;
use super::publisher::autoscaling::Autoscaling;
use super::publisher::report::{NotReady, NotReadyReason, Report};
use super::publisher::{self, Publisher};
use crate::api;
use crate::runtime::{Desired, PauseReason};

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
    snapshot_needed: Arc<Notify>,
    state: State,
    body: Option<BodyHandle>,
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
    /// Another operator holds the ledger.
    StandBy,
    Running {
        engine: EngineHandle,
        events: mpsc::UnboundedSender<LedgerEvent>,
        since: Instant,
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
        Self {
            key: Key::of(&organism),
            uid: organism.metadata.uid.clone().unwrap_or_default(),
            resources,
            organism,
            desired: None,
            blocked: None,
            unrecovered: None,
            nodes: None,
            report: watch::Sender::new(Report { ready_nodes, nodes, ..Report::default() }),
            snapshot_needed: Arc::new(Notify::new()),
            state: State::Starting { events: vec![], retry: None },
            body: None,
            children: Children::default(),
            ends: 0,
            failed_recoveries: 0,
            recovery_log: FailureLog::default(),
            namespace_terminating: false,
        }
    }

    /// Runs until it is ended or its Organism is gone.
    pub async fn run(mut self, mut mailbox: mpsc::UnboundedReceiver<Message>) {
        self.start_publisher();
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
                        self.end(end).await;
                        let _ = done.send(());
                        return;
                    }
                    Some(message) => self.handle(message),
                    None => return self.end(End::Stop).await,
                },
                Some(ended) = self.children.next() => {
                    if self.child_ended(ended).is_break() {
                        return self.end(End::Deleted).await;
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
            Message::LedgerObjects(event) => match &mut self.state {
                State::Running { events, .. } => drop(events.send(event)),
                State::Starting { events, .. } => events.push(event),
                State::StandBy | State::Ending => {}
            },
            // Handled in `run`.
            Message::End(..) => {}
        }
    }

    fn set_organism(&mut self, organism: Arc<api::Organism>) {
        let on_delete = organism.spec.ledger.on_delete;
        let changed = on_delete != self.organism.spec.ledger.on_delete;
        self.organism = organism;
        if let State::Running { events, .. } = &self.state
            && changed
        {
            let _ = events.send(LedgerEvent::OnDelete(on_delete));
        }
        if matches!(self.state, State::StandBy) {
            return;
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
            State::Starting { .. } | State::StandBy | State::Ending => {}
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
        let ObservedStatus { nodes, workload, scaling } = reconcilers.index.status(&self.key, &self.uid);
        let autoscaling = Some(Autoscaling::of(&self.organism, true, scaling.as_ref()));
        self.report.send_if_modified(|report| {
            let before = report.clone();
            (report.ready_nodes, report.nodes, report.workload) = (nodes.ready, nodes.replicas, workload);
            (report.scaling, report.autoscaling) = (scaling, autoscaling);
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
        let publisher = Publisher::new(self.key.clone(), &self.organism, resources);
        let reports = self.report.subscribe();
        self.children.spawn(Child::Publisher, async { Exit::Publisher(publisher.run(reports).await) });
    }

    fn start_body(&mut self) {
        let Some(Bodies { reconcilers, .. }) = &self.resources.bodies else { return };
        let (organism, report) = (self.organism.clone(), self.report.clone());
        let (handle, task) = BodyHandle::new(reconcilers.clone(), self.key.clone(), organism, report);
        self.body = Some(handle);
        self.children.spawn(Child::Body, async {
            task.await;
            Exit::Other
        });
    }

    /// Leaves status and body to the operator that holds the ledger.
    fn stand_by(&mut self) {
        self.state = State::StandBy;
        self.body = None;
        self.children.abort(Child::Body);
        self.children.abort(Child::Publisher);
        let (client, identity) = (self.resources.ledger_client.clone(), self.resources.identity.clone());
        let (key, uid) = (self.key.clone(), self.uid.clone());
        let beats = self.desired.as_ref().is_some_and(|it| it.pause.is_none() && it.beats.is_none());
        self.children.spawn(Child::StandBy, async move {
            standby::wait_for_release(client, key, uid, &identity, beats).await;
            Exit::Released
        });
    }

    /// Handles the end of a task. Breaks when the Organism is gone.
    fn child_ended(&mut self, ended: Ended) -> ControlFlow<()> {
        match ended {
            Ended::Exit(Exit::Publisher(publisher::Exit::OrganismGone)) => {
                tracing::info!(organism = %self.key, "the Organism is gone");
                return ControlFlow::Break(());
            }
            Ended::Exit(Exit::Recovery(outcome)) => self.recovered(*outcome),
            Ended::Exit(Exit::Committer(exit)) => self.end_run(&RunEnd::Committer(exit)),
            Ended::Exit(Exit::Released) => {
                self.state = State::Starting { events: vec![], retry: None };
                // What this process committed last is older than what the other holder has published.
                self.report.send_modify(|report| (report.engine, report.ledger) = (None, None));
                self.start_publisher();
                self.set_organism(self.organism.clone());
                self.start_recovery();
            }
            Ended::Exit(Exit::Publisher(publisher::Exit::Finished) | Exit::Other) | Ended::Aborted => {}
            Ended::Panic(Child::Committer) => self.end_run(&RunEnd::Panic("committer")),
            Ended::Panic(Child::Collector) => self.end_run(&RunEnd::Panic("collector")),
            Ended::Panic(child) => {
                tracing::error!(organism = %self.key, task = ?child, "a task panicked; starting it again");
                self.resources.metrics.restarted("panic");
                match child {
                    Child::Publisher => self.start_publisher(),
                    Child::Body => self.start_body(),
                    Child::StandBy => self.stand_by(),
                    _ => self.plan_recovery(wait_after(1)),
                }
            }
        }
        ControlFlow::Continue(())
    }
}

async fn wait_until_listed(bodies: Option<&Bodies>) {
    if let Some(Bodies { reconcilers, .. }) = bodies {
        reconcilers.index.wait_until_listed().await;
    }
}

#[cfg(test)]
mod tests;
