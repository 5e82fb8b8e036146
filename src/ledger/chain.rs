//! Appending to a ledger, and checking what was appended.

use super::canonical::NotCanonical;
use super::entry::{Entry, Record};
use super::merkle::Tree;
use super::{Hash, hex};

/// The growing end of a ledger: all that has to be known to append to it or to check what follows.
#[derive(Default)]
pub struct Chain {
    last_hash: Hash,
    tree: Tree,
    /// Buffers that are only there to be used again; no part of where the chain stands.
    scratch: Vec<u8>,
    text: Vec<u8>,
}

impl Clone for Chain {
    fn clone(&self) -> Self {
        Self::at(self.tree.clone(), self.last_hash)
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
        write!(f, "Chain of {} entries, ending at {}", self.size(), hex(&self.last_hash))
    }
}

/// Why an entry does not follow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// An entry is missing or stands twice.
    #[error("entry {expected} expected, found {found}")]
    Index {
        /// The index that comes next.
        expected: u64,
        /// The index that came.
        found: u64,
    },
    /// It does not name the entry before.
    #[error("entry {0}: previous_hash is not the hash of the entry before")]
    Link(u64),
    /// It is not what was hashed.
    #[error("entry {0}: its hash is not that of its content")]
    Hash(u64),
}

impl Chain {
    /// The end of the ledger whose tree is `tree` and whose last entry has this hash.
    #[must_use]
    pub fn at(tree: Tree, last_hash: Hash) -> Self {
        Self { last_hash, tree, ..Self::default() }
    }

    /// Number of entries.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.tree.size()
    }

    /// Hash of the last entry; zeros of an empty ledger.
    #[must_use]
    pub fn last_hash(&self) -> &Hash {
        &self.last_hash
    }

    /// The tree over all entries.
    #[must_use]
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Appends one entry with this canonical data; returns its hash.
    pub fn append(&mut self, timestamp: f64, data: &str) -> Hash {
        let index = self.size();
        let hash = Entry::link(&mut self.scratch, index, timestamp, data, &self.last_hash);
        self.push(hash);
        hash
    }

    /// Appends an entry that is known by its hash, which somebody has checked.
    pub fn push(&mut self, hash: Hash) {
        self.tree.push(&hash);
        self.last_hash = hash;
    }

    /// Appends all entries of `record`. Returns the index of the first.
    ///
    /// # Errors
    /// [`NotCanonical`] when a number is not finite; then nothing is appended.
    pub fn record(&mut self, record: &Record) -> Result<u64, NotCanonical> {
        let (first, before) = (self.size(), (self.tree.clone(), self.last_hash));
        let mut text = std::mem::take(&mut self.text);
        let written = record.write(&mut text, &mut |timestamp, data| {
            self.append(timestamp, data);
        });
        self.text = text;
        if written.is_err() {
            (self.tree, self.last_hash) = before;
        }
        written.map(|()| first)
    }

    /// Checks that `entry` follows, and takes it in.
    ///
    /// # Errors
    /// [`ChainError`]; then nothing has changed.
    pub fn follow(&mut self, entry: &Entry) -> Result<(), ChainError> {
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
