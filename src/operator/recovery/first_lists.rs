//! The ledger objects of Organisms that were not recovered yet, from the first lists of the watch.
//!
//! A list for each Organism at a start would make the API server go through all ConfigMaps as many times.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::operator::key::Key;
use crate::store::configmap::{LedgerObject, Objects};

/// How long a recovery waits for the first lists before it lists by itself.
const LIST_TIMEOUT: Duration = Duration::from_secs(30);

/// Objects by the name of their Organism, until that is recovered.
pub struct FirstLists {
    found: Mutex<Found>,
    /// Number of lists that have not arrived.
    missing: watch::Sender<usize>,
}

#[derive(Default)]
struct Found {
    objects: BTreeMap<Key, Objects>,
    /// Organisms whose objects were taken.
    taken: BTreeSet<Key>,
    /// Whether whoever comes now has to list by itself.
    closed: bool,
}

impl FirstLists {
    /// Waits for this number of lists.
    #[must_use]
    pub fn new(lists: usize) -> Self {
        Self { found: Mutex::default(), missing: watch::Sender::new(lists) }
    }

    /// Takes the objects of the ledger of this name. Returns none the second time and where a list is late: then
    /// the API server has to be asked.
    pub async fn take(&self, key: &Key) -> Option<Objects> {
        let mut missing = self.missing.subscribe();
        let complete = missing.wait_for(|&lists| lists == 0);
        tokio::time::timeout(LIST_TIMEOUT, complete).await.ok()?.ok()?;
        let found = &mut *self.lock();
        let first = !found.closed && found.taken.insert(key.clone());
        first.then(|| found.objects.remove(key).unwrap_or_default())
    }

    /// Forgets the objects of Organisms that were not recovered until now: other replicas hold them.
    pub fn close(&self) {
        *self.lock() = Found { closed: true, ..Found::default() };
    }

    /// Adds an object of the ledger of this name, or replaces it.
    pub fn add(&self, key: &Key, object: LedgerObject) {
        self.update(key, |objects| {
            objects.insert(object.name.clone(), object);
        });
    }

    /// Removes an object of the ledger of this name.
    pub fn remove(&self, key: &Key, object: &LedgerObject) {
        self.update(key, |objects| {
            if objects.get(&object.name).is_some_and(|it| it.uid == object.uid) {
                objects.remove(&object.name);
            }
        });
    }

    /// Notes that one list has arrived, or cannot be had.
    pub fn list_arrived(&self) {
        self.missing.send_modify(|lists| *lists = lists.saturating_sub(1));
    }

    fn update(&self, key: &Key, change: impl FnOnce(&mut Objects)) {
        let mut found = self.lock();
        if !found.closed && !found.taken.contains(key) {
            change(found.objects.entry(key.clone()).or_default());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Found> {
        // A panic while it is held leaves the maps themselves whole.
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
