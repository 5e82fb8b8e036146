//! The Merkle tree over the entries' hashes: the tree of RFC 6962, where an odd node is promoted.

use super::text::{Hash, sha3};

/// The perfect subtrees from left to right, as height and root.
#[derive(Clone, Debug, Default)]
pub struct Tree(Vec<(u32, Hash)>);

impl Tree {
    /// Restores a tree of `size` leaves from the roots of its perfect subtrees, largest first.
    pub fn from_peaks(size: u64, peaks: &[Hash]) -> Result<Self, String> {
        let heights: Vec<u32> = (0..64).rev().filter(|height| size >> height & 1 == 1).collect();
        if heights.len() != peaks.len() {
            return Err(format!("{} peaks do not fit {size} leaves", peaks.len()));
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

    /// Roots of the perfect subtrees, largest first.
    pub fn peaks(&self) -> impl Iterator<Item = &Hash> {
        self.0.iter().map(|(_, root)| root)
    }

    pub fn root(&self) -> Hash {
        let mut subtrees = self.0.iter().rev().map(|(_, root)| *root);
        let Some(last) = subtrees.next() else { return sha3(&[]) };
        subtrees.fold(last, |right, left| sha3(&[&[1], &left, &right]))
    }
}
