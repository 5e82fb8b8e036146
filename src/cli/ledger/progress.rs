//! A progress display for long commands.

use std::io::{IsTerminal, Write, stderr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_millis(200);
/// ANSI: carriage return, then erase the line.
const REWRITE: &str = "\r\x1b[2K";

/// A counter, displayed on stderr if that is a terminal and the command takes more than a second.
pub(in crate::cli) struct Progress {
    what: &'static str,
    done: AtomicU64,
    /// Time of the next display; `None` if stderr is not a terminal.
    due: Option<Mutex<Instant>>,
    shown: std::sync::atomic::AtomicBool,
}

impl Progress {
    /// A counter that displays its count and `what`, such as `1000 entries verified`.
    pub(in crate::cli) fn new(what: &'static str) -> Self {
        let due = stderr().is_terminal().then(|| Mutex::new(Instant::now() + 5 * INTERVAL));
        Self { what, done: AtomicU64::new(0), due, shown: false.into() }
    }

    /// Adds `more` to the count.
    pub(in crate::cli) fn add(&self, more: u64) {
        let done = self.done.fetch_add(more, Ordering::Relaxed) + more;
        // Another thread that holds the lock displays the count.
        let Some(Ok(mut due)) = self.due.as_ref().map(Mutex::try_lock) else { return };
        let now = Instant::now();
        if now >= *due {
            *due = now + INTERVAL;
            self.shown.store(true, Ordering::Relaxed);
            let _ = write!(stderr(), "{REWRITE}{done} {}", self.what).and_then(|()| stderr().flush());
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
