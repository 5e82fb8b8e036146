//! Shapes: what entries of a kind have in common. A shape is the text of its first entry; the scalars in
//! it are its leaves, and whatever stands between them is the same in every entry of the shape.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::ledger::canonical::{
    NotCanonical, Scalar, is_canonical, push_f64, push_i64, read_f64, read_i64, scalars,
};

/// What a leaf holds. `null` and integers from 2^63 up are no leaves: they belong to the shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Float,
    Integer,
    Bool,
    Text,
}

/// A leaf's value in the segment's arithmetic: differences between these are what is stored.
///
/// Integers stand for themselves, booleans are 0 and 1, texts are numbers given by [`Strings`], floats
/// are their bits, mapped so that neighbours among floats are neighbours among integers.
pub(super) type Code = i64;

/// The code of a float; 0.0 has 0, and -0.0 has -1.
pub(super) fn code_of_float(value: f64) -> Code {
    flip(value.to_bits() as i64)
}

/// The float of a code. It may be NaN or infinite.
pub(super) fn float_of_code(code: Code) -> f64 {
    f64::from_bits(flip(code) as u64)
}

/// Negative floats count downwards in their bits: turn all of these but the sign.
fn flip(bits: i64) -> i64 {
    bits ^ ((bits >> 63) as u64 >> 1) as i64
}

/// The number behind a code, for arithmetic between columns.
pub(super) fn number_of_code(kind: Kind, code: Code) -> f64 {
    match kind {
        Kind::Float => float_of_code(code),
        Kind::Integer | Kind::Bool | Kind::Text => code as f64,
    }
}

/// The texts of a segment, numbered in the order in which they first appear.
#[derive(Debug, Default)]
pub(super) struct Strings<'a> {
    list: Vec<&'a str>,
    numbers: BTreeMap<&'a str, usize>,
}

impl<'a> Strings<'a> {
    /// The number of `literal`, a string literal.
    pub(super) fn intern(&mut self, literal: &'a str) -> Code {
        let next = self.list.len();
        let number = *self.numbers.entry(literal).or_insert(next);
        if number == next {
            self.list.push(literal);
        }
        number as Code
    }

    pub(super) fn get(&self, code: Code) -> Option<&'a str> {
        self.list.get(usize::try_from(code).ok()?).copied()
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }
}

/// A scalar in a shape's text.
#[derive(Debug, Clone)]
pub(super) struct Leaf {
    /// Where it stands.
    range: Range<usize>,
    pub(super) kind: Kind,
    /// What it is in the shape's own text.
    pub(super) code: Code,
}

/// A shape, borrowed from the text of its first entry.
#[derive(Debug, Clone)]
pub(super) struct Shape<'a> {
    pub(super) text: &'a str,
    pub(super) leaves: Vec<Leaf>,
}

impl<'a> Shape<'a> {
    /// The shape of `text`, if it is canonical.
    pub(super) fn of(text: &'a str, strings: &mut Strings<'a>) -> Result<Self, NotCanonical> {
        let mut leaves = Vec::new();
        scalars(text, |range, scalar| {
            let (kind, code) = match scalar {
                Scalar::Float(value) => (Kind::Float, code_of_float(value)),
                Scalar::Negative(value) => (Kind::Integer, value),
                Scalar::Unsigned(value) if value <= i64::MAX as u64 => (Kind::Integer, value as i64),
                Scalar::Bool(value) => (Kind::Bool, value.into()),
                Scalar::Text(literal) => (Kind::Text, strings.intern(literal)),
                Scalar::Unsigned(_) | Scalar::Null => return,
            };
            leaves.push(Leaf { range, kind, code });
        })?;
        Ok(Self { text, leaves })
    }

    /// The leaves as they stand in the shape's own text.
    pub(super) fn tokens(&self) -> impl Iterator<Item = &'a str> {
        self.leaves.iter().map(|leaf| &self.text[leaf.range.clone()])
    }

    /// The text before each leaf, then the text behind the last.
    pub(super) fn pieces(&self) -> impl Iterator<Item = &'a [u8]> {
        let starts = std::iter::once(0).chain(self.leaves.iter().map(|leaf| leaf.range.end));
        let ends = self.leaves.iter().map(|leaf| leaf.range.start).chain([self.text.len()]);
        starts.zip(ends).map(|(start, end)| &self.text.as_bytes()[start..end])
    }

    /// Texts have the same key exactly if they have the same shape.
    pub(super) fn key(&self) -> Vec<u8> {
        let kinds = self.leaves.iter().map(|leaf| match leaf.kind {
            // Canonical text has no control characters.
            Kind::Float => &[1][..],
            Kind::Integer => &[2],
            Kind::Bool => &[3],
            Kind::Text => &[4],
        });
        let parts = self.pieces().zip(kinds.chain([&[][..]]));
        parts.flat_map(|(piece, kind)| [piece, kind]).flatten().copied().collect()
    }
}

/// The length of the scalar of this kind that `text` starts with, if there is one.
pub(super) fn token_length(kind: Kind, text: &[u8]) -> Option<usize> {
    if kind != Kind::Text {
        return Some(text.iter().position(|byte| is_end(Some(byte))).unwrap_or(text.len()));
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

/// Whether a scalar ends before this byte.
pub(super) fn is_end(byte: Option<&u8>) -> bool {
    matches!(byte, None | Some(b',' | b'}' | b']'))
}

/// The code of a token, if it is a canonical scalar of this kind.
pub(super) fn code_of_token<'a>(kind: Kind, token: &'a str, strings: &mut Strings<'a>) -> Option<Code> {
    match kind {
        Kind::Float => read_f64(token).map(code_of_float),
        Kind::Integer => read_i64(token),
        Kind::Bool => match token {
            "false" => Some(0),
            "true" => Some(1),
            _ => None,
        },
        Kind::Text => (token.starts_with('"') && is_canonical(token)).then(|| strings.intern(token)),
    }
}

/// Appends the token of a code; `None` if the code is none of this kind.
pub(super) fn push_token(out: &mut Vec<u8>, kind: Kind, code: Code, strings: &Strings<'_>) -> Option<()> {
    match kind {
        Kind::Float => push_f64(out, Some(float_of_code(code)).filter(|value| value.is_finite())?),
        Kind::Integer => push_i64(out, code),
        Kind::Bool => out.extend_from_slice(match code {
            0 => b"false",
            1 => b"true",
            _ => return None,
        }),
        Kind::Text => out.extend_from_slice(strings.get(code)?.as_bytes()),
    }
    Some(())
}
