//! The segment codec: a run of consecutive ledger entries in few bytes, and back without loss.
//!
//! It knows no kind of entry and nothing of the engine: a codec that foretold decisions with the engine
//! would prove nothing. What it uses is arithmetic among the columns that it has before it, found by
//! search; whatever the search finds or misses, decoding gives every timestamp and text back exactly.
//!
//! An entry is a timestamp and a text, canonical JSON. A text is cut into its *leaves*, the scalars in it,
//! and its *shape*, everything else. All entries of a shape together make columns: one of timestamps, one
//! for each leaf. Each value is *foretold* from values seen before, and the difference is stored.
//!
//! | file | |
//! |---|---|
//! | shape | texts to shapes and leaves and back |
//! | bytes | numbers and residuals as bytes |
//! | predict | foretelling: formulas, and columns while they are written or read |
//! | decode | columns to rows |
//! | table, encode | rows to columns |
//! | plan, survey, relate | the encoder's choice of formulas |
//! | frame | the zstd frame, and the dictionary |
//!
//! # Format, version 2
//!
//! (Version 1 had neither formulas nor a dictionary; nothing reads it any more.)
//!
//! A segment is one byte, the version, and one zstd frame (RFC 8878) over the *columns*, made with
//! `dictionary.bin` as a raw-content dictionary; its window is at most 2^20 bytes. The number of entries
//! and the size of the columns are kept elsewhere.
//!
//! **Numbers** are LEB128, unsigned. A *block* is its length as a number, then its bytes. *Residuals* are
//! signed 64-bit integers in zig-zag (0, -1, 1, -2 … are 0, 1, 2, 3 …), each a number; a run of zeros is
//! 0 and its length; zeros at the end are left out, so that behind the last byte all residuals are 0.
//!
//! **Columns** are, one behind the other:
//!
//! 1. a block with a line (ending in `\n`) for each shape that comes at least twice: the timestamp, a
//!    space and the text of its first entry. These number the shapes from 1, and the columns from 0: a
//!    shape's timestamps, then its leaves from left to right, then those of the next shape. A leaf is a
//!    float, an integer in the range of `i64`, a boolean or a string; `null`, larger integers and keys
//!    belong to the shape;
//! 2. a block with a line of the same form for each other entry, in their order;
//! 3. a block with a line for each string that stands in a leaf, but not in a line of block 1, in the
//!    order in which they first come;
//! 4. a block with a *plan* for each shape;
//! 5. a block with the residuals of the sequence: for each entry the number of its shape, 0 for one of
//!    block 2, less the number of the shape that followed, the last time, on the shape of the entry
//!    before it (0 if there was none; before the first entry stands 0);
//! 6. for each column a block with its residuals, one for each entry of its shape but the first.
//!
//! **Codes.** All columns hold signed 64-bit integers. An integer is its own code; false and true are 0
//! and 1; a string has its place among all strings, those of block 1 first; a float has its bits, and if
//! these are negative, all but the sign are turned over, so that the order of floats is that of codes.
//! What is stored is the code less the foretold code, wrapping.
//!
//! **Plans.** A plan is a number of steps, each the number of a leaf (0 is the timestamp), a number of
//! formulas (at most 4), and these. In each entry, leaves without a step are taken first, from left to
//! right, then those with one in the order of the steps.
//!
//! **Formulas** are in postfix order over doubles: numbers, ended by 0.
//!
//! | | |
//! |---|---|
//! | 1, 2, 3, 4 | replace the two doubles on top, a below b, by a + b, a - b, a × b, a ÷ b |
//! | 5 | pushes the double whose bits follow in 8 bytes, little-endian |
//! | 6 | pushes n ÷ 10^p; n follows in zig-zag, then p in one byte, at most 15 |
//! | 7 + 2c | pushes what column c had last: in this entry, if it is of this shape and taken already |
//! | 8 + 2c | pushes what column c had before that, or its first value again |
//!
//! A formula has at most 16 of these and leaves one double. A column has its first value from block 1,
//! from the beginning; integers and codes of booleans and strings are pushed as doubles. Columns of floats
//! take the code of the result (of 0.0, if it is not a number), the others the result itself, rounded
//! towards zero and within the range of `i64` (0, if it is not a number).
//!
//! **Foretelling.** A column with n formulas has n + 1 candidates: these, and the last value. It begins
//! with the first. Whenever the foretold code was wrong, the candidate that would have come nearest (the
//! first of these) is the one from then on.
//!
//! # Limits
//!
//! A reader is told sizes by a head that anybody may have written. They are checked before anything is
//! allocated, and everything that a segment could be blown up to is bounded: see the constants here.

mod bytes;
mod decode;
mod encode;
mod frame;
mod plan;
mod predict;
mod relate;
mod shape;
mod survey;
mod table;

use thiserror::Error;

use super::canonical::NotCanonical;

/// The format that [`encode`] writes: the first byte of a segment.
pub const VERSION: u8 = 2;
/// The most entries a segment may have.
pub const MAX_ENTRIES: usize = 1 << 18;
/// The most bytes an encoded segment may have.
pub const MAX_ENCODED: usize = 900 << 10;
/// The most bytes that a segment's columns may have before compression.
pub const MAX_COLUMNS: usize = 16 << 20;
/// The most bytes that the data of a segment's entries may have together.
pub const MAX_TEXT: usize = 64 << 20;
/// The most bytes that the formulas of a segment may take.
const MAX_PLANS: usize = 256 << 10;
/// The most different texts that a segment's leaves may have.
const MAX_STRINGS: usize = 1 << 19;
/// The most columns a segment may have: leaves, and a timestamp, over all shapes.
pub const MAX_LEAVES: usize = 1 << 18;

