//! Who may take how much: rates, shares of a bounded queue, and the memory of all collectors of a process.
//!
//! Charged is always a peer whose certificate proves its name, never a name in a message: those can be invented.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::event::{InjectionId, Outcome};
use super::gossip::MonotonicTime;
use super::spiffe::Identity;

/// Memory of all collectors of a process together, in bytes.
const COLLECTOR_MEMORY: usize = 30 * 1024 * 1024;
/// What a pending injection takes with its copies on the way to the ledger, at most, in bytes.
pub(super) const PENDING_BYTES: usize = 1_200;
/// What a settled injection takes beside the text of its id and outcome, in bytes.
const SETTLED_BYTES: usize = 240;

/// From where an injection came to this peer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    /// From a client of this peer.
    Client,
    /// From its origin, whose certificate proves that.
    Origin(Identity),
    /// From a peer that is not its origin. All of these are one source: in a full mesh an origin's own copy arrives as
    /// well, and an honest peer forwards what a hostile one invented.
    Forwarded,
}

/// What a peer sends that is new here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Injections that it accepted from its own clients.
    Own,
    /// Injections that it forwards.
    Forwarded,
    /// Outcomes of injections that are unknown here.
    Outcomes,
    /// All items of all messages, known or not.
    All,
}

/// A rate with a burst.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Time between two, in the long run.
    pub interval: Duration,
    /// How many may come at once.
    pub burst: u32,
}

/// A token bucket, as the time at which it is full.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bucket(MonotonicTime);

impl Bucket {
    /// Takes `count` tokens. Returns false, and takes none, if there are fewer.
    pub(super) fn take(&mut self, now: MonotonicTime, count: u32, rate: Rate) -> bool {
        let full_at = self.0.max(now) + rate.interval * count;
        let allowed = full_at <= now + rate.interval * rate.burst;
        if allowed {
            self.0 = full_at;
        }
        allowed
    }

    pub(super) fn is_full(self, now: MonotonicTime) -> bool {
        self.0 <= now
    }
}

/// Whether someone who holds `own` of what `total` bounds may take `more`, while all together hold `used`: as long as he
/// has no more than what is left. So one alone takes at most half, and whoever comes later finds room.
pub(super) fn has_share(own: usize, more: usize, used: usize, total: usize) -> bool {
    own.saturating_add(more) <= total.saturating_sub(used)
}

/// The memory for the injections of all collectors of a process. A collector must not forget what it has committed, so
/// it takes no more than it has room for.
#[derive(Debug)]
pub struct CollectorMemory {
    total: usize,
    used: AtomicUsize,
}

impl Default for CollectorMemory {
    fn default() -> Self {
        Self::new(COLLECTOR_MEMORY)
    }
}

impl CollectorMemory {
    /// At most about `total` bytes.
    #[must_use]
    pub fn new(total: usize) -> Self {
        Self { total, used: AtomicUsize::new(0) }
    }

    /// Bytes that are taken.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

/// One collector's part of the memory, given back when dropped.
#[derive(Debug)]
pub(super) struct MemoryShare {
    memory: Arc<CollectorMemory>,
    own: usize,
}

impl MemoryShare {
    pub(super) fn new(memory: Arc<CollectorMemory>) -> Self {
        Self { memory, own: 0 }
    }

    pub(super) fn has_room(&self, bytes: usize) -> bool {
        has_share(self.own, bytes, self.memory.used(), self.memory.total)
    }

    pub(super) fn take(&mut self, bytes: usize) {
        self.own += bytes;
        self.memory.used.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn give_back(&mut self, bytes: usize) {
        let bytes = bytes.min(self.own);
        self.own -= bytes;
        self.memory.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for MemoryShare {
    fn drop(&mut self) {
        self.give_back(self.own);
    }
}

/// About what the settled injection `id` takes in memory, in bytes.
pub(super) fn settled_bytes(id: &InjectionId, outcome: &Outcome) -> usize {
    let reason = match outcome {
        Outcome::Committed { .. } => 0,
        Outcome::Refused { reason } => reason.len(),
    };
    SETTLED_BYTES + id.as_str().len() + reason
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let rate = Rate { interval: Duration::from_millis(10), burst: 5 };
        let mut bucket = Bucket::default();
        let mut taken =
            |millis: u64| (0..100).filter(|_| bucket.take(Duration::from_millis(millis), 1, rate)).count();
        assert_eq!([0, 9, 10, 40, 1_000].map(&mut taken), [5, 0, 1, 3, 5]);
        assert!(!Bucket::default().take(Duration::ZERO, 6, rate));
        assert!(Bucket::default().take(Duration::ZERO, 5, rate));
    }

    #[test]
    fn nobody_takes_what_others_need() {
        let memory = Arc::new(CollectorMemory::new(1_000));
        let fill = |share: &mut MemoryShare| {
            while share.has_room(10) {
                share.take(10);
            }
            share.own
        };
        let mut shares: Vec<_> = (0..3).map(|_| MemoryShare::new(memory.clone())).collect();
        assert_eq!(shares.iter_mut().map(fill).collect::<Vec<_>>(), [500, 250, 130]);
        assert!(MemoryShare::new(memory.clone()).has_room(100));
        drop(shares);
        assert_eq!(memory.used(), 0);
    }
}
