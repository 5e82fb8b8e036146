//! The ledger: what an entry is, how entries chain, how they are stored small, how they are derived anew.
//!
//! | module | what it is |
//! |---|---|
//! | [`canonical`] | the one text of a JSON value, as Python prints it |
//! | [`entry`] | an entry and the kinds of its data |
//! | [`chain`] | appending: hashes, links, the running root |
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
pub mod merkle;
pub mod replay;
pub mod sealed;
pub mod segment;

pub use chain::{Chain, Ledger};
pub use entry::Entry;
pub use sealed::Sealed;

/// A SHA3-256 hash.
pub type Hash = [u8; 32];

/// The 64 lower-case hex digits of a hash.
#[must_use]
pub fn hex(hash: &Hash) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    hash.iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|nibble| DIGITS[nibble as usize] as char)
        .collect()
}

/// The hash that 64 lower-case hex digits stand for.
#[must_use]
pub fn unhex(text: &str) -> Option<Hash> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let digits: &[u8; 64] = text.as_bytes().try_into().ok()?;
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(hash)
}