/// An entry, as far as a segment stores it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row<'a> {
    /// Seconds since 1970; finite.
    pub timestamp: f64,
    /// Canonical JSON.
    pub data: &'a str,
}

/// An encoded segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// What is stored.
    pub bytes: Vec<u8>,
    /// The size of the columns before compression, in bytes: [`decode`] must be told.
    pub columns: u64,
}

/// Why rows cannot be encoded.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// The data of a row is not canonical JSON.
    #[error("row {row} is not canonical: {why}")]
    NotCanonical {
        /// Its place among the rows, from 0.
        row: usize,
        /// What is wrong.
        why: NotCanonical,
    },
    /// A timestamp that is no number.
    #[error("the timestamp of row {row} is not finite")]
    NotFinite {
        /// Its place among the rows, from 0.
        row: usize,
    },
    /// More than fits into a segment: take fewer rows.
    #[error("a segment of {is} {what}: at most {limit} are allowed")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        is: usize,
        /// How much is allowed.
        limit: usize,
    },
    /// zstd failed.
    #[error("compression failed: {0}")]
    Frame(String),
}

/// Why bytes are not a segment.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// More than a segment may have, as declared or as found.
    #[error("a segment of {is} {what}: at most {limit} are allowed")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        is: usize,
        /// How much is allowed.
        limit: usize,
    },
    /// A format that this codec does not know.
    #[error("segment format {0}: only {VERSION} is known")]
    Version(u8),
    /// A zstd frame that is damaged, or not alone, or asks for too large a window.
    #[error("damaged segment: {0}")]
    Frame(String),
    /// Columns of another size than the segment's head declares.
    #[error("the segment's head declares {declared} bytes of columns, there are {found}")]
    Columns {
        /// What the head says, in bytes.
        declared: usize,
        /// What there is, in bytes.
        found: usize,
    },
    /// The columns end too early.
    #[error("damaged segment: it ends too early")]
    Truncated,
    /// The columns hold what no encoder writes.
    #[error("damaged segment: {0}")]
    Malformed(&'static str),
    /// A text in the columns is not canonical JSON.
    #[error("damaged segment: {0}")]
    NotCanonical(#[from] NotCanonical),
}

/// Encodes a run of entries. The same rows give the same bytes.
///
/// # Errors
/// [`EncodeError::TooLarge`] beyond the limits; any other for rows that are not canonical.
pub fn encode(rows: &[Row<'_>]) -> Result<Encoded, EncodeError> {
    within("entries", rows.len(), MAX_ENTRIES)?;
    within("bytes of data", rows.iter().map(|row| row.data.len()).sum(), MAX_TEXT)?;
    let columns = encode::columns(&table::Table::of(rows)?)?;
    within("bytes of columns", columns.len(), MAX_COLUMNS)?;
    let mut bytes = vec![VERSION];
    frame::compress(&columns, &mut bytes)?;
    within("bytes", bytes.len(), MAX_ENCODED)?;
    Ok(Encoded { bytes, columns: columns.len() as u64 })
}

/// Decodes a segment of `count` entries whose columns have `columns` bytes, as its head declares: their
/// timestamps in seconds since 1970, and their data.
///
/// Nothing here is trusted. The declared sizes are checked before anything is allocated, the data is
/// bounded by [`MAX_TEXT`], and whatever comes out is canonical JSON.
///
/// # Errors
/// [`DecodeError`], if `bytes` is not exactly such a segment.
pub fn decode(bytes: &[u8], count: u64, columns: u64) -> Result<Vec<(f64, String)>, DecodeError> {
    let mut rows = Vec::new();
    visit(bytes, count, columns, |timestamp, data| {
        rows.push((timestamp, data.to_owned()));
        Ok::<(), DecodeError>(())
    })?;
    Ok(rows)
}

/// Decodes as [`decode`] does, but shows each entry's timestamp and data to `each` instead of keeping
/// them all: memory stays at the size of the columns.
///
/// # Errors
/// As [`decode`], or what `each` returns; `each` may have seen entries before that.
pub fn visit<E: From<DecodeError>>(
    bytes: &[u8],
    count: u64,
    columns: u64,
    mut each: impl FnMut(f64, &str) -> Result<(), E>,
) -> Result<(), E> {
    let check = |what, is: u64, limit| {
        let is = usize::try_from(is).unwrap_or(usize::MAX);
        within(what, is, limit).map_err(DecodeError::from)
    };
    let count = check("entries", count, MAX_ENTRIES)?;
    let length = check("bytes of columns", columns, MAX_COLUMNS)?;
    check("bytes", bytes.len() as u64, MAX_ENCODED)?;
    let columns = match bytes.split_first() {
        Some((&VERSION, frame)) => frame::decompress(frame, length)?,
        Some((&version, _)) => return Err(DecodeError::Version(version).into()),
        None => return Err(DecodeError::Truncated.into()),
    };
    let mut rows = decode::Rows::new(&columns)?;
    for _ in 0..count {
        let (timestamp, data) = rows.next()?;
        each(timestamp, data)?;
    }
    Ok(rows.finish()?)
}

/// What is more than it may be.
struct TooLarge {
    what: &'static str,
    is: usize,
    limit: usize,
}

impl From<TooLarge> for EncodeError {
    fn from(TooLarge { what, is, limit }: TooLarge) -> Self {
        EncodeError::TooLarge { what, is, limit }
    }
}

impl From<TooLarge> for DecodeError {
    fn from(TooLarge { what, is, limit }: TooLarge) -> Self {
        DecodeError::TooLarge { what, is, limit }
    }
}

fn within(what: &'static str, is: usize, limit: usize) -> Result<usize, TooLarge> {
    if is <= limit { Ok(is) } else { Err(TooLarge { what, is, limit }) }
}

#[cfg(test)]
mod tests;
