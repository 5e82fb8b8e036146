//! Canonical JSON: every value has exactly one text, so that it can be hashed.
//!
//! It is the output of Python's `json.dumps(x, sort_keys=True, separators=(",", ":"), allow_nan=False)`:
//!
//! - no whitespace; the keys of an object sorted by code point, without duplicates;
//! - strings in ASCII: `"`, `\` and the control characters that have a short escape (`\b \t \n \f \r`) use it;
//!   everything else outside 0x20..=0x7e is `\uXXXX` in lower case, above U+FFFF as a surrogate pair;
//! - floats as in Python's `repr`: the shortest digits that parse to the same double, in positional notation from
//!   1e-4 up to 1e16 (`1.0`, never `1`), otherwise with an exponent of at least two digits (`1e-05`, `1e+16`);
//! - integers from `i64::MIN` to `u64::MAX` in decimal notation.
//!
//! Python could also write lone surrogates, which are not Unicode scalar values, and larger integers. Neither has
//! a canonical form here.
//!
//! [`to_string`] and [`write`] stream: they build no tree and sort nothing. Structs declare their fields in sorted
//! order. A field or key out of order is an error; otherwise a text that is not canonical would be hashed.

mod scan;
mod ser;
mod text;

use serde::Serialize;
use serde_json::Value;
use thiserror::Error;

pub use scan::{MAX_DEPTH, Scalar, check, read_i64, scalars};
pub use text::{push_f64, push_i64, push_str, push_u64, read_f64};

/// A value has no canonical form, or a text is not canonical.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NotCanonical {
    /// A NaN or an infinity, which JSON cannot represent.
    #[error("{0} is not a JSON number")]
    NotFinite(&'static str),
    /// Keys that are not in ascending order, or a duplicate key.
    #[error("key {key:?} after key {after:?}: keys must be sorted and unique")]
    KeyOrder {
        /// The key that is out of order.
        key: String,
        /// The preceding key.
        after: String,
    },
    /// A map key that is not a string.
    #[error("the keys of an object must be strings")]
    KeyNotString,
    /// A type that JSON does not have or that has no unique text.
    #[error("{0} has no canonical form")]
    Unsupported(&'static str),
    /// A text that is not JSON or not canonical.
    #[error("at byte {at}: {what}")]
    Malformed {
        /// Byte offset in the text.
        at: usize,
        /// The violation.
        what: &'static str,
    },
    /// An error of a value's own `Serialize` implementation, or of serde_json.
    #[error("{0}")]
    Custom(String),
}

/// Returns the canonical text of `value`.
///
/// # Errors
/// Returns [`NotCanonical`] if `value` has no canonical form: most often because a number is not finite, or because
/// a struct does not declare its fields in sorted order.
pub fn to_string<T: Serialize + ?Sized>(value: &T) -> Result<String, NotCanonical> {
    let mut out = Vec::with_capacity(256);
    write(&mut out, value)?;
    // Cannot fail: the serializer writes only ASCII.
    String::from_utf8(out).map_err(|_| NotCanonical::Unsupported("text that is not UTF-8"))
}

/// Appends the canonical text of `value`, which is ASCII, to `out`.
///
/// # Errors
/// As [`to_string`]; `out` is then unchanged.
pub fn write<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) -> Result<(), NotCanonical> {
    let start = out.len();
    let result = value.serialize(ser::Serializer::new(out));
    if result.is_err() {
        out.truncate(start);
    }
    result
}

/// Returns whether `text` is the canonical text of some value.
pub fn is_canonical(text: &str) -> bool {
    check(text).is_ok()
}

/// Parses a canonical text. Any other JSON text of the same value is rejected: with whitespace, unsorted or
/// duplicate keys, `1E5`, `-0` and so on.
///
/// # Errors
/// Returns [`NotCanonical::Malformed`] with the byte offset, or [`NotCanonical::KeyOrder`].
pub fn parse(text: &str) -> Result<Value, NotCanonical> {
    check(text)?;
    serde_json::from_str(text).map_err(|error| NotCanonical::Custom(error.to_string()))
}

/// Converts to a JSON value, which sorts its keys whatever the order in which a type declares its fields.
///
/// # Errors
/// Returns [`NotCanonical::Custom`] if `value` cannot be represented in JSON.
pub fn to_value<T: Serialize>(value: &T) -> Result<Value, NotCanonical> {
    serde_json::to_value(value).map_err(|error| NotCanonical::Custom(error.to_string()))
}

#[cfg(test)]
pub(crate) mod tests;
