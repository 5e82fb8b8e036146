//! The segment codec: lossless compression of a run of consecutive ledger entries.
//!
//! The codec is columnar and predictive. Entries with the same JSON structure share a *schema*; each scalar
//! of a schema becomes a *column*; each value of a column is *predicted* from values that the decoder already
//! has, and only the *residual* is stored. Columns are then compressed with zstd.
//!
//! The predictors are arithmetic formulas over columns, which the encoder finds by search. The codec has no
//! notion of entry types and does not use the engine: a codec that predicted decisions with the engine would
//! prove nothing about them. Whatever the search finds, decoding restores every timestamp and text exactly.
//!
//! | file | content |
//! |---|---|
//! | schema | splits a text into its schema and fields, and puts it together again |
//! | bytes | varints, blocks, run-length encoded residuals |
//! | predict | formulas, and the state of the columns during encoding and decoding |
//! | decode | columns to rows |
//! | table, encode | rows to columns |
//! | plan, context, search | the encoder's choice of formulas |
//! | frame | the zstd frame and its dictionary |
//!
//! `docs/segment-format.md` specifies the format, version 2. Version 1 had neither formulas nor a zstd
//! dictionary and is no longer read.
//!
//! # Limits
//!
//! The declared sizes come from a head that may be forged. They are checked before anything is allocated,
//! and everything that a segment can expand to is bounded by the constants below.

mod bytes;
mod context;
mod decode;
mod encode;
mod frame;
mod plan;
mod predict;
mod schema;
mod search;
mod table;

use thiserror::Error;

use super::canonical::NotCanonical;

/// Version of the encoding, the first byte of an encoded segment.
pub const VERSION: u8 = 2;
/// Maximum number of entries in a segment.
pub const MAX_ENTRIES: usize = 1 << 18;
/// Maximum size of an encoded segment, in bytes.
pub const MAX_ENCODED_BYTES: usize = 900 << 10;
/// Maximum size of a segment's columns before compression, in bytes.
pub const MAX_COLUMN_BYTES: usize = 16 << 20;
/// Maximum size of the data of one entry, in bytes. A snapshot with full risk windows has less; parsed into a tree of
/// JSON values, an entry takes up to thirty times its size.
pub const MAX_ENTRY_BYTES: usize = 256 << 10;
/// Maximum total size of the data of a segment's entries, in bytes.
pub const MAX_TEXT_BYTES: usize = 64 << 20;
/// Maximum size of the block of plans, in bytes.
const MAX_PLAN_BYTES: usize = 256 << 10;
/// Maximum number of distinct strings in a segment's fields.
const MAX_STRINGS: usize = 1 << 18;
/// Maximum number of columns: the timestamp and the fields of every schema.
pub const MAX_COLUMNS: usize = 1 << 16;
/// Maximum number of values that an encoder holds: the timestamps and fields of all entries.
const MAX_VALUES: usize = 1 << 21;
/// Maximum number of fields in the distinct schemas that an encoder holds, those that occur once included.
const MAX_SCHEMA_FIELDS: usize = 1 << 17;
/// Maximum size of these schemas, in bytes.
const MAX_SCHEMA_BYTES: usize = 8 << 20;

/// The part of an entry that a segment stores. Index and hashes follow from the head and the data.
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
    /// The version byte and the zstd frame.
    pub bytes: Vec<u8>,
    /// Size of the columns before compression, in bytes. [`visit`] needs it.
    pub columns: u64,
}

/// Error of [`encode`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// The data of a row is not canonical JSON.
    #[error("row {row} is not canonical JSON: {error}")]
    NotCanonical {
        /// Position among the rows, from 0.
        row: usize,
        /// The violation and its offset.
        error: NotCanonical,
    },
    /// A timestamp is NaN or infinite.
    #[error("the timestamp of row {row} is not finite")]
    NotFinite {
        /// Position among the rows, from 0.
        row: usize,
    },
    /// The rows exceed a limit of the format. Fewer rows may fit.
    #[error("segment too large: {actual} {what}, at most {limit} are allowed")]
    TooLarge {
        /// The limited quantity.
        what: &'static str,
        /// Its actual value.
        actual: usize,
        /// Its maximum.
        limit: usize,
    },
    /// zstd failed.
    #[error("compression failed: {0}")]
    Frame(String),
}

