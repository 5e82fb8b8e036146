//! What a committer does after a failed write of the head. Pure.

use crate::operator::key::Key;
use crate::store::configmap::{StoreError, StoreErrorKind, StoredHead};
use crate::store::head::{Head, head_unreadable};

/// Another writer holds the ledger.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "organism {key}: {holder} took the ledger over with epoch {theirs}, ours is {ours}; it no longer beats here"
)]
pub struct Fenced {
    /// The organism.
    pub key: Key,
    /// Epoch of this writer.
    pub ours: u64,
    /// Epoch found in the head.
    pub theirs: u64,
    /// Holder found in the head.
    pub holder: String,
}

/// The next step after a write of the head that did not succeed.
#[derive(Debug, PartialEq)]
pub(super) enum AfterFailedPut {
    /// The write did happen; only its answer was lost.
    Committed,
    /// Another writer holds the ledger.
    Fenced(u64, String),
    /// An earlier writer made a deleted head again before this one had committed anything, and has committed since: the
    /// ledger has to be recovered anew.
    Overtaken,
    /// Only labels or annotations were changed: write again at once.
    RetryNow,
    /// Write again later.
    Retry,
    /// The head was deleted: create it.
    Create,
    /// Wait until an object that is not ours is gone.
    NameTaken,
    /// Wait until the head can be read again; the text names it and the cure.
    Unreadable(String),
}

/// Decides from what a GET returned after the write of `next` over `ours` failed. Only the object can tell
/// whether a write that timed out happened.
pub(super) fn after_failed_put(
    next: &Head,
    ours: &Head,
    error: &StoreError,
    found: &Result<Option<StoredHead>, StoreError>,
) -> AfterFailedPut {
    match found {
        Ok(None) => AfterFailedPut::Create,
        Ok(Some(StoredHead { head: None, .. })) => AfterFailedPut::NameTaken,
        Ok(Some(StoredHead { head: Some(found), .. })) => match fence(ours, found) {
            _ if found == next => AfterFailedPut::Committed,
            Some((epoch, holder)) => AfterFailedPut::Fenced(epoch, holder),
            None if found.epoch < ours.epoch && found.size > ours.size => AfterFailedPut::Overtaken,
            None if found == ours && matches!(error.kind, StoreErrorKind::Conflict) => {
                AfterFailedPut::RetryNow
            }
            None => AfterFailedPut::Retry,
        },
        Err(StoreError { kind: StoreErrorKind::Content(why), name, .. }) => {
            AfterFailedPut::Unreadable(head_unreadable(name, why))
        }
        Err(_) => AfterFailedPut::Retry,
    }
}

/// Epoch and holder of `found`, if its writer is another one than that of `ours`.
pub(super) fn fence(ours: &Head, found: &Head) -> Option<(u64, String)> {
    (found.epoch > ours.epoch || found.uid != ours.uid).then(|| (found.epoch, found.holder.clone()))
}
