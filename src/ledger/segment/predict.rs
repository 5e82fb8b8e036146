//! Prediction: each value is foretold from values seen before, and only the difference is stored.

use super::DecodeError;
use super::bytes::{Reader, push_varint, unzigzag, zigzag};
use super::shape::{Code, Kind, code_of_float, number_of_code};

/// How many tokens a formula may have.
const MAX_TOKENS: usize = 16;
/// How many formulas a column may have.
pub(super) const MAX_FORMULAS: usize = 4;

/// A step of a formula in postfix order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Token {
    /// Pushes the value that column `column` had last (`back` 0), or the one before it (`back` 1).
    Value { column: usize, back: usize },
    /// Pushes a number.
    Constant(f64),
    /// Replaces the two numbers on top, a below b, by a∘b.
    Operator(Operator),
}

/// An operation of IEEE 754 double arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
}

impl Operator {
    #[inline(always)]
    pub(super) fn apply(self, a: f64, b: f64) -> f64 {
        match self {
            Operator::Add => a + b,
            Operator::Subtract => a - b,
            Operator::Multiply => a * b,
            Operator::Divide => a / b,
        }
    }
}

/// An arithmetic expression over columns, which leaves one number.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Formula {
    tokens: Vec<Token>,
}

impl Formula {
    /// `None` if the tokens leave no number, or more than one, or are too many.
    pub(super) fn new(tokens: Vec<Token>) -> Option<Self> {
        let mut depth = 0;
        for token in &tokens {
            match token {
                Token::Operator(_) if depth < 2 => return None,
                Token::Operator(_) => depth -= 1,
                _ => depth += 1,
            }
        }
        (depth == 1 && tokens.len() <= MAX_TOKENS).then_some(Self { tokens })
    }

    pub(super) fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    /// The value of the formula, where `value(column, back)` gives those of the columns.
    pub(super) fn evaluate(&self, value: impl Fn(usize, usize) -> f64) -> f64 {
        let mut stack = [0.0; MAX_TOKENS];
        let mut top = 0;
        for token in &self.tokens {
            match *token {
                Token::Value { column, back } => stack[top] = value(column, back),
                Token::Constant(value) => stack[top] = value,
                Token::Operator(operator) => {
                    top -= 2;
                    stack[top] = operator.apply(stack[top], stack[top + 1]);
                }
            }
            top += 1;
        }
        stack[0]
    }

    /// The bytes that it takes.
    pub(super) fn size(&self) -> usize {
        let mut out = Vec::new();
        self.write(&mut out);
        out.len()
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        for token in &self.tokens {
            match *token {
                Token::Operator(Operator::Add) => out.push(1),
                Token::Operator(Operator::Subtract) => out.push(2),
                Token::Operator(Operator::Multiply) => out.push(3),
                Token::Operator(Operator::Divide) => out.push(4),
                Token::Constant(value) => match decimal(value) {
                    Some((digits, places)) => {
                        out.push(6);
                        push_varint(out, zigzag(digits));
                        out.push(places);
                    }
                    None => {
                        out.push(5);
                        out.extend_from_slice(&value.to_bits().to_le_bytes());
                    }
                },
                Token::Value { column, back } => push_varint(out, (7 + 2 * column + back) as u64),
            }
        }
        out.push(0);
    }

    pub(super) fn read(bytes: &mut Reader<'_>, columns: usize) -> Result<Self, DecodeError> {
        let mut tokens = Vec::new();
        loop {
            tokens.push(
                match bytes.number(6 + 2 * columns, "a formula over a column that is not there")? {
                    0 => break,
                    1 => Token::Operator(Operator::Add),
                    2 => Token::Operator(Operator::Subtract),
                    3 => Token::Operator(Operator::Multiply),
                    4 => Token::Operator(Operator::Divide),
                    5 => {
                        let mut bits = [0; 8];
                        bits.copy_from_slice(bytes.take(8)?);
                        Token::Constant(f64::from_bits(u64::from_le_bytes(bits)))
                    }
                    6 => {
                        let digits = unzigzag(bytes.varint()?);
                        let power = POWERS.get(usize::from(bytes.byte()?));
                        let power = power.ok_or(DecodeError::Malformed("a constant with too many places"))?;
                        Token::Constant(digits as f64 / power)
                    }
                    value => Token::Value { column: (value - 7) / 2, back: (value - 7) % 2 },
                },
            );
            if tokens.len() > MAX_TOKENS {
                break;
            }
        }
        Formula::new(tokens).ok_or(DecodeError::Malformed("a formula that leaves no number"))
    }
}

/// Powers of ten that are exact.
const POWERS: [f64; 16] =
    [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];

/// `value` as digits and the number of them behind the point, if that is shorter than its bits.
fn decimal(value: f64) -> Option<(i64, u8)> {
    POWERS.iter().zip(0..).find_map(|(power, places)| {
        let digits = (value * power).round() as i64;
        let exact = (digits as f64 / power).to_bits() == value.to_bits();
        (exact && digits.unsigned_abs() < 1 << 42).then_some((digits, places))
    })
}

