//! From a recovery to the end of the run that follows it.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::children::{Child, Exit};
use super::mailbox::{End, Message};
use super::plan::{Next, RunEnd, after_failed_recovery};
use super::{Actor, Bodies, State, wait_until_listed};
use crate::api;
use crate::operator::beater::{Inputs, Outputs};
use crate::operator::budget::COMMIT_SPACING;
use crate::operator::collector::{CollectError, Collector};
use crate::operator::committer::ledger::OwnedLedger;
use crate::operator::committer::{self, Committer, LedgerEvent};
use crate::operator::hold::Hold;
use crate::operator::publisher::adoption::Adoption;
use crate::operator::publisher::mesh::MeshLink;
use crate::operator::publisher::report::{Listed, NotReadyReason};
use crate::operator::publisher::sensing::Sensing;
use crate::operator::recovery::lists::ListError;
use crate::operator::recovery::{RecoveryError, recover};
use crate::operator::response::{Connections, Responder, plan};
use crate::operator::sensing::{self, Sensors};
use crate::organism::Action;
use crate::runtime::{History, Pace, StartParams};
use crate::store::head::LastEnforcement;
use crate::store::objects::Objects;

/// Wait before the objects of a ledger are listed again, where that has failed.
pub(super) const LIST_RETRY: Duration = Duration::from_secs(5);
/// The end of a run that lasted this long is the first of a new series.
const STABLE_AFTER: Duration = Duration::from_secs(600);

impl Actor {
    /// Starts to recover the ledger, if there is a desired state and no recovery is in progress.
    pub(super) fn start_recovery(&mut self) {
        let State::Starting { retry, .. } = &mut self.state else { return };
        *retry = None;
        let cannot = self.desired.is_none() || self.blocked.is_some() || self.namespace_terminating;
        if cannot || self.children.is_running(Child::Recovery) {
            return;
        }
        let (resources, organism) = (self.resources.clone(), self.organism.clone());
        let mut adoption = self.adoption.subscribe();
        self.children.spawn(Child::Recovery, async move {
            // P has to be known before the first beat, so that a restart changes nothing.
            wait_until_listed(resources.bodies.as_ref()).await;
            // Infallible: the actor holds the sender.
            let _ = adoption.wait_for(|it| *it != Some(Adoption::Looking)).await;
            // Infallible: the semaphore is never closed.
            let _turn = resources.recoveries.acquire().await.ok();
            let client = resources.ledger_client.clone();
            let (ownership, lists, codec) = (&resources.ownership, &resources.lists, &resources.codec);
            Exit::Recovery(Box::new(recover(client, &organism, ownership, lists, codec).await))
        });
    }

    pub(super) fn recovered(
        &mut self,
        outcome: Result<(OwnedLedger, History), RecoveryError>,
    ) -> ControlFlow<End> {
        let error = match outcome {
            Ok((ledger, history)) => {
                self.unrecovered = None;
                self.failed_recoveries = 0;
                self.recovery_log.succeeded();
                self.report_not_ready();
                self.start_run(ledger, history);
                return ControlFlow::Continue(());
            }
            Err(error @ (RecoveryError::Held(..) | RecoveryError::Lapsed(_))) => {
                tracing::info!(organism = %self.key, %error, "left to its holder");
                return ControlFlow::Break(End::Lost);
            }
            Err(error) => error,
        };
        if error.is_namespace_terminating() {
            self.stop_for_good();
            return ControlFlow::Continue(());
        }
        self.failed_recoveries = self.failed_recoveries.saturating_add(1);
        let (reason, wait) = after_failed_recovery(&error, self.failed_recoveries);
        let text = error.to_string();
        if let Some(times) = self.recovery_log.failed(&text, Instant::now().into_std()) {
            tracing::warn!(organism = %self.key, %error, times, "cannot recover the ledger; retrying");
        }
        if reason.is_none() {
            self.resources.metrics.api_error("reconcile");
        }
        if !error.is_conflict() {
            // A call that keeps failing is shown as well: until the ledger is taken over nothing beats.
            let reason = reason.unwrap_or(NotReadyReason::WaitingForFirstCommit);
            self.unrecovered = self.not_ready(reason, text);
        }
        self.report_not_ready();
        self.plan_recovery(wait);
        ControlFlow::Continue(())
    }

