//! Canonical JSON, which is Python's `json.dumps(x, sort_keys=True, separators=(",", ":"), allow_nan=False)`, and
//! SHA3-256 hashes of it.

use serde_json::Value;
use sha3::{Digest, Sha3_256};

pub type Hash = [u8; 32];

pub fn hex(hash: &Hash) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn parse_hash(text: &str) -> Result<Hash, String> {
    let error = || format!("'{text}' is not 64 lower-case hexadecimal digits");
    if text.len() != 64 || !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(error());
    }
    let mut hash = [0; 32];
    for (at, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).map_err(|_| error())?;
    }
    Ok(hash)
}

pub fn sha3(parts: &[&[u8]]) -> Hash {
    let mut hasher = Sha3_256::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize().into()
}

/// Computes the hash of an entry from its canonical line: the hash of the line without the field `hash`.
pub fn line_hash(line: &str) -> String {
    // The last occurrence is the field itself, because `data` precedes it. Skip its key, 64 digits and quote.
    let at = line.rfind(",\"hash\":\"").unwrap_or_default();
    let (front, rest) = line.split_at(at);
    hex(&sha3(&[front.as_bytes(), rest.get(9 + 64 + 1..).unwrap_or_default().as_bytes()]))
}

/// Computes the hash of an entry from its other four fields.
pub fn entry_hash(entry: &Value) -> String {
    let mut four = entry.clone();
    if let Value::Object(fields) = &mut four {
        fields.remove("hash");
    }
    hex(&sha3(&[canonical(&four).as_bytes()]))
}

pub fn canonical(value: &Value) -> String {
    let mut out = String::new();
    push(&mut out, value);
    out
}

fn push(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(it) => out.push_str(if *it { "true" } else { "false" }),
        Value::Number(it) => match (it.as_i64(), it.as_u64(), it.as_f64()) {
            (Some(it), ..) => out.push_str(&it.to_string()),
            (_, Some(it), _) => out.push_str(&it.to_string()),
            (.., it) => out.push_str(&float(it.unwrap_or(f64::NAN))),
        },
        Value::String(it) => push_str(out, it),
        Value::Array(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                out.push_str(if at == 0 { "" } else { "," });
                push(out, item);
            }
            out.push(']');
        }
        Value::Object(fields) => {
            let mut keys: Vec<&String> = fields.keys().collect();
            // The order of UTF-8 bytes is the order of code points.
            keys.sort();
            out.push('{');
            for (at, key) in keys.into_iter().enumerate() {
                out.push_str(if at == 0 { "" } else { "," });
                push_str(out, key);
                out.push(':');
                push(out, &fields[key]);
            }
            out.push('}');
        }
    }
}

fn push_str(out: &mut String, text: &str) {
    out.push('"');
    for it in text.chars() {
        match it {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\u{c}' => out.push_str("\\f"),
            '\r' => out.push_str("\\r"),
            ' '..='~' => out.push(it),
            _ => {
                for unit in it.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
    out.push('"');
}

/// Formats a float like Python's `repr`: the shortest digits that parse to the same double; among those the nearest,
/// and the even one on a tie.
pub fn float(number: f64) -> String {
    let shortest = format!("{number:e}");
    // Rust's shortest output has as many digits, but not always the even ones on a tie. Its output with a given
    // precision has.
    let digits = shortest.bytes().take_while(|&it| it != b'e').filter(u8::is_ascii_digit).count();
    let exact = format!("{number:.*e}", digits - 1);
    let chosen = if exact.parse() == Ok(number) { exact } else { shortest };
    let (mantissa, exponent) = chosen.split_once('e').unwrap_or((&chosen, "0"));
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
    let digits = mantissa.replace('.', "");
    let digits = match digits.trim_end_matches('0') {
        "" => "0",
        trimmed => trimmed,
    };
    let exponent: i32 = exponent.parse().unwrap_or_default();
    sign.to_owned() + &layout(digits, exponent)
}

fn layout(digits: &str, exponent: i32) -> String {
    let zeros = |count: i32| "0".repeat(usize::try_from(count).unwrap_or_default());
    let count = i32::try_from(digits.len()).unwrap_or(i32::MAX);
    match exponent {
        ..-4 | 16.. => {
            let (first, rest) = digits.split_at(1);
            let point = if rest.is_empty() { "" } else { "." };
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{first}{point}{rest}e{sign}{:02}", exponent.abs())
        }
        -4..0 => format!("0.{}{digits}", zeros(-exponent - 1)),
        _ if exponent + 1 >= count => format!("{digits}{}.0", zeros(exponent + 1 - count)),
        _ => {
            let (whole, rest) = digits.split_at(usize::try_from(exponent + 1).unwrap_or_default());
            format!("{whole}.{rest}")
        }
    }
}
