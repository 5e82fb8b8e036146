//! The search for a formula that reproduces a column at a few sample entries.
//!
//! Every candidate is built in the same way from operands, the values that a formula can load: a *term* (one
//! operand, or two combined), a *completion* (none, a further operand, or a constant that is solved for) and a
//! *wrapper* (none, or a quotient around the rest). The first two samples rule out most candidates before a
//! formula is assembled.

use super::bytes::zigzag;
use super::predict::{Formula, Instruction, Operator, number_to_code};
use super::schema::{Code, Kind};

/// Number of sample entries.
pub(super) const SAMPLES: usize = 4;
/// Relative tolerance of a candidate: some tens of units in the last place. Rounding differs with the order of
/// operations, and a small residual is still cheap.
const TOLERANCE: f64 = 1e-14;

/// A value at each of the samples.
pub(super) type Sample = [f64; SAMPLES];

/// What a formula can load: the last value of a column, or the value before it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operand {
    pub(super) column: usize,
    pub(super) lag: usize,
    /// Whether pairs may contain it. Only fields of the target's own schema are, to keep the search short.
    pub(super) pairable: bool,
    pub(super) values: Sample,
}

impl Operand {
    fn instruction(&self) -> Instruction {
        Instruction::Load { column: self.column, lag: self.lag }
    }

    fn is_constant(&self) -> bool {
        self.values == [self.values[0]; SAMPLES]
    }
}

/// Extent of a search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// Terms of one operand, without wrapper.
    Single,
    /// All candidates.
    Pair,
}

/// The innermost part of a candidate.
#[derive(Clone, Copy)]
struct Term<'s> {
    first: &'s Operand,
    second: Option<(Operator, &'s Operand)>,
    /// Its value at the first two samples.
    values: [f64; 2],
}

impl<'s> Term<'s> {
    fn single(first: &'s Operand) -> Self {
        Self { first, second: None, values: [first.values[0], first.values[1]] }
    }

    #[inline(always)]
    fn pair(first: &'s Operand, operator: Operator, second: &'s Operand) -> Self {
        let value = |sample: usize| operator.apply(first.values[sample], second.values[sample]);
        Self { first, second: Some((operator, second)), values: [value(0), value(1)] }
    }

    fn push(&self, instructions: &mut Vec<Instruction>) {
        instructions.push(self.first.instruction());
        if let Some((operator, second)) = self.second {
            instructions.extend([second.instruction(), Instruction::Operator(operator)]);
        }
    }
}

/// The operation that completes a term with an operand or constant c: term ∘ c, or c ∘ term.
#[derive(Clone, Copy)]
struct Completion {
    operator: Operator,
    /// Whether c is on the left.
    swapped: bool,
}

const PLUS: Completion = Completion { operator: Operator::Add, swapped: false };
const MINUS: Completion = Completion { operator: Operator::Subtract, swapped: false };
const FROM: Completion = Completion { operator: Operator::Subtract, swapped: true };
const TIMES: Completion = Completion { operator: Operator::Multiply, swapped: false };
const OVER: Completion = Completion { operator: Operator::Divide, swapped: false };
const UNDER: Completion = Completion { operator: Operator::Divide, swapped: true };

impl Completion {
    /// Returns the c for which the completed `term` is `target`.
    #[inline(always)]
    fn solve(self, term: f64, target: f64) -> f64 {
        match (self.operator, self.swapped) {
            (Operator::Add, _) => target - term,
            (Operator::Subtract, false) => term - target,
            (Operator::Subtract, true) => target + term,
            (Operator::Multiply, _) => target / term,
            (Operator::Divide, false) => term / target,
            (Operator::Divide, true) => target * term,
        }
    }

    #[inline(always)]
    fn apply(self, term: f64, c: f64) -> f64 {
        let (a, b) = if self.swapped { (c, term) } else { (term, c) };
        self.operator.apply(a, b)
    }
}

/// The outermost part of a candidate, around a completed term f.
#[derive(Clone, Copy)]
enum Wrapper<'s> {
    /// f
    Plain,
    /// a ÷ f
    Divisor(&'s Operand),
    /// (a ÷ b) × f
    Scaled(&'s Operand, &'s Operand),
}

impl Wrapper<'_> {
    /// Returns the value that f must have for the formula to be `target`.
    fn unwrap_target(&self, target: &Sample) -> Sample {
        std::array::from_fn(|sample| match self {
            Wrapper::Plain => target[sample],
            Wrapper::Divisor(a) => a.values[sample] / target[sample],
            Wrapper::Scaled(a, b) => target[sample] * b.values[sample] / a.values[sample],
        })
    }
}

/// The result of a search.
pub(super) struct Match {
    pub(super) formula: Formula,
    /// Number of samples that it reproduces exactly.
    pub(super) exact: usize,
}

