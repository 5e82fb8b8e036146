//! A scanner for canonical text, which validates it and locates its scalars without building a value.

use std::ops::Range;

use super::NotCanonical;
use super::text::{is_hex_escaped, read_f64};

/// Maximum nesting depth of arrays and objects. serde_json has a limit of its own, 128.
pub const MAX_DEPTH: usize = 100;

/// A scalar in a canonical text: any value except an object or array. Keys are not scalars.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scalar<'a> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A non-negative integer.
    Unsigned(u64),
    /// A negative integer.
    Negative(i64),
    /// A finite float.
    Float(f64),
    /// A string literal, with its quotes and escapes.
    String(&'a str),
}

/// Checks that `text` is canonical.
///
/// # Errors
/// Returns [`NotCanonical::Malformed`] or [`NotCanonical::KeyOrder`] if it is not.
pub fn check(text: &str) -> Result<(), NotCanonical> {
    scalars(text, |_, _| ())
}

/// Checks that `text` is canonical and calls `each` with every scalar and its byte range, from left to right.
///
/// # Errors
/// As [`check`]; `each` has then been called for the scalars before the violation.
pub fn scalars<'a>(text: &'a str, each: impl FnMut(Range<usize>, Scalar<'a>)) -> Result<(), NotCanonical> {
    let mut scan = Scan { text, at: 0, each };
    scan.value(0)?;
    if scan.at == text.len() { Ok(()) } else { scan.fail("unexpected text after the value") }
}

struct Scan<'a, F> {
    text: &'a str,
    at: usize,
    each: F,
}

