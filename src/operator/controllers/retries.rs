//! When a reconciliation that failed is tried again: the wait doubles for each object, and starts afresh when its
//! spec changes.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::operator::failure_log::FailureLog;
use crate::operator::key::Key;

/// First wait; doubled up to [`LONGEST`].
const FIRST: Duration = Duration::from_secs(5);
/// Longest wait.
const LONGEST: Duration = Duration::from_secs(300);

/// The objects of one kind that are waiting.
#[derive(Default)]
pub struct Retries(Mutex<BTreeMap<Key, Retry>>);

struct Retry {
    generation: Option<i64>,
    failures: u32,
    last: Instant,
    log: FailureLog,
}

impl Retries {
    /// Counts a failure with this text. Returns the wait, and the number of failures since the last line of the log,
    /// when a line is due.
    pub fn failed(
        &self,
        key: Key,
        generation: Option<i64>,
        text: &str,
        now: Instant,
    ) -> (Duration, Option<u64>) {
        // A panic while it is held leaves the map itself whole.
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Objects that were deleted while they waited.
        all.retain(|_, it| now.saturating_duration_since(it.last) <= 2 * LONGEST);
        let retry = all.entry(key).or_insert_with(|| Retry {
            generation,
            failures: 0,
            last: now,
            log: FailureLog::default(),
        });
        if retry.generation != generation {
            (retry.generation, retry.failures) = (generation, 0);
        }
        let wait = FIRST.saturating_mul(1 << retry.failures.min(10)).min(LONGEST);
        retry.failures += 1;
        retry.last = now;
        (wait, retry.log.failed(text, now))
    }

    /// Forgets an object.
    pub fn succeeded(&self, key: &Key) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_for_each_object_and_start_afresh_on_a_change() {
        let (retries, now) = (Retries::default(), Instant::now());
        let (one, two) = (Key::new("a", "one"), Key::new("a", "two"));
        let wait =
            |key: &Key, generation| retries.failed(key.clone(), Some(generation), "no", now).0.as_secs();
        let waits: Vec<_> = (0..8).map(|_| wait(&one, 1)).collect();
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(wait(&two, 1), 5);
        assert_eq!(wait(&one, 2), 5, "its spec has changed");
        assert_eq!(wait(&one, 2), 10);
        retries.succeeded(&one);
        assert_eq!(wait(&one, 2), 5);
    }
}
