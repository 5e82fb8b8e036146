//! Segments that no head lists: an earlier writer created them and did not come to list them, or did not come to
//! delete them after a merge.

use std::collections::BTreeSet;

use crate::operator::committer::ledger::OwnedLedger;
use crate::store::configmap::{Objects, StoreError, StoreErrorKind, parse_segment_name};

/// Deletes segments that this Organism's writers of earlier epochs left behind and that no head lists, heads of
/// earlier generations included.
pub(super) async fn delete_unlisted(ledger: &OwnedLedger, existing: &Objects) {
    if let Err(error) = try_delete_unlisted(ledger, existing).await {
        tracing::warn!(%error, "cannot delete segments that no head lists; the next take-over tries again");
    }
}

async fn try_delete_unlisted(ledger: &OwnedLedger, existing: &Objects) -> Result<(), StoreError> {
    let mut listed: BTreeSet<String> =
        ledger.head.segments.iter().map(|it| ledger.store.name_of(it)).collect();
    for generation in 1..ledger.head.generation {
        // Without an earlier head its segments are unknown: none is deleted.
        let Some(head) = ledger.store.archived_head(generation).await? else { return Ok(()) };
        listed.extend(head.segments.iter().map(|it| ledger.store.name_of(it)));
    }
    for object in existing.values().filter(|it| it.organism == ledger.store.organism_uid()) {
        let unlisted = parse_segment_name(&ledger.origin.name, &object.name)
            .is_some_and(|(epoch, ..)| epoch < ledger.head.epoch && !listed.contains(&object.name));
        if unlisted {
            match ledger.store.delete(&object.name, &object.uid).await {
                Ok(()) | Err(StoreError { kind: StoreErrorKind::Conflict, .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}
