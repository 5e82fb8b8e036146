use venom::organism::pulse::{PulseError, t_lambda};

use super::{float, json, list};

#[test]
fn t_lambda_returns_the_value_or_the_error() {
    for case in list(&json("tlambda.json"), "cases") {
        // k and P are unsigned here. Negative ones in vectors stand for any value below 1.
        let natural = |key: &str| case[key].as_i64().unwrap().max(0) as u64;
        let got = t_lambda(natural("k"), natural("p"), float(&case["t1"]), float(&case["u"]));
        match case.get("error").and_then(|error| error.as_str()) {
            None => {
                let want = float(&case["t_lambda"]);
                let got = got.unwrap_or_else(|error| panic!("{case}: {error}"));
                assert!((got - want).abs() <= 1e-12 * want.abs(), "{case}: got {got:e}");
            }
            Some("stability") => assert_eq!(got, Err(PulseError::Stability), "{case}"),
            Some("domain") => assert!(matches!(got, Err(PulseError::Domain(_))), "{case}: {got:?}"),
            Some(other) => panic!("unknown error {other}"),
        }
    }
}
