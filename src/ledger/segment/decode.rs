//! Columns to rows.

use std::str::SplitTerminator;

use super::bytes::{Reader, ResidualReader};
use super::predict::{Columns, Plan};
use super::shape::{Kind, Shape, Strings, code_of_float, code_of_token, float_of_code, push_token, scalar};
use super::{DecodeError, MAX_LEAVES, MAX_TEXT};
use crate::ledger::canonical::{Scalar, check};

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
    /// The last token of each column.
    tokens: Vec<Vec<u8>>,
    data: Vec<u8>,
}

/// A shape and its columns.
struct Place<'a> {
    shape: Shape<'a>,
    timestamp: f64,
    order: Vec<usize>,
    base: usize,
    met: bool,
}

impl<'a> Rows<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut bytes = Reader::new(bytes);
        let shapes = lines(&mut bytes)?;
        let verbatim = lines(&mut bytes)?;
        let literals = lines(&mut bytes)?;

        let mut columns = Columns::default();
        let mut places = Vec::new();
        for line in shapes {
            let (timestamp, data) = split_line(line)?;
            let shape = Shape::of(data)?;
            let base = columns.len();
            if base + shape.len() >= MAX_LEAVES {
                return Err(DecodeError::TooLarge {
                    what: "columns",
                    is: base + shape.len() + 1,
                    limit: MAX_LEAVES,
                });
            }
            columns.add(Kind::Float);
            shape.kinds().for_each(|kind| columns.add(kind));
            places.push(Place { shape, timestamp, order: Vec::new(), base, met: false });
        }
        for place in &mut places {
            let width = place.shape.len() + 1;
            let plan = Plan::read(&mut bytes, width, columns.len())?;
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
        if !bytes.is_empty() {
            return Err(DecodeError::Malformed("bytes behind the last column"));
        }
        Ok(Self {
            successors: vec![0; places.len() + 1],
            tokens: vec![Vec::new(); columns.len()],
            places,
            verbatim,
            literals,
            strings: Strings::default(),
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
        if place == 0 {
            let line = self.verbatim.next().ok_or(DecodeError::Truncated)?;
            let (timestamp, data) = split_line(line)?;
            check(data)?;
            self.made += data.len();
            within(self.made)?;
            return Ok((timestamp, data));
        }
        let place = place - 1;
        if std::mem::replace(&mut self.places[place].met, true) {
            self.step(place)?
        } else {
            self.meet(place)?
        }
        self.join(place)
    }

    /// Takes the first row of a shape, whose values stand in the shape's own text.
    fn meet(&mut self, place: usize) -> Result<(), DecodeError> {
        let Place { shape, timestamp, base, .. } = &self.places[place];
        self.columns.start(*base, code_of_float(*timestamp));
        for ((kind, token), column) in shape.kinds().zip(shape.tokens()).zip(base + 1..) {
            let code = code_of_token(kind, token, &mut self.strings);
            self.columns.start(column, code.ok_or(DecodeError::Malformed("a leaf that is none"))?);
            self.tokens[column] = token.as_bytes().to_vec();
        }
        Ok(())
    }

    /// Takes the next value of each of a shape's columns.
    fn step(&mut self, place: usize) -> Result<(), DecodeError> {
        let Place { order, base, .. } = &self.places[place];
        for column in order.iter().map(|leaf| base + leaf) {
            let predicted = self.columns.predict(column);
            let code = predicted.wrapping_add(self.residuals[column].next()?);
            let (kind, last) = (self.columns.get(column).kind(), self.columns.get(column).last());
            self.columns.settle(column, predicted, code);
            if kind == Kind::Text && code == self.strings.len() as i64 {
                let literal = self.literals.next().ok_or(DecodeError::Truncated)?;
                if code_of_token(kind, literal, &mut self.strings) != Some(code) {
                    return Err(DecodeError::Malformed("a text that is none, or that was there already"));
                }
            }
            if code != last {
                self.tokens[column].clear();
                push_token(&mut self.tokens[column], kind, code, &self.strings)
                    .ok_or(DecodeError::Malformed("a value that its column cannot hold"))?;
            }
        }
        Ok(())
    }

    /// Puts a row together from its shape and the last token of each column.
    fn join(&mut self, place: usize) -> Result<(f64, &str), DecodeError> {
        let Place { shape, base, .. } = &self.places[place];
        let timestamp = float_of_code(self.columns.get(*base).last());
        self.data.clear();
        let tokens = self.tokens[base + 1..].iter().map(Vec::as_slice).take(shape.len()).chain([&b""[..]]);
        for (piece, token) in shape.pieces().zip(tokens) {
            self.data.extend_from_slice(piece.as_bytes());
            self.data.extend_from_slice(token);
            within(self.made + self.data.len())?;
        }
        self.made += self.data.len();
        let data =
            std::str::from_utf8(&self.data).map_err(|_| DecodeError::Malformed("text that is not UTF-8"))?;
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

/// Sees that the data made so far, in bytes, is no more than a segment may have.
fn within(made: usize) -> Result<(), DecodeError> {
    if made <= MAX_TEXT {
        Ok(())
    } else {
        Err(DecodeError::TooLarge { what: "bytes of data", is: made, limit: MAX_TEXT })
    }
}

/// A block of lines.
fn lines<'a>(bytes: &mut Reader<'a>) -> Result<SplitTerminator<'a, char>, DecodeError> {
    let text =
        std::str::from_utf8(bytes.block()?).map_err(|_| DecodeError::Malformed("text that is not UTF-8"))?;
    Ok(text.split_terminator('\n'))
}

/// The timestamp and the data of a line.
fn split_line(line: &str) -> Result<(f64, &str), DecodeError> {
    let (timestamp, data) = line.split_once(' ').ok_or(DecodeError::Malformed("a line without data"))?;
    match scalar(timestamp) {
        Some(Scalar::Float(timestamp)) => Ok((timestamp, data)),
        _ => Err(DecodeError::Malformed("a line without a timestamp")),
    }
}
