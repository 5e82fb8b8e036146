//! Appending to a ledger, and verifying what was appended.

use super::canonical::NotCanonical;
use super::entry::{Entry, Record};
use super::merkle::Tree;
use super::{Hash, hex};

/// The end of a ledger: the state needed to append entries or to verify those that follow. Its size is
/// logarithmic in the number of entries.
#[derive(Default)]
pub struct Chain {
    last_hash: Hash,
    tree: Tree,
    /// Buffers kept for reuse; not part of the state.
    scratch: Vec<u8>,
    text: Vec<u8>,
}

impl Clone for Chain {
    fn clone(&self) -> Self {
        Self::from_parts(self.tree.clone(), self.last_hash)
    }
}

impl PartialEq for Chain {
    fn eq(&self, other: &Self) -> bool {
        self.tree == other.tree && self.last_hash == other.last_hash
    }
}

impl Eq for Chain {}

impl std::fmt::Debug for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Chain of {} entries with last hash {}", self.size(), hex(&self.last_hash))
    }
}

/// An entry does not continue the chain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// An entry is missing or occurs twice.
    #[error("expected entry {expected}, found entry {found}")]
    Index {
        /// The next index of the chain.
        expected: u64,
        /// The entry's index.
        found: u64,
    },
    /// `previous_hash` does not match the chain.
    #[error("entry {0}: previous_hash does not match the hash of the previous entry")]
    Link(u64),
    /// `hash` does not match the other four fields.
    #[error("entry {0}: hash does not match the content of the entry")]
    Hash(u64),
}

impl Chain {
    /// The end of the ledger with this Merkle tree and this hash of the last entry.
    #[must_use]
    pub fn from_parts(tree: Tree, last_hash: Hash) -> Self {
        Self { last_hash, tree, ..Self::default() }
    }

    /// Number of entries.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.tree.size()
    }

    /// Hash of the last entry; all zeros if the ledger is empty.
    #[must_use]
    pub fn last_hash(&self) -> &Hash {
        &self.last_hash
    }

    /// Merkle tree over all entries.
    #[must_use]
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Appends an entry with this canonical data and returns its hash.
    pub fn append(&mut self, timestamp: f64, data: &str) -> Hash {
        let index = self.size();
        let hash = Entry::hash_fields(&mut self.scratch, index, timestamp, data, &self.last_hash);
        self.push_hash(hash);
        hash
    }

    /// Appends an entry by its hash, which the caller has verified.
    pub fn push_hash(&mut self, hash: Hash) {
        self.tree.push(&hash);
        self.last_hash = hash;
    }

    /// Appends all entries of `record` and returns the index of the first.
    ///
    /// # Errors
    /// Returns [`NotCanonical`] and appends nothing if a number is not finite.
    pub fn record(&mut self, record: &Record) -> Result<u64, NotCanonical> {
        let (first, previous) = (self.size(), (self.tree.clone(), self.last_hash));
        let mut text = std::mem::take(&mut self.text);
        let written = record.write(&mut text, &mut |timestamp, data| {
            self.append(timestamp, data);
        });
        self.text = text;
        if written.is_err() {
            (self.tree, self.last_hash) = previous;
        }
        written.map(|()| first)
    }

    /// Verifies that `entry` continues the chain, and appends it.
    ///
    /// # Errors
    /// Returns [`ChainError`] and appends nothing if it does not.
    pub fn verify_next(&mut self, entry: &Entry) -> Result<(), ChainError> {
        let expected = self.size();
        if entry.index != expected {
            return Err(ChainError::Index { expected, found: entry.index });
        }
        if entry.previous_hash != self.last_hash {
            return Err(ChainError::Link(expected));
        }
        if entry.compute_hash(&mut self.scratch) != entry.hash {
            return Err(ChainError::Hash(expected));
        }
        self.tree.push(&entry.hash);
        self.last_hash = entry.hash;
        Ok(())
    }
}
