//! The Merkle tree over the entries' hashes: RFC 6962's shape, an odd node promoted.

use super::text::{Hash, sha3};

/// Perfect subtrees from left to right: height and root.
#[derive(Clone, Debug, Default)]
pub struct Tree(Vec<(u32, Hash)>);

impl Tree {
    /// The tree of `size` leaves whose perfect subtrees have these roots, the largest first.
    pub fn of_peaks(size: u64, peaks: &[Hash]) -> Result<Self, String> {
        let heights: Vec<u32> = (0..64).rev().filter(|height| size >> height & 1 == 1).collect();
        if heights.len() != peaks.len() {
            return Err(format!("{} peaks for a tree of {size}", peaks.len()));
        }
        Ok(Self(heights.into_iter().zip(peaks.iter().copied()).collect()))
    }

    pub fn push(&mut self, entry: &Hash) {
        let mut grown = (0, sha3(&[&[0], entry]));
        while let Some((height, left)) = self.0.pop() {
            if height != grown.0 {
                self.0.push((height, left));
                break;
            }
            grown = (height + 1, sha3(&[&[1], &left, &grown.1]));
        }
        self.0.push(grown);
    }

    /// Roots of the perfect subtrees, the largest first.
    pub fn peaks(&self) -> impl Iterator<Item = &Hash> {
        self.0.iter().map(|(_, root)| root)
    }

    pub fn root(&self) -> Hash {
        let mut subtrees = self.0.iter().rev().map(|(_, root)| *root);
        let Some(last) = subtrees.next() else { return sha3(&[]) };
        subtrees.fold(last, |right, left| sha3(&[&[1], &left, &right]))
    }
}