impl<'a, F: FnMut(Range<usize>, Scalar<'a>)> Scan<'a, F> {
    fn fail<T>(&self, what: &'static str) -> Result<T, NotCanonical> {
        Err(NotCanonical::Malformed { at: self.at, what })
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn value(&mut self, depth: usize) -> Result<(), NotCanonical> {
        let start = self.at;
        let scalar = match self.peek() {
            Some(b'{' | b'[') if depth == MAX_DEPTH => return self.fail("nested too deeply"),
            Some(b'{') => return self.object(depth),
            Some(b'[') => return self.array(depth),
            Some(b'"') => Scalar::String(self.string()?),
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(b'n') => self.literal("null", Scalar::Null)?,
            Some(b't') => self.literal("true", Scalar::Bool(true))?,
            Some(b'f') => self.literal("false", Scalar::Bool(false))?,
            Some(_) => return self.fail("expected a value without whitespace"),
            None => return self.fail("unexpected end of text, expected a value"),
        };
        (self.each)(start..self.at, scalar);
        Ok(())
    }

    fn literal(&mut self, word: &str, scalar: Scalar<'a>) -> Result<Scalar<'a>, NotCanonical> {
        if !self.text[self.at..].starts_with(word) {
            return self.fail("expected a value");
        }
        self.at += word.len();
        Ok(scalar)
    }

    fn array(&mut self, depth: usize) -> Result<(), NotCanonical> {
        self.at += 1;
        if self.take(b']') {
            return Ok(());
        }
        loop {
            self.value(depth + 1)?;
            if self.take(b']') {
                return Ok(());
            }
            if !self.take(b',') {
                return self.fail("expected ',' or ']' after an item");
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<(), NotCanonical> {
        self.at += 1;
        if self.take(b'}') {
            return Ok(());
        }
        let mut last: Option<&'a str> = None;
        loop {
            if self.peek() != Some(b'"') {
                return self.fail("expected a key");
            }
            let key = self.string()?;
            if let Some(after) = last.replace(key) {
                check_order(after, key)?;
            }
            if !self.take(b':') {
                return self.fail("expected ':' after a key");
            }
            self.value(depth + 1)?;
            if self.take(b'}') {
                return Ok(());
            }
            if !self.take(b',') {
                return self.fail("expected ',' or '}' after a field");
            }
        }
    }

    /// Scans a string literal, quotes included.
    fn string(&mut self) -> Result<&'a str, NotCanonical> {
        let start = self.at;
        self.at += 1;
        loop {
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => self.escape()?,
                Some(0x20..=0x7e) => self.at += 1,
                Some(_) => return self.fail("a character that must be escaped"),
                None => return self.fail("unterminated string"),
            }
        }
        self.at += 1;
        Ok(&self.text[start..self.at])
    }

    fn escape(&mut self) -> Result<(), NotCanonical> {
        match self.text.as_bytes().get(self.at + 1) {
            Some(b'"' | b'\\' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 2,
            Some(b'u') => match self.unit(self.at)? {
                0xd800..=0xdbff => match self.unit(self.at + 6) {
                    Ok(0xdc00..=0xdfff) => self.at += 12,
                    _ => return self.fail("unpaired surrogate"),
                },
                0xdc00..=0xdfff => return self.fail("unpaired surrogate"),
                unit if is_hex_escaped(unit) => self.at += 6,
                _ => return self.fail("escape of a character that has another canonical form"),
            },
            _ => return self.fail("escape that is not canonical"),
        }
        Ok(())
    }

    /// Returns the UTF-16 code unit of the `\uXXXX` at `at`.
    fn unit(&self, at: usize) -> Result<u32, NotCanonical> {
        let Some([b'\\', b'u', digits @ ..]) = self.text.as_bytes().get(at..at + 6) else {
            return self.fail("escape that is not canonical");
        };
        digits.iter().try_fold(0, |unit, digit| match digit {
            b'0'..=b'9' => Ok(unit << 4 | u32::from(digit - b'0')),
            b'a'..=b'f' => Ok(unit << 4 | u32::from(digit - b'a' + 10)),
            _ => self.fail("expected a lower-case hexadecimal digit"),
        })
    }

    fn number(&mut self) -> Result<Scalar<'a>, NotCanonical> {
        let rest = &self.text[self.at..];
        let length =
            rest.bytes().take_while(|byte| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e')).count();
        let Some(scalar) = number(&rest[..length]) else {
            return self.fail("number that is not canonical");
        };
        self.at += length;
        Ok(scalar)
    }
}

/// Parses a canonical number.
fn number(text: &str) -> Option<Scalar<'static>> {
    if text.bytes().any(|byte| matches!(byte, b'.' | b'e')) {
        return read_f64(text).map(Scalar::Float);
    }
    let digits = text.strip_prefix('-').unwrap_or(text);
    match digits.as_bytes() {
        [b'0'] if text.len() == 1 => Some(Scalar::Unsigned(0)),
        [b'1'..=b'9', rest @ ..] if rest.iter().all(u8::is_ascii_digit) => match text.parse() {
            Ok(value) => Some(Scalar::Unsigned(value)),
            Err(_) => text.parse().ok().filter(|value| *value < 0).map(Scalar::Negative),
        },
        _ => None,
    }
}

/// Parses a canonical integer in the range of `i64`.
pub fn read_i64(text: &str) -> Option<i64> {
    match number(text)? {
        Scalar::Unsigned(value) => value.try_into().ok(),
        Scalar::Negative(value) => Some(value),
        _ => None,
    }
}

/// Checks that `after`, the preceding key, sorts before `key` by code point. Both are canonical string literals.
pub(super) fn check_order(after: &str, key: &str) -> Result<(), NotCanonical> {
    let plain = !after.contains('\\') && !key.contains('\\');
    // Compares without the closing quotes, which would sort a key after keys that it is a prefix of.
    if plain && after[..after.len() - 1] < key[..key.len() - 1] {
        return Ok(());
    }
    let (after, key) = (unescape(after)?, unescape(key)?);
    if after < key { Ok(()) } else { Err(NotCanonical::KeyOrder { key, after }) }
}

fn unescape(literal: &str) -> Result<String, NotCanonical> {
    serde_json::from_str(literal).map_err(|error| NotCanonical::Custom(error.to_string()))
}
