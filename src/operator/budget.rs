//! How much each organism may write, beat, keep and hold in memory.
//!
//! Each limit is divided into fair shares ([`super::shares`]): only an organism above its share is slowed. The beater
//! measures what organisms ask for and divides; their accounts carry the shares to committers and publishers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::shares::limits;
use crate::ledger::entry::Record;
use crate::organism::Beat;
use crate::runtime::{CommitIntervals, MAX_PENDING};

/// Two commits of an organism are at least this far apart.
pub const COMMIT_SPACING: Duration = Duration::from_millis(50);
/// Longest time between two commits that change no decision.
const LONGEST_COMMIT: Duration = Duration::from_secs(60);
/// Shortest interval between two status writes that only change numbers.
const STATUS: Duration = Duration::from_secs(2);
/// Longest interval between them.
const LONGEST_STATUS: Duration = Duration::from_secs(120);
/// An organism slows down at most by this factor.
const SLOWEST: f64 = 1000.0;
/// Share of the beater's time that beats may take. The rest is slack: a beat that comes due finds the thread free.
const BEATER_TIME: f64 = 0.5;

/// Writes of a commit: the segment and the head.
const COMMIT_WRITES: f64 = 2.0;
/// Writes a second of the two statuses, at [`STATUS`].
const STATUS_WRITES: f64 = 1.0;

/// Memory of one record that waits: a beat, its allocation and its place in the list.
const RECORD_BYTES: u64 = (size_of::<Beat>() + size_of::<Record>() + 32) as u64;
/// Records that any organism may hold: a few seconds of a calm pulse.
const FEWEST_PENDING: usize = 16;
/// Records that an organism may hold until the first division, a moment after its start.
const FIRST_PENDING: u64 = 1_000;

/// Limits set by flags.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Periodic writes a second.
    pub writes_per_second: f64,
    /// Ledger bytes a second.
    pub bytes_per_second: u64,
    /// Bytes of all ledgers together.
    pub ledger_total_bytes: u64,
    /// Bytes of entries that wait to be committed, in the whole process.
    pub pending_bytes: u64,
    /// Shortest period of beats.
    pub min_period: Duration,
}

#[cfg(test)]
impl Limits {
    pub(super) fn for_tests() -> Self {
        Self {
            writes_per_second: 50.0,
            bytes_per_second: 1 << 20,
            ledger_total_bytes: 1 << 28,
            pending_bytes: 64 << 20,
            min_period: Duration::from_millis(1),
        }
    }
}

/// What one organism asks for, at the pace of its spec.
#[derive(Clone, Debug)]
pub struct Demand {
    /// Whose demand it is.
    pub account: Arc<Account>,
    /// Whether it beats. One that does not asks for what it holds, and no more.
    pub running: bool,
    /// Beats a second.
    pub beats: f64,
    /// Commits a second.
    pub commits: f64,
    /// Ledger bytes a second.
    pub bytes: f64,
    /// Bytes that its ledger is to keep.
    pub retain: u64,
}

/// The shares of one organism, and what it uses.
#[derive(Debug)]
pub struct Account {
    namespace: Arc<str>,
    /// Bytes written since they were last taken.
    written: AtomicU64,
    /// Bytes that its ledger holds.
    held: AtomicU64,
    /// Nanoseconds between commits that change no decision; 0 when it is within its share.
    spacing: AtomicU64,
    /// Factor by which its status writes are further apart.
    stretch: AtomicU64,
    /// Factor by which its period is longer.
    slowdown: AtomicU64,
    pending: AtomicU64,
    retain: AtomicU64,
}

impl Account {
    /// An account in `namespace` that nothing limits yet.
    #[must_use]
    pub fn new(namespace: Arc<str>) -> Arc<Self> {
        let one = || AtomicU64::new(1.0_f64.to_bits());
        Arc::new(Self {
            namespace,
            written: AtomicU64::new(0),
            held: AtomicU64::new(0),
            spacing: AtomicU64::new(0),
            stretch: one(),
            slowdown: one(),
            pending: AtomicU64::new(FIRST_PENDING),
            retain: AtomicU64::new(u64::MAX),
        })
    }

