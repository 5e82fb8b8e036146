//! Encoding: rows to columns.

use super::bytes::{ResidualWriter, push_block};
use super::context::PlacedGroup;
use super::plan::make_plans;
use super::predict::{Columns, Plan};
use super::schema::{Code, Kind, StringDictionary};
use super::table::{Group, Table};
use super::{EncodeError, MAX_COLUMN_BYTES, MAX_COLUMNS, check_limit};
use crate::ledger::canonical::push_f64;

/// Encodes the columns of a segment: everything that is inside its zstd frame.
pub(super) fn encode_columns(table: &Table<'_>) -> Result<Vec<u8>, EncodeError> {
    let mut width = 0;
    let mut placed: Vec<PlacedGroup<'_, '_>> = Vec::new();
    let mut schema_of_group = Vec::new();
    for group in &table.groups {
        // The only entry of its schema gains nothing from columns; it is stored as an exception.
        let repeated = group.rows.len() > 1;
        schema_of_group.push(repeated.then_some(placed.len()));
        if repeated {
            placed.push((group, width));
            width += group.width();
        }
    }
    check_limit("columns", width, MAX_COLUMNS)?;

    let plans = make_plans(&placed);
    let mut writer = ColumnWriter::default();
    let schemas =
        placed.iter().zip(plans).map(|(placed, plan)| SchemaColumns::new(*placed, plan, &mut writer));
    let schemas: Vec<SchemaColumns<'_, '_>> = schemas.collect();
    let mut next_entry = vec![0; schemas.len()];
    // As in the decoder, schemas count from 1 here, and 0 stands for an exception.
    let mut successors = vec![0; schemas.len() + 1];
    let mut previous = 0;
    for group in &table.sequence {
        let number = schema_of_group[*group].map_or(0, |schema| schema + 1);
        writer.sequence.push(number as i64 - successors[previous] as i64);
        successors[previous] = number;
        previous = number;
        let Some(schema) = schema_of_group[*group] else {
            writer.exceptions.push_row(&table.groups[*group]);
            continue;
        };
        // The first entry of a schema is stored verbatim, as the schema itself.
        if next_entry[schema] > 0 {
            writer.push_entry(&schemas[schema], next_entry[schema], &table.strings);
        }
        next_entry[schema] += 1;
    }
    let lines = [&writer.schemas, &writer.exceptions, &writer.strings];
    check_limit("bytes of columns", lines.iter().map(|it| it.text.len()).sum(), MAX_COLUMN_BYTES)?;
    Ok(writer.finish(&schemas))
}

/// A block of lines.
#[derive(Default)]
struct LineBlock {
    text: Vec<u8>,
}

impl LineBlock {
    fn push(&mut self, line: &str) {
        self.text.extend_from_slice(line.as_bytes());
        self.text.push(b'\n');
    }

    /// Appends the first entry of a group: its timestamp, a space, its data.
    fn push_row(&mut self, group: &Group<'_>) {
        push_f64(&mut self.text, group.timestamp);
        self.text.push(b' ');
        self.push(group.schema.text);
    }
}

/// A schema that occurs more than once, and its columns.
struct SchemaColumns<'t, 'a> {
    group: &'t Group<'a>,
    plan: Plan,
    /// The fields in the order in which they are predicted.
    order: Vec<usize>,
    /// The number of its first column.
    base: usize,
}

impl<'t, 'a> SchemaColumns<'t, 'a> {
    fn new((group, base): PlacedGroup<'t, 'a>, plan: Plan, writer: &mut ColumnWriter) -> Self {
        writer.schemas.push_row(group);
        for (kind, code) in group.kinds().zip(group.entry(0)) {
            let code = writer.renumber(kind, *code, None);
            writer.columns.add(kind, code);
            writer.residuals.push(ResidualWriter::default());
        }
        for (field, formulas) in &plan.steps {
            writer.columns.set_formulas(base + field, formulas.clone());
        }
        let order = plan.order(group.width());
        Self { group, plan, order, base }
    }
}

/// Writes the columns of a segment row by row, in step with the state that the decoder will have.
#[derive(Default)]
struct ColumnWriter {
    columns: Columns,
    schemas: LineBlock,
    exceptions: LineBlock,
    strings: LineBlock,
    /// The decoder's code of each string, indexed by the table's code.
    string_codes: Vec<Option<Code>>,
    /// Number of strings that have a decoder's code.
    string_count: Code,
    sequence: ResidualWriter,
    residuals: Vec<ResidualWriter>,
}

impl ColumnWriter {
    fn push_entry(&mut self, schema: &SchemaColumns<'_, '_>, entry: usize, strings: &StringDictionary<'_>) {
        let codes = schema.group.entry(entry);
        for field in &schema.order {
            let column = schema.base + field;
            let code = self.renumber(self.columns.get(column).kind(), codes[*field], Some(strings));
            let predicted = self.columns.predict(column);
            self.residuals[column].push(code.wrapping_sub(predicted));
            self.columns.update(column, predicted, code);
        }
    }

    /// Returns the code that the decoder gives to a value. For strings it differs from the table's code, because
    /// the decoder meets the strings of all schema lines first. A string that is new to the decoder is added to
    /// the block of strings; `strings` is `None` for the fields of a schema line, which contains its strings.
    fn renumber(&mut self, kind: Kind, code: Code, strings: Option<&StringDictionary<'_>>) -> Code {
        if kind != Kind::String {
            return code;
        }
        let index = code as usize;
        if self.string_codes.len() <= index {
            self.string_codes.resize(index + 1, None);
        }
        if let Some(code) = self.string_codes[index] {
            return code;
        }
        if let Some(literal) = strings.and_then(|strings| strings.get(code)) {
            self.strings.push(literal);
        }
        let code = self.string_count;
        self.string_codes[index] = Some(code);
        self.string_count += 1;
        code
    }

    fn finish(self, schemas: &[SchemaColumns<'_, '_>]) -> Vec<u8> {
        let mut plans = Vec::new();
        schemas.iter().for_each(|schema| schema.plan.write(&mut plans));
        let mut out = Vec::with_capacity(4096);
        for lines in [&self.schemas, &self.exceptions, &self.strings] {
            push_block(&mut out, &lines.text);
        }
        push_block(&mut out, &plans);
        push_block(&mut out, self.sequence.bytes());
        self.residuals.iter().for_each(|residuals| push_block(&mut out, residuals.bytes()));
        out
    }
}
