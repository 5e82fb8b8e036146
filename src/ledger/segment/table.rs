//! Rows grouped by schema and parsed into columns: the input of the encoder.

use std::collections::BTreeMap;

use super::schema::{
    Code, Kind, Schema, StringDictionary, ends_token, float_to_code, parse_token, scan_token,
};
use super::{EncodeError, MAX_SCHEMA_BYTES, MAX_SCHEMA_FIELDS, MAX_STRINGS, MAX_VALUES, Row, check_limit};

/// The entries of one schema.
#[derive(Debug)]
pub(super) struct Group<'a> {
    pub(super) schema: Schema<'a>,
    /// The timestamp of the first entry, in seconds.
    pub(super) timestamp: f64,
    /// Row numbers of the entries, ascending.
    pub(super) rows: Vec<usize>,
    /// The values, entry by entry: the timestamp, then the fields.
    codes: Vec<Code>,
    /// Last token of each field, and its code.
    last: Vec<(&'a str, Code)>,
}

impl<'a> Group<'a> {
    fn new(schema: Schema<'a>, timestamp: f64) -> Self {
        let last = schema.tokens().zip(&schema.fields).map(|(token, field)| (token, field.code)).collect();
        Self { schema, timestamp, rows: Vec::new(), codes: Vec::new(), last }
    }

    /// Number of columns: the timestamp and the fields.
    pub(super) fn width(&self) -> usize {
        self.schema.fields.len() + 1
    }

    /// The values of the `entry`-th entry of this schema: the timestamp, then the fields.
    pub(super) fn entry(&self, entry: usize) -> &[Code] {
        &self.codes[entry * self.width()..][..self.width()]
    }

    pub(super) fn kinds(&self) -> impl Iterator<Item = Kind> {
        std::iter::once(Kind::Float).chain(self.schema.fields.iter().map(|field| field.kind))
    }

    /// Adds an entry, or returns `None` if its text has another schema.
    fn try_push(&mut self, timestamp: f64, text: &'a str, strings: &mut StringDictionary<'a>) -> Option<()> {
        let start = self.codes.len();
        self.codes.push(float_to_code(timestamp));
        let pushed = self.try_push_fields(text, strings);
        if pushed.is_none() {
            self.codes.truncate(start);
        }
        pushed
    }

    fn try_push_fields(&mut self, text: &'a str, strings: &mut StringDictionary<'a>) -> Option<()> {
        let mut rest = text.as_bytes();
        let mut pieces = self.schema.pieces();
        for ((field, last), piece) in self.schema.fields.iter().zip(&mut self.last).zip(&mut pieces) {
            rest = rest.strip_prefix(piece)?;
            // Most fields repeat their last value; a repeated token needs no parsing and no validation.
            let same = rest.strip_prefix(last.0.as_bytes()).filter(|rest| ends_token(rest.first()));
            rest = match same {
                Some(rest) => rest,
                None => {
                    let start = text.len() - rest.len();
                    let length = scan_token(field.kind, rest)?;
                    let token = text.get(start..start + length)?;
                    *last = (token, parse_token(field.kind, token, strings)?);
                    &rest[length..]
                }
            };
            self.codes.push(last.1);
        }
        (pieces.next() == Some(rest)).then_some(())
    }
}

/// A run of rows, grouped by schema.
#[derive(Debug, Default)]
pub(super) struct Table<'a> {
    pub(super) groups: Vec<Group<'a>>,
    /// The group of each row.
    pub(super) sequence: Vec<usize>,
    pub(super) strings: StringDictionary<'a>,
}

impl<'a> Table<'a> {
    /// Groups `rows` by schema. Fails on the first row that is not canonical.
    pub(super) fn build(rows: &[Row<'a>]) -> Result<Self, EncodeError> {
        let mut table = Table::default();
        let mut keys = BTreeMap::new();
        let mut successors: Vec<usize> = Vec::new();
        let mut last = None;
        let (mut values, mut schema_fields, mut schema_bytes) = (0, 0, 0);
        for (row, Row { timestamp, data }) in rows.iter().enumerate() {
            if !timestamp.is_finite() {
                return Err(EncodeError::NotFinite { row });
            }
            // Try the schema that followed this one the last time: nearly always it matches, and parsing against
            // a known schema is much cheaper than deriving one.
            let likely = last.map_or(0, |last: usize| successors[last]);
            let strings = &mut table.strings;
            let pushed =
                table.groups.get_mut(likely).and_then(|group| group.try_push(*timestamp, data, strings));
            let group = if pushed.is_some() {
                likely
            } else {
                let schema =
                    Schema::parse(data, strings).map_err(|error| EncodeError::NotCanonical { row, error })?;
                let next = table.groups.len();
                let (fields, key) = (schema.fields.len(), schema.key());
                let bytes = key.len();
                let group = *keys.entry(key).or_insert(next);
                if group == next {
                    // A schema takes many times the memory of its text.
                    schema_fields += fields;
                    schema_bytes += bytes;
                    check_limit("fields of schemas", schema_fields, MAX_SCHEMA_FIELDS)?;
                    check_limit("bytes of schemas", schema_bytes, MAX_SCHEMA_BYTES)?;
                    successors.push(0);
                    table.groups.push(Group::new(schema, *timestamp));
                }
                table.groups[group].try_push(*timestamp, data, strings);
                group
            };
            values += table.groups[group].width();
            check_limit("values", values, MAX_VALUES)?;
            // Those of schemas that occur once count here and not in the decoder: they take memory as well.
            check_limit("distinct strings", table.strings.len(), MAX_STRINGS)?;
            table.groups[group].rows.push(row);
            table.sequence.push(group);
            if let Some(last) = last.replace(group) {
                successors[last] = group;
            }
        }
        Ok(table)
    }
}
