//! Serialization of `head.json`.

use serde_json::Value;
use sha3::{Digest, Sha3_256};

use super::super::{Head, HeadError};
use super::FolderErrorKind;
use crate::ledger::{canonical, hex};

/// Version of the folder's layout. A reader rejects a higher one.
const FORMAT: u64 = 1;

/// Serializes `head` to the content of `head.json`.
pub(super) fn text(head: &Head) -> Result<String, canonical::NotCanonical> {
    let mut value = canonical::to_value(head)?;
    value["format"] = FORMAT.into();
    value["sha3"] = checksum_of(&value)?.into();
    canonical::to_string(&value)
}

/// Parses the content of `head.json`. The checksum is verified before any other field, `format` included, is used.
pub(super) fn parse(bytes: &[u8]) -> Result<Head, FolderErrorKind> {
    let altered = |what: &dyn std::fmt::Display| FolderErrorKind::Altered(format!("altered: {what}"));
    let text = std::str::from_utf8(bytes).map_err(|error| altered(&error))?;
    let mut value = canonical::parse(text).map_err(|error| altered(&error))?;
    let fields = value.as_object_mut().ok_or_else(|| altered(&"not a JSON object"))?;
    let checksum = fields.remove("sha3");
    if checksum != Some(Value::String(checksum_of(&value).map_err(|error| altered(&error))?)) {
        return Err(altered(&"its SHA3-256 does not match"));
    }
    let format = value.as_object_mut().and_then(|fields| fields.remove("format"));
    match format.as_ref().and_then(Value::as_u64) {
        Some(FORMAT) => {}
        Some(newer) if newer > FORMAT => {
            let error = HeadError::Newer(format!("format {newer}, known is {FORMAT}"));
            return Err(FolderErrorKind::Newer(error));
        }
        _ => return Err(altered(&"no valid format")),
    }
    Head::from_json(value).map_err(|error| match error {
        HeadError::Newer(_) => FolderErrorKind::Newer(error),
        HeadError::Invalid(what) => altered(&what),
    })
}

/// SHA3-256 of the canonical JSON of `value`, in hexadecimal.
fn checksum_of(value: &Value) -> Result<String, canonical::NotCanonical> {
    Ok(hex(&Sha3_256::digest(canonical::to_string(value)?).into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_its_own_output_and_detects_every_flipped_bit() {
        let head = Head::empty("", 1, 1, "");
        let text = text(&head).unwrap();
        assert_eq!(parse(text.as_bytes()).unwrap(), head);
        for at in 0..text.len() {
            for bit in 0..8 {
                let mut bytes = text.clone().into_bytes();
                bytes[at] ^= 1 << bit;
                assert!(matches!(parse(&bytes), Err(FolderErrorKind::Altered(_))), "byte {at}, bit {bit}");
            }
            assert!(parse(&text.as_bytes()[..at]).is_err());
        }
        assert!(parse(format!("{text}\n").as_bytes()).is_err());
    }

    #[test]
    fn a_newer_format_is_distinguished_from_an_altered_file() {
        for (field, newer) in [("format", Value::from(2)), ("more", "of a later version".into())] {
            let mut value: Value = serde_json::from_str(&text(&Head::empty("", 1, 1, "")).unwrap()).unwrap();
            value.as_object_mut().unwrap().remove("sha3");
            value[field] = newer;
            value["sha3"] = checksum_of(&value).unwrap().into();
            let text = canonical::to_string(&value).unwrap();
            assert!(matches!(parse(text.as_bytes()), Err(FolderErrorKind::Newer(_))), "{field}");
        }
    }
}
