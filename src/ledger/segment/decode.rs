//! Decoding: columns to rows.

use std::str::SplitTerminator;

use super::bytes::{Reader, ResidualReader};
use super::predict::{Columns, Plan};
use super::schema::{
    Code, Kind, Schema, StringDictionary, code_to_float, float_to_code, parse_token, push_token,
};
use super::{
    DecodeError, MAX_COLUMNS, MAX_PLAN_BYTES, MAX_STRINGS, MAX_TEXT_BYTES, check_entry, check_limit,
};
use crate::ledger::canonical::{check, read_f64};

/// Decodes the rows of a segment from its columns, one by one.
pub(super) struct RowReader<'a> {
    schemas: Vec<SchemaColumns<'a>>,
    exceptions: SplitTerminator<'a, char>,
    new_strings: SplitTerminator<'a, char>,
    strings: StringDictionary<'a>,
    columns: Columns,
    sequence: ResidualReader<'a>,
    residuals: Vec<ResidualReader<'a>>,
    /// The schema that followed each schema the last time. Schemas count from 1; 0 stands for an exception.
    successors: Vec<usize>,
    /// Schema of the previous row.
    previous: usize,
    /// Total size of the data decoded so far, in bytes.
    decoded: usize,
    /// The last token of each column; empty for timestamps.
    tokens: Vec<Vec<u8>>,
    /// The data of the current row.
    data: Vec<u8>,
}

/// A schema and its columns.
struct SchemaColumns<'a> {
    schema: Schema<'a>,
    /// The fields in the order in which they are predicted.
    order: Vec<usize>,
    /// The number of its first column.
    base: usize,
    /// Whether its first entry has been decoded.
    seen: bool,
}