/// A search for one formula.
pub(super) struct Search<'s> {
    kind: Kind,
    codes: [Code; SAMPLES],
    target: Sample,
    operands: &'s [Operand],
    /// The operands at the first sample.
    prefixes: PrefixFilter,
    best: Option<Match>,
    /// Total bits of residuals, then number of instructions, of the best formula. Less is better.
    best_score: (u32, usize),
}

impl<'s> Search<'s> {
    /// Prepares the search for a formula that predicts `codes` in a column of this kind. `target` holds the same
    /// values as doubles.
    pub(super) fn new(kind: Kind, codes: [Code; SAMPLES], target: Sample, operands: &'s [Operand]) -> Self {
        let prefixes = PrefixFilter::new(operands.iter().map(|operand| operand.values[0]));
        Self { kind, codes, target, operands, prefixes, best: None, best_score: (u32::MAX, 0) }
    }

    /// Returns the best formula, if any comes close. `own` is the target column's last value, `mean_delta` its
    /// average increment from entry to entry.
    pub(super) fn run(mut self, depth: Depth, own: &'s Operand, mean_delta: f64) -> Option<Match> {
        let plain = (Wrapper::Plain, self.target);
        self.operands.iter().for_each(|operand| self.try_term(Term::single(operand), &plain));
        for operand in self.operands {
            let term = Term::single(operand);
            for completion in [PLUS, MINUS, FROM, TIMES, OVER, UNDER] {
                self.try_operand(term, completion);
                self.try_constant(term, completion, &plain);
            }
            if self.is_exact() {
                return self.best;
            }
        }
        if depth == Depth::Pair {
            self.score(vec![
                own.instruction(),
                Instruction::Constant(mean_delta),
                Instruction::Operator(Operator::Add),
            ]);
            self.search_pairs(own);
        }
        self.best
    }

    fn search_pairs(&mut self, own: &'s Operand) {
        let operands: Vec<&Operand> = self.operands.iter().filter(|operand| operand.pairable).collect();
        let plain = (Wrapper::Plain, self.target);
        let divisor = Wrapper::Divisor(own);
        let divisor = (divisor, divisor.unwrap_target(&self.target));
        // A column that may change by the same factor as the target: normalisation divides several by one sum.
        let ratio = |now: &&'s Operand| {
            let last = operands.iter().find(|last| last.column == now.column && last.lag == 1)?;
            let wrapper = Wrapper::Scaled(now, last);
            (now.lag == 0).then(|| (wrapper, wrapper.unwrap_target(&self.target)))
        };
        let ratios: Vec<(Wrapper<'_>, Sample)> = operands.iter().filter_map(ratio).collect();
        let prefixes = PrefixFilter::new(ratios.iter().map(|(_, target)| target[0]));

        for (at, first) in operands.iter().enumerate() {
            self.try_wrappers(Term::single(first), &ratios, &prefixes);
            for second in &operands[..=at] {
                if first.is_constant() && second.is_constant() {
                    continue;
                }
                let sum = Term::pair(first, Operator::Add, second);
                let differences = [
                    Term::pair(first, Operator::Subtract, second),
                    Term::pair(second, Operator::Subtract, first),
                ];
                for term in [sum, differences[0], differences[1]] {
                    self.try_operand(term, PLUS);
                    self.try_constant(term, PLUS, &plain);
                    self.try_constant(term, PLUS, &divisor);
                    self.try_wrappers(term, &ratios, &prefixes);
                }
                for term in [sum, differences[0]] {
                    self.try_operand(term, FROM);
                    self.try_operand(term, TIMES);
                    self.try_constant(term, TIMES, &plain);
                }
                let product = Term::pair(first, Operator::Multiply, second);
                self.try_operand(product, MINUS);
                for completion in [PLUS, FROM] {
                    self.try_operand(product, completion);
                    self.try_constant(product, completion, &plain);
                }
                for ratio in
                    [Term::pair(first, Operator::Divide, second), Term::pair(second, Operator::Divide, first)]
                {
                    self.try_operand(ratio, TIMES);
                    self.try_constant(ratio, TIMES, &plain);
                }
            }
            if self.is_exact() {
                return;
            }
        }
    }

    fn is_exact(&self) -> bool {
        self.best_score.0 == 0
    }

