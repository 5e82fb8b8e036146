//! Parsing of a stored head, and how a later version's is told from a damaged one.

use serde_json::Value;

use super::{Head, LARGEST_COUNTER, LONGEST_TEXT, MOST_LISTED};
use crate::ledger::sealed::ReplayStart;

/// Version of the fields of [`Head`]. A later version of the program raises it when an older one must not write the head
/// any more. A head without `format` has version 1.
const FORMAT: u64 = 1;

/// Unknown fields after which a text is no head of a later version: each takes another attempt at parsing it.
const MOST_UNKNOWN: usize = 16;

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
        let (mut newer, mut unknown_fields) = (None, 0);
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
                Ok(head) => {
                    check(&head).map_err(|what| HeadError::Invalid(what.to_owned()))?;
                    return newer.map_or(Ok(head), |field| Err(HeadError::Newer(field)));
                }
                // All that this version knows has to be there besides: a misspelt field is damage.
                Err(error) => {
                    let fields = value.as_object_mut();
                    let unknown = fields.zip(unknown_field(&error.to_string()));
                    let removed = unknown.and_then(|(fields, name)| fields.remove_entry(&name));
                    let (name, _) = removed.ok_or_else(|| HeadError::Invalid(error.to_string()))?;
                    newer.get_or_insert(format!("field {name} is unknown"));
                    unknown_fields += 1;
                    if unknown_fields > MOST_UNKNOWN {
                        return Err(HeadError::Invalid("most of its fields are unknown".into()));
                    }
                }
            }
        }
    }
}

/// Checks what the numbers of a head say about each other, so that nobody else has to.
fn check(head: &Head) -> Result<(), &'static str> {
    let is = |holds: bool, what: &'static str| if holds { Ok(()) } else { Err(what) };
    is(head.segments.len() <= MOST_LISTED, "it lists more segments than a ledger can have")?;
    is(head.peaks.len() == head.size.count_ones() as usize, "its peaks do not fit its size")?;
    is(head.injected_total <= head.size, "it counts more injections than entries")?;
    is(head.generation > 0, "generations count from 1")?;
    let enforcement = head.enforcement.iter().flat_map(|it| std::iter::once(&it.mode).chain(&it.refused));
    let texts = [&head.holder, &head.uid].into_iter().chain(head.segments.iter().map(|it| &it.object));
    let texts = texts.chain(enforcement);
    is(texts.map(String::len).all(|bytes| bytes <= LONGEST_TEXT), "one of its texts is too long")?;
    is(
        head.forged.as_ref().is_none_or(|it| it.found.len() <= LONGEST_TEXT * 2),
        "one of its texts is too long",
    )?;
    let mut next = head.floor;
    for segment in &head.segments {
        is(segment.first == next && segment.count > 0, "its segments do not follow on each other")?;
        next = segment.end();
        let within = |start: &ReplayStart| (segment.first..next).contains(&start.index);
        is(segment.start.as_ref().is_none_or(within), "a replay would start outside its segment")?;
    }
    is(next == head.size, "its segments do not end at its size")?;
    let last = |input: Option<(u64, f64)>| input.is_none_or(|(entry, _)| entry < head.size);
    is(last(head.last_injection), "its last injection is after its end")?;
    is(last(head.last_sense), "its last observation is after its end")?;
    let enforced = head.enforcement.as_ref().is_none_or(|it| it.entry < head.size);
    is(enforced, "its last enforcement refers to an entry after its end")?;
    let ranges = head.lost_tail.is_none_or(|(from, to)| from <= to && to <= LARGEST_COUNTER);
    is(ranges, "its lost entries are no range")
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
    use crate::ledger::sealed::HexHash;

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
    fn what_a_head_remembers_lies_within_its_ledger() {
        let with = |size: u64, entry: u64, mode: &str| {
            parsed(|it| {
                it["size"] = size.into();
                it["peaks"] = json!([HexHash::default()]);
                it["segments"] = json!([[0, size, 1, "", 1, 0, null]]);
                it["enforcement"] =
                    json!({"action": "QUARANTINE", "change": "apply", "entry": entry, "mode": mode});
                it["lastSense"] = json!([entry, 1.0]);
            })
        };
        assert!(with(8, 7, "Enforce").is_ok(), "{:?}", with(8, 7, "Enforce"));
        assert!(matches!(with(8, 8, "Enforce"), Err(HeadError::Invalid(_))));
        assert!(matches!(with(8, 7, &"x".repeat(LONGEST_TEXT + 1)), Err(HeadError::Invalid(_))));
        let sense = parsed(|it| it["lastSense"] = json!([0, 1.0]));
        assert!(matches!(sense, Err(HeadError::Invalid(_))), "{sense:?}");
        let enforcement = json!({"action": "QUARANTINE", "change": "apply", "entry": 0, "mode": "Enforce"});
        let enforcement = parsed(|it| it["enforcement"] = enforcement);
        assert!(matches!(enforcement, Err(HeadError::Invalid(_))), "{enforcement:?}");
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
