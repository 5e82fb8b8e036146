//! How much the operator may write: the interval of calm commits and status writes stretches under the
//! write budget, all organisms slow down under the byte budget.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::ledger::entry::Record;
use crate::organism::Beat;
use crate::runtime::MAX_PENDING;

/// Longest interval between two commits that are not urgent.
const LONGEST_COMMIT: Duration = Duration::from_secs(60);
/// Shortest interval between two status writes that only change numbers.
const STATUS: Duration = Duration::from_secs(2);
/// Longest interval between them.
const LONGEST_STATUS: Duration = Duration::from_secs(120);
/// Organisms slow down at most by this factor.
const SLOWEST: f64 = 1000.0;

/// Memory of one record that waits: a beat, its allocation and its place in the list.
const RECORD_BYTES: u64 = (size_of::<Beat>() + size_of::<Record>() + 32) as u64;
/// Records that any organism may hold: a few seconds of a calm pulse.
const FEWEST_PENDING: usize = 16;

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
}

/// Limits, and how far they are used.
#[derive(Debug)]
pub struct Budget {
    writes_per_second: f64,
    bytes_per_second: f64,
    /// Bytes that all ledgers together may keep.
    total_bytes: u64,
    /// Bytes of entries that may wait to be committed, in the whole process.
    pending_bytes: u64,
    stretch: AtomicU64,
    slowdown: AtomicU64,
    written: AtomicU64,
    organisms: AtomicU64,
}

impl Budget {
    /// A budget of which nothing is used.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        Self {
            writes_per_second: limits.writes_per_second,
            bytes_per_second: limits.bytes_per_second as f64,
            total_bytes: limits.ledger_total_bytes,
            pending_bytes: limits.pending_bytes,
            stretch: AtomicU64::new(1.0_f64.to_bits()),
            slowdown: AtomicU64::new(1.0_f64.to_bits()),
            written: AtomicU64::new(0),
            organisms: AtomicU64::new(0),
        }
    }

    #[cfg(test)]
    pub(super) fn for_tests() -> Self {
        Self::new(&Limits {
            writes_per_second: 50.0,
            bytes_per_second: 1 << 20,
            ledger_total_bytes: 1 << 28,
            pending_bytes: 64 << 20,
        })
    }

    /// How long entries that are not urgent may wait, where the spec asks for `wanted`.
    #[must_use]
    pub fn commit_interval(&self, wanted: Duration) -> Duration {
        wanted.mul_f64(load(&self.stretch)).min(LONGEST_COMMIT.max(wanted))
    }

    /// Interval between status writes that only change numbers.
    #[must_use]
    pub fn status_interval(&self) -> Duration {
        STATUS.mul_f64(load(&self.stretch)).min(LONGEST_STATUS)
    }

    /// Sets the stretch from the writes a second that all organisms ask for.
    pub fn ask(&self, writes_per_second: f64) {
        store(&self.stretch, (writes_per_second / self.writes_per_second).max(1.0));
    }

    /// Counts bytes written to ledgers.
    pub fn wrote(&self, bytes: u64) {
        self.written.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Factor by which the periods of all organisms are longer than their specs ask; 1 is their own pace.
    #[must_use]
    pub fn slowdown(&self) -> f64 {
        load(&self.slowdown)
    }

    /// Adjusts the slowdown to what was written in the last `seconds`.
    pub fn adjust(&self, seconds: f64) {
        let used = self.written.swap(0, Ordering::Relaxed) as f64 / seconds / self.bytes_per_second;
        let slowdown = self.slowdown();
        // Slow down at once, speed up by a tenth at a time: the rate follows only after the next commits.
        let next = if used > 1.0 { slowdown * used } else { slowdown * used.max(0.9) };
        store(&self.slowdown, next.clamp(1.0, SLOWEST));
    }

    /// How many organisms share the bytes.
    pub fn share_among(&self, organisms: u64) {
        self.organisms.store(organisms, Ordering::Relaxed);
    }

    /// Records that one organism may hold before they are committed: its share of the process's memory, so that one
    /// whose commits are refused takes nothing from the others.
    #[must_use]
    pub fn pending_records(&self) -> usize {
        let share = self.pending_bytes / self.organisms.load(Ordering::Relaxed).max(1) / RECORD_BYTES;
        usize::try_from(share).unwrap_or(MAX_PENDING).clamp(FEWEST_PENDING, MAX_PENDING)
    }

    /// Bytes that one ledger may keep where its spec asks for `retain`.
    #[must_use]
    pub fn retain(&self, retain: u64) -> u64 {
        retain.min(self.total_bytes / self.organisms.load(Ordering::Relaxed).max(1))
    }
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

    fn budget(writes_per_second: f64, bytes_per_second: u64) -> Budget {
        let (ledger_total_bytes, pending_bytes) = (1 << 20, 64 << 20);
        Budget::new(&Limits { writes_per_second, bytes_per_second, ledger_total_bytes, pending_bytes })
    }

    #[test]
    fn what_is_pending_is_shared() {
        let budget = budget(50.0, 1024);
        budget.share_among(1);
        assert_eq!(budget.pending_records(), MAX_PENDING, "a batch or three, whatever the memory");
        budget.share_among(1_000);
        let each = budget.pending_records();
        assert!((16..500).contains(&each), "{each}");
        assert!(each as u64 * 1_000 * RECORD_BYTES <= 64 << 20);
        budget.share_among(1_000_000);
        assert_eq!(budget.pending_records(), FEWEST_PENDING);
    }

    #[test]
    fn commits_and_status_stretch_with_what_is_asked() {
        let budget = budget(50.0, 1024);
        let second = Duration::from_secs(1);
        budget.ask(10.0);
        assert_eq!(budget.commit_interval(second), second);
        assert_eq!(budget.status_interval(), 2 * second);
        budget.ask(500.0);
        assert_eq!(budget.commit_interval(second), 10 * second);
        budget.ask(50_000.0);
        assert_eq!(budget.commit_interval(second), 60 * second);
        assert_eq!(budget.status_interval(), 120 * second);
        assert_eq!(budget.commit_interval(300 * second), 300 * second, "never shorter than wanted");
    }

    #[test]
    fn organisms_slow_down_and_recover() {
        let budget = budget(50.0, 1000);
        budget.wrote(5_000);
        budget.adjust(1.0);
        assert_eq!(budget.slowdown(), 5.0);
        for _ in 0..60 {
            budget.adjust(1.0);
        }
        assert_eq!(budget.slowdown(), 1.0);
    }

    #[test]
    fn the_total_is_shared() {
        let budget = budget(50.0, 1000);
        budget.share_among(2);
        assert_eq!(budget.retain(4 << 20), 1 << 19);
        assert_eq!(budget.retain(1 << 18), 1 << 18);
    }
}
