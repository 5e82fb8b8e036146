//! Shapes: what entries of a kind have in common. A shape is the text of its first entry; the scalars in
//! it are its leaves, and whatever stands between them is the same in every entry of the shape.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::ledger::canonical::{NotCanonical, Scalar, push_f64, push_i64, scalars};

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

/// A shape, borrowed from the text of its first entry.
#[derive(Debug, Clone)]
pub(super) struct Shape<'a> {
    text: &'a str,
    leaves: Vec<(Range<usize>, Kind)>,
}

impl<'a> Shape<'a> {
    /// The shape of `text`, if it is canonical.
    pub(super) fn of(text: &'a str) -> Result<Self, NotCanonical> {
        let mut leaves = Vec::new();
        scalars(text, |range, scalar| leaves.extend(kind(scalar).map(|kind| (range, kind))))?;
        Ok(Self { text, leaves })
    }

    pub(super) fn text(&self) -> &'a str {
        self.text
    }

    pub(super) fn len(&self) -> usize {
        self.leaves.len()
    }

    pub(super) fn kinds(&self) -> impl Iterator<Item = Kind> {
        self.leaves.iter().map(|(_, kind)| *kind)
    }

    /// The leaves as they stand in the shape's own text.
    pub(super) fn tokens(&self) -> impl Iterator<Item = &'a str> {
        self.leaves.iter().map(|(range, _)| &self.text[range.clone()])
    }

    /// The text before each leaf, then the text behind the last.
    pub(super) fn pieces(&self) -> impl Iterator<Item = &'a str> {
        let starts = std::iter::once(0).chain(self.leaves.iter().map(|(range, _)| range.end));
        let ends = self.leaves.iter().map(|(range, _)| range.start).chain([self.text.len()]);
        starts.zip(ends).map(|(start, end)| &self.text[start..end])
    }

    /// Texts have the same key exactly if they have the same shape.
    pub(super) fn key(&self) -> String {
        let mut key = String::with_capacity(self.text.len());
        for (piece, kind) in self.pieces().zip(self.kinds().map(Some).chain([None])) {
            key.push_str(piece);
            // Canonical text has no control characters.
            key.push(match kind {
                Some(Kind::Float) => '\u{1}',
                Some(Kind::Integer) => '\u{2}',
                Some(Kind::Bool) => '\u{3}',
                Some(Kind::Text) => '\u{4}',
                None => '\u{0}',
            });
        }
        key
    }

    /// Cuts `text` where a text of this shape has its leaves, into `tokens`. `None` if it is of another
    /// shape; otherwise it is of this one if every token is a canonical scalar of its leaf's kind.
    pub(super) fn cut<'b>(&self, text: &'b str, tokens: &mut Vec<&'b str>) -> Option<()> {
        tokens.clear();
        let mut rest = text;
        let mut pieces = self.pieces();
        for ((_, kind), piece) in self.leaves.iter().zip(&mut pieces) {
            rest = rest.strip_prefix(piece)?;
            let length = match kind {
                Kind::Text => literal_length(rest.as_bytes())?,
                _ => rest.bytes().position(|byte| matches!(byte, b',' | b'}' | b']')).unwrap_or(rest.len()),
            };
            let (token, tail) = rest.split_at_checked(length)?;
            tokens.push(token);
            rest = tail;
        }
        (pieces.next() == Some(rest)).then_some(())
    }
}

/// The length of the string literal that `bytes` starts with.
fn literal_length(bytes: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        match bytes.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

fn kind(scalar: Scalar<'_>) -> Option<Kind> {
    match scalar {
        Scalar::Float(_) => Some(Kind::Float),
        Scalar::Negative(_) => Some(Kind::Integer),
        Scalar::Unsigned(value) => i64::try_from(value).ok().map(|_| Kind::Integer),
        Scalar::Bool(_) => Some(Kind::Bool),
        Scalar::Text(_) => Some(Kind::Text),
        Scalar::Null => None,
    }
}

/// The scalar that `token` spells, if that is its canonical spelling.
pub(super) fn scalar(token: &str) -> Option<Scalar<'_>> {
    let mut scalar = None;
    scalars(token, |range, found| scalar = (range.len() == token.len()).then_some(found)).ok()?;
    scalar
}

/// The code of a token, if it is a canonical scalar of this kind.
pub(super) fn code_of_token<'a>(kind: Kind, token: &'a str, strings: &mut Strings<'a>) -> Option<Code> {
    match (kind, scalar(token)?) {
        (Kind::Float, Scalar::Float(value)) => Some(code_of_float(value)),
        (Kind::Integer, Scalar::Negative(value)) => Some(value),
        (Kind::Integer, Scalar::Unsigned(value)) => value.try_into().ok(),
        (Kind::Bool, Scalar::Bool(value)) => Some(value.into()),
        (Kind::Text, Scalar::Text(literal)) => Some(strings.intern(literal)),
        _ => None,
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
