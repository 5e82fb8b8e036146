//! A decoded segment with the chain before and after it.
//!
//! Segments can be opened in parallel, because each needs only its own head. Two neighbours fit if the chain after the
//! first equals the chain before the second.

use crate::ledger::entry::Origin;
use crate::ledger::sealed::OpenError;
use crate::ledger::{Chain, Entry, SealedSegment};

/// A decoded segment.
#[derive(Clone, Debug)]
pub struct OpenedSegment {
    /// The ledger that the segment states to belong to.
    pub origin: Option<Origin>,
    /// The chain before the first entry, as the segment's head states it.
    pub before: Chain,
    /// The entries, with computed hashes.
    pub entries: Vec<Entry>,
    /// The chain after the last entry, computed.
    pub after: Chain,
}

impl OpenedSegment {
    /// Decodes `sealed` and computes the chain after its last entry.
    ///
    /// # Errors
    /// [`OpenError`] if the segment is not what its head claims.
    pub fn open(sealed: &SealedSegment) -> Result<Self, OpenError> {
        let before = sealed.chain_before()?;
        let entries = sealed.open()?;
        let mut tree = before.tree().clone();
        let mut last_hash = *before.last_hash();
        for entry in &entries {
            tree.push(&entry.hash);
            last_hash = entry.hash;
        }
        Ok(Self {
            origin: sealed.head.origin.clone(),
            before,
            entries,
            after: Chain::from_parts(tree, last_hash),
        })
    }
}
