use axum::http::HeaderValue;
use proptest::prelude::*;

use super::*;

/// The token in a header `Authorization` with these bytes.
fn token(header: &[u8]) -> Option<String> {
    let value = HeaderValue::from_bytes(header).ok()?;
    bearer_token(&HeaderMap::from_iter([(AUTHORIZATION, value)])).map(str::to_owned)
}

#[test]
fn a_token_needs_its_scheme() {
    for header in
        ["", "Bearer", "Bearer ", "Bearer  \t", "abc", "Basic abc", " Bearer abc", "Bearer\tabc", "Bearerabc"]
    {
        assert_eq!(token(header.as_bytes()), None, "{header}");
    }
    assert_eq!(bearer_token(&HeaderMap::new()), None);
}

proptest! {
    #[test]
    fn a_token_is_what_follows_the_scheme(token_of in "[!-~]{1,40}", scheme in "[bB][eE][aA][rR][eE][rR]", spaces in " {1,3}") {
        let header = format!("{scheme}{spaces}{token_of}{spaces}");
        prop_assert_eq!(token(header.as_bytes()), Some(token_of));
    }

    #[test]
    fn a_token_is_printable_and_trimmed(scheme in "(Bearer )?", rest in prop::collection::vec(any::<u8>(), 0..40)) {
        if let Some(found) = token(&[scheme.as_bytes(), &rest].concat()) {
            prop_assert!(!found.is_empty() && found == found.trim());
            prop_assert!(found.bytes().all(|byte| matches!(byte, b'\t' | b' '..=b'~')), "{:?}", found);
        }
    }
}
