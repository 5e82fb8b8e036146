//! Durations in the format of Go's `time.Duration`.
//!
//! kube has a type for this, but it accepts negative durations, multiplies in f64 and panics on overflow. A
//! duration from an object or a file must not panic, so this module parses it in whole nanoseconds, by the
//! grammar that the schema's rule allows.
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A non-negative duration in Go's format, such as `500ms`, `1.5s` or `1h30m`.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct GoDuration(Duration);

/// A text that is not a duration.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0:?} is not a duration: write numbers with a unit (ns, us, ms, s, m or h), such as 500ms or 1h30m")]
pub struct InvalidDuration(String);

impl GoDuration {
    /// `secs` whole seconds.
    pub const fn from_secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }

    /// The standard library's duration.
    pub const fn get(self) -> Duration {
        self.0
    }

    /// Seconds, the unit of the ledger and the engine.
    pub fn as_secs_f64(self) -> f64 {
        self.0.as_secs_f64()
    }
}

impl From<Duration> for GoDuration {
    fn from(duration: Duration) -> Self {
        Self(duration)
    }
}

impl FromStr for GoDuration {
    type Err = InvalidDuration;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).map(|nanos| Self(Duration::from_nanos(nanos))).ok_or_else(|| InvalidDuration(text.into()))
    }
}

/// Parses one or more of: digits, an optional fraction, a unit. Returns whole nanoseconds, rounded down.
fn parse(text: &str) -> Option<u64> {
    /// Enough: the last digit of an hour is far below a nanosecond, and 10^18 hours in nanoseconds fit into a u128.
    const FRACTION_DIGITS: usize = 18;
    let mut rest = text;
    let mut total: u64 = 0;
    loop {
        let (whole, after) = digits(rest)?;
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => digits(after)?,
            None => ("", after),
        };
        let (unit, after) = unit(after)?;
        let fraction = &fraction[..fraction.len().min(FRACTION_DIGITS)];
        let scale = 10_u128.pow(fraction.len() as u32);
        let fraction = if fraction.is_empty() { 0 } else { fraction.parse::<u128>().ok()? };
        let nanos = whole.parse::<u128>().ok()?.checked_mul(unit)?.checked_add(fraction * unit / scale)?;
        total = total.checked_add(u64::try_from(nanos).ok()?)?;
        if after.is_empty() {
            return Some(total);
        }
        rest = after;
    }
}

/// Splits `text` after its leading digits, of which there must be one.
fn digits(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// Splits `text` after its leading unit, which is returned in nanoseconds.
fn unit(text: &str) -> Option<(u128, &str)> {
    // Before "m": "ms" is not a minute followed by an "s".
    const UNITS: [(&str, u128); 7] = [
        ("ns", 1),
        ("us", 1_000),
        ("µs", 1_000),
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
        ("m", 60_000_000_000),
        ("h", 3_600_000_000_000),
    ];
    UNITS.iter().find_map(|(name, nanos)| Some((*nanos, text.strip_prefix(name)?)))
}

/// Rust formats a duration in one unit, at most seconds (`1ms`, `1.5s`, `3600s`), which Go parses too.
impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// The bounds depend on the field: see [`bounds`](super::bounds).
impl JsonSchema for GoDuration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "maxLength": 32})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_go_parses() {
        for (text, nanos) in [
            ("0s", 0),
            ("1ms", 1_000_000),
            ("1.5s", 1_500_000_000),
            ("0.1s", 100_000_000),
            ("1h30m", 5_400_000_000_000),
            ("24h0m0s", 86_400_000_000_000),
            ("1m0.25s", 60_250_000_000),
            ("10.5s4m", 250_500_000_000),
            ("12us", 12_000),
            ("12µs", 12_000),
            ("0.3333333333333333333h", 1_199_999_999_999),
            ("9007199254740993ns", 9_007_199_254_740_993),
        ] {
            assert_eq!(text.parse::<GoDuration>(), Ok(Duration::from_nanos(nanos).into()), "{text}");
        }
    }

    #[test]
    fn rejects_other_texts_without_a_panic() {
        for text in [
            "",
            "0",
            "1",
            "s",
            "-1s",
            "+1s",
            ".5s",
            "5.s",
            "1 s",
            "1s ",
            "1d",
            "1e9s",
            "inf",
            "NaN",
            "1sm",
            "99999999999999999999h",
            "584y",
            "18446744073709551615s",
            "1s18446744073709551615ns",
            "1μs",
        ] {
            assert!(text.parse::<GoDuration>().is_err(), "{text}");
        }
    }

    #[test]
    fn prints_what_it_parsed() {
        for text in ["0ns", "1ms", "1.5ms", "1s", "60s", "86400s", "1.000001ms"] {
            assert_eq!(text.parse::<GoDuration>().unwrap().to_string(), text);
        }
    }
}
