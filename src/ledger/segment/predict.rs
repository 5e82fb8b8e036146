//! Prediction of column values from values decoded before, shared by the encoder and the decoder.

use super::DecodeError;
use super::bytes::{Reader, push_varint, unzigzag, zigzag};
use super::schema::{Code, Kind, code_to_number, float_to_code};

/// Maximum number of instructions in a formula.
const MAX_INSTRUCTIONS: usize = 16;
/// Maximum number of formulas of a column.
pub(super) const MAX_FORMULAS: usize = 4;

/// An instruction of a formula, which is in postfix notation and evaluated on a stack.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Instruction {
    /// Pushes the last value of a column (`lag` 0) or the value before that (`lag` 1).
    Load { column: usize, lag: usize },
    /// Pushes a constant.
    Constant(f64),
    /// Pops b, then a, and pushes a ∘ b.
    Operator(Operator),
}

/// An operation on IEEE 754 doubles.
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

/// A valid arithmetic expression over columns: evaluation never underflows the stack and leaves one value.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Formula {
    instructions: Vec<Instruction>,
}

impl Formula {
    /// Returns `None` if the instructions are not a valid expression or exceed [`MAX_INSTRUCTIONS`].
    pub(super) fn new(instructions: Vec<Instruction>) -> Option<Self> {
        let mut depth = 0;
        for instruction in &instructions {
            match instruction {
                Instruction::Operator(_) if depth < 2 => return None,
                Instruction::Operator(_) => depth -= 1,
                _ => depth += 1,
            }
        }
        (depth == 1 && instructions.len() <= MAX_INSTRUCTIONS).then_some(Self { instructions })
    }

    pub(super) fn instructions(&self) -> &[Instruction] {
        &self.instructions
    }

    /// Evaluates the formula; `value(column, lag)` returns the values of columns.
    pub(super) fn evaluate(&self, value: impl Fn(usize, usize) -> f64) -> f64 {
        let mut stack = [0.0; MAX_INSTRUCTIONS];
        let mut top = 0;
        for instruction in &self.instructions {
            match *instruction {
                Instruction::Load { column, lag } => stack[top] = value(column, lag),
                Instruction::Constant(value) => stack[top] = value,
                Instruction::Operator(operator) => {
                    top -= 2;
                    stack[top] = operator.apply(stack[top], stack[top + 1]);
                }
            }
            top += 1;
        }
        stack[0]
    }

    /// Size of the encoded formula in bytes.
    pub(super) fn size(&self) -> usize {
        let mut out = Vec::new();
        self.write(&mut out);
        out.len()
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        for instruction in &self.instructions {
            match *instruction {
                Instruction::Operator(Operator::Add) => out.push(1),
                Instruction::Operator(Operator::Subtract) => out.push(2),
                Instruction::Operator(Operator::Multiply) => out.push(3),
                Instruction::Operator(Operator::Divide) => out.push(4),
                Instruction::Constant(value) => match decimal(value) {
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
                Instruction::Load { column, lag } => push_varint(out, (7 + 2 * column + lag) as u64),
            }
        }
        out.push(0);
    }

    pub(super) fn read(bytes: &mut Reader<'_>, columns: usize) -> Result<Self, DecodeError> {
        let mut instructions = Vec::new();
        loop {
            instructions.push(
                match bytes.number(6 + 2 * columns, "a formula refers to a column that does not exist")? {
                    0 => break,
                    1 => Instruction::Operator(Operator::Add),
                    2 => Instruction::Operator(Operator::Subtract),
                    3 => Instruction::Operator(Operator::Multiply),
                    4 => Instruction::Operator(Operator::Divide),
                    5 => {
                        let mut bits = [0; 8];
                        bits.copy_from_slice(bytes.take(8)?);
                        Instruction::Constant(f64::from_bits(u64::from_le_bytes(bits)))
                    }
                    6 => {
                        let digits = unzigzag(bytes.varint()?);
                        let power = POWERS.get(usize::from(bytes.byte()?));
                        let power = power.ok_or(DecodeError::Malformed(
                            "a decimal constant has more than 15 decimal places",
                        ))?;
                        Instruction::Constant(digits as f64 / power)
                    }
                    value => Instruction::Load { column: (value - 7) / 2, lag: (value - 7) % 2 },
                },
            );
            if instructions.len() > MAX_INSTRUCTIONS {
                break;
            }
        }
        Formula::new(instructions).ok_or(DecodeError::Malformed("a formula is not a valid expression"))
    }
}

/// Powers of ten; all are exact as doubles.
const POWERS: [f64; 16] =
    [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];

/// Returns `value` as an integer and a number of decimal places, if that encoding is exact and no longer
/// than the eight bytes of the double.
fn decimal(value: f64) -> Option<(i64, u8)> {
    POWERS.iter().zip(0..).find_map(|(power, places)| {
        let digits = (value * power).round() as i64;
        let exact = (digits as f64 / power).to_bits() == value.to_bits();
        (exact && digits.unsigned_abs() < 1 << 42).then_some((digits, places))
    })
}

/// Returns the code that a formula's result predicts in a column of this kind.
pub(super) fn number_to_code(kind: Kind, number: f64) -> Code {
    match kind {
        // The sign and payload of a computed NaN are not the same on all machines.
        Kind::Float if number.is_nan() => 0,
        Kind::Float => float_to_code(number),
        Kind::Integer | Kind::Bool | Kind::String => number as i64,
    }
}

/// The state of one column between two rows.
#[derive(Debug, Clone)]
pub(super) struct Column {
    kind: Kind,
    last: Code,
    /// The last value and the value before it, as doubles. Formulas load these, indexed by lag.
    numbers: [f64; 2],
    formulas: Vec<Formula>,
    /// Index of the predictor of the next value. The predictors are the formulas and, after them, the last
    /// value.
    predictor: usize,
}

impl Column {
    fn new(kind: Kind, first: Code) -> Self {
        let numbers = [code_to_number(kind, first); 2];
        Self { kind, last: first, numbers, formulas: Vec::new(), predictor: 0 }
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
            self.numbers = [code_to_number(self.kind, code), self.numbers[0]];
        } else {
            self.numbers[1] = self.numbers[0];
        }
    }
}

