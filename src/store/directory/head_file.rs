//! The text of `head.json`.

use serde_json::Value;
use sha3::{Digest, Sha3_256};

use super::super::Head;
use super::FolderErrorKind;
use crate::ledger::{canonical, hex};

/// Version of the folder's layout.
const FORMAT: u64 = 1;

/// The text of `head`.
pub(super) fn text(head: &Head) -> Result<String, canonical::NotCanonical> {
    let mut value = canonical::to_value(head)?;
    value["format"] = FORMAT.into();
    value["sha3"] = sum(&value)?.into();
    canonical::to_string(&value)
}

/// The head that `bytes` are the text of. That they are as they were written is checked before anything in
/// them is believed, the format too.
pub(super) fn parse(bytes: &[u8]) -> Result<Head, FolderErrorKind> {
    let altered =
        |what: &dyn std::fmt::Display| FolderErrorKind::Altered(format!("not as it was written: {what}"));
    let text = std::str::from_utf8(bytes).map_err(|error| altered(&error))?;
    let mut value = canonical::parse(text).map_err(|error| altered(&error))?;
    let fields = value.as_object_mut().ok_or_else(|| altered(&"no object"))?;
    let stated = fields.remove("sha3");
    if stated != Some(Value::String(sum(&value).map_err(|error| altered(&error))?)) {
        return Err(altered(&"its SHA3-256 differs"));
    }
    let format = value.as_object_mut().and_then(|fields| fields.remove("format"));
    match format.as_ref().and_then(Value::as_u64) {
        Some(FORMAT) => {}
        Some(newer) if newer > FORMAT => return Err(FolderErrorKind::Newer(newer)),
        _ => return Err(altered(&"no format")),
    }
    serde_json::from_value(value).map_err(|error| altered(&error))
}

/// SHA3-256 over the canonical JSON of `value`, in hex.
fn sum(value: &Value) -> Result<String, canonical::NotCanonical> {
    Ok(hex(&Sha3_256::digest(canonical::to_string(value)?).into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_and_nothing_else() {
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
    fn a_newer_format_is_told_from_an_altered_one() {
        let mut value: Value = serde_json::from_str(&text(&Head::empty("", 1, 1, "")).unwrap()).unwrap();
        value.as_object_mut().unwrap().remove("sha3");
        value["format"] = 2.into();
        value["more"] = "of a later version".into();
        value["sha3"] = sum(&value).unwrap().into();
        let text = canonical::to_string(&value).unwrap();
        assert!(matches!(parse(text.as_bytes()), Err(FolderErrorKind::Newer(2))));
    }
}
