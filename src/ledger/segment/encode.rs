//! Rows to columns.

use super::bytes::{ResidualWriter, push_block};
use super::predict::{Columns, Plan};
use super::shape::{Code, Kind, Strings};
use super::table::{Group, Table};
use super::{EncodeError, MAX_LEAVES};
use crate::ledger::canonical::push_f64;

/// The columns of a segment with these rows.
pub(super) fn columns(table: &Table<'_>) -> Result<Vec<u8>, EncodeError> {
    let mut writer = Writer::default();
    let mut groups = Vec::new();
    let mut places = Vec::new();
    for group in &table.groups {
        // A shape that comes once is not worth columns.
        places.push((group.rows.len() > 1).then_some(groups.len()));
        if group.rows.len() > 1 {
            groups.push(Place::new(group, Plan::default(), &mut writer));
        }
    }
    if writer.columns.len() > MAX_LEAVES {
        return Err(EncodeError::TooLarge { what: "columns", is: writer.columns.len(), limit: MAX_LEAVES });
    }

    let mut next = vec![0; table.groups.len()];
    let mut successors = vec![0; groups.len() + 1];
    let mut before = 0;
    for index in &table.sequence {
        let place = places[*index].map_or(0, |place| place + 1);
        writer.sequence.push(place as i64 - successors[before] as i64);
        successors[before] = place;
        before = place;
        let group = &table.groups[*index];
        match places[*index] {
            None => push_line(&mut writer.verbatim, group),
            Some(place) => writer.entry(&groups[place], next[*index], &table.strings),
        }
        next[*index] += 1;
    }
    Ok(writer.finish(&groups))
}

/// A line of text: the timestamp, a space, the data.
fn push_line(out: &mut Lines, group: &Group<'_>) {
    push_f64(&mut out.text, group.timestamp);
    out.text.push(b' ');
    out.push(group.shape.text());
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
}

/// A group that gets columns.
struct Place<'t, 'a> {
    group: &'t Group<'a>,
    plan: Plan,
    order: Vec<usize>,
    /// The number of its first column.
    base: usize,
}

impl<'t, 'a> Place<'t, 'a> {
    fn new(group: &'t Group<'a>, plan: Plan, writer: &mut Writer) -> Self {
        let base = writer.columns.len();
        group.kinds().for_each(|kind| writer.columns.add(kind));
        writer.residuals.resize_with(writer.columns.len(), ResidualWriter::default);
        push_line(&mut writer.shapes, group);
        let order = plan.order(group.width());
        for (leaf, formulas) in &plan.steps {
            writer.columns.set_formulas(base + leaf, formulas.clone());
        }
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
        if entry == 0 {
            for (leaf, code) in codes.iter().enumerate() {
                let column = place.base + leaf;
                let code = self.number(self.columns.get(column).kind(), *code, None);
                self.columns.start(column, code);
            }
            return;
        }
        for leaf in &place.order {
            let column = place.base + leaf;
            let code = self.number(self.columns.get(column).kind(), codes[*leaf], Some(strings));
            let predicted = self.columns.predict(column);
            self.residuals[column].push(code.wrapping_sub(predicted));
            self.columns.settle(column, predicted, code);
        }
    }

    /// The code as the reader has it: it meets texts in another order than the table did. One that is
    /// new goes into `strings` unless it stands in the shape's own line.
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
        let mut out = Vec::with_capacity(4096);
        for lines in [&self.shapes, &self.verbatim, &self.strings] {
            push_block(&mut out, &lines.text);
        }
        places.iter().for_each(|place| place.plan.write(&mut out));
        push_block(&mut out, self.sequence.bytes());
        self.residuals.iter().for_each(|residuals| push_block(&mut out, residuals.bytes()));
        out
    }
}
