//! The ledger: what an entry is, how entries chain, how they are stored small, how they are derived anew.
//!
//! | module | what it is |
//! |---|---|
//! | [`canonical`] | the one text of a JSON value, as Python prints it |
//! | [`entry`] | an entry and the kinds of its data |
//! | [`chain`] | appending: hashes, links, the running root |
//! | [`memory`] | a whole ledger in memory |
//! | [`merkle`] | the tree over the entries' hashes |
//! | [`segment`] | a run of entries as few bytes, without loss |
//! | [`sealed`] | a segment as it is stored: readable head, encoded entries |
//! | [`replay`] | every number derived anew from the recorded inputs |
//!
//! Architecture Invariant: nothing here knows a clock, I/O, tokio, Kubernetes or a `HashMap`. The segment
//! codec does not use the engine: a codec that predicts with the engine would prove nothing.

pub mod canonical;
pub mod chain;
pub mod entry;
pub mod memory;
pub mod merkle;
pub mod replay;
pub mod sealed;
pub mod segment;

pub use chain::Chain;
pub use entry::Entry;
pub use memory::Ledger;
pub use sealed::Sealed;

/// A SHA3-256 hash.
pub type Hash = [u8; 32];

/// Formats a hash as 64 lower-case hexadecimal digits.
#[must_use]
pub fn hex(hash: &Hash) -> String {
    const_hex::encode(hash)
}

/// Parses 64 lower-case hexadecimal digits. Returns `None` for any other text.
#[must_use]
pub fn unhex(text: &str) -> Option<Hash> {
    // const-hex also accepts upper case and the prefix 0x, but a hash has only one spelling in a ledger.
    let lower_case = text.len() == 64 && !text.bytes().any(|byte| byte.is_ascii_uppercase());
    lower_case.then(|| const_hex::decode_to_array(text).ok()).flatten()
}
