//! Until when this replica may beat.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;

/// Time since the machine booted. It goes on while the process is stopped or the machine sleeps, and nobody sets it.
#[must_use]
pub fn boot_time() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or_default())
}

/// Until when this replica may beat.
#[derive(Debug)]
pub struct Permit {
    /// Nanoseconds since the machine booted.
    until: AtomicU64,
    /// Counts how often it was given again after it had lapsed.
    terms: watch::Sender<u64>,
}

impl Default for Permit {
    fn default() -> Self {
        Self { until: AtomicU64::new(0), terms: watch::Sender::new(0) }
    }
}

impl Permit {
    /// A permit for good, for what runs without replicas.
    #[must_use]
    pub fn unlimited() -> Self {
        Self { until: AtomicU64::new(u64::MAX), ..Self::default() }
    }

    /// Lets this replica beat until then.
    pub fn extend(&self, until: Duration) {
        if !self.is_valid() {
            // Before the new end: nobody may take an old term for the new one.
            self.terms.send_modify(|term| *term += 1);
        }
        self.until.store(u64::try_from(until.as_nanos()).unwrap_or(u64::MAX), Ordering::Release);
    }

    /// Lets this replica beat until then, if it may beat now. A permit that has lapsed takes a renewal.
    pub fn extend_from_now_on(&self, until: Duration) {
        if self.is_valid() {
            let until = u64::try_from(until.as_nanos()).unwrap_or(u64::MAX);
            self.until.fetch_max(until, Ordering::AcqRel);
        }
    }

    /// Ends it at once.
    pub fn end(&self) {
        self.until.store(0, Ordering::Release);
    }

    /// Whether this replica may beat now.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        boot_time().as_nanos() < u128::from(self.until.load(Ordering::Acquire))
    }

    /// Changes when it is given again after it had lapsed.
    #[must_use]
    pub fn terms(&self) -> watch::Receiver<u64> {
        self.terms.subscribe()
    }
}

/// The hold of this replica on one organism. While the permit lapsed, another replica may have taken the organism over:
/// it has to be confirmed from the head before anything is written.
#[derive(Debug)]
pub struct Tenure {
    permit: Arc<Permit>,
    confirmed: AtomicU64,
}

impl Tenure {
    /// A hold in the present term.
    #[must_use]
    pub fn new(permit: Arc<Permit>) -> Arc<Self> {
        let confirmed = AtomicU64::new(*permit.terms.borrow());
        Arc::new(Self { permit, confirmed })
    }

    /// Whether the organism may beat, and its objects be written.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        *self.permit.terms.borrow() == self.confirmed.load(Ordering::Acquire) && self.permit.is_valid()
    }

    /// Notes that this replica was still the holder in this term.
    pub fn confirm(&self, term: u64) {
        self.confirmed.store(term, Ordering::Release);
    }

    /// Returns when it is valid.
    pub async fn until_valid(&self) {
        /// Nothing tells when a permit lapses, and who waits is in no hurry.
        const POLL: Duration = Duration::from_millis(100);
        while !self.is_valid() {
            tokio::time::sleep(POLL).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_has_to_be_confirmed_after_each_lapse() {
        let permit = Arc::new(Permit::default());
        permit.extend(boot_time() + Duration::from_secs(60));
        let tenure = Tenure::new(permit.clone());
        assert!(tenure.is_valid());
        permit.extend(boot_time() + Duration::from_secs(90));
        assert!(tenure.is_valid(), "it never lapsed");
        permit.end();
        assert!(!tenure.is_valid());
        permit.extend(boot_time() + Duration::from_secs(60));
        assert!(permit.is_valid() && !tenure.is_valid());
        tenure.confirm(*permit.terms().borrow());
        assert!(tenure.is_valid());
    }
}