/// What a number is foretold to be, as the code of a column's next value.
pub(super) fn code_of_prediction(kind: Kind, number: f64) -> Code {
    match kind {
        // The bits of a NaN differ from machine to machine.
        Kind::Float if number.is_nan() => 0,
        Kind::Float => code_of_float(number),
        Kind::Integer | Kind::Bool | Kind::Text => number as i64,
    }
}

/// What is known of a column while a segment is written or read, row by row.
#[derive(Debug, Clone)]
pub(super) struct Column {
    kind: Kind,
    last: Code,
    /// The last value and the one before it, as numbers.
    numbers: [f64; 2],
    formulas: Vec<Formula>,
    /// Which formula foretells the next value; one past the end: it is as the last one.
    current: usize,
}

impl Column {
    fn new(kind: Kind, first: Code) -> Self {
        let numbers = [number_of_code(kind, first); 2];
        Self { kind, last: first, numbers, formulas: Vec::new(), current: 0 }
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    pub(super) fn last(&self) -> Code {
        self.last
    }

    fn push(&mut self, code: Code) {
        if code != self.last {
            self.last = code;
            self.numbers = [number_of_code(self.kind, code), self.numbers[0]];
        } else {
            self.numbers[1] = self.numbers[0];
        }
    }
}

/// All columns of a segment while it is written or read, row by row.
#[derive(Debug, Default)]
pub(super) struct Columns {
    columns: Vec<Column>,
}

impl Columns {
    /// Adds a column with its first value, which is foretold by nothing.
    pub(super) fn add(&mut self, kind: Kind, code: Code) {
        self.columns.push(Column::new(kind, code));
    }

    pub(super) fn len(&self) -> usize {
        self.columns.len()
    }

    pub(super) fn get(&self, column: usize) -> &Column {
        &self.columns[column]
    }

    pub(super) fn set_formulas(&mut self, column: usize, formulas: Vec<Formula>) {
        self.columns[column].formulas = formulas;
    }

    /// The value that a column is expected to take next.
    pub(super) fn predict(&self, column: usize) -> Code {
        self.predict_by(column, self.columns[column].current)
    }

    fn predict_by(&self, column: usize, formula: usize) -> Code {
        let Column { kind, last, formulas, .. } = &self.columns[column];
        let Some(formula) = formulas.get(formula) else {
            return *last;
        };
        code_of_prediction(*kind, formula.evaluate(|column, back| self.columns[column].numbers[back]))
    }

    /// Takes a column's next value. After a wrong prediction, the formula that would have come nearest
    /// is the one to be used from then on: no word about it need be stored.
    pub(super) fn settle(&mut self, column: usize, predicted: Code, code: Code) {
        let formulas = self.columns[column].formulas.len();
        if code != predicted && formulas > 0 {
            let distance =
                |formula: &usize| self.predict_by(column, *formula).wrapping_sub(code).unsigned_abs();
            self.columns[column].current = (0..=formulas).min_by_key(distance).unwrap_or(formulas);
        }
        self.columns[column].push(code);
    }
}

/// The formulas of a shape's columns: leaf by leaf in the order in which they are to be foretold. Leaves
/// that are not named come first, in their own order, each foretold to be as it was.
#[derive(Debug, Clone, Default)]
pub(super) struct Plan {
    pub(super) steps: Vec<(usize, Vec<Formula>)>,
}

impl Plan {
    /// The leaves of a shape that has `leaves` of them, in the order in which they are foretold.
    pub(super) fn order(&self, leaves: usize) -> Vec<usize> {
        let mut named = vec![false; leaves];
        self.steps.iter().for_each(|(leaf, _)| named[*leaf] = true);
        let unnamed = (0..leaves).filter(|leaf| !named[*leaf]);
        unnamed.chain(self.steps.iter().map(|(leaf, _)| *leaf)).collect()
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        push_varint(out, self.steps.len() as u64);
        for (leaf, formulas) in &self.steps {
            push_varint(out, *leaf as u64);
            push_varint(out, formulas.len() as u64);
            formulas.iter().for_each(|formula| formula.write(out));
        }
    }

    /// Reads the plan of a shape with `leaves` leaves in a segment with `columns` columns.
    pub(super) fn read(bytes: &mut Reader<'_>, leaves: usize, columns: usize) -> Result<Self, DecodeError> {
        let mut named = vec![false; leaves];
        let mut plan = Plan::default();
        for _ in 0..bytes.number(leaves, "a plan with more steps than leaves")? {
            let leaf = bytes.number(leaves - 1, "a plan for a leaf that is not there")?;
            if std::mem::replace(&mut named[leaf], true) {
                return Err(DecodeError::Malformed("a plan that names a leaf twice"));
            }
            let count = bytes.number(MAX_FORMULAS, "a plan with too many formulas")?;
            let formulas = (0..count).map(|_| Formula::read(bytes, columns)).collect::<Result<_, _>>()?;
            plan.steps.push((leaf, formulas));
        }
        Ok(plan)
    }
}
