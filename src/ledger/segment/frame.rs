//! The zstd frame that holds the columns.

use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::{CParameter, DParameter, find_frame_compressed_size};

use super::{DecodeError, EncodeError};

/// zstd's default level. A decoder does not depend on it.
const LEVEL: i32 = 3;

/// Raw-content zstd dictionary: the columns of a synthetic segment with one entry of each type and twenty
/// beats. Without it, short segments would mostly consist of JSON keys. It is part of the format: a changed
/// dictionary requires a new [`VERSION`](super::VERSION).
pub(super) const ZSTD_DICTIONARY: &[u8] = include_bytes!("dictionary.bin");

/// log2 of the maximum window size in bytes. It bounds the memory of a streaming decoder.
const WINDOW_LOG: u32 = 20;

/// Appends `columns` to `out` as one zstd frame.
pub(super) fn compress(columns: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let fail = |error: &dyn std::fmt::Display| EncodeError::Frame(error.to_string());
    let mut compressor = Compressor::with_dictionary(LEVEL, ZSTD_DICTIONARY).map_err(|error| fail(&error))?;
    compressor.set_parameter(CParameter::WindowLog(WINDOW_LOG)).map_err(|error| fail(&error))?;
    out.extend(compressor.compress(columns).map_err(|error| fail(&error))?);
    Ok(())
}

/// Decompresses one frame with exactly `length` bytes of content and never allocates more than that.
pub(super) fn decompress(frame: &[u8], length: usize) -> Result<Vec<u8>, DecodeError> {
    let fail = |error: &dyn std::fmt::Display| DecodeError::Frame(error.to_string());
    if find_frame_compressed_size(frame).ok() != Some(frame.len()) {
        return Err(DecodeError::Frame("not exactly one zstd frame".to_owned()));
    }
    if window_size(frame, length).is_none_or(|size| size > 1 << WINDOW_LOG) {
        return Err(DecodeError::Frame(format!("the window exceeds 2^{WINDOW_LOG} bytes")));
    }
    let mut decompressor = Decompressor::with_dictionary(ZSTD_DICTIONARY).map_err(|error| fail(&error))?;
    decompressor.set_parameter(DParameter::WindowLogMax(WINDOW_LOG)).map_err(|error| fail(&error))?;
    let mut columns = Vec::with_capacity(length);
    decompressor.decompress_to_buffer(frame, &mut columns).map_err(|error| fail(&error))?;
    if columns.len() == length {
        Ok(columns)
    } else {
        Err(DecodeError::Columns { declared: length, found: columns.len() })
    }
}

/// Returns the window size, in bytes, that the header of a frame with `length` bytes of content declares
/// (RFC 8878, section 3.1.1.1). `ZSTD_d_windowLogMax` does not help here: zstd checks it only in streaming
/// mode, where it allocates a window.
fn window_size(frame: &[u8], length: usize) -> Option<u64> {
    let [0x28, 0xb5, 0x2f, 0xfd, descriptor, byte, ..] = *frame else {
        return None;
    };
    let single_segment = descriptor & 0x20 != 0;
    let base = 1u64 << (10 + (byte >> 3));
    Some(if single_segment { length as u64 } else { base + base / 8 * u64::from(byte & 7) })
}
