//! The search for relations between columns, on a handful of entries.
//!
//! Looked for is a formula over the operands that comes close to a target at every sample. All
//! candidates are made in one way: an *inner* part (an operand, or two joined), a *finish* (nothing,
//! another operand, or a constant that is solved for) and a *view* (as it is, or behind a division).
//! Most candidates are dismissed by the first two samples.

use super::bytes::zigzag;
use super::predict::{Formula, Operator, Token, code_of_prediction};
use super::shape::{Code, Kind};

/// On how many entries relations are looked for.
pub(super) const SAMPLES: usize = 4;
/// How far off a candidate may be, relative to the target: some units in the last place.
const CLOSE: f64 = 1e-14;

/// What something has at each of the samples.
pub(super) type Sample = [f64; SAMPLES];

/// A column's value, the last or the one before it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operand {
    pub(super) column: usize,
    pub(super) back: usize,
    /// Whether it belongs to the same shape as the target: only these are joined in pairs.
    pub(super) near: bool,
    pub(super) values: Sample,
}

impl Operand {
    fn token(&self) -> Token {
        Token::Value { column: self.column, back: self.back }
    }

    fn is_constant(&self) -> bool {
        self.values == [self.values[0]; SAMPLES]
    }
}

/// How far the search goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// Inner parts of one operand, seen plainly.
    Single,
    /// Everything.
    Pair,
}

/// The inner part of a candidate.
#[derive(Clone, Copy)]
struct Inner<'s> {
    first: &'s Operand,
    join: Option<(Operator, &'s Operand)>,
    /// What it has at the first two samples.
    values: [f64; 2],
}

impl<'s> Inner<'s> {
    fn single(first: &'s Operand) -> Self {
        Self { first, join: None, values: [first.values[0], first.values[1]] }
    }

    #[inline(always)]
    fn pair(first: &'s Operand, operator: Operator, second: &'s Operand) -> Self {
        let value = |sample: usize| operator.apply(first.values[sample], second.values[sample]);
        Self { first, join: Some((operator, second)), values: [value(0), value(1)] }
    }

    fn push(&self, tokens: &mut Vec<Token>) {
        tokens.push(self.first.token());
        if let Some((operator, second)) = self.join {
            tokens.extend([second.token(), Token::Operator(operator)]);
        }
    }
}

/// The last step of a candidate: inner ∘ c, or c ∘ inner.
#[derive(Clone, Copy)]
struct Finish {
    operator: Operator,
    /// Whether c is on the left.
    swapped: bool,
}

const PLUS: Finish = Finish { operator: Operator::Add, swapped: false };
const MINUS: Finish = Finish { operator: Operator::Subtract, swapped: false };
const FROM: Finish = Finish { operator: Operator::Subtract, swapped: true };
const TIMES: Finish = Finish { operator: Operator::Multiply, swapped: false };
const OVER: Finish = Finish { operator: Operator::Divide, swapped: false };
const UNDER: Finish = Finish { operator: Operator::Divide, swapped: true };

impl Finish {
    /// The c that makes `target` of `inner`.
    #[inline(always)]
    fn solve(self, inner: f64, target: f64) -> f64 {
        match (self.operator, self.swapped) {
            (Operator::Add, _) => target - inner,
            (Operator::Subtract, false) => inner - target,
            (Operator::Subtract, true) => target + inner,
            (Operator::Multiply, _) => target / inner,
            (Operator::Divide, false) => inner / target,
            (Operator::Divide, true) => target * inner,
        }
    }

    #[inline(always)]
    fn apply(self, inner: f64, c: f64) -> f64 {
        let (a, b) = if self.swapped { (c, inner) } else { (inner, c) };
        self.operator.apply(a, b)
    }
}

/// What stands around a candidate f in the formula.
#[derive(Clone, Copy)]
enum View<'s> {
    /// f
    Plain,
    /// a ÷ f
    Divisor(&'s Operand),
    /// (a ÷ b) × f
    Scaled(&'s Operand, &'s Operand),
}

impl View<'_> {
    /// What f must be for the formula to be `target`.
    fn undo(&self, target: &Sample) -> Sample {
        std::array::from_fn(|sample| match self {
            View::Plain => target[sample],
            View::Divisor(a) => a.values[sample] / target[sample],
            View::Scaled(a, b) => target[sample] * b.values[sample] / a.values[sample],
        })
    }
}

/// What a search found.
pub(super) struct Found {
    pub(super) formula: Formula,
    /// At how many samples it gives the target.
    pub(super) exact: usize,
}