    /// Tries a term without completion.
    #[inline(always)]
    fn try_term(&mut self, term: Term<'s>, (wrapper, target): &(Wrapper<'s>, Sample)) {
        if is_close(term.values[0], target[0]) && is_close(term.values[1], target[1]) {
            self.assemble(term, None, *wrapper);
        }
    }

    /// Tries a term without completion in several wrappers, whose targets are in `prefixes`.
    #[inline(always)]
    fn try_wrappers(&mut self, term: Term<'s>, wrappers: &[(Wrapper<'s>, Sample)], prefixes: &PrefixFilter) {
        if prefixes.may_contain(term.values[0]) {
            wrappers.iter().for_each(|wrapper| self.try_term(term, wrapper));
        }
    }

    /// Tries a term completed with each operand that fits.
    #[inline(always)]
    fn try_operand(&mut self, term: Term<'s>, completion: Completion) {
        if self.prefixes.may_contain(completion.solve(term.values[0], self.target[0])) {
            self.try_operands(term, completion);
        }
    }

    fn try_operands(&mut self, term: Term<'s>, completion: Completion) {
        for c in self.operands {
            let fits = |sample: usize| {
                is_close(completion.apply(term.values[sample], c.values[sample]), self.target[sample])
            };
            if fits(0) && fits(1) {
                self.assemble(term, Some((completion, c.instruction())), Wrapper::Plain);
            }
        }
    }

    /// Tries a term completed with the constant that fits, and with that constant rounded.
    #[inline(always)]
    fn try_constant(
        &mut self,
        term: Term<'s>,
        completion: Completion,
        (wrapper, target): &(Wrapper<'s>, Sample),
    ) {
        let c = completion.solve(term.values[0], target[0]);
        if is_close(completion.apply(term.values[1], c), target[1]) && term.values[0] != term.values[1] {
            self.assemble(term, Some((completion, Instruction::Constant(c))), *wrapper);
            self.assemble(term, Some((completion, Instruction::Constant(round_decimal(c)))), *wrapper);
        }
    }

    fn assemble(
        &mut self,
        term: Term<'_>,
        completion: Option<(Completion, Instruction)>,
        wrapper: Wrapper<'_>,
    ) {
        let mut instructions = Vec::with_capacity(8);
        match wrapper {
            Wrapper::Plain => {}
            Wrapper::Divisor(a) => instructions.push(a.instruction()),
            Wrapper::Scaled(a, b) => instructions.extend([
                a.instruction(),
                b.instruction(),
                Instruction::Operator(Operator::Divide),
            ]),
        }
        match completion {
            None => term.push(&mut instructions),
            Some((completion, c)) if completion.swapped => {
                instructions.push(c);
                term.push(&mut instructions);
                instructions.push(Instruction::Operator(completion.operator));
            }
            Some((completion, c)) => {
                term.push(&mut instructions);
                instructions.extend([c, Instruction::Operator(completion.operator)]);
            }
        }
        match wrapper {
            Wrapper::Plain => {}
            Wrapper::Divisor(_) => instructions.push(Instruction::Operator(Operator::Divide)),
            Wrapper::Scaled(..) => instructions.push(Instruction::Operator(Operator::Multiply)),
        }
        self.score(instructions);
    }

    /// Scores a candidate on all samples and keeps it if it is the best so far.
    fn score(&mut self, instructions: Vec<Instruction>) {
        let length = instructions.len();
        let Some(formula) = Formula::new(instructions) else {
            return;
        };
        let mut bits = 0;
        let mut exact = 0;
        for (sample, code) in self.codes.iter().enumerate() {
            let number = formula.evaluate(|column, lag| self.load(column, lag, sample));
            let residual = code.wrapping_sub(number_to_code(self.kind, number));
            bits += u64::BITS - zigzag(residual).leading_zeros();
            exact += usize::from(residual == 0);
        }
        if (bits, length) < self.best_score {
            self.best_score = (bits, length);
            self.best = Some(Match { formula, exact });
        }
    }

    fn load(&self, column: usize, lag: usize, sample: usize) -> f64 {
        let operand = self.operands.iter().find(|operand| operand.column == column && operand.lag == lag);
        operand.map_or(0.0, |operand| operand.values[sample])
    }
}

#[inline(always)]
fn is_close(value: f64, target: f64) -> bool {
    (value - target).abs() <= target.abs() * TOLERANCE
}

/// A Bloom filter over the leading bits of some numbers. It rules out most numbers that are close to none of
/// them.
struct PrefixFilter([u64; 64]);

impl PrefixFilter {
    fn new(numbers: impl Iterator<Item = f64>) -> Self {
        let mut bits = [0; 64];
        for number in numbers {
            let slot = Self::slot(number);
            bits[slot >> 6] |= 1 << (slot & 63);
        }
        Self(bits)
    }

    /// Returns whether one of the numbers may be close to this one.
    #[inline(always)]
    fn may_contain(&self, number: f64) -> bool {
        let slot = Self::slot(number);
        self.0[slot >> 6] >> (slot & 63) & 1 != 0
    }

    /// Hashes sign, exponent and the upper 36 bits of the mantissa to twelve bits. Numbers that are close have the
    /// same slot, except for the few pairs that a boundary separates: missing those only costs a formula.
    #[inline(always)]
    fn slot(number: f64) -> usize {
        ((number.to_bits() >> 16).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52) as usize
    }
}

/// Rounds to twelve significant digits. Constants in the data are mostly parameters with few digits, which solving
/// for them reproduces only approximately.
fn round_decimal(value: f64) -> f64 {
    format!("{value:.11e}").parse().unwrap_or(value)
}
