//! Parsing of a stored head, and how a later version's is told from a damaged one.

use serde_json::Value;

use super::Head;

/// Version of the fields of [`Head`]. A later version of the program raises it when an older one must not write the head
/// any more. A head without `format` has version 1.
const FORMAT: u64 = 1;

/// Why a stored head cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// A later version wrote it. To write it back would drop what that version has added.
    #[error("written by a newer version of venom ({0}); upgrade this one")]
    Newer(String),
    /// It is damaged.
    #[error("{0}")]
    Invalid(String),
}

impl Head {
    /// Parses the JSON of a head.
    ///
    /// # Errors
    /// [`HeadError`].
    pub fn parse(text: &str) -> Result<Self, HeadError> {
        Self::from_json(serde_json::from_str(text).map_err(|error| HeadError::Invalid(error.to_string()))?)
    }

    /// As [`Self::parse`].
    ///
    /// # Errors
    /// [`HeadError`].
    pub fn from_json(mut value: Value) -> Result<Self, HeadError> {
        let mut newer = None;
        if let Some(format) = value.as_object_mut().and_then(|fields| fields.remove("format")) {
            match format.as_u64() {
                Some(FORMAT) => {}
                Some(format) if format > FORMAT => {
                    return Err(HeadError::Newer(format!("format {format}, known is {FORMAT}")));
                }
                _ => return Err(HeadError::Invalid(format!("format {format} is not a version"))),
            }
        }
        loop {
            match serde_json::from_value(value.clone()) {
                Ok(head) => return newer.map_or(Ok(head), |field| Err(HeadError::Newer(field))),
                // All that this version knows has to be there besides: a misspelt field is damage.
                Err(error) => {
                    let fields = value.as_object_mut();
                    let unknown = fields.zip(unknown_field(&error.to_string()));
                    let removed = unknown.and_then(|(fields, name)| fields.remove_entry(&name));
                    let (name, _) = removed.ok_or_else(|| HeadError::Invalid(error.to_string()))?;
                    newer.get_or_insert(format!("field {name} is unknown"));
                }
            }
        }
    }
}

/// The name in serde's error for a field that a struct does not have.
fn unknown_field(error: &str) -> Option<String> {
    let (name, _) = error.strip_prefix("unknown field `")?.split_once('`')?;
    Some(name.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn json() -> Value {
        serde_json::to_value(Head::empty("u", 2, 3, "alpha")).unwrap()
    }

    fn parsed(change: impl FnOnce(&mut Value)) -> Result<Head, HeadError> {
        let mut value = json();
        change(&mut value);
        Head::parse(&value.to_string())
    }

    #[test]
    fn heads_of_this_version_are_parsed() {
        let head = Head::empty("u", 2, 3, "alpha");
        assert_eq!(parsed(|_| {}), Ok(head.clone()));
        assert_eq!(parsed(|it| it["format"] = 1.into()), Ok(head));
    }

    #[test]
    fn heads_of_a_newer_version_are_told_from_damaged_ones() {
        for (at, value, told) in [
            ("format", json!(2), "format 2, known is 1"),
            ("sealedBy", json!("x"), "field sealedBy is unknown"),
            ("another", json!({"a": [1]}), "field another is unknown"),
        ] {
            let error = parsed(|it| it[at] = value).unwrap_err();
            assert_eq!(error, HeadError::Newer(told.into()));
        }
        // A newer format may have other types for fields that are known here.
        let both = parsed(|it| {
            it["format"] = 7.into();
            it["segments"] = json!({});
        });
        assert!(matches!(both, Err(HeadError::Newer(_))), "{both:?}");

        for damaged in [
            parsed(|it| {
                let size = it.as_object_mut().unwrap().remove("size").unwrap();
                it["sizee"] = size;
            }),
            parsed(|it| it["size"] = "many".into()),
            parsed(|it| it["format"] = "1".into()),
            parsed(|it| it["format"] = 0.into()),
            parsed(|it| *it = json!([])),
            Head::parse(&json().to_string()[..40]),
            Head::parse(""),
        ] {
            assert!(matches!(damaged, Err(HeadError::Invalid(_))), "{damaged:?}");
        }
    }
}
