//! What is reported of writes that fail. A failure is shown once it has lasted, answered or not, and goes by itself.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use tokio::time::sleep;

use crate::operator::metrics::Metrics;
use crate::operator::publisher::report::{FaultCause, LedgerFault, ReportSender};

/// A failure that lasts this long is shown.
const SHOWN_AFTER: Duration = Duration::from_secs(5);

/// Reports the failures of one committer. Dropping it takes the last one back.
pub(super) struct Faults {
    report: ReportSender,
    metrics: Arc<Metrics>,
}

impl Faults {
    pub(super) fn new(report: ReportSender, metrics: Arc<Metrics>) -> Self {
        Self { report, metrics }
    }

    /// Does `work`, and shows that nothing is committed when it takes longer than [`SHOWN_AFTER`].
    pub(super) async fn watch<T, E>(&self, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let mut work = std::pin::pin!(work);
        let done = tokio::select! {
            done = &mut work => done,
            () = sleep(SHOWN_AFTER) => {
                self.change(|fault| {
                    let began = Timestamp::now() - SignedDuration::try_from(SHOWN_AFTER).unwrap_or_default();
                    fault.get_or_insert(LedgerFault { cause: FaultCause::Unanswered, since: began, shown: true }).shown = true;
                });
                work.await
            }
        };
        if done.is_ok() {
            self.passed();
        }
        done
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
