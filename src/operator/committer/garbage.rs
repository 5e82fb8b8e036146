//! Segments that no head lists: an earlier writer created them and did not come to list them, or did not come to
//! delete them after a merge.

use std::collections::BTreeSet;

use super::ledger::OwnedLedger;
use crate::store::configmap::{StoreError, StoreErrorKind};
use crate::store::objects::{Objects, parse_segment_name};

/// Deletes segments of this ledger that writers of earlier epochs left behind and that the head does not list. Those of
/// earlier generations stay: a generation begins where a head was lost or put back to an older state, and what it
/// does not list then may have been committed.
pub(super) async fn delete_unlisted(ledger: &OwnedLedger, existing: &Objects) {
    if let Err(error) = try_delete_unlisted(ledger, existing).await {
        tracing::warn!(%error, "cannot delete segments that no head lists; the next list tries again");
    }
}

async fn try_delete_unlisted(ledger: &OwnedLedger, existing: &Objects) -> Result<(), StoreError> {
    let OwnedLedger { store, head, origin, .. } = ledger;
    let listed: BTreeSet<String> = head.segments.iter().map(|it| store.name_of(it)).collect();
    for object in existing.values().filter(|it| it.organism == store.organism_uid()) {
        let unlisted = parse_segment_name(&origin.name, &object.name)
            .is_some_and(|(epoch, ..)| epoch < head.epoch && !listed.contains(&object.name));
        if !unlisted {
            continue;
        }
        // Of one that cannot be read nobody knows what it was.
        let found = store.readable_segment(&object.name).await?;
        if found.is_none_or(|(_, sealed)| sealed.head.origin.as_ref() != Some(origin)) {
            continue;
        }
        match store.delete(&object.name, &object.uid).await {
            Ok(()) | Err(StoreError { kind: StoreErrorKind::Conflict, .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
