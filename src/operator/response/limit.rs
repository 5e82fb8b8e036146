//! How many organisms may be isolated at a time: a wrong model must not take a cluster down.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::operator::key::Key;
use crate::operator::members::Members;
use crate::operator::metrics::Metrics;

/// Fraction of all organisms that may be isolated where no number is given.
const FRACTION: f64 = 0.1;
/// And at least so many.
const AT_LEAST: usize = 3;

/// The limit and who has a place within it.
pub struct Limit {
    most: Option<usize>,
    members: Arc<Members>,
    organisms: AtomicUsize,
    isolated: Mutex<BTreeSet<Key>>,
    freed: Notify,
    metrics: Arc<Metrics>,
}

impl Limit {
    /// At most this number; a tenth of the organisms, and at least three, where there is none. In the installation: each
    /// of its replicas has an equal part, and the first ones have what is left over.
    #[must_use]
    pub fn new(most: Option<usize>, members: Arc<Members>, metrics: Arc<Metrics>) -> Self {
        Self {
            most,
            members,
            organisms: AtomicUsize::new(0),
            isolated: Mutex::default(),
            freed: Notify::new(),
            metrics,
        }
    }

    /// Counts an organism in, until what it returns is dropped.
    #[must_use]
    pub fn count(self: &Arc<Self>, key: Key) -> Counted {
        self.organisms.fetch_add(1, Ordering::Relaxed);
        Counted { limit: self.clone(), key }
    }

    /// The number that may be isolated now.
    #[must_use]
    pub fn most(&self) -> usize {
        // One that is stopping keeps what it has, and isolates no more.
        let (place, replicas) = self.members.view().place().unwrap_or((usize::MAX, 1));
        let organisms = self.organisms.load(Ordering::Relaxed) * replicas;
        let most = self.most.unwrap_or(((organisms as f64 * FRACTION) as usize).max(AT_LEAST));
        part(most, place, replicas)
    }

    /// Returns when a place has been given back since the call.
    pub async fn freed(&self) {
        self.freed.notified().await;
    }

    fn isolated(&self) -> MutexGuard<'_, BTreeSet<Key>> {
        // A panic while it is held leaves the set whole.
        self.isolated.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The part of the replica at this place among so many.
fn part(most: usize, place: usize, replicas: usize) -> usize {
    match place < replicas {
        true => most / replicas + usize::from(place < most % replicas),
        false => 0,
    }
}

/// One organism of those that the limit counts.
pub struct Counted {
    limit: Arc<Limit>,
    key: Key,
}

impl Counted {
    /// Takes a place. One that is isolated already, in an earlier run, has it whatever the limit is.
    ///
    /// # Errors
    /// The limit, if it is reached.
    pub fn take(&self, already: bool) -> Result<(), usize> {
        let most = self.limit.most();
        let mut isolated = self.limit.isolated();
        if !already && !isolated.contains(&self.key) && isolated.len() >= most {
            return Err(most);
        }
        isolated.insert(self.key.clone());
        self.limit.metrics.quarantined(isolated.len());
        Ok(())
    }

    /// Gives the place back.
    pub fn give_back(&self) {
        let mut isolated = self.limit.isolated();
        if isolated.remove(&self.key) {
            self.limit.metrics.quarantined(isolated.len());
            self.limit.freed.notify_waiters();
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.limit.organisms.fetch_sub(1, Ordering::Relaxed);
        self.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(most: Option<usize>) -> Arc<Limit> {
        let members = Members::alone("alpha");
        Arc::new(Limit::new(most, members, Arc::new(Metrics::new().unwrap())))
    }

    #[test]
    fn the_parts_of_all_replicas_are_the_limit() {
        for (most, replicas) in [(3, 1), (3, 2), (3, 5), (100, 3)] {
            let parts: Vec<_> = (0..replicas).map(|place| part(most, place, replicas)).collect();
            assert_eq!(parts.iter().sum::<usize>(), most, "{parts:?}");
            assert!(parts.iter().max().unwrap() - parts.iter().min().unwrap() <= 1, "{parts:?}");
        }
        assert_eq!(part(100, usize::MAX, 1), 0);
    }

    #[test]
    fn a_place_is_taken_once_and_given_back() {
        let limit = limit(Some(2));
        let of: Vec<_> = (0..3).map(|it| limit.count(Key::new("a", &format!("o{it}")))).collect();
        assert_eq!((of[0].take(false), of[0].take(false), of[1].take(false)), (Ok(()), Ok(()), Ok(())));
        assert_eq!(of[2].take(false), Err(2));
        assert_eq!(of[2].take(true), Ok(()), "it is isolated, and that counts");
        of[0].give_back();
        assert_eq!(of[0].take(false), Err(2));
        drop(of);
        assert!(limit.isolated().is_empty());
    }

    #[test]
    fn without_a_number_it_is_a_tenth_and_at_least_three() {
        let limit = limit(None);
        let of: Vec<_> = (0..29).map(|it| limit.count(Key::new("a", &format!("o{it}")))).collect();
        assert_eq!(limit.most(), 3);
        let more: Vec<_> = (0..21).map(|it| limit.count(Key::new("b", &format!("o{it}")))).collect();
        assert_eq!(limit.most(), 5);
        drop((of, more));
        assert_eq!(limit.most(), 3);
    }
}
