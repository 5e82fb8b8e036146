//! How much the operator may write: the interval of calm commits and status writes stretches under the
//! write budget, all organisms slow down under the byte budget.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Longest interval between two commits that are not urgent.
const LONGEST_COMMIT: Duration = Duration::from_secs(60);
/// Shortest interval between two status writes that only change numbers.
const STATUS: Duration = Duration::from_secs(2);
/// Longest interval between them.
const LONGEST_STATUS: Duration = Duration::from_secs(120);
/// Organisms slow down at most by this factor.
const SLOWEST: f64 = 1000.0;

/// Limits set by flags, and how far they are used.
#[derive(Debug)]
pub struct Budget {
    writes_per_second: f64,
    bytes_per_second: f64,
    /// Bytes that all ledgers together may keep.
    total_bytes: u64,
    stretch: AtomicU64,
    slowdown: AtomicU64,
    written: AtomicU64,
    organisms: AtomicU64,
}

impl Budget {
    /// A budget of which nothing is used.
    #[must_use]
    pub fn new(writes_per_second: f64, bytes_per_second: u64, total_bytes: u64) -> Self {
        Self {
            writes_per_second,
            bytes_per_second: bytes_per_second as f64,
            total_bytes,
            stretch: AtomicU64::new(1.0_f64.to_bits()),
            slowdown: AtomicU64::new(1.0_f64.to_bits()),
            written: AtomicU64::new(0),
            organisms: AtomicU64::new(0),
        }
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

    #[test]
    fn commits_and_status_stretch_with_what_is_asked() {
        let budget = Budget::new(50.0, 1024, 1 << 20);
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
        let budget = Budget::new(50.0, 1000, 1 << 20);
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
        let budget = Budget::new(50.0, 1000, 1 << 20);
        budget.share_among(2);
        assert_eq!(budget.retain(4 << 20), 1 << 19);
        assert_eq!(budget.retain(1 << 18), 1 << 18);
    }
}
