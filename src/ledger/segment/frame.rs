//! The zstd frame around the columns.

use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::{CParameter, DParameter, find_frame_compressed_size};

use super::{DecodeError, EncodeError};

const LEVEL: i32 = 3;

/// What both sides have in common before the first byte: the columns of a made-up segment, with an entry
/// of each kind and twenty beats. It is why short segments are small. It belongs to the format's version:
/// another dictionary is another version.
pub(super) const DICTIONARY: &[u8] = include_bytes!("dictionary.bin");

/// log2 of the largest window, in bytes, that a frame may ask for: what a reader that does not have the
/// whole segment in memory needs to keep.
const WINDOW_LOG: u32 = 20;

/// Compresses `columns`.
pub(super) fn compress(columns: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let fail = |error: &dyn std::fmt::Display| EncodeError::Frame(error.to_string());
    let mut compressor = Compressor::with_dictionary(LEVEL, DICTIONARY).map_err(|error| fail(&error))?;
    compressor.set_parameter(CParameter::WindowLog(WINDOW_LOG)).map_err(|error| fail(&error))?;
    out.extend(compressor.compress(columns).map_err(|error| fail(&error))?);
    Ok(())
}

/// Decompresses one frame that holds exactly `length` bytes; nothing more than these is ever allocated.
pub(super) fn decompress(frame: &[u8], length: usize) -> Result<Vec<u8>, DecodeError> {
    let fail = |error: &dyn std::fmt::Display| DecodeError::Frame(error.to_string());
    if find_frame_compressed_size(frame).ok() != Some(frame.len()) {
        return Err(DecodeError::Frame("not one whole frame".to_owned()));
    }
    if window(frame, length).is_none_or(|window| window > 1 << WINDOW_LOG) {
        return Err(DecodeError::Frame(format!("the window is larger than 2^{WINDOW_LOG} bytes")));
    }
    let mut decompressor = Decompressor::with_dictionary(DICTIONARY).map_err(|error| fail(&error))?;
    decompressor.set_parameter(DParameter::WindowLogMax(WINDOW_LOG)).map_err(|error| fail(&error))?;
    let mut columns = Vec::with_capacity(length);
    decompressor.decompress_to_buffer(frame, &mut columns).map_err(|error| fail(&error))?;
    if columns.len() == length {
        Ok(columns)
    } else {
        Err(DecodeError::Columns { declared: length, found: columns.len() })
    }
}

/// The window that the header of a frame with `length` bytes of content asks for, in bytes (RFC 8878,
/// 3.1.1.1). zstd itself checks it only where it allocates one.
fn window(frame: &[u8], length: usize) -> Option<u64> {
    let [0x28, 0xb5, 0x2f, 0xfd, descriptor, byte, ..] = *frame else {
        return None;
    };
    let single_segment = descriptor & 0x20 != 0;
    let base = 1u64 << (10 + (byte >> 3));
    Some(if single_segment { length as u64 } else { base + base / 8 * u64::from(byte & 7) })
}
