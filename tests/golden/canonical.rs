use sha3::{Digest, Sha3_256};
use venom::ledger::{canonical, hex};

use super::{json, list};

#[test]
fn canonical_texts_and_their_hashes() {
    for case in list(&json("canonical.json"), "cases") {
        let text = canonical::to_string(&case["value"]).unwrap_or_else(|error| panic!("{case}: {error}"));
        assert_eq!(text, case["text"].as_str().unwrap());
        assert_eq!(hex(&Sha3_256::digest(&text).into()), case["sha3"]);
        if let Some(bits) = case["bits"].as_str() {
            let bits = u64::from_str_radix(bits, 16).unwrap();
            let mut out = vec![];
            canonical::push_f64(&mut out, f64::from_bits(bits));
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }
}