    /// What has changed may have been what kept the ledger from being recovered.
    pub(super) fn retry_afresh(&mut self) {
        self.failed_recoveries = 0;
        if let State::Starting { retry: Some(retry), .. } = &mut self.state {
            *retry = Instant::now();
        }
    }

    /// Starts engine, committer and collector on a recovered ledger.
    fn start_run(&mut self, mut ledger: OwnedLedger, history: History) {
        self.observe_body();
        let Some(desired) = self.desired_now() else { return };
        if let Some(status) = &self.organism.status {
            self.published.set(status);
        }
        ledger.published = self.published.clone();
        if ledger.listed != Listed::Yes {
            self.start_list(Duration::ZERO);
        }
        let collector = self.resources.bodies.as_ref().and_then(|Bodies { collectors, .. }| {
            let joined = Collector::join(collectors, &self.key, &self.uid, ledger.known.injections.clone());
            // It beats without: injections wait at its nodes.
            let failed = |error: &CollectError| {
                tracing::error!(organism = %self.key, %error, "cannot join the mesh");
                let link = Some(MeshLink::Unreachable(error.to_string()));
                self.report.send_modify(|report| report.mesh = link);
            };
            joined.inspect_err(failed).ok()
        });
        let params = StartParams {
            desired,
            epoch: ledger.head.epoch,
            operator: self.resources.ownership.members.identity().clone(),
            history,
            enforcement: ledger.head.enforcement.clone(),
            batch_spacing: COMMIT_SPACING,
            min_period: self.resources.committers.budget.min_period(),
            publishes: true,
        };
        let (epoch, recorded) = (ledger.head.epoch, ledger.head.enforcement.clone());
        let isolated = plan::in_force(recorded.as_ref()).is_some_and(|it| {
            it.action == Action::Quarantine && plan::mode(it) == api::ResponseMode::Enforce
        });
        let before = sensing::Before {
            sensed: ledger.known.senses.iter().map(|it| it.subject.clone()).collect(),
            last_pulse: ledger.last_pulse,
            isolated,
        };
        let (commits, requests) = mpsc::channel(1);
        let (events, event_receiver) = mpsc::unbounded_channel();
        // It may have changed during the recovery.
        let _ = events.send(LedgerEvent::OnDelete(self.organism.spec.ledger.on_delete));
        let mut committer = Committer::new(
            self.key.clone(),
            ledger,
            self.resources.committers.clone(),
            self.account.clone(),
            self.report.clone(),
            self.snapshot_needed.clone(),
        );
        self.children.spawn(Child::Committer, async move {
            Exit::Committer(committer.run(requests, event_receiver).await)
        });
        let outcomes = collector.as_ref().map(Collector::outcomes);
        let engine = self.resources.beater.start_engine(
            self.key.clone(),
            params,
            self.account.clone(),
            self.tenure.clone(),
            Outputs { commits, outcomes, report: self.report.clone() },
        );
        self.start_sensors(engine.inputs(), before);
        self.start_response(engine.inputs(), epoch, recorded);
        if let Some(collector) = collector {
            let (inputs, report) = (engine.inputs(), self.report.clone());
            self.children.spawn(Child::Collector, async {
                collector.run(inputs, report).await;
                Exit::Other
            });
        }
        if let State::Starting { events: kept, .. } = &mut self.state {
            // What happened to the ledger's objects during the recovery.
            kept.drain(..).for_each(|event| drop(events.send(event)));
        }
        self.state = State::Running { engine, events, since: Instant::now(), epoch };
    }

    /// Lists the objects of the ledger, for the committer.
    pub(super) fn start_list(&mut self, wait: Duration) {
        let (resources, key) = (self.resources.clone(), self.key.clone());
        self.children.abort(Child::List);
        self.children.spawn(Child::List, async move {
            tokio::time::sleep(wait).await;
            Exit::Listed(resources.lists.objects(&key).await)
        });
    }

    pub(super) fn listed(&mut self, outcome: Result<Objects, ListError>) {
        let event = match outcome {
            Ok(objects) => LedgerEvent::Listed(objects),
            Err(error) => {
                tracing::warn!(organism = %self.key, %error, "cannot list the objects of the ledger; retrying");
                self.start_list(LIST_RETRY);
                LedgerEvent::NotListed(error.to_string())
            }
        };
        self.handle(Message::LedgerObjects(event));
    }

