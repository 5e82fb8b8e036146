//! What strangers can take up, counted by the address they come from.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The same is told about this often.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// So many things are kept in mind for that.
const MOST_TOLD: usize = 1024;

/// Places that are taken, in all and by source.
#[derive(Debug, Default)]
pub(crate) struct Places(Mutex<(usize, BTreeMap<IpAddr, usize>)>);

/// A place; free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    all: Arc<Places>,
    source: IpAddr,
}

impl Places {
    /// A place, unless `most` are taken or `most_a_source` by this source.
    pub(crate) fn take(self: &Arc<Self>, source: IpAddr, most: usize, most_a_source: usize) -> Option<Place> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (total, sources) = &mut *state;
        let of_source = sources.get(&source).copied().unwrap_or_default();
        if *total >= most || of_source >= most_a_source {
            return None;
        }
        sources.insert(source, of_source + 1);
        *total += 1;
        Some(Place { all: self.clone(), source })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (total, sources) = &mut *state;
        *total = total.saturating_sub(1);
        if let Some(of_source) = sources.get_mut(&self.source) {
            *of_source -= 1;
            if *of_source == 0 {
                sources.remove(&self.source);
            }
        }
    }
}

/// What was told lately: a log is not for strangers to fill.
#[derive(Debug)]
pub(crate) struct Told<K>(Mutex<BTreeMap<K, Instant>>);

impl<K> Default for Told<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Ord> Told<K> {
    /// Whether `what` is to be told now: once a minute, and not at all while too many other things are.
    pub(crate) fn now(&self, what: K) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if told.get(&what).is_some_and(|at| now.duration_since(*at) < TELL_EVERY) {
            return false;
        }
        if told.len() >= MOST_TOLD {
            told.retain(|_, at| now.duration_since(*at) < TELL_EVERY);
        }
        let room = told.len() < MOST_TOLD;
        if room {
            told.insert(what, now);
        }
        room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_come_back() {
        let places = Arc::new(Places::default());
        let (a, b) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let first = places.take(a, 3, 2).unwrap();
        let _second = places.take(a, 3, 2).unwrap();
        assert!(places.take(a, 3, 2).is_none(), "of this source");
        let _third = places.take(b, 3, 2).unwrap();
        assert!(places.take(b, 3, 2).is_none(), "in all");
        drop(first);
        assert!(places.take(b, 3, 2).is_some());
    }

    #[test]
    fn the_same_is_told_once() {
        let told = Told::default();
        assert!(told.now(1));
        assert!(!told.now(1));
        assert!((2..2000).filter(|it| told.now(*it)).count() < MOST_TOLD);
    }
}
