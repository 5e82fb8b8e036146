//! Columns to rows.

use std::str::SplitTerminator;

use super::bytes::{Reader, ResidualReader};
use super::predict::{Columns, Plan};
use super::shape::{Code, Kind, Shape, Strings, code_of_float, code_of_token, float_of_code, push_token};
use super::{DecodeError, MAX_LEAVES, MAX_PLANS, MAX_STRINGS, MAX_TEXT, within};
use crate::ledger::canonical::{check, read_f64};

/// Reads a segment's columns row by row.
pub(super) struct Rows<'a> {
    places: Vec<Place<'a>>,
    verbatim: SplitTerminator<'a, char>,
    literals: SplitTerminator<'a, char>,
    strings: Strings<'a>,
    columns: Columns,
    sequence: ResidualReader<'a>,
    residuals: Vec<ResidualReader<'a>>,
    /// Which place followed on which the last time; 0 is a verbatim row, the first shape is 1.
    successors: Vec<usize>,
    before: usize,
    /// How many bytes of data have been made.
    made: usize,
    /// The last token of each column; a timestamp has none.
    tokens: Vec<Vec<u8>>,
    data: Vec<u8>,
}

/// A shape and its columns.
struct Place<'a> {
    shape: Shape<'a>,
    /// The leaves in the order in which they are foretold.
    order: Vec<usize>,
    /// The number of its first column.
    base: usize,
    met: bool,
}