    /// Starts to sense.
    fn start_sensors(&mut self, inputs: Inputs, before: sensing::Before) {
        let Some(Bodies { sensors, .. }) = &self.resources.bodies else { return };
        let connections = sensing::Connections {
            organism: self.organisms.subscribe(),
            pods_changed: self.pods_changed.clone(),
            inputs,
            report: self.report.clone(),
        };
        let mut sensors = Sensors::new(self.key.clone(), connections, before, sensors.clone());
        self.children.spawn(Child::Sensors, async move {
            sensors.run().await;
            Exit::Other
        });
    }

    /// Starts to act on decisions.
    fn start_response(&mut self, inputs: Inputs, epoch: u64, recorded: Option<LastEnforcement>) {
        let Some(Bodies { responses, .. }) = &self.resources.bodies else { return };
        let connections = Connections {
            organism: self.organisms.subscribe(),
            enforcing: self.enforcing.clone(),
            inputs,
            hold: Arc::new(Hold::new(self.resources.ledger_client.clone(), &self.key, &self.uid, epoch)),
            report: self.report.clone(),
        };
        let mut responder = Responder::new(self.key.clone(), connections, recorded, responses.clone());
        self.children.spawn(Child::Response, async move {
            responder.run().await;
            Exit::Other
        });
    }

    /// Ends a run, and plans what follows. Breaks where another replica holds the organism.
    pub(super) fn end_run(&mut self, end: &RunEnd) -> ControlFlow<End> {
        let State::Running { since, .. } = &self.state else { return ControlFlow::Continue(()) };
        self.ends = if since.elapsed() >= STABLE_AFTER { 1 } else { self.ends.saturating_add(1) };
        // Dropping the engine's handle removes the engine from the beater.
        self.state = State::Starting { events: vec![], retry: None };
        self.children.abort(Child::Collector);
        self.children.abort(Child::Sensors);
        self.children.abort(Child::Response);
        self.children.abort(Child::Committer);
        self.children.abort(Child::List);
        if matches!(end, RunEnd::Committer(committer::Exit::NamespaceTerminating)) {
            self.stop_for_good();
            return ControlFlow::Continue(());
        }
        self.resources.metrics.restarted(end.reason());
        match end {
            RunEnd::Committer(committer::Exit::Fenced(fenced)) => tracing::warn!("{fenced}"),
            RunEnd::Committer(exit) => tracing::error!(organism = %self.key, ?exit, "the committer ended"),
            RunEnd::Panic(task) => tracing::error!(organism = %self.key, task, "a task panicked"),
        }
        match end.next(self.resources.ownership.members.identity(), self.ends) {
            Next::Restart(wait) => {
                let message = format!(
                    "The run ended ({}); the ledger is recovered again in {} s.",
                    end.reason(),
                    wait.as_secs()
                );
                self.report_no_run(NotReadyReason::WaitingForFirstCommit, message);
                self.plan_recovery(wait);
            }
            Next::Leave => return ControlFlow::Break(End::Lost),
        }
        ControlFlow::Continue(())
    }

    /// Does nothing more until the Organism is gone: nothing can be created in its namespace any more.
    fn stop_for_good(&mut self) {
        tracing::info!(organism = %self.key, "the namespace is being deleted");
        self.namespace_terminating = true;
        self.body = None;
        self.children.abort(Child::Body);
        let message = "The namespace is being deleted; the organism no longer beats.".to_owned();
        self.report_no_run(NotReadyReason::Deleting, message);
    }

    /// An engine that is gone does not beat, whatever it reported last.
    fn report_no_run(&mut self, reason: NotReadyReason, message: String) {
        self.unrecovered = self.not_ready(reason, message);
        self.report.send_modify(|report| {
            (report.engine, report.mesh, report.pace) = (None, None, Pace::default());
            report.sensing = report.sensing.as_ref().map(|_| Sensing::NotBeating);
        });
        self.report_not_ready();
    }

    pub(super) fn plan_recovery(&mut self, wait: Duration) {
        if let State::Starting { retry, .. } = &mut self.state {
            *retry = Some(Instant::now() + wait);
        }
    }
}
