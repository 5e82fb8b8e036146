//! The end of an actor.

use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use super::children::Child;
use super::mailbox::End;
use super::plan::end_limits;
use super::{Actor, State};
use crate::api::OnDelete;
use crate::operator::committer::LedgerEvent;
use crate::operator::publisher::report::{NotReadyReason, Report};

impl Actor {
    /// Ends everything, in the order in which data flows.
    pub(super) async fn end(&mut self, end: End) {
        let (began, limits) = (Instant::now(), end_limits(end));
        // Where there is nobody to wait for it, the end of the Lease says the same.
        let gives_back = match end {
            End::Released => true,
            End::Stop => self.resources.ownership.members.view().has_others(),
            End::Lost | End::Deleted => false,
        };
        // An organism beats until it is its turn. Those that have waited for long go all at once.
        let resources = self.resources.clone();
        let turn = async { if gives_back { resources.hand_overs.acquire().await.ok() } else { None } };
        let _turn = timeout(limits.turn, turn).await;
        if end == End::Deleted {
            let message = "The Organism is being deleted; it no longer beats.".to_owned();
            let not_ready = self.not_ready(NotReadyReason::Deleting, message);
            // Shown only where a finalizer of someone else keeps the Organism.
            self.report.send_modify(|report| (report.not_ready, report.engine) = (not_ready, None));
        }
        self.report.send_modify(|report| report.ends = Some(began));
        self.body = None;
        for child in [Child::Body, Child::Recovery, Child::Confirmation] {
            self.children.abort(child);
        }
        if let State::Running { engine, events, .. } = std::mem::replace(&mut self.state, State::Ending) {
            let retain = self.organism.spec.ledger.on_delete == OnDelete::Retain;
            if end == End::Deleted && retain {
                let _ = events.send(LedgerEvent::Retain);
            } else if gives_back {
                let _ = events.send(LedgerEvent::Release);
            }
            // What is deleted with its ledger has nothing left to commit.
            if let Some(limit) = limits.flush.filter(|_| end != End::Deleted || retain) {
                let flushed = async {
                    tokio::select! {
                        () = engine.flush() => {}
                        // Without a committer nothing more is committed.
                        () = self.children.wait_for(Child::Committer) => {}
                    }
                };
                if timeout_at(began + limits.turn + limit, flushed).await.is_err() {
                    tracing::warn!(organism = %self.key, "pending entries could not be committed in time");
                }
            }
            // The committer ends when engine and events are dropped.
            drop((engine, events));
            self.children.abort(Child::Collector);
            self.children.abort(Child::Sensors);
            self.children.abort(Child::Response);
            if timeout(limits.commit, self.children.wait_for(Child::Committer)).await.is_err() {
                self.children.abort(Child::Committer);
            }
        }
        // That of an organism that is given back is written by its next holder.
        if let Some(limit) = limits.status.filter(|_| !gives_back) {
            // The publisher writes the last report once all senders of reports are dropped.
            drop(std::mem::replace(&mut self.report, watch::Sender::new(Report::default())));
            let _ = timeout(limit, self.children.wait_for(Child::Publisher)).await;
        }
        self.children.shutdown().await;
    }
}
