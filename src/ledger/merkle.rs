//! The Merkle tree over the entries' hashes: the tree of RFC 6962, with SHA3-256.
//!
//! The state of a tree is its peaks: the roots of its perfect subtrees from left to right, one for each set bit
//! of its size. State and cost of an append are O(log n). An odd node is promoted. Pairing it with itself would
//! give different lists of leaves the same root (CVE-2012-2459).

use sha3::{Digest, Sha3_256};

use super::Hash;

/// Maximum size of a tree. Every JSON parser represents it exactly, a ledger would need 285 years at a million
/// entries per second to reach it, and arithmetic on the indices of a forged head cannot overflow.
pub const MAX_SIZE: u64 = (1 << 53) - 1;

/// Hashes a leaf: H(0x00 ‖ hash of the entry).
#[must_use]
pub fn leaf_hash(entry: &Hash) -> Hash {
    let mut hasher = Sha3_256::new();
    hasher.update([0x00]);
    hasher.update(entry);
    hasher.finalize().into()
}

/// Hashes an inner node: H(0x01 ‖ left ‖ right).
#[must_use]
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut hasher = Sha3_256::new();
    hasher.update([0x01]);
    hasher.update(left);
    hasher.update(right);
    hasher.finalize().into()
}

/// An append-only tree, represented by its peaks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    size: u64,
    /// Largest subtree first.
    peaks: Vec<Hash>,
}

impl Tree {
    /// Restores a tree of `size` leaves from its peaks.
    ///
    /// Returns `None` unless there is one peak for each set bit of `size`, and `size` is at most [`MAX_SIZE`].
    #[must_use]
    pub fn from_peaks(size: u64, peaks: Vec<Hash>) -> Option<Self> {
        (size <= MAX_SIZE && peaks.len() == size.count_ones() as usize).then_some(Self { size, peaks })
    }

    /// Appends the entry with this hash.
    pub fn push(&mut self, entry: &Hash) {
        let mut carried = leaf_hash(entry);
        // Like the carry when 1 is added to a binary number: each trailing 1 bit of the size is a peak of the same
        // height as the subtree carried so far.
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.peaks.pop() {
                carried = node_hash(&left, &carried);
            }
        }
        self.peaks.push(carried);
        self.size += 1;
    }

    /// Number of leaves.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The peaks, largest subtree first.
    #[must_use]
    pub fn peaks(&self) -> &[Hash] {
        &self.peaks
    }

    /// The root; H("") for the empty tree.
    #[must_use]
    pub fn root(&self) -> Hash {
        let mut peaks = self.peaks.iter().rev();
        match peaks.next() {
            None => Sha3_256::digest(b"").into(),
            Some(&last) => peaks.fold(last, |right, left| node_hash(left, &right)),
        }
    }
}