    /// How long entries may wait for their commit, where the spec asks for `wanted`.
    #[must_use]
    pub fn commit_intervals(&self, wanted: Duration) -> CommitIntervals {
        let spacing = Duration::from_nanos(self.spacing.load(Ordering::Relaxed));
        CommitIntervals { calm: wanted.max(spacing), input: spacing }
    }

    /// Interval between status writes that only change numbers.
    #[must_use]
    pub fn status_interval(&self) -> Duration {
        STATUS.mul_f64(load(&self.stretch)).min(LONGEST_STATUS)
    }

    /// Factor by which the period is longer than the spec asks; 1 is its own pace.
    #[must_use]
    pub fn slowdown(&self) -> f64 {
        load(&self.slowdown)
    }

    /// Records that it may hold before they are committed. One whose commits are refused takes nothing from others.
    #[must_use]
    pub fn pending_records(&self) -> usize {
        usize::try_from(self.pending.load(Ordering::Relaxed)).unwrap_or(MAX_PENDING)
    }

    /// Its share of the bytes that all ledgers may keep.
    #[must_use]
    pub fn retain(&self) -> u64 {
        self.retain.load(Ordering::Relaxed)
    }

    /// Counts bytes written to its ledger.
    pub fn wrote(&self, bytes: u64) {
        self.written.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes written since the last call.
    pub fn take_written(&self) -> u64 {
        self.written.swap(0, Ordering::Relaxed)
    }

    /// Notes how many bytes its ledger holds.
    pub fn holds(&self, bytes: u64) {
        self.held.store(bytes, Ordering::Relaxed);
    }
}

/// Divides the limits.
#[derive(Debug)]
pub struct Budget {
    limits: Limits,
    /// Replicas that share what the API server may be asked for.
    replicas: AtomicUsize,
}

impl Budget {
    /// A budget of these limits.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        Self { limits: *limits, replicas: AtomicUsize::new(1) }
    }

    /// Divides what the API server may be asked for by this number of replicas.
    pub fn set_replicas(&self, replicas: usize) {
        self.replicas.store(replicas.max(1), Ordering::Relaxed);
    }

    /// Shortest period of beats.
    #[must_use]
    pub fn min_period(&self) -> Duration {
        self.limits.min_period
    }

    /// Gives every account its shares. `beat_seconds`, above 0, is the time that a beat takes the beater.
    pub fn divide(&self, demands: &[Demand], beat_seconds: f64) {
        let divided = |capacity: f64, demand: fn(&Demand) -> f64| {
            let demands: Vec<_> = demands.iter().map(|it| (&*it.account.namespace, demand(it))).collect();
            limits(capacity, &demands)
        };
        let replicas = self.replicas.load(Ordering::Relaxed) as f64;
        let Limits { writes_per_second, bytes_per_second, ledger_total_bytes, pending_bytes, .. } =
            self.limits;
        let writes = divided(writes_per_second / replicas, Demand::writes);
        let bytes = divided(bytes_per_second as f64 / replicas, |it| it.bytes);
        let beats = divided(BEATER_TIME / beat_seconds, |it| it.beats);
        let pending = divided((pending_bytes / RECORD_BYTES) as f64, Demand::pending);
        let retain = divided(ledger_total_bytes as f64 / replicas, Demand::kept);
        for (at, demand) in demands.iter().enumerate() {
            let account = &demand.account;
            let stretch = factor(demand.writes(), writes[at]);
            let spacing = match (stretch > 1.0).then(|| Duration::try_from_secs_f64(stretch / demand.commits))
            {
                None => Duration::ZERO,
                Some(spacing) => spacing.unwrap_or(LONGEST_COMMIT).min(LONGEST_COMMIT),
            };
            let slowdown = factor(demand.bytes, bytes[at]).max(factor(demand.beats, beats[at]));
            account.spacing.store(spacing.as_nanos() as u64, Ordering::Relaxed);
            store(&account.stretch, stretch);
            store(&account.slowdown, slowdown.min(SLOWEST));
            let most = (pending[at] as usize).clamp(FEWEST_PENDING, MAX_PENDING);
            account.pending.store(most as u64, Ordering::Relaxed);
            account.retain.store(retain[at] as u64, Ordering::Relaxed);
        }
    }
}

