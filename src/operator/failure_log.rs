//! Logging of a failure that repeats: once when it starts or changes, then a count each minute.

use std::time::{Duration, Instant};

/// Interval between two lines about the same failure.
const AGAIN: Duration = Duration::from_secs(60);

/// What has been logged of one object's failures.
#[derive(Default)]
pub struct FailureLog {
    last: Option<Logged>,
}

struct Logged {
    text: String,
    at: Instant,
    count: u64,
}

impl FailureLog {
    /// Counts a failure. Returns the number of times that it has happened since the last line, when a line is due.
    pub fn failed(&mut self, text: &str, now: Instant) -> Option<u64> {
        match &mut self.last {
            Some(last) if last.text == text => {
                last.count += 1;
                if now.saturating_duration_since(last.at) < AGAIN {
                    return None;
                }
                last.at = now;
                Some(std::mem::take(&mut last.count))
            }
            _ => {
                self.last = Some(Logged { text: text.to_owned(), at: now, count: 0 });
                Some(1)
            }
        }
    }

    /// Notes a success. Returns whether there was a failure before it.
    pub fn succeeded(&mut self) -> bool {
        self.last.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_failure_is_logged_once_a_minute_with_its_count() {
        let (mut log, start) = (FailureLog::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(log.failed("quota", after(0)), Some(1));
        for second in 1..60 {
            assert_eq!(log.failed("quota", after(second)), None);
        }
        assert_eq!(log.failed("quota", after(60)), Some(60));
        assert_eq!(log.failed("forbidden", after(61)), Some(1), "it has changed");
        assert!(log.succeeded());
        assert!(!log.succeeded());
        assert_eq!(log.failed("forbidden", after(62)), Some(1));
    }
}