/// A search for one formula.
pub(super) struct Search<'s> {
    kind: Kind,
    codes: [Code; SAMPLES],
    target: Sample,
    operands: &'s [Operand],
    /// The leading bits that the operands have at the first sample.
    leading: Leading,
    best: Option<Found>,
    /// Bits of residual, then tokens, of the best formula.
    score: (u32, usize),
}

impl<'s> Search<'s> {
    /// A search for what gives `codes` in a column of this kind; `target` has the same as numbers.
    pub(super) fn new(kind: Kind, codes: [Code; SAMPLES], target: Sample, operands: &'s [Operand]) -> Self {
        let leading = Leading::of(operands.iter().map(|operand| operand.values[0]));
        Self { kind, codes, target, operands, leading, best: None, score: (u32::MAX, 0) }
    }

    /// The formula that comes closest, if one is close at all. `own` is the target column's last value,
    /// and `pace` what it grows by on average.
    pub(super) fn run(mut self, depth: Depth, own: &'s Operand, pace: f64) -> Option<Found> {
        let plain = (View::Plain, self.target);
        self.operands.iter().for_each(|operand| self.copy(Inner::single(operand), &plain));
        for operand in self.operands {
            let inner = Inner::single(operand);
            for finish in [PLUS, MINUS, FROM, TIMES, OVER, UNDER] {
                self.with_operand(inner, finish);
                self.with_constant(inner, finish, &plain);
            }
            if self.is_exact() {
                return self.best;
            }
        }
        if depth == Depth::Pair {
            self.consider(vec![own.token(), Token::Constant(pace), Token::Operator(Operator::Add)]);
            self.pairs(own);
        }
        self.best
    }

    fn pairs(&mut self, own: &'s Operand) {
        let operands: Vec<&Operand> = self.operands.iter().filter(|operand| operand.near).collect();
        let plain = (View::Plain, self.target);
        let divisor = View::Divisor(own);
        let divisor = (divisor, divisor.undo(&self.target));
        // A column whose ratio to its last value may be that of the target to its own.
        let ratio = |now: &&'s Operand| {
            let last = operands.iter().find(|last| last.column == now.column && last.back == 1)?;
            let view = View::Scaled(now, last);
            (now.back == 0).then(|| (view, view.undo(&self.target)))
        };
        let ratios: Vec<(View<'_>, Sample)> = operands.iter().filter_map(ratio).collect();
        let leading = Leading::of(ratios.iter().map(|(_, target)| target[0]));

        for (at, first) in operands.iter().enumerate() {
            self.scaled(Inner::single(first), &ratios, &leading);
            for second in &operands[..=at] {
                if first.is_constant() && second.is_constant() {
                    continue;
                }
                let sum = Inner::pair(first, Operator::Add, second);
                let differences = [
                    Inner::pair(first, Operator::Subtract, second),
                    Inner::pair(second, Operator::Subtract, first),
                ];
                for inner in [sum, differences[0], differences[1]] {
                    self.with_operand(inner, PLUS);
                    self.with_constant(inner, PLUS, &plain);
                    self.with_constant(inner, PLUS, &divisor);
                    self.scaled(inner, &ratios, &leading);
                }
                for inner in [sum, differences[0]] {
                    self.with_operand(inner, FROM);
                    self.with_operand(inner, TIMES);
                    self.with_constant(inner, TIMES, &plain);
                }
                let product = Inner::pair(first, Operator::Multiply, second);
                self.with_operand(product, MINUS);
                for finish in [PLUS, FROM] {
                    self.with_operand(product, finish);
                    self.with_constant(product, finish, &plain);
                }
                for ratio in [
                    Inner::pair(first, Operator::Divide, second),
                    Inner::pair(second, Operator::Divide, first),
                ] {
                    self.with_operand(ratio, TIMES);
                    self.with_constant(ratio, TIMES, &plain);
                }
            }
            if self.is_exact() {
                return;
            }
        }
    }

    fn is_exact(&self) -> bool {
        self.score.0 == 0
    }

