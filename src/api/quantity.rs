//! Kubernetes quantities, and byte sizes: the quantities that are a whole number of bytes.
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A size in bytes as a quantity: a whole number, plain or with `k`, `M`, `G`, `Ki`, `Mi` or `Gi`.
///
/// It is always a string (`"4194304"`, `4Mi`). With a single type in the schema, the API server's message for a bare
/// number names the expected type.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ByteSize(u64);

/// A text that is not a size in bytes.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0:?} is not a size in bytes: write a whole number, plain or with Ki or Mi, such as 4Mi")]
pub struct InvalidByteSize(String);

const SUFFIXES: [(&str, u64); 6] =
    [("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10), ("G", 1_000_000_000), ("M", 1_000_000), ("k", 1_000)];

impl ByteSize {
    /// `count` kibibytes.
    pub const fn kibibytes(count: u32) -> Self {
        Self((count as u64) << 10)
    }

    /// `count` mebibytes.
    pub const fn mebibytes(count: u32) -> Self {
        Self((count as u64) << 20)
    }

    /// The size in bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl From<u64> for ByteSize {
    fn from(bytes: u64) -> Self {
        Self(bytes)
    }
}

impl FromStr for ByteSize {
    type Err = InvalidByteSize;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (number, unit) = SUFFIXES
            .iter()
            .find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, *unit)))
            .unwrap_or((text, 1));
        // Rust's parser accepts a leading plus, the schema does not.
        let number = if number.starts_with('+') { None } else { number.parse::<u64>().ok() };
        number
            .and_then(|number| number.checked_mul(unit))
            .map(Self)
            .ok_or_else(|| InvalidByteSize(text.into()))
    }
}

/// Formats with the largest binary suffix that leaves a whole number.
impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match SUFFIXES[..3].iter().find(|(_, unit)| self.0 >= *unit && self.0.is_multiple_of(*unit)) {
            Some((suffix, unit)) => write!(f, "{}{suffix}", self.0 / unit),
            None => write!(f, "{}", self.0),
        }
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// The value of a quantity such as `500m`, `1.5Gi` or `2e3`; none if it is not one. Two notations of one value below 2^53
/// give the same number.
pub(super) fn quantity(text: &str) -> Option<f64> {
    let end = text.find(|it: char| !it.is_ascii_digit() && !"+-.".contains(it)).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    if !number.ends_with(|it: char| it.is_ascii_digit() || it == '.') || number.ends_with(['+', '-']) {
        return None;
    }
    // "E" and "Ei" are units.
    let exponent = suffix.strip_prefix(['e', 'E']).filter(|it| !it.is_empty() && *it != "i");
    if let Some(exponent) = exponent {
        return format!("{number}e{}", exponent.parse::<i32>().ok()?).parse().ok();
    }
    let number: f64 = number.parse().ok()?;
    Some(match suffix {
        "" => number,
        "n" => number / 1e9,
        "u" => number / 1e6,
        "m" => number / 1e3,
        "k" => number * 1e3,
        "M" => number * 1e6,
        "G" => number * 1e9,
        "T" => number * 1e12,
        "P" => number * 1e15,
        "E" => number * 1e18,
        "Ki" => number * 1024.0,
        "Mi" => number * 1024_f64.powi(2),
        "Gi" => number * 1024_f64.powi(3),
        "Ti" => number * 1024_f64.powi(4),
        "Pi" => number * 1024_f64.powi(5),
        "Ei" => number * 1024_f64.powi(6),
        _ => return None,
    })
}

/// The bounds depend on the field: see [`bounds`](super::bounds).
impl JsonSchema for ByteSize {
    fn schema_name() -> Cow<'static, str> {
        "ByteSize".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "maxLength": 16})
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parses_and_prints() {
        for (text, bytes, printed) in [
            ("4Mi", 4 << 20, "4Mi"),
            ("256Ki", 256 << 10, "256Ki"),
            ("262144", 256 << 10, "256Ki"),
            ("1024Ki", 1 << 20, "1Mi"),
            ("1M", 1_000_000, "1000000"),
            ("5k", 5_000, "5000"),
            ("0", 0, "0"),
        ] {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!((size.bytes(), size.to_string().as_str()), (bytes, printed), "{text}");
        }
    }

    #[test]
    fn quantities_are_those_of_kubernetes() {
        for (text, value) in [
            ("2", 2.0),
            ("0.3", 0.3),
            ("300m", 0.3),
            ("+1.", 1.0),
            (".5", 0.5),
            ("-1Gi", -1_073_741_824.0),
            ("2e3", 2000.0),
            ("5E-2", 0.05),
            ("1E", 1e18),
            ("1Ei", 1_152_921_504_606_846_976.0),
            ("1.5k", 1500.0),
        ] {
            assert_eq!(quantity(text), Some(value), "{text}");
        }
        for text in [
            "", "fast", "1 Gi", "1gi", "1K", "1mi", ".", "-", "1-", "--1", "1.2.3", "1e", "1e1.5", "Mi",
            "NaN", "inf",
        ] {
            assert_eq!(quantity(text), None, "{text}");
        }
    }

    #[test]
    fn rejects_other_texts_without_a_panic() {
        for text in ["", "Mi", "-1", "+1", "1.5Mi", "1 Mi", "4mi", "4MiB", "1e6", "18446744073709551615Ki"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    /// By Kubernetes' grammar: a sign, digits with a point before, within or after them, and a suffix.
    fn is_quantity(text: &str) -> bool {
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        let end = unsigned.find(|it: char| !it.is_ascii_digit() && it != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        let is_number = number.matches('.').count() <= 1 && number.chars().any(|it| it.is_ascii_digit());
        let exponent = suffix.strip_prefix(['e', 'E']).unwrap_or_default();
        let units = "n u m k M G T P E Ki Mi Gi Ti Pi Ei";
        is_number
            && (suffix.is_empty()
                || units.split(' ').any(|it| it == suffix)
                || exponent.parse::<i32>().is_ok())
    }

    proptest! {
        #[test]
        fn exactly_kubernetes_grammar_is_accepted(text in "[+-]?[0-9]{0,3}[.]?[0-9]{0,3}([numkMGTPE]i?|[eE][+-]?[0-9]{0,3}|.{0,2})") {
            let value = quantity(&text);
            prop_assert_eq!(value.is_some(), is_quantity(&text), "{} {:?}", text, value);
            prop_assert!(value.is_none_or(|it| !it.is_nan()));
        }

        #[test]
        fn one_value_has_many_notations(number in 0..10_000_u32) {
            let value = quantity(&number.to_string()).unwrap();
            for text in [format!("{number}000m"), format!("{number}e0"), format!("+{number}.0"), format!("{number}000e-3")] {
                prop_assert_eq!(quantity(&text), Some(value), "{}", text);
            }
        }

        #[test]
        fn a_size_is_a_quantity_of_the_same_value(text in "[+-]?[0-9]{0,8}([kMG]|[KMG]i|.?)") {
            if let Ok(size) = text.parse::<ByteSize>() {
                prop_assert_eq!(quantity(&text), Some(size.bytes() as f64), "{}", text);
                prop_assert_eq!(quantity(&size.to_string()), Some(size.bytes() as f64), "{}", size);
            }
        }
    }
}
