//! Bytes: LEB128 numbers, and residuals with their runs of zeros.

use super::DecodeError;

/// Appends `value` as LEB128: seven bits a byte, the lowest first, the top bit set on all but the last.
pub(super) fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Small numbers of either sign as small numbers: 0, -1, 1, -2, 2 are 0, 1, 2, 3, 4.
pub(super) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// The inverse of [`zigzag`].
pub(super) fn unzigzag(coded: u64) -> i64 {
    (coded >> 1) as i64 ^ -((coded & 1) as i64)
}

/// Appends `bytes` behind their length.
pub(super) fn push_block(out: &mut Vec<u8>, bytes: &[u8]) {
    push_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Takes bytes off the front of a slice.
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
        Err(DecodeError::Malformed("a number of more than 64 bits"))
    }

    /// A number that counts or names things of which there are at most `limit`.
    pub(super) fn number(&mut self, limit: usize, what: &'static str) -> Result<usize, DecodeError> {
        let value = self.varint()?;
        usize::try_from(value).ok().filter(|value| *value <= limit).ok_or(DecodeError::Malformed(what))
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.bytes.split_at_checked(length).ok_or(DecodeError::Truncated)?;
        self.bytes = rest;
        Ok(taken)
    }

    /// Bytes behind their length.
    pub(super) fn block(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.number(self.bytes.len(), "a block that is longer than what is there")?;
        self.take(length)
    }
}

/// Writes residuals: zig-zag LEB128, a run of zeros as 0 and its length, zeros at the end not at all.
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

/// Reads what a [`ResidualWriter`] wrote, for ever: behind the last residual all are 0.
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
                return Err(DecodeError::Malformed("a run of no zeros"));
            }
        }
        self.zeros -= 1;
        Ok(0)
    }

    /// Whether all that was written has been read.
    pub(super) fn is_done(&self) -> bool {
        self.bytes.is_empty() && self.zeros == 0
    }
}
