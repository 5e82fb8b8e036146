//! Bounds on what unauthenticated clients can consume and cause to be logged.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// Open files that a process may have if the system does not say: the usual least.
const DEFAULT_OPEN_FILES: usize = 1024;

/// A log message with the same key appears at most once in this interval.
const LOG_INTERVAL: Duration = Duration::from_secs(60);
/// Keys that a [`LogLimiter`] remembers at once.
const MAX_LOG_KEYS: usize = 1024;

/// The connections that a server has open. With all places taken, one of them gives way to a newcomer: a source that
/// holds on to its connections displaces its own.
#[derive(Debug)]
pub(crate) struct Connections {
    places: Arc<Semaphore>,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    /// By number of arrival.
    connections: BTreeMap<u64, OpenConnection>,
    last: u64,
}

#[derive(Debug)]
struct OpenConnection {
    source: IpAddr,
    /// A request is being answered.
    busy: bool,
    give_way: CancellationToken,
}

/// A connection with a place, which is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Connection {
    connections: Arc<Connections>,
    number: u64,
    give_way: CancellationToken,
    _place: Option<OwnedSemaphorePermit>,
}

impl Connections {
    /// At most `places` connections, at least one.
    pub(crate) fn new(places: usize) -> Arc<Self> {
        Arc::new(Self { places: Arc::new(Semaphore::new(places.max(1))), open: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a place for a connection from `source`, and whether another one had to give way: of those from the source
    /// that has the most, the oldest that is not being answered.
    pub(crate) async fn admit(self: &Arc<Self>, source: IpAddr) -> (Connection, bool) {
        let (place, displaced) = match self.places.clone().try_acquire_owned() {
            Ok(place) => (Some(place), false),
            Err(_) => {
                let displaced = self.lock().displace();
                // Never closed. The one that gives way ends at once.
                (self.places.clone().acquire_owned().await.ok(), displaced)
            }
        };
        let give_way = CancellationToken::new();
        let mut open = self.lock();
        open.last += 1;
        let number = open.last;
        let connection = OpenConnection { source, busy: false, give_way: give_way.clone() };
        open.connections.insert(number, connection);
        drop(open);
        (Connection { connections: self.clone(), number, give_way, _place: place }, displaced)
    }
}

impl Open {
    fn displace(&mut self) -> bool {
        let mut by_source: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for connection in self.connections.values() {
            *by_source.entry(connection.source).or_default() += 1;
        }
        // Of sources with equally many, the one with the oldest connection gives way.
        let most = by_source.values().max().copied().unwrap_or_default();
        let candidates = self.connections.iter().filter(|it| by_source.get(&it.1.source) == Some(&most));
        let Some(number) = candidates.min_by_key(|it| (it.1.busy, *it.0)).map(|it| *it.0) else {
            return false;
        };
        // Out of the table at once, so that the next newcomer finds another one.
        self.connections.remove(&number).inspect(|it| it.give_way.cancel()).is_some()
    }
}

impl Connection {
    /// Runs `task` to its end, or until the connection has to give way: then returns `None`.
    pub(crate) async fn run<T>(&self, task: impl Future<Output = T>) -> Option<T> {
        self.give_way.run_until_cancelled(task).await
    }

    /// Says whether a request is being answered.
    pub(crate) fn set_busy(&self, busy: bool) {
        if let Some(connection) = self.connections.lock().connections.get_mut(&self.number) {
            connection.busy = busy;
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.connections.lock().connections.remove(&self.number);
    }
}

/// A part of the files and sockets that this process may have open, at most `wanted`: so that one server's connections
/// leave descriptors for all else.
pub(crate) fn share_of_descriptors(part: usize, wanted: usize) -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    wanted.min(open_files(&limits).unwrap_or(DEFAULT_OPEN_FILES) / part)
}

/// The soft limit of open files in the text of /proc/self/limits; none where it is unlimited.
fn open_files(limits: &str) -> Option<usize> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
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

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    /// Whether these connections still have their places.
    fn stay(connections: &[&Connection]) -> Vec<bool> {
        connections.iter().map(|it| !it.give_way.is_cancelled()).collect()
    }

    /// Admits a newcomer, while each connection that has to give way is dropped as its task would drop it.
    async fn admit_beside(table: &Arc<Connections>, source: IpAddr, open: &mut Vec<Connection>) -> bool {
        let admit = table.admit(source);
        let mut admit = std::pin::pin!(admit);
        let (connection, displaced) = match futures::poll!(&mut admit) {
            std::task::Poll::Ready(admitted) => admitted,
            std::task::Poll::Pending => {
                open.retain(|it| !it.give_way.is_cancelled());
                admit.await
            }
        };
        open.push(connection);
        displaced
    }

    #[tokio::test]
    async fn a_source_displaces_its_own_connections() {
        let table = Connections::new(4);
        let mut open = vec![];
        assert!(!admit_beside(&table, address(1), &mut open).await);
        let probe = open.pop().unwrap();
        for _ in 0..3 {
            assert!(!admit_beside(&table, address(2), &mut open).await);
        }
        for _ in 0..100 {
            assert!(admit_beside(&table, address(2), &mut open).await);
            assert!(open.len() <= 3, "{}", open.len());
        }
        assert_eq!(stay(&[&probe]), [true]);
        // A newcomer from elsewhere always finds a place.
        assert!(admit_beside(&table, address(3), &mut open).await);
        assert_eq!(open.len(), 3);
        drop(open);
        drop(probe);
        assert_eq!(table.places.available_permits(), 4);
    }

    #[tokio::test]
    async fn what_is_being_answered_gives_way_last() {
        let table = Connections::new(2);
        let mut open = vec![];
        for _ in 0..2 {
            admit_beside(&table, address(1), &mut open).await;
        }
        open[0].set_busy(true);
        let oldest = open[0].number;
        for _ in 0..10 {
            admit_beside(&table, address(1), &mut open).await;
            assert_eq!(open[0].number, oldest);
        }
        open.iter().for_each(|it| it.set_busy(true));
        admit_beside(&table, address(1), &mut open).await;
        assert_ne!(open[0].number, oldest);
    }

    #[test]
    fn the_limit_of_open_files_is_read() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
Max processes             unlimited            unlimited            processes \n\
Max open files            256                  4096                 files     \n";
        assert_eq!(open_files(text), Some(256));
        assert_eq!(open_files(&text.replace("256 ", "unlimited ")), None);
        assert_eq!(open_files(""), None);
        assert!(share_of_descriptors(8, 64) <= 64 && share_of_descriptors(1, usize::MAX) > 64);
    }

    #[test]
    fn a_repeated_message_is_logged_once() {
        let log = LogLimiter::default();
        assert!(log.allow(1));
        assert!(!log.allow(1));
        assert!((2..2000).filter(|it| log.allow(*it)).count() < MAX_LOG_KEYS);
    }
}
