//! The pods of all bodies, as the watches observe them.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::pods::Pod;
use crate::operator::key::Key;

type Table = BTreeMap<Key, BTreeMap<String, Pod>>;

/// The pods of all bodies by Organism and name.
#[derive(Debug)]
pub struct PodIndex {
    table: Mutex<Table>,
    /// Watches whose first list has not arrived.
    awaited: watch::Sender<usize>,
}

impl PodIndex {
    /// An empty index, fed by this number of watches.
    #[must_use]
    pub fn new(watches: usize) -> Self {
        Self { table: Mutex::default(), awaited: watch::Sender::new(watches) }
    }

    /// Returns once the first list of every watch has arrived.
    pub async fn wait_until_listed(&self) {
        // Infallible: this holds the sender.
        let _ = self.awaited.subscribe().wait_for(|&awaited| awaited == 0).await;
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // A panic while it is held leaves the map itself whole.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pods of one body.
    #[must_use]
    pub fn of(&self, key: &Key) -> Vec<Pod> {
        self.table().get(key).map(|it| it.values().cloned().collect()).unwrap_or_default()
    }

    /// Adds or replaces a pod. Returns whether anything that matters has changed.
    pub fn put(&self, key: Key, name: String, pod: Pod) -> bool {
        let mut table = self.table();
        let pods = table.entry(key).or_default();
        let changed = pods.get(&name) != Some(&pod);
        pods.insert(name, pod);
        changed
    }

    /// Removes a pod.
    pub fn remove(&self, key: &Key, name: &str) {
        let mut table = self.table();
        if let Some(pods) = table.get_mut(key) {
            pods.remove(name);
            if pods.is_empty() {
                table.remove(key);
            }
        }
    }

    /// Replaces the pods of one body.
    pub fn replace_of(&self, key: &Key, pods: impl IntoIterator<Item = (String, Pod)>) {
        self.table().insert(key.clone(), pods.into_iter().collect());
    }

    /// Removes the pods of one body.
    pub fn forget(&self, key: &Key) {
        self.table().remove(key);
    }

    /// Notes that the first list of one watch has arrived.
    pub fn first_list_arrived(&self) {
        self.awaited.send_modify(|awaited| *awaited = awaited.saturating_sub(1));
    }

    /// Replaces all pods, in a namespace or in all. Returns the Organisms that have or had some.
    pub fn replace(&self, namespace: Option<&str>, list: Vec<(Key, String, Pod)>) -> Vec<Key> {
        let mut table = self.table();
        let mut keys: Vec<Key> =
            table.keys().filter(|key| namespace.is_none_or(|it| *key.namespace == *it)).cloned().collect();
        table.retain(|key, _| namespace.is_some_and(|it| *key.namespace != *it));
        for (key, name, pod) in list {
            keys.push(key.clone());
            table.entry(key).or_default().insert(name, pod);
        }
        keys.sort();
        keys.dedup();
        keys
    }
}
