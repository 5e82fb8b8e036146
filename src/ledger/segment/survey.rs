//! What can be seen of the columns from any entry: the values that a formula would have to work with.

use super::predict::{Formula, Token};
use super::relate::{Operand, SAMPLES, Sample};
use super::shape::{Code, Kind, number_of_code};
use super::table::Group;

/// A group that gets columns, and the number of the first of them.
pub(super) type Placed<'t, 'a> = (&'t Group<'a>, usize);

/// A column, by group and leaf.
pub(super) type Place = (usize, usize);

/// Groups of entries, and what each of their entries could be foretold from.
pub(super) struct Survey<'t, 'a> {
    groups: Vec<Placed<'t, 'a>>,
    kinds: Vec<Vec<Kind>>,
    /// How many entries of each group stand before an entry: by group, and then entry by entry.
    before: Vec<Vec<u32>>,
}

impl<'t, 'a> Survey<'t, 'a> {
    pub(super) fn of(groups: Vec<Placed<'t, 'a>>) -> Self {
        let kinds = groups.iter().map(|(group, _)| group.kinds().collect()).collect();
        let before = groups.iter().map(|(group, _)| before(group, &groups)).collect();
        Self { groups, kinds, before }
    }

    /// The leaves of a group that hold numbers.
    pub(super) fn numeric(&self, group: usize) -> impl Iterator<Item = usize> {
        let is_numeric = |kind: &Kind| matches!(kind, Kind::Float | Kind::Integer);
        (0..self.kinds[group].len()).filter(move |leaf| is_numeric(&self.kinds[group][*leaf]))
    }

    pub(super) fn width(&self, group: usize) -> usize {
        self.kinds[group].len()
    }

    pub(super) fn entries(&self, group: usize) -> usize {
        self.groups[group].0.rows.len()
    }

    pub(super) fn kind(&self, (group, leaf): Place) -> Kind {
        self.kinds[group][leaf]
    }

    pub(super) fn code(&self, (group, leaf): Place, entry: usize) -> Code {
        self.groups[group].0.entry(entry)[leaf]
    }

    pub(super) fn number(&self, place: Place, entry: usize) -> f64 {
        number_of_code(self.kind(place), self.code(place, entry))
    }

    /// What a column has `back` values before the last when an entry, `at`, is foretold. `known`: whether
    /// it is a leaf of that entry and foretold already.
    fn value(&self, place: Place, back: usize, known: bool, at: (usize, usize)) -> f64 {
        let seen = self.before[at.0][at.1 * self.groups.len() + place.0] as usize + usize::from(known);
        self.number(place, seen.saturating_sub(1 + back))
    }

    /// What `formula` gives in some entries of a group, of whose leaves some are `known` by then.
    pub(super) fn evaluate(
        &self,
        formula: &Formula,
        group: usize,
        known: &[bool],
        entries: &[usize],
    ) -> Vec<f64> {
        let mut stack: Vec<Vec<f64>> = Vec::new();
        for token in formula.tokens() {
            let numbers = match *token {
                Token::Constant(number) => vec![number; entries.len()],
                Token::Value { column, back } => {
                    let home = self.groups.partition_point(|(_, base)| *base <= column) - 1;
                    let leaf = column - self.groups[home].1;
                    let known = home == group && known[leaf];
                    let value = |entry: &usize| self.value((home, leaf), back, known, (group, *entry));
                    entries.iter().map(value).collect()
                }
                Token::Operator(operator) => {
                    let (b, a) = (stack.pop().unwrap_or_default(), stack.pop().unwrap_or_default());
                    a.into_iter().zip(b).map(|(a, b)| operator.apply(a, b)).collect()
                }
            };
            stack.push(numbers);
        }
        stack.pop().unwrap_or_default()
    }

    /// What is seen from four entries of a group.
    pub(super) fn view(&self, group: usize, samples: [usize; SAMPLES]) -> View {
        let seen = |known: bool, place: Place, back: usize| {
            samples.map(|entry| self.value(place, back, known, (group, entry)))
        };
        let near = |leaf: usize| {
            let place = (group, leaf);
            (leaf, [seen(true, place, 0), seen(false, place, 0), seen(false, place, 1)])
        };
        let mut far = Vec::new();
        for other in (0..self.groups.len()).filter(|other| *other != group) {
            for leaf in self.numeric(other) {
                for back in [0, 1] {
                    let values = seen(false, (other, leaf), back);
                    add(&mut far, Operand { column: self.groups[other].1 + leaf, back, near: false, values });
                }
            }
        }
        View {
            group,
            samples,
            base: self.groups[group].1,
            near: self.numeric(group).map(near).collect(),
            far,
        }
    }
}

/// What is seen from the samples: of the leaves of their own group the value in the sample itself and the
/// two before it, of all others the last two.
pub(super) struct View {
    pub(super) group: usize,
    pub(super) samples: [usize; SAMPLES],
    base: usize,
    near: Vec<(usize, [Sample; 3])>,
    far: Vec<Operand>,
}

impl View {
    /// What a leaf may be foretold from, if some leaves are `known`; its own last value comes first.
    pub(super) fn operands(&self, own: usize, known: &[bool]) -> Vec<Operand> {
        let mut operands = Vec::with_capacity(2 * self.near.len() + self.far.len());
        let (own, others): (Vec<_>, Vec<_>) = self.near.iter().partition(|(leaf, _)| *leaf == own);
        for &(leaf, values) in own.into_iter().chain(others) {
            for back in [0, 1] {
                let values = values[back + usize::from(!known[leaf])];
                // Timestamps are not worth pairing.
                add(&mut operands, Operand { column: self.base + leaf, back, near: leaf > 0, values });
            }
        }
        operands.extend(&self.far);
        operands
    }
}

/// Adds an operand, unless there is one with the same values.
fn add(operands: &mut Vec<Operand>, operand: Operand) {
    let bits = operand.values.map(f64::to_bits);
    let same =
        |other: &Operand| other.values[0].to_bits() == bits[0] && other.values.map(f64::to_bits) == bits;
    if !operands.iter().any(same) {
        operands.push(operand);
    }
}

/// How many entries of each group stand before each entry of `group`.
fn before(group: &Group<'_>, groups: &[Placed<'_, '_>]) -> Vec<u32> {
    let mut before = Vec::with_capacity(group.rows.len() * groups.len());
    let mut counts = vec![0; groups.len()];
    for row in &group.rows {
        for (count, (other, _)) in counts.iter_mut().zip(groups) {
            while other.rows.get(*count as usize).is_some_and(|other| other < row) {
                *count += 1;
            }
        }
        before.extend_from_slice(&counts);
    }
    before
}
