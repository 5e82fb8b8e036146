//! The figures of one run, for the progress line and the summary.

use std::time::Duration;

use crate::organism::pid::{History, PidStep};
use crate::organism::{Action, Beat};

/// What a run has come to.
#[derive(Default)]
pub(super) struct Tally {
    /// Entries of the ledger, committed or not.
    pub(super) entries: u64,
    /// Beats of this run.
    pub(super) beats: u64,
    /// Deadlines that were missed, and skipped.
    pub(super) missed: u64,
    /// Time from the start of the run to its last beat.
    pub(super) elapsed: Duration,
    /// Beats by decision, in the order of [`Action::ALL`].
    pub(super) decisions: [u64; Action::ALL.len()],
    /// The PID controller's first step.
    pub(super) first_step: Option<PidStep>,
    /// The PID controller's last 1,000 steps.
    pub(super) history: History,
    /// The last beat.
    pub(super) last: Option<Beat>,
}

impl Tally {
    pub(super) fn count(&mut self, beat: Beat) {
        self.beats += 1;
        for (action, count) in Action::ALL.iter().zip(&mut self.decisions) {
            *count += u64::from(*action == beat.action);
        }
        if let Some(step) = beat.evolved.pid {
            self.first_step.get_or_insert(step);
            self.history.push(step);
        }
        self.last = Some(beat);
    }
}
