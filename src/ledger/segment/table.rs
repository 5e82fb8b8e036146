//! A run of entries, sorted into shapes and columns: what the encoder works on.

use std::collections::BTreeMap;

use super::shape::{Code, Kind, Shape, Strings, code_of_float, code_of_token};
use super::{EncodeError, Row};
use crate::ledger::canonical::NotCanonical;

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
    /// The leaves of the last entry.
    tokens: Vec<&'a str>,
}

impl<'a> Group<'a> {
    fn new(shape: Shape<'a>, timestamp: f64) -> Self {
        Self { shape, timestamp, rows: Vec::new(), codes: Vec::new(), tokens: Vec::new() }
    }

    /// The number of columns.
    pub(super) fn width(&self) -> usize {
        self.shape.len() + 1
    }

    /// What the columns hold in the `entry`-th entry of this shape.
    pub(super) fn entry(&self, entry: usize) -> &[Code] {
        &self.codes[entry * self.width()..][..self.width()]
    }

    pub(super) fn kinds(&self) -> impl Iterator<Item = Kind> {
        std::iter::once(Kind::Float).chain(self.shape.kinds())
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
        let mut tokens = Vec::new();
        for (row, Row { timestamp, data }) in rows.iter().enumerate() {
            if !timestamp.is_finite() {
                return Err(EncodeError::NotFinite { row });
            }
            // Most entries are of the shape that followed the last time: that takes one comparison.
            let likely = last.map_or(0, |last: usize| successors[last]);
            let cut = table.groups.get(likely).and_then(|group| group.shape.cut(data, &mut tokens));
            let group = match cut.and_then(|()| table.take(likely, *timestamp, &tokens)) {
                Some(()) => likely,
                None => {
                    let shape = Shape::of(data).map_err(|why| EncodeError::NotCanonical { row, why })?;
                    tokens.clear();
                    tokens.extend(shape.tokens());
                    let next = table.groups.len();
                    let group = *keys.entry(shape.key()).or_insert(next);
                    if group == next {
                        successors.push(0);
                        table.groups.push(Group::new(shape, *timestamp));
                    }
                    table.take(group, *timestamp, &tokens).ok_or(EncodeError::NotCanonical {
                        row,
                        why: NotCanonical::Unsupported("a scalar"),
                    })?;
                    group
                }
            };
            table.groups[group].rows.push(row);
            table.sequence.push(group);
            if let Some(last) = last.replace(group) {
                successors[last] = group;
            }
        }
        Ok(table)
    }

    /// Takes an entry into a group, unless one of its tokens is no canonical scalar of its leaf's kind.
    fn take(&mut self, group: usize, timestamp: f64, tokens: &[&'a str]) -> Option<()> {
        let group = &mut self.groups[group];
        let start = group.codes.len();
        let before = start.saturating_sub(group.shape.len());
        group.codes.push(code_of_float(timestamp));
        for (leaf, kind) in group.shape.kinds().enumerate() {
            // A value that stays is neither parsed nor checked again.
            let code = if group.tokens.get(leaf) == Some(&tokens[leaf]) {
                group.codes[before + leaf]
            } else if let Some(code) = code_of_token(kind, tokens[leaf], &mut self.strings) {
                code
            } else {
                group.codes.truncate(start);
                return None;
            };
            group.codes.push(code);
        }
        group.tokens.clear();
        group.tokens.extend_from_slice(tokens);
        Some(())
    }
}
