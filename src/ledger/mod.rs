//! The ledger: entries, the hash chain and Merkle tree over them, their compact storage, and their replay.
//!
//! | module | content |
//! |---|---|
//! | [`canonical`] | canonical JSON, byte for byte as Python writes it |
//! | [`entry`] | an entry and the types of its data |
//! | [`chain`] | appending and verifying: hashes, links, the running root |
//! | [`memory`] | a whole ledger in memory |
//! | [`merkle`] | the Merkle tree over the entries' hashes |
//! | [`segment`] | the lossless codec for a run of entries |
//! | [`sealed`] | a segment as it is stored: readable head and encoded entries |
//! | [`replay`] | re-derivation of every number from the recorded inputs |
//! | [`explain`] | why a decision was taken, from the replayed entries |
//!
//! Architecture Invariant: no clock, no I/O, no tokio, no Kubernetes and no `HashMap`, whose iteration order is
//! random. The segment codec does not use the engine: a codec that predicted decisions with the engine would
//! prove nothing about them.

pub mod canonical;
pub mod chain;
pub mod entry;
pub mod explain;
pub mod memory;
pub mod merkle;
pub mod replay;
pub mod sealed;
pub mod segment;

pub use chain::Chain;
pub use entry::Entry;
pub use memory::Ledger;
pub use sealed::SealedSegment;

/// A SHA3-256 hash.
pub type Hash = [u8; 32];

/// Formats a hash as 64 lower-case hexadecimal digits.
#[must_use]
pub fn hex(hash: &Hash) -> String {
    const_hex::encode(hash)
}

/// Parses 64 lower-case hexadecimal digits. Returns `None` for any other text.
#[must_use]
pub fn parse_hash(text: &str) -> Option<Hash> {
    // const-hex also accepts upper case and the prefix 0x, but a hash has only one spelling in a ledger.
    let lower_case = text.len() == 64 && !text.bytes().any(|byte| byte.is_ascii_uppercase());
    lower_case.then(|| const_hex::decode_to_array(text).ok()).flatten()
}