impl Demand {
    /// Periodic writes a second.
    fn writes(&self) -> f64 {
        if self.running { COMMIT_WRITES * self.commits + STATUS_WRITES } else { COMMIT_WRITES * self.commits }
    }

    fn pending(&self) -> f64 {
        (if self.running { MAX_PENDING } else { FEWEST_PENDING }) as f64
    }

    fn kept(&self) -> f64 {
        let held = self.account.held.load(Ordering::Relaxed);
        (if self.running { self.retain } else { self.retain.min(held) }) as f64
    }
}

/// How many times more than `limit` is asked for, at least once.
fn factor(demand: f64, limit: f64) -> f64 {
    if demand > limit { demand / limit } else { 1.0 }
}

fn load(cell: &AtomicU64) -> f64 {
    f64::from_bits(cell.load(Ordering::Relaxed))
}

fn store(cell: &AtomicU64, value: f64) {
    cell.store(value.to_bits(), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn demand(namespace: &str) -> Demand {
        let account = Account::new(namespace.into());
        Demand { account, running: true, beats: 1.0, commits: 1.0, bytes: 500.0, retain: 4 << 20 }
    }

    /// One modest organism, and `count` greedy ones of another namespace.
    fn divided(count: usize, greedy: impl Fn(&mut Demand)) -> Vec<Demand> {
        let mut demands = vec![demand("modest")];
        demands.extend((0..count).map(|_| demand("greedy")));
        demands[1..].iter_mut().for_each(greedy);
        Budget::new(&Limits::for_tests()).divide(&demands, 10e-6);
        demands
    }

    fn assert_untouched(modest: &Demand) {
        let intervals = modest.account.commit_intervals(SECOND);
        assert_eq!((intervals.calm, intervals.input), (SECOND, Duration::ZERO));
        assert_eq!((modest.account.status_interval(), modest.account.slowdown()), (STATUS, 1.0));
        assert!(modest.account.retain() >= 4 << 20);
        assert_eq!(modest.account.pending_records(), MAX_PENDING);
    }

    #[test]
    fn a_greedy_namespace_slows_only_itself() {
        let demands = divided(1_000, |it| (it.beats, it.commits, it.bytes) = (1e3, 20.0, 1e5));
        assert_untouched(&demands[0]);
        let greedy = &demands[1].account;
        assert!(greedy.slowdown() > 10.0, "{}", greedy.slowdown());
        assert!(greedy.commit_intervals(Duration::from_millis(1)).input > SECOND * 30);
        assert_eq!(greedy.status_interval(), LONGEST_STATUS);
        assert!((FEWEST_PENDING..500).contains(&greedy.pending_records()));
        let total: u64 = demands[1..].iter().map(|it| it.account.retain()).sum();
        assert!(total <= 1 << 28);
    }

    #[test]
    fn suspended_organisms_count_by_what_they_hold() {
        let demands = divided(1_024, |it| it.running = false);
        assert_untouched(&demands[0]);
        let demands = divided(1_024, |it| {
            it.running = false;
            it.account.holds(1 << 20);
        });
        assert_untouched(&demands[0]);
    }

    #[test]
    fn within_the_limits_nobody_is_slowed() {
        for it in divided(10, |it| it.commits = 1.0) {
            assert_eq!(it.account.commit_intervals(SECOND).calm, SECOND);
            assert_eq!((it.account.slowdown(), it.account.status_interval()), (1.0, STATUS));
        }
    }

    #[test]
    fn what_is_pending_stays_within_the_memory() {
        let demands = divided(100, |_| {});
        let records: u64 = demands.iter().map(|it| it.account.pending_records() as u64).sum();
        assert!(records * RECORD_BYTES <= (64 << 20) + 100 * FEWEST_PENDING as u64 * RECORD_BYTES);
        assert!(demands[1].account.pending_records() >= FEWEST_PENDING);
    }
}
