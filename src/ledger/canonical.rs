//! Canonical JSON: the one text that a value has, so that it can be hashed.
//!
//! It is the text that Python's `json.dumps(x, sort_keys=True, separators=(",", ":"),
//! allow_nan=False)` gives:
//!
//! - no spaces; the keys of an object sorted by code point, none twice;
//! - text in ASCII: `"`, `\` and the control characters with a short escape (`\b \t \n \f \r`) take it,
//!   everything else outside 0x20..=0x7e is `\uXXXX` in lower case, above U+FFFF as a surrogate pair;
//! - floats as Python's `repr`: the shortest digits that read back exactly, plain from 1e-4 up to
//!   1e16 (`1.0`, never `1`), else with an exponent of two digits or more (`1e-05`, `1e+16`);
//! - integers plain, within the range of `i64` and `u64` together.
//!
//! Strings that Rust cannot hold (lone surrogates) and integers beyond 64 bits, which Python could
//! write, have no canonical form here.
//!
//! [`to_string`] and [`write`] stream: there is no tree in between and nothing is sorted. Structs
//! declare their fields in sorted order; a field or a key out of order is an error, because a text that
//! is merely *nearly* canonical would be hashed as if it were right.

mod scan;
mod ser;
mod text;

use serde::Serialize;
use serde_json::Value;
use thiserror::Error;

pub use scan::{MAX_DEPTH, Scalar, check, read_i64, scalars};
pub use text::{push_f64, push_i64, push_str, push_u64, read_f64};

/// Why a value or a text has no canonical form.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NotCanonical {
    /// A NaN or an infinity: JSON has no number for it.
    #[error("{0} is not a JSON number")]
    NotFinite(&'static str),
    /// Keys that do not ascend, or one twice.
    #[error("key {key:?} must not stand after {after:?}: keys are sorted and none comes twice")]
    KeyOrder {
        /// The key that is out of order.
        key: String,
        /// The key before it.
        after: String,
    },
    /// A map key that is not a string.
    #[error("an object's key must be a string")]
    KeyNotText,
    /// A kind of value that JSON does not have, or that has no single spelling.
    #[error("{0} has no canonical form")]
    Unsupported(&'static str),
    /// A text that is not JSON, or not in its canonical spelling.
    #[error("at byte {at}: {what}")]
    Malformed {
        /// Offset in the text, in bytes.
        at: usize,
        /// What is wrong there.
        what: &'static str,
    },
    /// What a value's own `Serialize` complained about.
    #[error("{0}")]
    Custom(String),
}

/// The canonical text of `value`.
///
/// # Errors
/// See [`NotCanonical`]; most often [`NotCanonical::NotFinite`], or [`NotCanonical::KeyOrder`] for a
/// struct whose fields are not declared in sorted order.
pub fn to_string<T: Serialize + ?Sized>(value: &T) -> Result<String, NotCanonical> {
    let mut out = Vec::with_capacity(256);
    write(&mut out, value)?;
    // Only ASCII is ever written.
    String::from_utf8(out).map_err(|_| NotCanonical::Unsupported("text that is not UTF-8"))
}

/// Appends the canonical text of `value` to `out`, which is ASCII. After an error `out` is as it was.
///
/// # Errors
/// As [`to_string`].
pub fn write<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) -> Result<(), NotCanonical> {
    let start = out.len();
    let result = value.serialize(ser::Serializer::new(out));
    if result.is_err() {
        out.truncate(start);
    }
    result
}

/// Whether `text` is the canonical text of some value.
pub fn is_canonical(text: &str) -> bool {
    check(text).is_ok()
}

/// The value of a canonical text: spaces, unsorted or double keys, `1E5`, `-0` and all other ways to
/// write what has a canonical spelling are refused.
///
/// # Errors
/// [`NotCanonical::Malformed`] or [`NotCanonical::KeyOrder`], with the place.
pub fn parse(text: &str) -> Result<Value, NotCanonical> {
    check(text)?;
    serde_json::from_str(text).map_err(|error| NotCanonical::Custom(error.to_string()))
}

/// A JSON value, whose keys are sorted whatever the order in which a type declares its fields.
///
/// # Errors
/// [`NotCanonical::Custom`] when it cannot be a JSON value.
pub fn to_value<T: Serialize>(value: &T) -> Result<Value, NotCanonical> {
    serde_json::to_value(value).map_err(|error| NotCanonical::Custom(error.to_string()))
}

#[cfg(test)]
pub(crate) mod tests;
