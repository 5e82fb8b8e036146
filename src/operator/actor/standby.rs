//! Waiting while another operator holds the ledger.

use std::time::{Duration, Instant};

use kube::Client;

use crate::operator::key::Key;
use crate::store::configmap::ConfigMaps;
use crate::store::rebuild;

/// Interval between two reads of the head.
const POLL: Duration = Duration::from_secs(15);
/// The holder of an organism that beats commits at least once a minute. A head that has not changed for this
/// long, by the clock of this process, has no live holder.
const STALE_AFTER: Duration = Duration::from_secs(150);

/// Returns when this operator may take the ledger over again: when the head is gone, names it as the holder or was
/// repaired, or when the head of an organism that should beat has not changed for [`STALE_AFTER`]. The fence in the
/// head keeps a wrong guess from forking the ledger.
pub(super) async fn wait_for_release(client: Client, key: Key, uid: String, identity: &str, beats: bool) {
    let store = ConfigMaps::new(client, &key.namespace, &key.name, &uid);
    let mut last: Option<(String, Instant)> = None;
    loop {
        tokio::time::sleep(POLL).await;
        // A failed call tells nothing about the holder.
        let Ok(found) = store.head().await else { continue };
        let Some(found) = found else { return };
        if found.head.is_some_and(|head| [identity, rebuild::HOLDER].contains(&&*head.holder)) {
            return;
        }
        match &last {
            Some((version, since)) if *version == found.resource_version => {
                if beats && since.elapsed() >= STALE_AFTER {
                    tracing::warn!(organism = %key, "the ledger's holder no longer commits; taking over");
                    return;
                }
            }
            _ => last = Some((found.resource_version, Instant::now())),
        }
    }
}