    /// Tries an inner part by itself.
    #[inline(always)]
    fn copy(&mut self, inner: Inner<'s>, (view, target): &(View<'s>, Sample)) {
        if close(inner.values[0], target[0]) && close(inner.values[1], target[1]) {
            self.assemble(inner, None, *view);
        }
    }

    /// Tries an inner part by itself in many views.
    #[inline(always)]
    fn scaled(&mut self, inner: Inner<'s>, views: &[(View<'s>, Sample)], leading: &Leading) {
        if leading.has(inner.values[0]) {
            views.iter().for_each(|view| self.copy(inner, view));
        }
    }

    /// Tries an inner part with each operand that would fit.
    #[inline(always)]
    fn with_operand(&mut self, inner: Inner<'s>, finish: Finish) {
        if self.leading.has(finish.solve(inner.values[0], self.target[0])) {
            self.with_operands(inner, finish);
        }
    }

    fn with_operands(&mut self, inner: Inner<'s>, finish: Finish) {
        for c in self.operands {
            let fits = |sample: usize| {
                close(finish.apply(inner.values[sample], c.values[sample]), self.target[sample])
            };
            if fits(0) && fits(1) {
                self.assemble(inner, Some((finish, c.token())), View::Plain);
            }
        }
    }

    /// Tries an inner part with the constant that would fit.
    #[inline(always)]
    fn with_constant(&mut self, inner: Inner<'s>, finish: Finish, (view, target): &(View<'s>, Sample)) {
        let c = finish.solve(inner.values[0], target[0]);
        if close(finish.apply(inner.values[1], c), target[1]) && inner.values[0] != inner.values[1] {
            self.assemble(inner, Some((finish, Token::Constant(c))), *view);
            self.assemble(inner, Some((finish, Token::Constant(round(c)))), *view);
        }
    }

    fn assemble(&mut self, inner: Inner<'_>, finish: Option<(Finish, Token)>, view: View<'_>) {
        let mut tokens = Vec::with_capacity(8);
        match view {
            View::Plain => {}
            View::Divisor(a) => tokens.push(a.token()),
            View::Scaled(a, b) => tokens.extend([a.token(), b.token(), Token::Operator(Operator::Divide)]),
        }
        match finish {
            None => inner.push(&mut tokens),
            Some((finish, c)) if finish.swapped => {
                tokens.push(c);
                inner.push(&mut tokens);
                tokens.push(Token::Operator(finish.operator));
            }
            Some((finish, c)) => {
                inner.push(&mut tokens);
                tokens.extend([c, Token::Operator(finish.operator)]);
            }
        }
        match view {
            View::Plain => {}
            View::Divisor(_) => tokens.push(Token::Operator(Operator::Divide)),
            View::Scaled(..) => tokens.push(Token::Operator(Operator::Multiply)),
        }
        self.consider(tokens);
    }

    /// Looks at a candidate in earnest, at all samples.
    fn consider(&mut self, tokens: Vec<Token>) {
        let length = tokens.len();
        let Some(formula) = Formula::new(tokens) else {
            return;
        };
        let mut bits = 0;
        let mut exact = 0;
        for (sample, code) in self.codes.iter().enumerate() {
            let number = formula.evaluate(|column, back| self.value(column, back, sample));
            let residual = code.wrapping_sub(code_of_prediction(self.kind, number));
            bits += u64::BITS - zigzag(residual).leading_zeros();
            exact += usize::from(residual == 0);
        }
        if (bits, length) < self.score {
            self.score = (bits, length);
            self.best = Some(Found { formula, exact });
        }
    }

    fn value(&self, column: usize, back: usize, sample: usize) -> f64 {
        let operand = self.operands.iter().find(|operand| operand.column == column && operand.back == back);
        operand.map_or(0.0, |operand| operand.values[sample])
    }
}

#[inline(always)]
fn close(value: f64, target: f64) -> bool {
    (value - target).abs() <= target.abs() * CLOSE
}

/// The leading bits of some numbers, hashed: most numbers that are close to none of them are told apart.
struct Leading([u64; 64]);

impl Leading {
    fn of(numbers: impl Iterator<Item = f64>) -> Self {
        let mut bits = [0; 64];
        for number in numbers {
            let slot = Self::slot(number);
            bits[slot >> 6] |= 1 << (slot & 63);
        }
        Self(bits)
    }

    /// Whether one of the numbers may be close to this one.
    #[inline(always)]
    fn has(&self, number: f64) -> bool {
        let slot = Self::slot(number);
        self.0[slot >> 6] >> (slot & 63) & 1 != 0
    }

    /// Twelve bits for sign, exponent and 36 bits of mantissa: two numbers that are close have the same,
    /// but for one pair in thousands that a boundary parts.
    #[inline(always)]
    fn slot(number: f64) -> usize {
        ((number.to_bits() >> 16).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52) as usize
    }
}

/// The number of few digits that `value` is close to: what a person would have chosen.
fn round(value: f64) -> f64 {
    format!("{value:.11e}").parse().unwrap_or(value)
}
