//! What to do about one object of a body. Pure.

use kube::core::ObjectMeta;

use super::index::ObservedObject;

/// An object after this process has created or applied it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LastApplied {
    pub(super) uid: String,
    /// Hash of the fields that the operator owned afterwards.
    pub(super) owned: u64,
    /// Hash of the object as it was built.
    pub(super) desired: u64,
}

impl LastApplied {
    /// The object with this `metadata`, built to the hash `desired`.
    pub(super) fn of(metadata: &ObjectMeta, desired: u64) -> Self {
        let ObservedObject { uid, owned, .. } = ObservedObject::of(metadata);
        Self { uid, owned, desired }
    }
}

/// The next call for one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// None: it is as it should be, or there is nothing to do yet.
    Leave,
    /// Create it.
    Create,
    /// Turn the fields owned by its creation into applied ones.
    ConvertToApply,
    /// Apply it to the object with this UID.
    Apply { uid: String },
    /// Apply it to the object with this UID, which has lost its ownerReference.
    Adopt { uid: String },
    /// Delete the object with this UID.
    Delete { uid: String },
    /// None: it belongs to a deleted Organism of this name, and the garbage collector will delete it.
    AwaitCollection,
    /// None: an object of someone else has its name.
    NameTaken,
}

impl Step {
    /// Whether it undoes what another client has done since the object, built to this hash, was last applied.
    pub(super) fn reverts(&self, desired: u64, last: Option<&LastApplied>) -> bool {
        let Some(last) = last.filter(|last| last.desired == desired) else { return false };
        match self {
            Self::Create => true,
            Self::Apply { uid } => *uid == last.uid,
            _ => false,
        }
    }
}

/// Name and UID of the Organism that a body belongs to.
#[derive(Clone, Copy)]
pub(super) struct Owner<'a> {
    pub(super) name: &'a str,
    pub(super) uid: &'a str,
}

/// Decides from the hash of the desired object (none where it should not exist), the object as it was observed
/// and as it was last applied, and the Organism.
pub(super) fn step(
    desired: Option<u64>,
    observed: Option<&ObservedObject>,
    last: Option<&LastApplied>,
    organism: Owner<'_>,
) -> Step {
    let Some(observed) = observed else {
        return if desired.is_some() { Step::Create } else { Step::Leave };
    };
    // An object that this process has applied stays ours when its ownerReference is removed.
    let applied = observed.owner.is_none() && last.is_some_and(|last| last.uid == observed.uid);
    let ours = applied || observed.owner.as_deref() == Some(organism.uid);
    match desired {
        None if (ours || observed.orphan) && !observed.deleting => Step::Delete { uid: observed.uid.clone() },
        None => Step::Leave,
        Some(_) if !ours && observed.orphan && !observed.deleting => {
            Step::Adopt { uid: observed.uid.clone() }
        }
        Some(_) if !ours && (observed.orphan || observed.organism.as_deref() == Some(organism.name)) => {
            Step::AwaitCollection
        }
        Some(_) if !ours => Step::NameTaken,
        // A new one is created when it is gone.
        Some(_) if observed.deleting => Step::Leave,
        Some(_) if observed.created => Step::ConvertToApply,
        Some(desired) => {
            let now = LastApplied { uid: observed.uid.clone(), owned: observed.owned, desired };
            if last == Some(&now) { Step::Leave } else { Step::Apply { uid: now.uid } }
        }
    }
}

#[cfg(test)]
mod tests;
