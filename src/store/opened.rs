//! A verified segment: the chain before and after it.
//!
//! Segments can be opened in parallel, because each needs only its own head. Two neighbours fit if the chain after the
//! first equals the chain before the second.

use crate::ledger::entry::Origin;
use crate::ledger::sealed::OpenError;
use crate::ledger::{Chain, SealedSegment};

/// A segment whose every hash is verified.
#[derive(Clone, Debug)]
pub struct OpenedSegment {
    /// The ledger that the segment states to belong to.
    pub origin: Option<Origin>,
    /// The chain before the first entry, as the segment's head states it.
    pub before: Chain,
    /// The chain after the last entry, computed.
    pub after: Chain,
    /// The chain at the size that was asked for, where that lies within the segment or at one of its ends.
    pub at_size: Option<Chain>,
}

impl OpenedSegment {
    /// Decodes `sealed` and computes the chain after its last entry and at `size`.
    ///
    /// # Errors
    /// [`OpenError`] if the segment is not what its head claims.
    pub fn open(sealed: &SealedSegment, size: Option<u64>) -> Result<Self, OpenError> {
        let before = sealed.chain_before()?;
        let (after, at_size) = sealed.verify(size)?;
        Ok(Self { origin: sealed.head.origin.clone(), before, after, at_size })
    }
}
