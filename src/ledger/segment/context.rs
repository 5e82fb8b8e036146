//! The values from which formulas can predict an entry: what the decoder has when it reaches that entry.

use super::predict::{Formula, Instruction};
use super::schema::{Code, Kind, code_to_number};
use super::search::{Operand, SAMPLES, Sample};
use super::table::Group;

/// A group that gets columns, and the number of its first column.
pub(super) type PlacedGroup<'t, 'a> = (&'t Group<'a>, usize);

/// A column as group and field; field 0 is the timestamp.
pub(super) type ColumnRef = (usize, usize);

/// The groups among which the encoder looks for formulas, with the order of their entries.
pub(super) struct Context<'t, 'a> {
    groups: Vec<PlacedGroup<'t, 'a>>,
    kinds: Vec<Vec<Kind>>,
    /// For each group, entry by entry: how many entries of every group precede the entry.
    preceding: Vec<Vec<u32>>,
}

impl<'t, 'a> Context<'t, 'a> {
    pub(super) fn new(groups: Vec<PlacedGroup<'t, 'a>>) -> Self {
        let kinds = groups.iter().map(|(group, _)| group.kinds().collect()).collect();
        let preceding = groups.iter().map(|(group, _)| count_preceding(group, &groups)).collect();
        Self { groups, kinds, preceding }
    }

    /// The numeric fields of a group, its timestamp included.
    pub(super) fn numeric(&self, group: usize) -> impl Iterator<Item = usize> {
        let is_numeric = |kind: &Kind| matches!(kind, Kind::Float | Kind::Integer);
        (0..self.kinds[group].len()).filter(move |field| is_numeric(&self.kinds[group][*field]))
    }

    /// Number of columns of a group.
    pub(super) fn width(&self, group: usize) -> usize {
        self.kinds[group].len()
    }

    /// Number of entries of a group.
    pub(super) fn entries(&self, group: usize) -> usize {
        self.groups[group].0.rows.len()
    }

    pub(super) fn kind(&self, (group, field): ColumnRef) -> Kind {
        self.kinds[group][field]
    }

    pub(super) fn code(&self, (group, field): ColumnRef, entry: usize) -> Code {
        self.groups[group].0.entry(entry)[field]
    }

    pub(super) fn number(&self, column: ColumnRef, entry: usize) -> f64 {
        code_to_number(self.kind(column), self.code(column, entry))
    }

    /// The value that a formula loads from `column` with this lag when it predicts the entry `at` (group and
    /// entry). `available` states that `column` belongs to that entry and is decoded before the prediction.
    fn load(&self, column: ColumnRef, lag: usize, available: bool, at: (usize, usize)) -> f64 {
        let preceding = self.preceding[at.0][at.1 * self.groups.len() + column.0] as usize;
        self.number(column, (preceding + usize::from(available)).saturating_sub(1 + lag))
    }

    /// Evaluates `formula` for some entries of a group, whose `available` fields are decoded by then.
    pub(super) fn evaluate(
        &self,
        formula: &Formula,
        group: usize,
        available: &[bool],
        entries: &[usize],
    ) -> Vec<f64> {
        let mut stack: Vec<Vec<f64>> = Vec::new();
        for instruction in formula.instructions() {
            let numbers = match *instruction {
                Instruction::Constant(number) => vec![number; entries.len()],
                Instruction::Load { column, lag } => {
                    let owner = self.groups.partition_point(|(_, base)| *base <= column) - 1;
                    let field = column - self.groups[owner].1;
                    let available = owner == group && available[field];
                    let load = |entry: &usize| self.load((owner, field), lag, available, (group, *entry));
                    entries.iter().map(load).collect()
                }
                Instruction::Operator(operator) => {
                    let (b, a) = (stack.pop().unwrap_or_default(), stack.pop().unwrap_or_default());
                    a.into_iter().zip(b).map(|(a, b)| operator.apply(a, b)).collect()
                }
            };
            stack.push(numbers);
        }
        stack.pop().unwrap_or_default()
    }

    /// Collects what formulas can load at the sample entries of a group.
    pub(super) fn sample(&self, group: usize, entries: [usize; SAMPLES]) -> SampledOperands {
        let load = |available: bool, column: ColumnRef, lag: usize| {
            entries.map(|entry| self.load(column, lag, available, (group, entry)))
        };
        let own = |field: usize| {
            let column = (group, field);
            (field, [load(true, column, 0), load(false, column, 0), load(false, column, 1)])
        };
        let mut foreign = Vec::new();
        for other in (0..self.groups.len()).filter(|other| *other != group) {
            for field in self.numeric(other) {
                for lag in [0, 1] {
                    let values = load(false, (other, field), lag);
                    let column = self.groups[other].1 + field;
                    push_distinct(&mut foreign, Operand { column, lag, pairable: false, values });
                }
            }
        }
        SampledOperands {
            group,
            entries,
            base: self.groups[group].1,
            own: self.numeric(group).map(own).collect(),
            foreign,
        }
    }
}

/// The values that formulas can load at the sample entries of one group.
pub(super) struct SampledOperands {
    pub(super) group: usize,
    pub(super) entries: [usize; SAMPLES],
    base: usize,
    /// Fields of the group itself: the value in the sample entry, and the two before it.
    own: Vec<(usize, [Sample; 3])>,
    /// Fields of other groups: the last two values.
    foreign: Vec<Operand>,
}

impl SampledOperands {
    /// The operands for predicting `target`, a field of the group, if the `available` fields are decoded by
    /// then. The last value of `target` comes first.
    pub(super) fn operands(&self, target: usize, available: &[bool]) -> Vec<Operand> {
        let mut operands = Vec::with_capacity(2 * self.own.len() + self.foreign.len());
        let (target, others): (Vec<_>, Vec<_>) = self.own.iter().partition(|(field, _)| *field == target);
        for &(field, values) in target.into_iter().chain(others) {
            for lag in [0, 1] {
                let values = values[lag + usize::from(!available[field])];
                // Pairs that contain a timestamp are rarely useful and would slow the search down.
                let pairable = field > 0;
                push_distinct(&mut operands, Operand { column: self.base + field, lag, pairable, values });
            }
        }
        operands.extend(&self.foreign);
        operands
    }
}

/// Adds an operand unless another one has the same values at all samples.
fn push_distinct(operands: &mut Vec<Operand>, operand: Operand) {
    let bits = operand.values.map(f64::to_bits);
    let same =
        |other: &Operand| other.values[0].to_bits() == bits[0] && other.values.map(f64::to_bits) == bits;
    if !operands.iter().any(same) {
        operands.push(operand);
    }
}

/// For each entry of `group`, counts the entries of every group that precede it.
fn count_preceding(group: &Group<'_>, groups: &[PlacedGroup<'_, '_>]) -> Vec<u32> {
    let mut preceding = Vec::with_capacity(group.rows.len() * groups.len());
    let mut counts = vec![0; groups.len()];
    for row in &group.rows {
        for (count, (other, _)) in counts.iter_mut().zip(groups) {
            while other.rows.get(*count as usize).is_some_and(|other| other < row) {
                *count += 1;
            }
        }
        preceding.extend_from_slice(&counts);
    }
    preceding
}
