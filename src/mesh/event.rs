//! Injections as events: their id, their payload and their outcome.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

use super::spiffe::Identity;

/// Maximum number of anomalies of one injection.
pub const MAX_ANOMS: u64 = 1_000_000;

/// An injection's id, chosen by the client: 1 to 64 ASCII letters, digits and `-`.
///
/// It is the idempotency key: a retry keeps it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct InjectionId(Arc<str>);

/// The text is not a valid [`InjectionId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("id must be 1 to 64 letters, digits and -; use a UUID")]
pub struct InvalidInjectionId;

impl InjectionId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// When the id was created, since the Unix epoch. Known for a version 7 UUID only.
    #[must_use]
    pub fn created_at(&self) -> Option<Duration> {
        let uuid = uuid::Uuid::try_parse(&self.0).ok()?;
        let (seconds, nanos) = uuid.get_timestamp().filter(|_| uuid.get_version_num() == 7)?.to_unix();
        Some(Duration::new(seconds, nanos))
    }
}

impl fmt::Display for InjectionId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl FromStr for InjectionId {
    type Err = InvalidInjectionId;

    fn from_str(text: &str) -> Result<Self, InvalidInjectionId> {
        let valid = (1..=64).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if valid { Ok(Self(text.into())) } else { Err(InvalidInjectionId) }
    }
}

impl<'de> Deserialize<'de> for InjectionId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The change that an injection makes: anomalies, a model weight, or both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InjectionPayload {
    /// Anomalies to add to the risk window, at most [`MAX_ANOMS`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anoms: Option<u64>,
    /// The model's weight from the next beat on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ml_weight: Option<f64>,
}

/// The range of model weights that may be injected, both ends included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Injectable {
    /// Smallest weight.
    pub min: f64,
    /// Largest weight.
    pub max: f64,
}

impl Default for Injectable {
    fn default() -> Self {
        Self { min: 0.01, max: 1.0 }
    }
}

impl InjectionPayload {
    /// Checks that the payload injects something and is within its bounds.
    ///
    /// # Errors
    /// A message for the client: what is wrong and how to correct it.
    pub fn validate(&self, injectable: Injectable) -> Result<(), String> {
        if self.anoms.is_none() && self.ml_weight.is_none() {
            return Err("nothing to inject; give anoms, mlWeight or both".into());
        }
        if self.anoms.is_some_and(|anoms| anoms > MAX_ANOMS) {
            return Err(format!("anoms must be 0 to {MAX_ANOMS}; use a whole number in that range"));
        }
        let Injectable { min, max } = injectable;
        match self.ml_weight {
            Some(weight) if !(min..=max).contains(&weight) => {
                Err(format!("mlWeight must be {min} to {max}; use a weight in that range"))
            }
            _ => Ok(()),
        }
    }
}

/// An injection on its way to the ledger.
#[derive(Clone, Debug, PartialEq)]
pub struct InjectionEvent {
    /// The client's id.
    pub id: InjectionId,
    /// The peer that accepted the injection from a client. Authenticated if that peer itself sent the event;
    /// otherwise only as trustworthy as the peer that forwarded it.
    pub origin: Identity,
    /// Number of the injection at its origin, from 1 since the origin's process started.
    pub seq: u64,
    /// What to inject.
    pub payload: InjectionPayload,
}

/// The final result of an injection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// The injection is durably in the ledger.
    Committed {
        /// Index of its ledger entry.
        entry: u64,
    },
    /// The injection is not in the ledger and never will be.
    Refused {
        /// A message for the client: what is wrong and how to correct it.
        reason: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_short_ascii_names() {
        for text in ["a", "0198f3c2-0000-7000-8000-000000000000", &"x".repeat(64)] {
            assert!(text.parse::<InjectionId>().is_ok(), "{text}");
        }
        for text in ["", "a b", "a/b", "é", "a_b", &"x".repeat(65)] {
            assert!(text.parse::<InjectionId>().is_err(), "{text}");
        }
    }

    #[test]
    fn only_a_version_7_uuid_has_a_creation_time() {
        let created_at = |text: &str| text.parse::<InjectionId>().unwrap().created_at();
        assert_eq!(
            created_at("01890a5d-ac96-774b-bcce-b302099a8057"),
            Some(Duration::from_millis(1_688_096_058_518))
        );
        assert_eq!(created_at("550e8400-e29b-41d4-a716-446655440000"), None);
        assert_eq!(created_at("mine-1"), None);
    }

    #[test]
    fn payloads_out_of_bounds_are_rejected() {
        let error =
            |anoms, ml_weight| InjectionPayload { anoms, ml_weight }.validate(Injectable::default()).err();
        assert_eq!(error(Some(MAX_ANOMS), Some(0.01)), None);
        assert_eq!(error(Some(0), None), None);
        assert!(error(None, None).unwrap().contains("give anoms"));
        assert!(error(Some(MAX_ANOMS + 1), None).unwrap().contains("0 to 1000000"));
        for weight in [0.0099, 1.1, f64::NAN, f64::INFINITY] {
            assert!(error(None, Some(weight)).unwrap().contains("0.01 to 1"), "{weight}");
        }
    }
}
