//! What a run is at, while it runs: one line rewritten on a terminal, a line now and then elsewhere.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

use super::tally::Tally;
use crate::organism::State;

const ON_TERMINAL: Duration = Duration::from_millis(200);
const ELSEWHERE: Duration = Duration::from_secs(10);
/// Carriage return, erase the line.
const REWRITE: &str = "\r\x1b[2K";

/// The progress line.
pub(super) struct Progress {
    terminal: bool,
    due: Instant,
}

impl Progress {
    pub(super) fn new() -> Self {
        let terminal = stderr().is_terminal();
        Self { terminal, due: Instant::now() + if terminal { Duration::ZERO } else { ELSEWHERE } }
    }

    /// Shows where the run is, if it is time to.
    pub(super) fn show(&mut self, tally: &Tally, state: &State) {
        let now = Instant::now();
        let Some(beat) = tally.last.as_ref().filter(|_| now >= self.due) else { return };
        self.due = now + if self.terminal { ON_TERMINAL } else { ELSEWHERE };
        let threat = beat.details.map_or("-".to_owned(), |details| format!("{:.4}", details.raw_threat));
        let line = format!(
            "beat {}  T_Λ {:.6} s  threat {threat}  {}  {} entries  {:.1} beats/s",
            state.beat,
            beat.pulse.t_lambda,
            beat.action,
            tally.entries,
            tally.beats as f64 / tally.elapsed.as_secs_f64().max(1e-9),
        );
        // Where stderr is gone there is nobody to show it to.
        let _ = if self.terminal {
            write!(stderr(), "{REWRITE}{line}").and_then(|()| stderr().flush())
        } else {
            writeln!(stderr(), "{line}")
        };
    }

    /// Shows where the run ended, and leaves the line for good.
    pub(super) fn end(mut self, tally: &Tally, state: &State) {
        if self.terminal {
            self.due = Instant::now();
            self.show(tally, state);
            let _ = writeln!(stderr());
        }
    }
}
