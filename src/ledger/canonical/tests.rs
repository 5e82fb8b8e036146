use std::collections::BTreeMap;

use proptest::prelude::*;
use serde::Serialize;
use serde_json::{Value, json};
use sha3::{Digest, Sha3_256};

use super::*;

fn vectors() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/canonical.json");
    serde_json::from_str(&std::fs::read_to_string(path).expect("the vectors are there")).expect("JSON")
}

#[test]
fn vectors_serialize_and_parse() {
    let vectors = vectors();
    let cases = vectors["cases"].as_array().expect("cases");
    assert!(!cases.is_empty());
    for case in cases {
        let text = case["text"].as_str().expect("text");
        let got = to_string(&case["value"]).expect(text);
        assert_eq!(got, text);
        assert_eq!(parse(text).as_ref(), Ok(&case["value"]), "{text}");
        let sha3: String =
            Sha3_256::digest(got.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(case["sha3"], sha3, "{text}");
        if let Some(bits) = case["bits"].as_str() {
            let value = f64::from_bits(u64::from_str_radix(bits, 16).expect(bits));
            assert_eq!(to_string(&value).as_deref(), Ok(text));
            assert_eq!(text.parse::<f64>().expect(text).to_bits(), value.to_bits());
        }
    }
}

#[test]
fn only_canonical_texts_are_accepted() {
    for text in [
        "",
        " 1",
        "1 ",
        "[1, 2]",
        "{\"a\": 1}",
        "{\"b\":1,\"a\":2}",
        "{\"a\":1,\"a\":1}",
        "{\"aa\":1,\"a\":2}",
        "{\"\\u00e9\":1,\"z\":2}",
        "{1:2}",
        "{\"a\"}",
        "{\"a\":1,}",
        "{,}",
        "[1,]",
        "[,1]",
        "[1 2]",
        "[",
        "{",
        "]",
        "\"",
        "\"\\",
        "\"\\u",
        "\"\\u00e",
        "nul",
        "nullx",
        "True",
        "NaN",
        "Infinity",
        "-",
        "+1",
        "-0",
        "01",
        "-01",
        "1.",
        ".5",
        "1.00",
        "1E5",
        "1e5",
        "1e+5",
        "100000.0e0",
        "1e16",
        "1e-5",
        "1e-005",
        "1e+016",
        "1.0e+16",
        "10e+16",
        "1.50",
        "-0.00",
        "0.10",
        "00.1",
        "1e999",
        "1--1",
        "0.00001",
        "10000000000000000.0",
        "1_0",
        "18446744073709551616",
        "-9223372036854775809",
        "0.1000000000000000055",
        "1e-400",
        "\"\\u0041\"",
        "\"\\u000a\"",
        "\"\\u00E9\"",
        "\"\\/\"",
        "\"\\u0022\"",
        "\"\\ud800\"",
        "\"\\udc00\"",
        "\"\\ud83dx\"",
        "\"\\ud83d\\u0041\"",
        "\"é\"",
        "\"\u{7f}\"",
        "\"\t\"",
        "1.0 ",
        "[1]]",
        "{}{}",
        "'a'",
    ] {
        assert!(!is_canonical(text), "{text}");
        assert!(parse(text).is_err(), "{text}");
    }
    for text in [
        "0",
        "-1",
        "0.0",
        "-0.0",
        "1e+16",
        "1e-05",
        "5e-324",
        "18446744073709551615",
        "-9223372036854775808",
        "\"\"",
        "\"/\"",
        "\"\\u007f\"",
        "\"\\u0000\"",
        "\"\\u001f\"",
        "\"\\n\"",
        "\"\\ud83d\\ude00\"",
        "{}",
        "[]",
        "{\"\":1,\"a\":2,\"aa\":3}",
        "{\"z\":1,\"\\u00e9\":2}",
        "{\"\\uffff\":1,\"\\ud800\\udc00\":2}",
        "[[],{}]",
        "null",
        "true",
        "false",
    ] {
        assert_eq!(check(text), Ok(()), "{text}");
        assert_eq!(to_string(&parse(text).expect(text)).as_deref(), Ok(text));
    }
}

#[test]
fn nesting_is_bounded() {
    let nested = |depth: usize| "[".repeat(depth) + "0" + &"]".repeat(depth);
    assert!(is_canonical(&nested(MAX_DEPTH)));
    assert!(parse(&nested(MAX_DEPTH)).is_ok());
    assert!(!is_canonical(&nested(MAX_DEPTH + 1)));
    // Nothing is in it, but it is one array too many.
    let empty = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    assert!(is_canonical(&empty(MAX_DEPTH)));
    assert!(!is_canonical(&empty(MAX_DEPTH + 1)));
    assert!(!is_canonical(&nested(100_000)));
}

#[derive(Serialize)]
struct Ordered {
    a: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    b: Option<u64>,
    c: Option<u64>,
    d: Inner,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Inner {
    Unit,
    Data { value: i64 },
}

#[derive(Serialize)]
struct Unordered {
    b: u8,
    a: u8,
}

#[derive(Serialize)]
struct Flat {
    a: u8,
    #[serde(flatten)]
    rest: BTreeMap<String, f64>,
}

/// As serde_json writes a text that it does not look into.
#[derive(Serialize)]
#[serde(rename = "$serde_json::private::RawValue")]
struct Raw {
    #[serde(rename = "$serde_json::private::RawValue")]
    text: &'static str,
}

/// serde_json's features `raw_value` and `arbitrary_precision`, which any dependency can turn on, give these keys a meaning:
/// the string is parsed in place of the object, and the bound of nesting begins anew within it. Whoever may write a head
/// could then exhaust the stack, and with it end the operator.
#[test]
fn no_key_has_a_meaning_of_its_own() {
    for text in [r#"{"$serde_json::private::RawValue":"[1]"}"#, r#"[{"$serde_json::private::Number":"1"}]"#] {
        assert_eq!(to_string(&parse(text).expect(text)).as_deref(), Ok(text));
    }
}

#[test]
fn structs_are_serialized_in_declaration_order() {
    let value = Ordered { a: 1.0, b: None, c: None, d: Inner::Data { value: -7 } };
    assert_eq!(to_string(&value).as_deref(), Ok(r#"{"a":1.0,"c":null,"d":{"type":"data","value":-7}}"#));
    let value = Ordered { a: 1.0, b: Some(u64::MAX), c: Some(0), d: Inner::Unit };
    let text = r#"{"a":1.0,"b":18446744073709551615,"c":0,"d":{"type":"unit"}}"#;
    assert_eq!(to_string(&value).as_deref(), Ok(text));

    let rest = BTreeMap::from([("b".to_owned(), 0.5), ("c".to_owned(), 1e22)]);
    assert_eq!(to_string(&Flat { a: 1, rest }).as_deref(), Ok(r#"{"a":1,"b":0.5,"c":1e+22}"#));
}

#[test]
fn a_value_without_canonical_form_is_an_error_and_leaves_the_output_unchanged() {
    let key_order = |key: &str, after: &str| NotCanonical::KeyOrder { key: key.into(), after: after.into() };
    let mut out = b"before".to_vec();
    assert_eq!(write(&mut out, &Unordered { b: 1, a: 2 }), Err(key_order("a", "b")));
    let rest = BTreeMap::from([("a".to_owned(), 0.5)]);
    assert_eq!(write(&mut out, &Flat { a: 1, rest }), Err(key_order("a", "a")));
    assert_eq!(write(&mut out, &[1.0, f64::NAN]), Err(NotCanonical::NotFinite("NaN")));
    assert_eq!(write(&mut out, &f64::NEG_INFINITY), Err(NotCanonical::NotFinite("-Infinity")));
    assert_eq!(write(&mut out, &f32::INFINITY), Err(NotCanonical::NotFinite("Infinity")));
    assert_eq!(write(&mut out, &BTreeMap::from([(1, 2)])), Err(NotCanonical::KeyNotString));
    assert!(matches!(write(&mut out, &Raw { text: "{ }" }), Err(NotCanonical::Unsupported(_))));
    assert_eq!(out, b"before");
}

#[test]
fn scalars_are_reported_with_their_ranges() {
    let text = r#"{"a":[1,-2,3.5],"b":{"c":null,"d":true},"e":"x\n"}"#;
    let mut seen = Vec::new();
    scalars(text, |range, scalar| seen.push((&text[range], scalar))).expect("canonical");
    assert_eq!(
        seen,
        [
            ("1", Scalar::Unsigned(1)),
            ("-2", Scalar::Negative(-2)),
            ("3.5", Scalar::Float(3.5)),
            ("null", Scalar::Null),
            ("true", Scalar::Bool(true)),
            (r#""x\n""#, Scalar::String(r#""x\n""#)),
        ]
    );
}

/// Any JSON value that serde_json can represent.
pub(crate) fn any_value() -> impl Strategy<Value = Value> {
    let float = any::<u64>().prop_map(f64::from_bits).prop_filter("finite", |value| value.is_finite());
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        float.prop_map(Value::from),
        (-40..40i32, -9999..9999i32).prop_map(|(e, m)| json!(f64::from(m) * 10f64.powi(e))),
        any::<String>().prop_map(Value::from),
    ];
    scalar.prop_recursive(4, 48, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..8)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_value_round_trips(value in any_value()) {
        let text = to_string(&value).expect("finite");
        prop_assert!(text.bytes().all(|byte| (0x20..=0x7e).contains(&byte)), "{}", text);
        prop_assert_eq!(check(&text), Ok(()));
        prop_assert_eq!(to_string(&parse(&text).expect("canonical")).expect("finite"), text);
    }

    #[test]
    fn a_value_has_only_one_canonical_text(value in any_value(), at in any::<prop::sample::Index>(), byte in 0x20..0x7fu8) {
        let mut bytes = to_string(&value).expect("finite").into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let text = String::from_utf8(bytes).expect("ASCII");
        let same = serde_json::from_str::<Value>(&text).is_ok_and(|value| to_string(&value).as_deref() == Ok(&text));
        prop_assert_eq!(is_canonical(&text), same, "{}", text);
    }

    #[test]
    fn floats_are_written_like_in_python(bits in any::<u64>()) {
        let value = f64::from_bits(bits);
        prop_assume!(value.is_finite());
        let mut out = Vec::new();
        push_f64(&mut out, value);
        let text = String::from_utf8(out).expect("ASCII");
        prop_assert_eq!(text.parse::<f64>().expect("a float").to_bits(), bits);
        let size = value.abs();
        prop_assert_eq!(text.contains('e'), size != 0.0 && !(1e-4..1e16).contains(&size), "{}", text);
    }
}
