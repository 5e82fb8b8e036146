//! A segment decoded, with the chain as it stands on either side of it.
//!
//! That is what makes segments checkable side by side: each is derived from its own head alone, and two of
//! them fit when one ends where the next begins.

use crate::ledger::entry::Origin;
use crate::ledger::sealed::OpenError;
use crate::ledger::{Chain, Entry, SealedSegment};

/// An opened segment.
#[derive(Clone, Debug)]
pub struct Opened {
    /// Whose ledger it is part of.
    pub origin: Option<Origin>,
    /// The chain before its first entry, as its head states it.
    pub before: Chain,
    /// Its entries, hashes computed.
    pub entries: Vec<Entry>,
    /// The chain after its last entry, computed.
    pub after: Chain,
}

impl Opened {
    /// Decodes `sealed` and computes where it ends.
    ///
    /// # Errors
    /// [`OpenError`].
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
