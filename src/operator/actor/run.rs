//! From a recovery to the end of the run that follows it.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::children::{Child, Exit};
use super::plan::{Next, RunEnd, after_failed_recovery};
use super::{Actor, Bodies, State, wait_until_listed};
use crate::operator::collector::{CollectError, Collector};
use crate::operator::committer::ledger::OwnedLedger;
use crate::operator::committer::{self, Committer, LedgerEvent};
use crate::operator::publisher::mesh::MeshLink;
use crate::operator::publisher::report::NotReadyReason;
use crate::operator::recovery::{RecoveryError, recover};
use crate::runtime::{History, Pace, StartParams};

/// Two commits of an organism are at least this far apart.
const BATCH_SPACING: Duration = Duration::from_millis(50);
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
        let (resources, organism, key) = (self.resources.clone(), self.organism.clone(), self.key.clone());
        self.children.spawn(Child::Recovery, async move {
            // P has to be known before the first beat, so that a restart changes nothing.
            wait_until_listed(resources.bodies.as_ref()).await;
            // Infallible: the semaphore is never closed.
            let _turn = resources.recoveries.acquire().await.ok();
            let existing = resources.first_lists.take(&key).await;
            let client = resources.ledger_client.clone();
            let codec = &resources.codec;
            Exit::Recovery(Box::new(recover(client, &organism, &resources.identity, existing, codec).await))
        });
    }

    pub(super) fn recovered(&mut self, outcome: Result<(OwnedLedger, History), RecoveryError>) {
        let error = match outcome {
            Ok((ledger, history)) => {
                self.unrecovered = None;
                self.failed_recoveries = 0;
                self.recovery_log.succeeded();
                self.report_not_ready();
                return self.start_run(ledger, history);
            }
            Err(error) => error,
        };
        if error.is_namespace_terminating() {
            return self.stop_for_good();
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
    }

    /// What has changed may have been what kept the ledger from being recovered.
    pub(super) fn retry_afresh(&mut self) {
        self.failed_recoveries = 0;
        if let State::Starting { retry: Some(retry), .. } = &mut self.state {
            *retry = Instant::now();
        }
    }

    /// Starts engine, committer and collector on a recovered ledger.
    fn start_run(&mut self, ledger: OwnedLedger, history: History) {
        self.observe_body();
        let Some(desired) = self.desired_now() else { return };
        let collector = self.resources.bodies.as_ref().and_then(|Bodies { collectors, .. }| {
            let joined = Collector::join(collectors, &self.key, &self.uid, ledger.known.clone());
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
            operator: self.resources.identity.clone(),
            history,
            batch_spacing: BATCH_SPACING,
            publishes: true,
        };
        let (commits, requests) = mpsc::channel(1);
        let (events, event_receiver) = mpsc::unbounded_channel();
        // It may have changed during the recovery.
        let _ = events.send(LedgerEvent::OnDelete(self.organism.spec.ledger.on_delete));
        let committer = Committer::new(
            self.key.clone(),
            ledger,
            self.resources.committers.clone(),
            self.report.clone(),
            self.snapshot_needed.clone(),
        );
        self.children.spawn(Child::Committer, async {
            Exit::Committer(committer.run(requests, event_receiver).await)
        });
        let outcomes = collector.as_ref().map(Collector::outcomes);
        let engine = self.resources.beater.start_engine(
            self.key.clone(),
            params,
            commits,
            outcomes,
            self.report.clone(),
        );
        if let Some(collector) = collector {
            let (injector, report) = (engine.injector(), self.report.clone());
            self.children.spawn(Child::Collector, async {
                collector.run(injector, report).await;
                Exit::Other
            });
        }
        if let State::Starting { events: kept, .. } = &mut self.state {
            // What happened to the ledger's objects during the recovery.
            kept.drain(..).for_each(|event| drop(events.send(event)));
        }
        self.state = State::Running { engine, events, since: Instant::now() };
    }

    /// Ends a run, and plans what follows.
    pub(super) fn end_run(&mut self, end: &RunEnd) {
        let State::Running { since, .. } = &self.state else { return };
        self.ends = if since.elapsed() >= STABLE_AFTER { 1 } else { self.ends.saturating_add(1) };
        // Dropping the engine's handle removes the engine from the beater.
        self.state = State::Starting { events: vec![], retry: None };
        self.children.abort(Child::Collector);
        self.children.abort(Child::Committer);
        if matches!(end, RunEnd::Committer(committer::Exit::NamespaceTerminating)) {
            return self.stop_for_good();
        }
        self.resources.metrics.restarted(end.reason());
        match end {
            RunEnd::Committer(committer::Exit::Fenced(fenced)) => tracing::warn!("{fenced}"),
            RunEnd::Committer(exit) => tracing::error!(organism = %self.key, ?exit, "the committer ended"),
            RunEnd::Panic(task) => tracing::error!(organism = %self.key, task, "a task panicked"),
        }
        match end.next(&self.resources.identity, self.ends) {
            Next::Restart(wait) => {
                let message = format!(
                    "The run ended ({}); the ledger is recovered again in {} s.",
                    end.reason(),
                    wait.as_secs()
                );
                self.report_no_run(NotReadyReason::WaitingForFirstCommit, message);
                self.plan_recovery(wait);
            }
            Next::StandBy => self.stand_by(),
        }
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
        });
        self.report_not_ready();
    }

    pub(super) fn plan_recovery(&mut self, wait: Duration) {
        if let State::Starting { retry, .. } = &mut self.state {
            *retry = Some(Instant::now() + wait);
        }
    }
}
