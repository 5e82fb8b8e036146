//! What an actor does after something has ended. Pure.

use std::time::Duration;

use super::mailbox::End;
use crate::operator::committer;
use crate::operator::publisher::report::NotReadyReason;
use crate::operator::recovery::RecoveryError;
use crate::store::configmap::{StoreError, StoreErrorKind};

/// How long a stop may take, less than the pod's terminationGracePeriodSeconds. What is pending then is dropped; nothing
/// committed is lost.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(45);
/// First wait before a run or a recovery is started again; doubled up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_secs(5);
/// Longest wait before a run or a recovery is started again.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// Longest wait before the next recovery where someone has to act first.
const LONGEST_BLOCKED: Duration = Duration::from_secs(60);
/// Wait before the next recovery while Kubernetes deletes an earlier ledger of that name.
const RECOVERY_COLLECTED: Duration = Duration::from_secs(1);
/// Wait before the next recovery after a lost race for the head.
const RECOVERY_CONFLICT: Duration = Duration::from_millis(200);

/// The wait after the `failures`th failure in a row.
pub(super) fn wait_after(failures: u32) -> Duration {
    FIRST_WAIT.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(LONGEST_WAIT)
}

/// How a run of an organism ended.
#[derive(Debug)]
pub(super) enum RunEnd {
    /// Its committer ended.
    Committer(committer::Exit),
    /// This task panicked.
    Panic(&'static str),
}

/// What follows the end of a run.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Recover the ledger again after this wait.
    Restart(Duration),
    /// Another replica holds the ledger: leave the organism to it.
    Leave,
}

impl RunEnd {
    /// Label of the metric.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Committer(committer::Exit::Fenced(_)) => "fenced",
            Self::Panic(_) => "panic",
            Self::Committer(_) => "failed",
        }
    }

    /// What follows, for the operator `identity` and the `ends`th end in a row.
    pub(super) fn next(&self, identity: &str, ends: u32) -> Next {
        match self {
            Self::Committer(committer::Exit::Fenced(fenced)) if fenced.holder != identity => Next::Leave,
            // An epoch that was raised under our own name was raised by hand, or by an earlier process.
            _ => Next::Restart(wait_after(ends)),
        }
    }
}

/// The reason to show for the `failures`th failed recovery in a row, where someone has to act, and the wait before
/// the next one.
pub(super) fn after_failed_recovery(
    error: &RecoveryError,
    failures: u32,
) -> (Option<NotReadyReason>, Duration) {
    let wait = wait_after(failures);
    let blocked = |reason| (Some(reason), wait.min(LONGEST_BLOCKED));
    match error {
        RecoveryError::NameTaken(_) | RecoveryError::ArchiveTaken(_) | RecoveryError::BelongsTo(..) => {
            blocked(NotReadyReason::NameTaken)
        }
        RecoveryError::BeingCollected(_) => (Some(NotReadyReason::WaitingForFirstCommit), RECOVERY_COLLECTED),
        RecoveryError::HeadUnreadable(..) => blocked(NotReadyReason::HeadUnreadable),
        RecoveryError::Store(StoreError { kind: StoreErrorKind::Conflict, .. }) => (None, RECOVERY_CONFLICT),
        RecoveryError::Store(_)
        | RecoveryError::List(_)
        | RecoveryError::Organisms(_)
        | RecoveryError::Task(_)
        | RecoveryError::Held(..)
        | RecoveryError::Lapsed(_) => (None, wait),
        _ => blocked(NotReadyReason::Invalid),
    }
}

/// Upper bounds on the steps of an end.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct EndLimits {
    /// For a turn to be given back.
    pub(super) turn: Duration,
    /// For committing what is pending, where that is asked for, and as much more as the turn has left.
    pub(super) flush: Option<Duration>,
    /// For the commit in flight and the mark on a retained head: a call that is cut off may still reach the API
    /// server.
    pub(super) commit: Duration,
    /// For the last status.
    pub(super) status: Option<Duration>,
}

/// The bounds of an end. Those of a stop add up to less than the operator's own; a deletion waits for nothing.
pub(super) fn end_limits(end: End) -> EndLimits {
    let seconds = Duration::from_secs;
    match end {
        End::Released => {
            EndLimits { turn: seconds(60), flush: Some(seconds(5)), commit: seconds(2), status: None }
        }
        End::Lost => EndLimits { turn: Duration::ZERO, flush: None, commit: Duration::ZERO, status: None },
        End::Stop => EndLimits {
            // Whoever has no turn by then goes with all others at once, and does not beat until that is through.
            turn: seconds(25),
            flush: Some(seconds(15)),
            commit: seconds(1),
            status: Some(seconds(3)),
        },
        End::Deleted => EndLimits {
            turn: Duration::ZERO,
            flush: Some(seconds(2)),
            commit: seconds(1),
            status: Some(seconds(1)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::committer::plan::Fenced;
    use crate::operator::key::Key;

    fn fenced(holder: &str) -> RunEnd {
        let key = Key::new("default", "venom");
        RunEnd::Committer(committer::Exit::Fenced(Fenced { key, ours: 1, theirs: 2, holder: holder.into() }))
    }

    #[test]
    fn an_organism_is_left_to_another_holder_and_restarted_after_anything_else() {
        assert_eq!(fenced("beta").next("alpha", 1), Next::Leave);
        assert_eq!(fenced("alpha").next("alpha", 1), Next::Restart(FIRST_WAIT));
        assert_eq!(RunEnd::Panic("committer").next("alpha", 3), Next::Restart(FIRST_WAIT * 4));
        assert_eq!(RunEnd::Panic("committer").next("alpha", u32::MAX), Next::Restart(LONGEST_WAIT));
    }

    #[test]
    fn the_steps_of_a_stop_fit_into_the_time_of_a_stop() {
        let EndLimits { turn, flush, commit, status } = end_limits(End::Stop);
        assert!(turn + flush.unwrap() + commit + status.unwrap() < STOP_TIMEOUT);
    }
}
