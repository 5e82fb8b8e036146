//! The ledger objects of Organisms that were not recovered yet, from the first lists of the watch.
//!
//! A list for each Organism at a start would make the API server go through all ConfigMaps as many times.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

/// Name and UID of each object of a ledger.
pub type Objects = BTreeSet<(String, String)>;

/// How long a recovery waits for the first lists before it lists by itself.
const LIST_TIMEOUT: Duration = Duration::from_secs(30);

/// Objects by the UID of their Organism, until that is recovered.
pub struct FirstLists {
    found: Mutex<Found>,
    /// Number of lists that have not arrived.
    missing: watch::Sender<usize>,
}

#[derive(Default)]
struct Found {
    objects: BTreeMap<String, Objects>,
    /// Organisms whose objects were taken.
    taken: BTreeSet<String>,
}

impl FirstLists {
    /// Waits for this number of lists.
    #[must_use]
    pub fn new(lists: usize) -> Self {
        Self { found: Mutex::default(), missing: watch::Sender::new(lists) }
    }

    /// Takes the objects of this Organism's ledger. Returns none the second time and where a list is late: then
    /// the API server has to be asked.
    pub async fn take(&self, uid: &str) -> Option<Objects> {
        let mut missing = self.missing.subscribe();
        let complete = missing.wait_for(|&lists| lists == 0);
        tokio::time::timeout(LIST_TIMEOUT, complete).await.ok()?.ok()?;
        let found = &mut *self.lock();
        found.taken.insert(uid.to_owned()).then(|| found.objects.remove(uid).unwrap_or_default())
    }

    /// Adds an object of this Organism, by name and UID.
    pub fn add(&self, organism: &str, object: (String, String)) {
        self.update(organism, |objects| {
            objects.insert(object);
        });
    }

    /// Removes an object of this Organism.
    pub fn remove(&self, organism: &str, object: &(String, String)) {
        self.update(organism, |objects| {
            objects.remove(object);
        });
    }

    /// Notes that one list has arrived, or cannot be had.
    pub fn list_arrived(&self) {
        self.missing.send_modify(|lists| *lists = lists.saturating_sub(1));
    }

    fn update(&self, organism: &str, change: impl FnOnce(&mut Objects)) {
        let mut found = self.lock();
        if !found.taken.contains(organism) {
            change(found.objects.entry(organism.to_owned()).or_default());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Found> {
        // A panic while it is held leaves the maps themselves whole.
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
