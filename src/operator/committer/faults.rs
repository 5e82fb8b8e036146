//! What is reported of writes that fail. A failure is shown once it has lasted, answered or not, and goes by itself.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use tokio::time::{Instant, sleep_until};

use super::turns::{Turn, Turns};
use crate::operator::metrics::Metrics;
use crate::operator::publisher::report::{FaultCause, LedgerFault, ReportSender};

/// A failure that lasts this long is shown.
const SHOWN_AFTER: Duration = Duration::from_secs(5);
/// The longest wait for a turn that is no failure as long as others commit.
const LONGEST_QUEUE: Duration = Duration::from_secs(30);

/// Reports the failures of one committer. Dropping it takes the last one back.
pub(super) struct Faults {
    report: ReportSender,
    metrics: Arc<Metrics>,
    turns: Arc<Turns>,
    waiting: Mutex<Waiting>,
}

/// What the work under way waits for.
struct Waiting {
    /// Since when it has been at it, or has had its turn.
    since: Instant,
    /// Whether it waits for its turn.
    queued: bool,
}

impl Faults {
    pub(super) fn new(report: ReportSender, metrics: Arc<Metrics>, turns: Arc<Turns>) -> Self {
        let waiting = Mutex::new(Waiting { since: Instant::now(), queued: false });
        Self { report, metrics, turns, waiting }
    }

    /// Does `work`, and shows that nothing is committed when it takes longer than [`SHOWN_AFTER`].
    pub(super) async fn watch<T, E>(&self, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        *self.waiting() = Waiting { since: Instant::now(), queued: false };
        let mut work = std::pin::pin!(work);
        let done = tokio::select! {
            done = &mut work => done,
            () = self.overdue() => {
                self.show();
                work.await
            }
        };
        if done.is_ok() {
            self.passed();
        }
        done
    }

    /// Shows the failure that was noted, or that there is no answer.
    fn show(&self) {
        let since = Timestamp::now() - SignedDuration::try_from(SHOWN_AFTER).unwrap_or_default();
        self.change(|fault| {
            let cause = FaultCause::Unanswered;
            fault.get_or_insert(LedgerFault { cause, since, shown: true }).shown = true;
        });
    }

    /// Waits for a turn.
    pub(super) async fn turn(&self, urgent: bool) -> Turn {
        self.waiting().queued = true;
        let turn = self.turns.next(urgent).await;
        let failing = self.report.borrow().ledger_fault.is_some();
        let mut waiting = self.waiting();
        waiting.queued = false;
        if !failing {
            waiting.since = Instant::now();
        }
        turn
    }

    /// Returns when the work has taken longer than [`SHOWN_AFTER`].
    async fn overdue(&self) {
        loop {
            let due = self.since() + SHOWN_AFTER;
            if due <= Instant::now() {
                return;
            }
            sleep_until(due).await;
        }
    }

    /// Since when the work waits for something else than its turn. While many organisms commit, as at a start, it is no
    /// failure that others are first; that nobody's commits succeed is one, and that others are first for too long.
    fn since(&self) -> Instant {
        let failing = self.report.borrow().ledger_fault.is_some();
        let Waiting { since, queued } = *self.waiting();
        let others = self.turns.last_committed().filter(|_| queued && !failing);
        others.map_or(since, |others| others.clamp(since, since + LONGEST_QUEUE - SHOWN_AFTER))
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a failed attempt. What somebody has to mend is shown at once.
    pub(super) fn failed(&self, cause: FaultCause) {
        let at_once = matches!(cause, FaultCause::NameTaken(_) | FaultCause::HeadUnreadable(_));
        self.change(|fault| {
            let fault = fault.get_or_insert(LedgerFault {
                cause: cause.clone(),
                since: Timestamp::now(),
                shown: false,
            });
            fault.cause = cause;
            fault.shown |= at_once;
        });
    }

    /// Notes that a write has succeeded.
    pub(super) fn passed(&self) {
        self.change(|fault| *fault = None);
    }

    fn change(&self, change: impl FnOnce(&mut Option<LedgerFault>)) {
        self.report.send_if_modified(|report| {
            let before = report.ledger_fault.clone();
            change(&mut report.ledger_fault);
            let shown = |fault: &Option<LedgerFault>| fault.as_ref().is_some_and(|it| it.shown);
            match (shown(&before), shown(&report.ledger_fault)) {
                (false, true) => self.metrics.commit_failing(1),
                (true, false) => self.metrics.commit_failing(-1),
                (false, false) => return false,
                (true, true) => {}
            }
            before != report.ledger_fault
        });
    }
}

impl Drop for Faults {
    fn drop(&mut self) {
        self.passed();
    }
}
