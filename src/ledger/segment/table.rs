//! A run of entries, sorted into shapes and columns: what the encoder works on.

use std::collections::BTreeMap;

use super::shape::{Code, Kind, Shape, Strings, code_of_float, code_of_token, is_end, token_length};
use super::{EncodeError, Row};

/// All entries of one shape.
#[derive(Debug)]
pub(super) struct Group<'a> {
    pub(super) shape: Shape<'a>,
    /// The timestamp of the first entry, in seconds.
    pub(super) timestamp: f64,
    /// Where the entries stand among the rows, ascending.
    pub(super) rows: Vec<usize>,
    /// What the columns hold: entry by entry, in each first the timestamp, then the leaves.
    codes: Vec<Code>,
    /// What each leaf had last, and its code.
    last: Vec<(&'a str, Code)>,
}

impl<'a> Group<'a> {
    fn new(shape: Shape<'a>, timestamp: f64) -> Self {
        let last = shape.tokens().zip(&shape.leaves).map(|(token, leaf)| (token, leaf.code)).collect();
        Self { shape, timestamp, rows: Vec::new(), codes: Vec::new(), last }
    }

    /// The number of columns.
    pub(super) fn width(&self) -> usize {
        self.shape.leaves.len() + 1
    }

    /// What the columns hold in the `entry`-th entry of this shape.
    pub(super) fn entry(&self, entry: usize) -> &[Code] {
        &self.codes[entry * self.width()..][..self.width()]
    }

    pub(super) fn kinds(&self) -> impl Iterator<Item = Kind> {
        std::iter::once(Kind::Float).chain(self.shape.leaves.iter().map(|leaf| leaf.kind))
    }

    /// Takes an entry, unless its text is of another shape.
    fn take(&mut self, timestamp: f64, text: &'a str, strings: &mut Strings<'a>) -> Option<()> {
        let start = self.codes.len();
        self.codes.push(code_of_float(timestamp));
        let taken = self.take_leaves(text, strings);
        if taken.is_none() {
            self.codes.truncate(start);
        }
        taken
    }

    fn take_leaves(&mut self, text: &'a str, strings: &mut Strings<'a>) -> Option<()> {
        let mut rest = text.as_bytes();
        let mut pieces = self.shape.pieces();
        for ((leaf, last), piece) in self.shape.leaves.iter().zip(&mut self.last).zip(&mut pieces) {
            rest = rest.strip_prefix(piece)?;
            // Most leaves are as they were: neither parsed nor checked again.
            let same = rest.strip_prefix(last.0.as_bytes()).filter(|rest| is_end(rest.first()));
            rest = match same {
                Some(rest) => rest,
                None => {
                    let start = text.len() - rest.len();
                    let length = token_length(leaf.kind, rest)?;
                    let token = text.get(start..start + length)?;
                    *last = (token, code_of_token(leaf.kind, token, strings)?);
                    &rest[length..]
                }
            };
            self.codes.push(last.1);
        }
        (pieces.next() == Some(rest)).then_some(())
    }
}

/// A run of entries.
#[derive(Debug, Default)]
pub(super) struct Table<'a> {
    pub(super) groups: Vec<Group<'a>>,
    /// Which group each row belongs to.
    pub(super) sequence: Vec<usize>,
    pub(super) strings: Strings<'a>,
}

impl<'a> Table<'a> {
    /// Sorts `rows`. All that is not canonical is refused.
    pub(super) fn of(rows: &[Row<'a>]) -> Result<Self, EncodeError> {
        let mut table = Table::default();
        let mut keys = BTreeMap::new();
        let mut successors: Vec<usize> = Vec::new();
        let mut last = None;
        for (row, Row { timestamp, data }) in rows.iter().enumerate() {
            if !timestamp.is_finite() {
                return Err(EncodeError::NotFinite { row });
            }
            // Most entries are of the shape that followed the last time.
            let likely = last.map_or(0, |last: usize| successors[last]);
            let strings = &mut table.strings;
            let taken = table.groups.get_mut(likely).and_then(|group| group.take(*timestamp, data, strings));
            let group = if taken.is_some() {
                likely
            } else {
                let shape = Shape::of(data, strings).map_err(|why| EncodeError::NotCanonical { row, why })?;
                let next = table.groups.len();
                let group = *keys.entry(shape.key()).or_insert(next);
                if group == next {
                    successors.push(0);
                    table.groups.push(Group::new(shape, *timestamp));
                }
                table.groups[group].take(*timestamp, data, strings);
                group
            };
            table.groups[group].rows.push(row);
            table.sequence.push(group);
            if let Some(last) = last.replace(group) {
                successors[last] = group;
            }
        }
        Ok(table)
    }
}
