//! Compares the crate with the golden numbers in `tests/vectors`, whose README describes the files and tolerances.
//! The files are read at run time, so that another set of the same structure can replace them.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "golden/canonical.rs"]
mod canonical;
#[path = "golden/engine.rs"]
mod engine;
#[path = "golden/ledger.rs"]
mod ledger;
#[path = "golden/merkle.rs"]
mod merkle;
#[path = "golden/pid.rs"]
mod pid;
#[path = "golden/tlambda.rs"]
mod tlambda;

use serde_json::Value;

fn text(file: &str) -> String {
    let path = format!("{}/tests/vectors/{file}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn json(file: &str) -> Value {
    serde_json::from_str(&text(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// Returns the list `key` of `value`, which must not be empty: without vectors every test would pass.
fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    let items = value[key].as_array().unwrap_or_else(|| panic!("no list {key}"));
    assert!(!items.is_empty(), "{key} is empty");
    items
}

/// Parses a float, or one of the strings for the floats that JSON lacks.
fn float(value: &Value) -> f64 {
    match value.as_str() {
        Some("NaN") => f64::NAN,
        Some("Infinity") => f64::INFINITY,
        Some("-Infinity") => f64::NEG_INFINITY,
        _ => value.as_f64().unwrap_or_else(|| panic!("{value} is not a number")),
    }
}

/// Fields that must be equal: times.
const EXACT: [&str; 5] = ["tau", "elapsed", "dt", "timestamp", "started"];

/// Asserts that `got` equals `want`, floats within the tolerance of the vectors. Both must have the same keys;
/// only `got` may also have an explanation or a version.
fn compare(at: &str, got: &Value, want: &Value) {
    match (got, want) {
        (Value::Object(got), Value::Object(want)) => {
            for (key, want) in want {
                let got = got.get(key).unwrap_or_else(|| panic!("{at}.{key} is missing"));
                compare(&format!("{at}.{key}"), got, want);
            }
            for key in got.keys().filter(|key| !["explanation", "version"].contains(&key.as_str())) {
                assert!(want.contains_key(key), "{at}.{key} is unexpected");
            }
        }
        (Value::Array(got), Value::Array(want)) => {
            assert_eq!(got.len(), want.len(), "{at}: length");
            for (i, (got, want)) in got.iter().zip(want).enumerate() {
                compare(&format!("{at}[{i}]"), got, want);
            }
        }
        (Value::Number(got), Value::Number(want)) if got.is_f64() && want.is_f64() => {
            let (got, want) = (got.as_f64().unwrap(), want.as_f64().unwrap());
            let exact = EXACT.iter().any(|name| at.ends_with(&format!(".{name}")));
            let tolerance = if exact { 0.0 } else { 1e-12 * want.abs() + 1e-15 };
            assert!((got - want).abs() <= tolerance, "{at}: got {got:e}, want {want:e}");
        }
        _ => assert_eq!(got, want, "{at}"),
    }
}
