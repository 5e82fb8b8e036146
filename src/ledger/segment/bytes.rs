//! The byte level: varints, length-prefixed blocks, run-length encoded residuals.

use super::DecodeError;

/// Appends `value` as an unsigned LEB128 varint.
pub(super) fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Maps signed to unsigned integers so that small magnitudes stay small: 0, -1, 1, -2, 2 become 0, 1, 2, 3, 4.
pub(super) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// The inverse of [`zigzag`].
pub(super) fn unzigzag(coded: u64) -> i64 {
    (coded >> 1) as i64 ^ -((coded & 1) as i64)
}

/// Appends `bytes` as a block: their length as a varint, then the bytes.
pub(super) fn push_block(out: &mut Vec<u8>, bytes: &[u8]) {
    push_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Reads varints, bytes and blocks from the front of a slice.
#[derive(Debug, Clone, Default)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn byte(&mut self) -> Result<u8, DecodeError> {
        let (&first, rest) = self.bytes.split_first().ok_or(DecodeError::Truncated)?;
        self.bytes = rest;
        Ok(first)
    }

    pub(super) fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                break;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(DecodeError::Malformed("a varint exceeds 64 bits"))
    }

    /// Reads a varint that must not exceed `limit`; `what` describes the violation.
    pub(super) fn number(&mut self, limit: usize, what: &'static str) -> Result<usize, DecodeError> {
        let value = self.varint()?;
        usize::try_from(value).ok().filter(|value| *value <= limit).ok_or(DecodeError::Malformed(what))
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.bytes.split_at_checked(length).ok_or(DecodeError::Truncated)?;
        self.bytes = rest;
        Ok(taken)
    }

    /// Reads a length-prefixed block.
    pub(super) fn block(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.number(self.bytes.len(), "a block is longer than the remaining data")?;
        self.take(length)
    }
}

/// Writes residuals as zigzag varints. A run of zeros is written as 0 and its length; trailing zeros are
/// omitted.
#[derive(Debug, Default)]
pub(super) struct ResidualWriter {
    bytes: Vec<u8>,
    zeros: u64,
}

impl ResidualWriter {
    pub(super) fn push(&mut self, residual: i64) {
        if residual == 0 {
            self.zeros += 1;
            return;
        }
        if self.zeros > 0 {
            self.bytes.push(0);
            push_varint(&mut self.bytes, std::mem::take(&mut self.zeros));
        }
        push_varint(&mut self.bytes, zigzag(residual));
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Reads the output of a [`ResidualWriter`]. After the last stored residual it returns 0 without end.
#[derive(Debug, Clone, Default)]
pub(super) struct ResidualReader<'a> {
    bytes: Reader<'a>,
    zeros: u64,
}

impl<'a> ResidualReader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes: Reader::new(bytes), zeros: 0 }
    }

    pub(super) fn next(&mut self) -> Result<i64, DecodeError> {
        if self.zeros == 0 {
            if self.bytes.is_empty() {
                return Ok(0);
            }
            let coded = self.bytes.varint()?;
            if coded != 0 {
                return Ok(unzigzag(coded));
            }
            self.zeros = self.bytes.varint()?;
            if self.zeros == 0 {
                return Err(DecodeError::Malformed("an empty run of zeros"));
            }
        }
        self.zeros -= 1;
        Ok(0)
    }

    /// Returns whether every stored residual has been read.
    pub(super) fn is_exhausted(&self) -> bool {
        self.bytes.is_empty() && self.zeros == 0
    }
}
