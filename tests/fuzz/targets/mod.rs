//! What parses bytes of others, and what has to hold for any bytes: more than that nothing panics.
//!
//! A target takes an input and returns whether it was accepted, so that a corpus of which nothing is accepted any more
//! is found out. `tests/fuzz` and the crate `fuzz` share these functions.

pub mod ledger;
pub mod mesh;
pub mod text;

/// The name of a target, which is that of its folder in the corpus, and its function.
pub type Target = (&'static str, fn(&[u8]) -> bool);
