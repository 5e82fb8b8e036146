//! Rows to columns.

use super::bytes::{ResidualWriter, push_block};
use super::plan::plans;
use super::predict::{Columns, Plan};
use super::shape::{Code, Kind, Strings};
use super::survey::Placed;
use super::table::{Group, Table};
use super::{EncodeError, MAX_LEAVES, MAX_STRINGS, within};
use crate::ledger::canonical::push_f64;

/// The columns of a segment with these rows.
pub(super) fn columns(table: &Table<'_>) -> Result<Vec<u8>, EncodeError> {
    let mut width = 0;
    let mut placed: Vec<Placed<'_, '_>> = Vec::new();
    let mut places = Vec::new();
    for group in &table.groups {
        // A shape that comes once is not worth columns.
        let repeated = group.rows.len() > 1;
        places.push(repeated.then_some(placed.len()));
        if repeated {
            placed.push((group, width));
            width += group.width();
        }
    }
    within("columns", width, MAX_LEAVES)?;

    let plans = plans(&placed);
    let mut writer = Writer::default();
    let groups = placed.iter().zip(plans).map(|(placed, plan)| Place::new(*placed, plan, &mut writer));
    let groups: Vec<Place<'_, '_>> = groups.collect();
    let mut next = vec![0; groups.len()];
    let mut successors = vec![0; groups.len() + 1];
    let mut before = 0;
    for index in &table.sequence {
        let place = places[*index].map_or(0, |place| place + 1);
        writer.sequence.push(place as i64 - successors[before] as i64);
        successors[before] = place;
        before = place;
        let Some(place) = places[*index] else {
            writer.verbatim.push_entry(&table.groups[*index]);
            continue;
        };
        // The first entry of a shape is the shape itself.
        if next[place] > 0 {
            writer.entry(&groups[place], next[place], &table.strings);
        }
        next[place] += 1;
    }
    within("texts", writer.numbered as usize, MAX_STRINGS)?;
    Ok(writer.finish(&groups))
}

/// Lines of text.
#[derive(Default)]
struct Lines {
    text: Vec<u8>,
}

impl Lines {
    fn push(&mut self, line: &str) {
        self.text.extend_from_slice(line.as_bytes());
        self.text.push(b'\n');
    }

    /// The first entry of a group: its timestamp, a space, its data.
    fn push_entry(&mut self, group: &Group<'_>) {
        push_f64(&mut self.text, group.timestamp);
        self.text.push(b' ');
        self.push(group.shape.text);
    }
}

/// A group that gets columns.
struct Place<'t, 'a> {
    group: &'t Group<'a>,
    plan: Plan,
    /// The leaves in the order in which they are foretold.
    order: Vec<usize>,
    /// The number of its first column.
    base: usize,
}

impl<'t, 'a> Place<'t, 'a> {
    fn new((group, base): Placed<'t, 'a>, plan: Plan, writer: &mut Writer) -> Self {
        writer.shapes.push_entry(group);
        for (kind, code) in group.kinds().zip(group.entry(0)) {
            let code = writer.number(kind, *code, None);
            writer.columns.add(kind, code);
            writer.residuals.push(ResidualWriter::default());
        }
        for (leaf, formulas) in &plan.steps {
            writer.columns.set_formulas(base + leaf, formulas.clone());
        }
        let order = plan.order(group.width());
        Self { group, plan, order, base }
    }
}

/// Writes a segment's columns row by row, as the reader will read them.
#[derive(Default)]
struct Writer {
    columns: Columns,
    shapes: Lines,
    verbatim: Lines,
    strings: Lines,
    /// The numbers that the reader gives to the strings, by those of the table.
    numbers: Vec<Option<Code>>,
    numbered: Code,
    sequence: ResidualWriter,
    residuals: Vec<ResidualWriter>,
}

impl Writer {
    fn entry(&mut self, place: &Place<'_, '_>, entry: usize, strings: &Strings<'_>) {
        let codes = place.group.entry(entry);
        for leaf in &place.order {
            let column = place.base + leaf;
            let code = self.number(self.columns.get(column).kind(), codes[*leaf], Some(strings));
            let predicted = self.columns.predict(column);
            self.residuals[column].push(code.wrapping_sub(predicted));
            self.columns.settle(column, predicted, code);
        }
    }

    /// The code as the reader has it: it meets texts in another order than the table did. One that is
    /// new goes into `strings`, unless it stands in a shape's own line.
    fn number(&mut self, kind: Kind, code: Code, strings: Option<&Strings<'_>>) -> Code {
        if kind != Kind::Text {
            return code;
        }
        let index = code as usize;
        if self.numbers.len() <= index {
            self.numbers.resize(index + 1, None);
        }
        if let Some(number) = self.numbers[index] {
            return number;
        }
        if let Some(literal) = strings.and_then(|strings| strings.get(code)) {
            self.strings.push(literal);
        }
        self.numbers[index] = Some(self.numbered);
        self.numbered += 1;
        self.numbered - 1
    }

    fn finish(self, places: &[Place<'_, '_>]) -> Vec<u8> {
        let mut plans = Vec::new();
        places.iter().for_each(|place| place.plan.write(&mut plans));
        let mut out = Vec::with_capacity(4096);
        for lines in [&self.shapes, &self.verbatim, &self.strings] {
            push_block(&mut out, &lines.text);
        }
        push_block(&mut out, &plans);
        push_block(&mut out, self.sequence.bytes());
        self.residuals.iter().for_each(|residuals| push_block(&mut out, residuals.bytes()));
        out
    }
}