impl<'a> RowReader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut bytes = Reader::new(bytes);
        let schema_lines = read_lines(&mut bytes)?;
        let exceptions = read_lines(&mut bytes)?;
        let new_strings = read_lines(&mut bytes)?;

        let mut strings = StringDictionary::default();
        let mut columns = Columns::default();
        let mut tokens = Vec::new();
        let mut schemas = Vec::new();
        for line in schema_lines {
            let (timestamp, data) = parse_line(line)?;
            check_entry(data.len())?;
            let schema = Schema::parse(data, &mut strings)?;
            let base = columns.len();
            check_limit("columns", base + schema.fields.len() + 1, MAX_COLUMNS)?;
            columns.add(Kind::Float, float_to_code(timestamp));
            schema.fields.iter().for_each(|field| columns.add(field.kind, field.code));
            tokens.push(Vec::new());
            tokens.extend(schema.tokens().map(|token| token.as_bytes().to_vec()));
            schemas.push(SchemaColumns { schema, order: Vec::new(), base, seen: false });
        }

        let plans = bytes.block()?;
        check_limit("bytes of plans", plans.len(), MAX_PLAN_BYTES)?;
        let mut plans = Reader::new(plans);
        for schema in &mut schemas {
            let width = schema.schema.fields.len() + 1;
            let plan = Plan::read(&mut plans, width, columns.len())?;
            schema.order = plan.order(width);
            for (field, formulas) in plan.steps {
                columns.set_formulas(schema.base + field, formulas);
            }
        }

        let sequence = ResidualReader::new(bytes.block()?);
        let mut residuals = Vec::with_capacity(columns.len());
        for _ in 0..columns.len() {
            residuals.push(ResidualReader::new(bytes.block()?));
        }
        if !bytes.is_empty() || !plans.is_empty() {
            return Err(DecodeError::Malformed("unused bytes after the last block"));
        }
        Ok(Self {
            successors: vec![0; schemas.len() + 1],
            tokens,
            schemas,
            exceptions,
            new_strings,
            strings,
            columns,
            sequence,
            residuals,
            previous: 0,
            decoded: 0,
            data: Vec::new(),
        })
    }

    /// Returns the next row: its timestamp in seconds since 1970, and its data.
    pub(super) fn next(&mut self) -> Result<(f64, &str), DecodeError> {
        let schema = self.sequence.next()?.wrapping_add(self.successors[self.previous] as i64);
        let schema = usize::try_from(schema).ok().filter(|schema| *schema <= self.schemas.len());
        let schema = schema.ok_or(DecodeError::Malformed("a row refers to a schema that does not exist"))?;
        self.successors[self.previous] = schema;
        self.previous = schema;
        let Some(schema) = schema.checked_sub(1) else {
            let (timestamp, data) = parse_line(self.exceptions.next().ok_or(DecodeError::Truncated)?)?;
            check_entry(data.len())?;
            check(data)?;
            self.decoded += data.len();
            check_limit("bytes of data", self.decoded, MAX_TEXT_BYTES)?;
            return Ok((timestamp, data));
        };
        // The first row of a schema is stored verbatim, as the schema itself.
        if std::mem::replace(&mut self.schemas[schema].seen, true) {
            self.decode_values(schema)?;
        }
        self.assemble(schema)
    }

    /// Decodes the next value of each column of a schema.
    fn decode_values(&mut self, schema: usize) -> Result<(), DecodeError> {
        let SchemaColumns { order, base, .. } = &self.schemas[schema];
        for field in order {
            let column = base + field;
            let predicted = self.columns.predict(column);
            let code = predicted.wrapping_add(self.residuals[column].next()?);
            let (kind, last) = (self.columns.get(column).kind(), self.columns.get(column).last());
            self.columns.update(column, predicted, code);
            if kind == Kind::String && code == self.strings.len() as Code {
                check_limit("distinct strings", self.strings.len() + 1, MAX_STRINGS)?;
                let literal = self.new_strings.next().ok_or(DecodeError::Truncated)?;
                if parse_token(kind, literal, &mut self.strings) != Some(code) {
                    return Err(DecodeError::Malformed(
                        "the block of strings has an invalid or duplicate line",
                    ));
                }
            }
            if code == last {
                continue;
            }
            let valid = if *field == 0 {
                code_to_float(code).is_finite()
            } else {
                self.tokens[column].clear();
                push_token(&mut self.tokens[column], kind, code, &self.strings).is_some()
            };
            if !valid {
                return Err(DecodeError::Malformed("a value is outside the range of its column"));
            }
        }
        Ok(())
    }

    /// Assembles a row from its schema and the last token of each column.
    fn assemble(&mut self, schema: usize) -> Result<(f64, &str), DecodeError> {
        let SchemaColumns { schema, base, .. } = &self.schemas[schema];
        let timestamp = code_to_float(self.columns.get(*base).last());
        self.data.clear();
        let tokens = self.tokens[base + 1..].iter().map(Vec::as_slice).take(schema.fields.len());
        for (piece, token) in schema.pieces().zip(tokens.chain([&[][..]])) {
            self.data.extend_from_slice(piece);
            self.data.extend_from_slice(token);
            // Checked after each token: one long string can be referenced by thousands of fields.
            check_entry(self.data.len())?;
        }
        self.decoded += self.data.len();
        check_limit("bytes of data", self.decoded, MAX_TEXT_BYTES)?;
        let data = std::str::from_utf8(&self.data).map_err(|_| NOT_UTF8)?;
        Ok((timestamp, data))
    }

    /// Checks that the declared number of rows has used up all data.
    pub(super) fn finish(mut self) -> Result<(), DecodeError> {
        let exhausted = self.schemas.iter().all(|schema| schema.seen)
            && self.exceptions.next().is_none()
            && self.new_strings.next().is_none()
            && self.sequence.is_exhausted()
            && self.residuals.iter().all(ResidualReader::is_exhausted);
        if exhausted {
            Ok(())
        } else {
            Err(DecodeError::Malformed("it has more rows than its head declares"))
        }
    }
}

const NOT_UTF8: DecodeError = DecodeError::Malformed("a text is not UTF-8");

/// Reads a block of lines.
fn read_lines<'a>(bytes: &mut Reader<'a>) -> Result<SplitTerminator<'a, char>, DecodeError> {
    let text = std::str::from_utf8(bytes.block()?).map_err(|_| NOT_UTF8)?;
    Ok(text.split_terminator('\n'))
}

/// Parses a line into the timestamp and the data of a row.
fn parse_line(line: &str) -> Result<(f64, &str), DecodeError> {
    let (timestamp, data) = line.split_once(' ').ok_or(DecodeError::Malformed("a line has no data"))?;
    let timestamp = read_f64(timestamp).ok_or(DecodeError::Malformed("a line has no timestamp"))?;
    Ok((timestamp, data))
}
