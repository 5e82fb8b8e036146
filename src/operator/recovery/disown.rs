//! Giving back a ledger that an earlier process of this replica has held.

use kube::Client;

use crate::operator::key::Key;
use crate::store::configmap::{ConfigMaps, StoreError, StoreErrorKind};

/// Says in the head of the Organism with this UID that `identity`, whose earlier process held it, does so no longer: another
/// replica is to hold it. Any other head stays as it is.
///
/// # Errors
/// [`StoreError`].
pub async fn disown(client: Client, identity: &str, key: &Key, uid: &str) -> Result<(), StoreError> {
    let mut store = ConfigMaps::new(client, &key.namespace, &key.name, uid);
    let Some(found) = store.head().await? else { return Ok(()) };
    let (version, owned) = (found.resource_version, found.owner.is_some());
    let Some(mut head) = found.head.filter(|head| head.uid == uid) else { return Ok(()) };
    if head.released || head.holder != identity {
        return Ok(());
    }
    head.disown();
    store.set_owned(owned);
    match store.put_head(&head, &version).await {
        // Whoever has written it meanwhile shows in it when it is looked at again.
        Ok(_) | Err(StoreError { kind: StoreErrorKind::Conflict, .. }) => Ok(()),
        Err(error) => Err(error),
    }
}
