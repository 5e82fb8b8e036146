//! Bounds on what unauthenticated clients can consume, counted per source address.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A log message with the same key appears at most once in this interval.
const LOG_INTERVAL: Duration = Duration::from_secs(60);
/// Keys that a [`LogLimiter`] remembers at once.
const MAX_LOG_KEYS: usize = 1024;

/// Limits concurrent connections, in total and per source address.
#[derive(Debug, Default)]
pub(crate) struct ConnectionLimiter(Mutex<Connections>);

#[derive(Debug, Default)]
struct Connections {
    total: usize,
    by_source: BTreeMap<IpAddr, usize>,
}

/// Counts as one connection until dropped.
#[derive(Debug)]
pub(crate) struct ConnectionPermit {
    limiter: Arc<ConnectionLimiter>,
    source: IpAddr,
}

impl ConnectionLimiter {
    /// Returns a permit, or `None` if `max_total` permits exist or `max_per_source` for this source.
    pub(crate) fn try_acquire(
        self: &Arc<Self>,
        source: IpAddr,
        max_total: usize,
        max_per_source: usize,
    ) -> Option<ConnectionPermit> {
        let mut connections = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let from_source = connections.by_source.get(&source).copied().unwrap_or_default();
        if connections.total >= max_total || from_source >= max_per_source {
            return None;
        }
        connections.by_source.insert(source, from_source + 1);
        connections.total += 1;
        Some(ConnectionPermit { limiter: self.clone(), source })
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut connections = self.limiter.0.lock().unwrap_or_else(PoisonError::into_inner);
        connections.total = connections.total.saturating_sub(1);
        if let Some(from_source) = connections.by_source.get_mut(&self.source) {
            *from_source -= 1;
            if *from_source == 0 {
                connections.by_source.remove(&self.source);
            }
        }
    }
}

/// Rate limit for log messages that a remote client can trigger, one budget per key.
#[derive(Debug)]
pub(crate) struct LogLimiter<K>(Mutex<BTreeMap<K, Instant>>);

impl<K> Default for LogLimiter<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Ord> LogLimiter<K> {
    /// Whether to log for `key` now: once per minute, and never while [`MAX_LOG_KEYS`] other keys are active.
    pub(crate) fn allow(&self, key: K) -> bool {
        let mut logged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if logged.get(&key).is_some_and(|at| now.duration_since(*at) < LOG_INTERVAL) {
            return false;
        }
        if logged.len() >= MAX_LOG_KEYS {
            logged.retain(|_, at| now.duration_since(*at) < LOG_INTERVAL);
        }
        let has_room = logged.len() < MAX_LOG_KEYS;
        if has_room {
            logged.insert(key, now);
        }
        has_room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permits_are_bounded_and_released_on_drop() {
        let limiter = Arc::new(ConnectionLimiter::default());
        let (a, b) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let first = limiter.try_acquire(a, 3, 2).unwrap();
        let _second = limiter.try_acquire(a, 3, 2).unwrap();
        assert!(limiter.try_acquire(a, 3, 2).is_none(), "limit per source");
        let _third = limiter.try_acquire(b, 3, 2).unwrap();
        assert!(limiter.try_acquire(b, 3, 2).is_none(), "total limit");
        drop(first);
        assert!(limiter.try_acquire(b, 3, 2).is_some());
    }

    #[test]
    fn a_repeated_message_is_logged_once() {
        let log = LogLimiter::default();
        assert!(log.allow(1));
        assert!(!log.allow(1));
        assert!((2..2000).filter(|it| log.allow(*it)).count() < MAX_LOG_KEYS);
    }
}