/// The state of all columns of a segment between two rows.
#[derive(Debug, Default)]
pub(super) struct Columns {
    columns: Vec<Column>,
}

impl Columns {
    /// Adds a column with its first value, which is stored verbatim.
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

    /// Predicts the next value of a column with its current predictor.
    pub(super) fn predict(&self, column: usize) -> Code {
        self.predict_with(column, self.columns[column].predictor)
    }

    fn predict_with(&self, column: usize, predictor: usize) -> Code {
        let Column { kind, last, formulas, .. } = &self.columns[column];
        let Some(formula) = formulas.get(predictor) else {
            return *last;
        };
        number_to_code(*kind, formula.evaluate(|column, lag| self.columns[column].numbers[lag]))
    }

    /// Records the next value of a column, for which `predicted` was predicted. After a misprediction the
    /// column switches to the predictor with the smallest error, the first of them on a tie. The decoder makes
    /// the same switch, so it is not stored.
    pub(super) fn update(&mut self, column: usize, predicted: Code, code: Code) {
        let formulas = self.columns[column].formulas.len();
        if code != predicted && formulas > 0 {
            let distance =
                |predictor: &usize| self.predict_with(column, *predictor).wrapping_sub(code).unsigned_abs();
            self.columns[column].predictor = (0..=formulas).min_by_key(distance).unwrap_or(formulas);
        }
        self.columns[column].push(code);
    }
}

/// The formulas of a schema's columns, and the order in which the columns are predicted.
///
/// A formula can only load what the decoder already has, so the order matters. Columns without a step come
/// first, in their own order, and are predicted to repeat their last value. Those with a step follow in the
/// order of the steps.
#[derive(Debug, Clone, Default)]
pub(super) struct Plan {
    /// Field (0 is the timestamp) and its formulas.
    pub(super) steps: Vec<(usize, Vec<Formula>)>,
}

impl Plan {
    /// Returns the fields 0 to `fields` - 1 in the order in which they are predicted.
    pub(super) fn order(&self, fields: usize) -> Vec<usize> {
        let mut planned = vec![false; fields];
        self.steps.iter().for_each(|(field, _)| planned[*field] = true);
        let unplanned = (0..fields).filter(|field| !planned[*field]);
        unplanned.chain(self.steps.iter().map(|(field, _)| *field)).collect()
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        push_varint(out, self.steps.len() as u64);
        for (field, formulas) in &self.steps {
            push_varint(out, *field as u64);
            push_varint(out, formulas.len() as u64);
            formulas.iter().for_each(|formula| formula.write(out));
        }
    }

    /// Reads the plan of a schema with `fields` fields, the timestamp included, in a segment with `columns`
    /// columns.
    pub(super) fn read(bytes: &mut Reader<'_>, fields: usize, columns: usize) -> Result<Self, DecodeError> {
        let mut planned = vec![false; fields];
        let mut plan = Plan::default();
        for _ in 0..bytes.number(fields, "a plan has more steps than its schema has fields")? {
            let field = bytes.number(fields - 1, "a plan refers to a field that does not exist")?;
            if std::mem::replace(&mut planned[field], true) {
                return Err(DecodeError::Malformed("a plan has two steps for one field"));
            }
            let count = bytes.number(MAX_FORMULAS, "a plan has too many formulas for one field")?;
            let formulas = (0..count).map(|_| Formula::read(bytes, columns)).collect::<Result<_, _>>()?;
            plan.steps.push((field, formulas));
        }
        Ok(plan)
    }
}
