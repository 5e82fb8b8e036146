//! A progress display for long commands.

use std::io::{IsTerminal, Write, stderr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_millis(200);
/// ANSI: carriage return, then erase the line.
const REWRITE: &str = "\r\x1b[2K";

/// A counter of entries, displayed on stderr if that is a terminal and the command takes more than a second.
pub(super) struct Progress {
    verb: &'static str,
    done: AtomicU64,
    /// Time of the next display; `None` if stderr is not a terminal.
    due: Option<Mutex<Instant>>,
    shown: std::sync::atomic::AtomicBool,
}

impl Progress {
    /// A counter that displays `<count> entries <verb>`, such as `1000 entries verified`.
    pub(super) fn new(verb: &'static str) -> Self {
        let due = stderr().is_terminal().then(|| Mutex::new(Instant::now() + 5 * INTERVAL));
        Self { verb, done: AtomicU64::new(0), due, shown: false.into() }
    }

    /// Adds `entries` to the count.
    pub(super) fn add(&self, entries: u64) {
        let done = self.done.fetch_add(entries, Ordering::Relaxed) + entries;
        // Another thread that holds the lock displays the count.
        let Some(Ok(mut due)) = self.due.as_ref().map(Mutex::try_lock) else { return };
        let now = Instant::now();
        if now >= *due {
            *due = now + INTERVAL;
            self.shown.store(true, Ordering::Relaxed);
            let _ = write!(stderr(), "{REWRITE}{done} entries {}", self.verb).and_then(|()| stderr().flush());
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