/// Error of [`visit`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// A declared or decoded size exceeds a limit of the format.
    #[error("segment too large: {actual} {what}, at most {limit} are allowed")]
    TooLarge {
        /// The limited quantity.
        what: &'static str,
        /// Its declared or actual value.
        actual: usize,
        /// Its maximum.
        limit: usize,
    },
    /// The first byte is not [`VERSION`].
    #[error("unsupported segment encoding {0}; this version reads encoding {VERSION}")]
    Version(u8),
    /// The zstd frame is damaged, is followed by other bytes or needs too large a window.
    #[error("damaged segment: {0}")]
    Frame(String),
    /// The columns do not have the size that the segment's head declares.
    #[error("damaged segment: its head declares {declared} bytes of columns, found {found}")]
    Columns {
        /// Size in the head, in bytes.
        declared: usize,
        /// Size after decompression, in bytes.
        found: usize,
    },
    /// The columns end too early.
    #[error("damaged segment: unexpected end of data")]
    Truncated,
    /// The columns violate the format.
    #[error("damaged segment: {0}")]
    Malformed(&'static str),
    /// A text in the columns is not canonical JSON.
    #[error("damaged segment: {0}")]
    NotCanonical(#[from] NotCanonical),
}

/// Encodes a run of entries. The encoding is deterministic.
///
/// # Errors
/// Returns [`EncodeError::TooLarge`] beyond the limits of the format, and [`EncodeError::NotCanonical`] or
/// [`EncodeError::NotFinite`] for rows that are not ledger entries.
pub fn encode(rows: &[Row<'_>]) -> Result<Encoded, EncodeError> {
    check_limit("entries", rows.len(), MAX_ENTRIES)?;
    check_limit("bytes of data", rows.iter().map(|row| row.data.len()).sum(), MAX_TEXT_BYTES)?;
    rows.iter().try_for_each(|row| check_entry(row.data.len()).map(drop))?;
    let columns = encode::encode_columns(&table::Table::build(rows)?)?;
    check_limit("bytes of columns", columns.len(), MAX_COLUMN_BYTES)?;
    let mut bytes = vec![VERSION];
    frame::compress(&columns, &mut bytes)?;
    check_limit("bytes", bytes.len(), MAX_ENCODED_BYTES)?;
    Ok(Encoded { bytes, columns: columns.len() as u64 })
}

/// Decodes a segment of `count` entries whose columns have `columns` bytes, as its head declares. Calls `each` with
/// each entry's timestamp, in seconds since 1970, and data. Memory is bounded by the columns, not by the data.
///
/// The input is not trusted. The declared sizes are checked before anything is allocated, the data is
/// bounded by [`MAX_ENTRY_BYTES`] and [`MAX_TEXT_BYTES`], and every text is canonical JSON.
///
/// # Errors
/// [`DecodeError`] if `bytes` is not exactly such a segment, or the first error of `each`. `each` may have been called
/// before either.
pub fn visit<E: From<DecodeError>>(
    bytes: &[u8],
    count: u64,
    columns: u64,
    mut each: impl FnMut(f64, &str) -> Result<(), E>,
) -> Result<(), E> {
    let check = |what, declared: u64, limit| {
        let declared = usize::try_from(declared).unwrap_or(usize::MAX);
        check_limit(what, declared, limit).map_err(DecodeError::from)
    };
    let count = check("entries", count, MAX_ENTRIES)?;
    let length = check("bytes of columns", columns, MAX_COLUMN_BYTES)?;
    check("bytes", bytes.len() as u64, MAX_ENCODED_BYTES)?;
    let columns = match bytes.split_first() {
        Some((&VERSION, frame)) => frame::decompress(frame, length)?,
        Some((&version, _)) => return Err(DecodeError::Version(version).into()),
        None => return Err(DecodeError::Truncated.into()),
    };
    let mut rows = decode::RowReader::new(&columns)?;
    for _ in 0..count {
        let (timestamp, data) = rows.next()?;
        each(timestamp, data)?;
    }
    Ok(rows.finish()?)
}

/// A size beyond its limit, while encoding or decoding.
struct TooLarge {
    what: &'static str,
    actual: usize,
    limit: usize,
}

impl From<TooLarge> for EncodeError {
    fn from(TooLarge { what, actual, limit }: TooLarge) -> Self {
        EncodeError::TooLarge { what, actual, limit }
    }
}

impl From<TooLarge> for DecodeError {
    fn from(TooLarge { what, actual, limit }: TooLarge) -> Self {
        DecodeError::TooLarge { what, actual, limit }
    }
}

fn check_limit(what: &'static str, actual: usize, limit: usize) -> Result<usize, TooLarge> {
    if actual <= limit { Ok(actual) } else { Err(TooLarge { what, actual, limit }) }
}

fn check_entry(bytes: usize) -> Result<usize, TooLarge> {
    check_limit("bytes in one entry", bytes, MAX_ENTRY_BYTES)
}

#[cfg(test)]
mod tests;
