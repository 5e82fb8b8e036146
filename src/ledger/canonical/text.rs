//! Writing and parsing the canonical text of scalars.

/// In [`ESCAPE`]: the byte is not escaped.
const PLAIN: u8 = 0;
/// In [`ESCAPE`]: the character is escaped as `\uXXXX`. Applies to all bytes of multi-byte characters.
const HEX: u8 = b'u';

/// The escape of each byte of UTF-8 text: [`PLAIN`], [`HEX`], or the letter of its short escape.
const ESCAPE: [u8; 256] = {
    let mut table = [HEX; 256];
    let mut byte = 0x20;
    while byte < 0x7f {
        table[byte] = PLAIN;
        byte += 1;
    }
    table[b'"' as usize] = b'"';
    table[b'\\' as usize] = b'\\';
    table[0x08] = b'b';
    table[0x09] = b't';
    table[0x0a] = b'n';
    table[0x0c] = b'f';
    table[0x0d] = b'r';
    table
};

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Returns whether a UTF-16 code unit is written as `\uXXXX`, not plainly or with a short escape.
pub(super) fn is_hex_escaped(unit: u32) -> bool {
    unit > 0xff || ESCAPE[unit as usize] == HEX
}

/// Appends `text` as a string literal, with quotes.
pub fn push_str(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut rest = text;
    while let Some(at) = rest.bytes().position(|byte| ESCAPE[usize::from(byte)] != PLAIN) {
        let (plain, tail) = rest.split_at(at);
        out.extend_from_slice(plain.as_bytes());
        let mut chars = tail.chars();
        if let Some(char) = chars.next() {
            push_escaped(out, char);
        }
        rest = chars.as_str();
    }
    out.extend_from_slice(rest.as_bytes());
    out.push(b'"');
}

fn push_escaped(out: &mut Vec<u8>, char: char) {
    let mut units = [0; 2];
    for unit in char.encode_utf16(&mut units) {
        let unit = u32::from(*unit);
        out.push(b'\\');
        if is_hex_escaped(unit) {
            out.push(b'u');
            for shift in [12, 8, 4, 0] {
                out.push(DIGITS[(unit >> shift & 0xf) as usize]);
            }
        } else {
            out.push(ESCAPE[unit as usize]);
        }
    }
}

/// Appends an unsigned integer.
pub fn push_u64(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

/// Appends a signed integer.
pub fn push_i64(out: &mut Vec<u8>, value: i64) {
    if value < 0 {
        out.push(b'-');
    }
    push_u64(out, value.unsigned_abs());
}

/// Appends a float as Python's `repr` writes it. `value` must be finite. This is only checked in debug builds; in
/// release builds, other values are written as an unspecified number.
pub fn push_f64(out: &mut Vec<u8>, value: f64) {
    debug_assert!(value.is_finite(), "{value} is not a JSON number");
    let mut buffer = zmij::Buffer::new();
    let text = buffer.format_finite(value);
    if is_plain(value) {
        out.extend_from_slice(text.as_bytes());
    } else {
        push_scientific(out, text);
    }
}

/// Parses a float in the form that [`push_f64`] writes.
pub fn read_f64(text: &str) -> Option<f64> {
    let value: f64 = text.parse().ok()?;
    let mut buffer = zmij::Buffer::new();
    let plain = buffer.format_finite(value);
    let same = if is_plain(value) {
        text == plain
    } else {
        let mut out = Vec::with_capacity(32);
        push_scientific(&mut out, plain);
        value.is_finite() && out == text.as_bytes()
    };
    same.then_some(value)
}

/// Returns whether `value` is written in positional notation. For these values zmij has the same layout as Python.
fn is_plain(value: f64) -> bool {
    (1e-4..1e16).contains(&value.abs()) || value == 0.0
}

/// Rewrites `text`, a float in any notation, as `d.ddde±xx`.
fn push_scientific(out: &mut Vec<u8>, text: &str) {
    let (number, exponent) = text.split_once('e').unwrap_or((text, "0"));
    let unsigned = number.strip_prefix('-').unwrap_or(number);
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    // The decimal exponent of the first digit that is not 0.
    let exponent: i64 = exponent.parse().unwrap_or(0);
    let leading = whole.bytes().chain(fraction.bytes()).take_while(|digit| *digit == b'0').count();
    let exponent = exponent + whole.len() as i64 - 1 - leading as i64;

    if number.len() > unsigned.len() {
        out.push(b'-');
    }
    let first = out.len();
    out.extend(whole.bytes().chain(fraction.bytes()).skip(leading));
    while out.len() > first + 1 && out.last() == Some(&b'0') {
        out.pop();
    }
    if out.len() > first + 1 {
        out.insert(first + 1, b'.');
    }
    out.extend_from_slice(if exponent < 0 { b"e-" } else { b"e+" });
    if exponent.abs() < 10 {
        out.push(b'0');
    }
    push_u64(out, exponent.unsigned_abs());
}
