//! Schemas: the JSON structure that entries have in common.
//!
//! A schema is represented by the text of its first entry. The scalars in that text are the schema's fields;
//! the text between them is the same in every entry of the schema.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::ledger::canonical::{
    NotCanonical, Scalar, is_canonical, push_f64, push_i64, read_f64, read_i64, scalars,
};

/// The type of a field or column. `null` and integers from 2^63 up are not fields but part of the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Float,
    Integer,
    Bool,
    String,
}

/// A value as a signed integer. Residuals are differences between codes.
///
/// An integer is its own code, booleans are 0 and 1, a string has its index in the [`StringDictionary`], and a
/// float has its bits, mapped so that codes have the order of the floats and neighbouring floats have
/// neighbouring codes.
pub(super) type Code = i64;

/// Returns the code of a float: 0 for 0.0, -1 for -0.0.
pub(super) fn float_to_code(value: f64) -> Code {
    flip(value.to_bits() as i64)
}

/// Returns the float that has this code. It may be NaN or infinite.
pub(super) fn code_to_float(code: Code) -> f64 {
    f64::from_bits(flip(code) as u64)
}

/// The bits of negative floats descend as the floats ascend: inverts all of them but the sign.
fn flip(bits: i64) -> i64 {
    bits ^ ((bits >> 63) as u64 >> 1) as i64
}

/// Returns the value of a code as a double, for formulas.
pub(super) fn code_to_number(kind: Kind, code: Code) -> f64 {
    match kind {
        Kind::Float => code_to_float(code),
        Kind::Integer | Kind::Bool | Kind::String => code as f64,
    }
}

/// The distinct string literals of a segment, numbered in the order in which they first appear.
#[derive(Debug, Default)]
pub(super) struct StringDictionary<'a> {
    literals: Vec<&'a str>,
    codes: BTreeMap<&'a str, usize>,
}

impl<'a> StringDictionary<'a> {
    /// Returns the code of `literal`, a JSON string literal; adds it if it is new.
    pub(super) fn intern(&mut self, literal: &'a str) -> Code {
        let next = self.literals.len();
        let code = *self.codes.entry(literal).or_insert(next);
        if code == next {
            self.literals.push(literal);
        }
        code as Code
    }

    pub(super) fn get(&self, code: Code) -> Option<&'a str> {
        self.literals.get(usize::try_from(code).ok()?).copied()
    }

    pub(super) fn len(&self) -> usize {
        self.literals.len()
    }
}

/// A scalar in a schema's text, other than `null` and integers from 2^63 up.
#[derive(Debug, Clone)]
pub(super) struct Field {
    /// Byte range in the text.
    range: Range<usize>,
    pub(super) kind: Kind,
    /// Its value in the schema's own text.
    pub(super) code: Code,
}

/// A schema, represented by the text of its first entry.
#[derive(Debug, Clone)]
pub(super) struct Schema<'a> {
    pub(super) text: &'a str,
    pub(super) fields: Vec<Field>,
}

impl<'a> Schema<'a> {
    /// Derives the schema of `text`, which must be canonical JSON.
    pub(super) fn parse(text: &'a str, strings: &mut StringDictionary<'a>) -> Result<Self, NotCanonical> {
        let mut fields = Vec::new();
        scalars(text, |range, scalar| {
            let (kind, code) = match scalar {
                Scalar::Float(value) => (Kind::Float, float_to_code(value)),
                Scalar::Negative(value) => (Kind::Integer, value),
                Scalar::Unsigned(value) if value <= i64::MAX as u64 => (Kind::Integer, value as i64),
                Scalar::Bool(value) => (Kind::Bool, value.into()),
                Scalar::String(literal) => (Kind::String, strings.intern(literal)),
                Scalar::Unsigned(_) | Scalar::Null => return,
            };
            fields.push(Field { range, kind, code });
        })?;
        Ok(Self { text, fields })
    }

    /// The text of each field in the schema's own text.
    pub(super) fn tokens(&self) -> impl Iterator<Item = &'a str> {
        self.fields.iter().map(|field| &self.text[field.range.clone()])
    }

    /// The text before each field, then the text after the last.
    pub(super) fn pieces(&self) -> impl Iterator<Item = &'a [u8]> {
        let starts = std::iter::once(0).chain(self.fields.iter().map(|field| field.range.end));
        let ends = self.fields.iter().map(|field| field.range.start).chain([self.text.len()]);
        starts.zip(ends).map(|(start, end)| &self.text.as_bytes()[start..end])
    }

    /// Two texts have the same key if and only if they have the same schema.
    pub(super) fn key(&self) -> Vec<u8> {
        let kinds = self.fields.iter().map(|field| match field.kind {
            // Control characters separate the pieces unambiguously: canonical text has none.
            Kind::Float => &[1][..],
            Kind::Integer => &[2],
            Kind::Bool => &[3],
            Kind::String => &[4],
        });
        let parts = self.pieces().zip(kinds.chain([&[][..]]));
        parts.flat_map(|(piece, kind)| [piece, kind]).flatten().copied().collect()
    }
}

/// Returns the length of the scalar of this kind at the start of `text`, or `None` for an unterminated string.
/// The scalar itself is not validated.
pub(super) fn scan_token(kind: Kind, text: &[u8]) -> Option<usize> {
    if kind != Kind::String {
        return Some(text.iter().position(|byte| ends_token(Some(byte))).unwrap_or(text.len()));
    }
    let mut at = 1;
    loop {
        match text.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// Returns whether a scalar ends before this byte.
pub(super) fn ends_token(byte: Option<&u8>) -> bool {
    matches!(byte, None | Some(b',' | b'}' | b']'))
}

/// Returns the code of a token, or `None` if the token is not a canonical scalar of this kind.
pub(super) fn parse_token<'a>(
    kind: Kind,
    token: &'a str,
    strings: &mut StringDictionary<'a>,
) -> Option<Code> {
    match kind {
        Kind::Float => read_f64(token).map(float_to_code),
        Kind::Integer => read_i64(token),
        Kind::Bool => match token {
            "false" => Some(0),
            "true" => Some(1),
            _ => None,
        },
        Kind::String => (token.starts_with('"') && is_canonical(token)).then(|| strings.intern(token)),
    }
}

/// Appends the token of a code. Returns `None` if no value of this kind has that code.
pub(super) fn push_token(
    out: &mut Vec<u8>,
    kind: Kind,
    code: Code,
    strings: &StringDictionary<'_>,
) -> Option<()> {
    match kind {
        Kind::Float => push_f64(out, Some(code_to_float(code)).filter(|value| value.is_finite())?),
        Kind::Integer => push_i64(out, code),
        Kind::Bool => out.extend_from_slice(match code {
            0 => b"false",
            1 => b"true",
            _ => return None,
        }),
        Kind::String => out.extend_from_slice(strings.get(code)?.as_bytes()),
    }
    Some(())
}
