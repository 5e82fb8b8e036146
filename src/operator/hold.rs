//! Whether this process still holds an organism, asked before each write that acts on a decision.

use kube::Client;

use super::key::Key;
use crate::store::configmap::{ConfigMaps, StoreError};

/// A ledger that this process has taken over. A process that was stopped for a while cannot know whether it still is the
/// holder: only the head can tell.
///
/// Read the object that is to be written first, then ask, then write with the resourceVersion that was read: a holder
/// that comes in between and writes makes that write fail.
pub struct Hold {
    store: ConfigMaps,
    uid: String,
    epoch: u64,
}

impl Hold {
    /// The ledger of the Organism with this UID, taken over with this epoch.
    #[must_use]
    pub fn new(client: Client, key: &Key, uid: &str, epoch: u64) -> Self {
        let store = ConfigMaps::new(client, &key.namespace, &key.name, uid);
        Self { store, uid: uid.to_owned(), epoch }
    }

    /// Whether the head still names this epoch.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be read: nothing may be written then.
    pub async fn is_ours(&self) -> Result<bool, StoreError> {
        let found = self.store.head().await?.and_then(|found| found.head);
        Ok(found.is_some_and(|head| head.epoch == self.epoch && head.uid == self.uid))
    }
}
