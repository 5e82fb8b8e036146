//! How far long work has come, on a terminal.

use std::io::{IsTerminal, Write, stderr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const EVERY: Duration = Duration::from_millis(200);
/// Carriage return, erase the line.
const REWRITE: &str = "\r\x1b[2K";

/// A counter that shows itself on stderr, when that is a terminal and the work takes long.
pub(super) struct Progress {
    what: &'static str,
    done: AtomicU64,
    /// When to show it next; nothing where there is no terminal.
    due: Option<Mutex<Instant>>,
    shown: std::sync::atomic::AtomicBool,
}

impl Progress {
    /// Counts entries that are `what`.
    pub(super) fn new(what: &'static str) -> Self {
        let due = stderr().is_terminal().then(|| Mutex::new(Instant::now() + 5 * EVERY));
        Self { what, done: AtomicU64::new(0), due, shown: false.into() }
    }

    /// Counts `entries` more.
    pub(super) fn add(&self, entries: u64) {
        let done = self.done.fetch_add(entries, Ordering::Relaxed) + entries;
        // Who finds the lock taken leaves the showing to the one who has it.
        let Some(Ok(mut due)) = self.due.as_ref().map(Mutex::try_lock) else { return };
        let now = Instant::now();
        if now >= *due {
            *due = now + EVERY;
            self.shown.store(true, Ordering::Relaxed);
            let _ = write!(stderr(), "{REWRITE}{done} entries {}", self.what).and_then(|()| stderr().flush());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown.load(Ordering::Relaxed) {
            let _ = write!(stderr(), "{REWRITE}");
        }
    }
}