impl<'a> Rows<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut bytes = Reader::new(bytes);
        let shapes = lines(&mut bytes)?;
        let verbatim = lines(&mut bytes)?;
        let literals = lines(&mut bytes)?;

        let mut strings = Strings::default();
        let mut columns = Columns::default();
        let mut tokens = Vec::new();
        let mut places = Vec::new();
        for line in shapes {
            let (timestamp, data) = split_line(line)?;
            let shape = Shape::of(data, &mut strings)?;
            let base = columns.len();
            within("columns", base + shape.leaves.len() + 1, MAX_LEAVES)?;
            columns.add(Kind::Float, code_of_float(timestamp));
            shape.leaves.iter().for_each(|leaf| columns.add(leaf.kind, leaf.code));
            tokens.push(Vec::new());
            tokens.extend(shape.tokens().map(|token| token.as_bytes().to_vec()));
            places.push(Place { shape, order: Vec::new(), base, met: false });
        }

        let plans = bytes.block()?;
        within("bytes of plans", plans.len(), MAX_PLANS)?;
        let mut plans = Reader::new(plans);
        for place in &mut places {
            let width = place.shape.leaves.len() + 1;
            let plan = Plan::read(&mut plans, width, columns.len())?;
            place.order = plan.order(width);
            for (leaf, formulas) in plan.steps {
                columns.set_formulas(place.base + leaf, formulas);
            }
        }

        let sequence = ResidualReader::new(bytes.block()?);
        let mut residuals = Vec::with_capacity(columns.len());
        for _ in 0..columns.len() {
            residuals.push(ResidualReader::new(bytes.block()?));
        }
        if !bytes.is_empty() || !plans.is_empty() {
            return Err(DecodeError::Malformed("bytes that belong to nothing"));
        }
        Ok(Self {
            successors: vec![0; places.len() + 1],
            tokens,
            places,
            verbatim,
            literals,
            strings,
            columns,
            sequence,
            residuals,
            before: 0,
            made: 0,
            data: Vec::new(),
        })
    }

    /// The next row: its timestamp in seconds, and its data.
    pub(super) fn next(&mut self) -> Result<(f64, &str), DecodeError> {
        let place = self.sequence.next()?.wrapping_add(self.successors[self.before] as i64);
        let place = usize::try_from(place).ok().filter(|place| *place <= self.places.len());
        let place = place.ok_or(DecodeError::Malformed("a row of a shape that is not there"))?;
        self.successors[self.before] = place;
        self.before = place;
        let Some(place) = place.checked_sub(1) else {
            let (timestamp, data) = split_line(self.verbatim.next().ok_or(DecodeError::Truncated)?)?;
            check(data)?;
            self.made += data.len();
            within("bytes of data", self.made, MAX_TEXT)?;
            return Ok((timestamp, data));
        };
        // The first row of a shape is the shape itself.
        if std::mem::replace(&mut self.places[place].met, true) {
            self.step(place)?;
        }
        self.join(place)
    }

    /// Takes the next value of each of a shape's columns.
    fn step(&mut self, place: usize) -> Result<(), DecodeError> {
        let Place { order, base, .. } = &self.places[place];
        for leaf in order {
            let column = base + leaf;
            let predicted = self.columns.predict(column);
            let code = predicted.wrapping_add(self.residuals[column].next()?);
            let (kind, last) = (self.columns.get(column).kind(), self.columns.get(column).last());
            self.columns.settle(column, predicted, code);
            if kind == Kind::Text && code == self.strings.len() as Code {
                within("texts", self.strings.len() + 1, MAX_STRINGS)?;
                let literal = self.literals.next().ok_or(DecodeError::Truncated)?;
                if code_of_token(kind, literal, &mut self.strings) != Some(code) {
                    return Err(DecodeError::Malformed("a text that is none, or that was there already"));
                }
            }
            if code == last {
                continue;
            }
            let fits = if *leaf == 0 {
                float_of_code(code).is_finite()
            } else {
                self.tokens[column].clear();
                push_token(&mut self.tokens[column], kind, code, &self.strings).is_some()
            };
            if !fits {
                return Err(DecodeError::Malformed("a value that its column cannot hold"));
            }
        }
        Ok(())
    }

    /// Puts a row together from its shape and the last token of each column.
    fn join(&mut self, place: usize) -> Result<(f64, &str), DecodeError> {
        let Place { shape, base, .. } = &self.places[place];
        let timestamp = float_of_code(self.columns.get(*base).last());
        self.data.clear();
        let tokens = self.tokens[base + 1..].iter().map(Vec::as_slice).take(shape.leaves.len());
        for (piece, token) in shape.pieces().zip(tokens.chain([&[][..]])) {
            self.data.extend_from_slice(piece);
            self.data.extend_from_slice(token);
            // After each token: one text of a few kilobytes may stand in thousands of leaves.
            within("bytes of data", self.made + self.data.len(), MAX_TEXT)?;
        }
        self.made += self.data.len();
        let data = std::str::from_utf8(&self.data).map_err(|_| NOT_UTF8)?;
        Ok((timestamp, data))
    }

    /// Sees that with the last row all is said.
    pub(super) fn finish(mut self) -> Result<(), DecodeError> {
        let done = self.places.iter().all(|place| place.met)
            && self.verbatim.next().is_none()
            && self.literals.next().is_none()
            && self.sequence.is_done()
            && self.residuals.iter().all(ResidualReader::is_done);
        if done { Ok(()) } else { Err(DecodeError::Malformed("more than the declared number of rows")) }
    }
}

const NOT_UTF8: DecodeError = DecodeError::Malformed("text that is not UTF-8");

/// A block of lines.
fn lines<'a>(bytes: &mut Reader<'a>) -> Result<SplitTerminator<'a, char>, DecodeError> {
    let text = std::str::from_utf8(bytes.block()?).map_err(|_| NOT_UTF8)?;
    Ok(text.split_terminator('\n'))
}

/// The timestamp and the data of a line.
fn split_line(line: &str) -> Result<(f64, &str), DecodeError> {
    let (timestamp, data) = line.split_once(' ').ok_or(DecodeError::Malformed("a line without data"))?;
    let timestamp = read_f64(timestamp).ok_or(DecodeError::Malformed("a line without a timestamp"))?;
    Ok((timestamp, data))
}
