//! The segment codec: a run of consecutive ledger entries in few bytes, and back without loss.

mod bytes;
mod decode;
mod encode;
mod frame;
mod predict;
mod shape;
mod table;

use thiserror::Error;

use super::canonical::NotCanonical;

/// The format that [`encode`] writes: the first byte of a segment.
pub const VERSION: u8 = 1;
/// The most entries a segment may have.
pub const MAX_ENTRIES: usize = 1 << 18;
/// The most bytes an encoded segment may have.
pub const MAX_ENCODED: usize = 900 << 10;
/// The most bytes that a segment's columns may have before compression.
pub const MAX_COLUMNS: usize = 16 << 20;
/// The most bytes that the data of a segment's entries may have together.
pub const MAX_TEXT: usize = 64 << 20;
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
    let check = |what, is, limit| {
        if is <= limit { Ok(()) } else { Err(EncodeError::TooLarge { what, is, limit }) }
    };
    check("entries", rows.len(), MAX_ENTRIES)?;
    check("bytes of data", rows.iter().map(|row| row.data.len()).sum(), MAX_TEXT)?;
    let columns = encode::columns(&table::Table::of(rows)?)?;
    check("bytes of columns", columns.len(), MAX_COLUMNS)?;
    let mut bytes = vec![VERSION];
    frame::compress(&columns, &mut bytes)?;
    check("bytes", bytes.len(), MAX_ENCODED)?;
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
    let count = within("entries", count, MAX_ENTRIES)?;
    let length = within("bytes of columns", columns, MAX_COLUMNS)?;
    within("bytes", bytes.len() as u64, MAX_ENCODED)?;
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

fn within(what: &'static str, is: u64, limit: usize) -> Result<usize, DecodeError> {
    let is = usize::try_from(is).unwrap_or(usize::MAX);
    if is <= limit { Ok(is) } else { Err(DecodeError::TooLarge { what, is, limit }) }
}

#[cfg(test)]
mod tests;
