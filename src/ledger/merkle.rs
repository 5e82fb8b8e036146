//! The Merkle tree over the entries' hashes: RFC 6962's shape over SHA3-256.
//!
//! The tree grows by its peaks, the roots of the perfect subtrees from left to right, one for each set bit of
//! its size: state and cost of an append are O(log n). An odd node is promoted, never paired with itself;
//! pairing it with itself is CVE-2012-2459, where two different lists of leaves have one root.

use sha3::{Digest, Sha3_256};

use super::Hash;

/// No ledger comes near it (at a million entries a second it lasts 285 years), every JSON reader has it
/// exactly, and a hostile head cannot make an index overflow.
pub const LARGEST_INDEX: u64 = (1 << 53) - 1;

/// H(0x00 ‖ entry hash).
#[must_use]
pub fn leaf(entry: &Hash) -> Hash {
    let mut hasher = Sha3_256::new();
    hasher.update([0x00]);
    hasher.update(entry);
    hasher.finalize().into()
}

/// H(0x01 ‖ left ‖ right).
#[must_use]
pub fn node(left: &Hash, right: &Hash) -> Hash {
    let mut hasher = Sha3_256::new();
    hasher.update([0x01]);
    hasher.update(left);
    hasher.update(right);
    hasher.finalize().into()
}

/// A growing tree, known by its peaks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    size: u64,
    /// Largest subtree first.
    peaks: Vec<Hash>,
}

impl Tree {
    /// The tree of `size` leaves with these peaks, as a head or a segment states them.
    ///
    /// Returns nothing where their number does not fit, one peak for each set bit of `size`, or where `size` is
    /// beyond [`LARGEST_INDEX`].
    #[must_use]
    pub fn from_peaks(size: u64, peaks: Vec<Hash>) -> Option<Self> {
        (size <= LARGEST_INDEX && peaks.len() == size.count_ones() as usize).then_some(Self { size, peaks })
    }

    /// Appends the entry with this hash.
    pub fn push(&mut self, entry: &Hash) {
        let mut carried = leaf(entry);
        // As in adding 1 to a binary number: each trailing 1 of the size is a peak of the carried height.
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.peaks.pop() {
                carried = node(&left, &carried);
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

    /// The root; H("") of the empty tree.
    #[must_use]
    pub fn root(&self) -> Hash {
        let mut peaks = self.peaks.iter().rev();
        match peaks.next() {
            None => Sha3_256::digest(b"").into(),
            Some(&last) => peaks.fold(last, |right, left| node(left, &right)),
        }
    }
}
