//! Injections as events: what a client asks for, and what became of it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

use super::name::Identity;

/// Most anomalies of one injection.
pub const MAX_ANOMS: u64 = 1_000_000;

/// An injection's id, chosen by the client: 1 to 64 letters, digits and `-`. A retry keeps it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct InjectionId(String);

/// Why a text is no [`InjectionId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an id is 1 to 64 letters, digits and -; make a UUID")]
pub struct InvalidInjectionId;

impl InjectionId {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// When the id was made, since 1970, where it says so: a UUID of version 7 does.
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
        let right = (1..=64).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if right { Ok(Self(text.to_owned())) } else { Err(InvalidInjectionId) }
    }
}

impl<'de> Deserialize<'de> for InjectionId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What is injected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InjectionPayload {
    /// Anomalies, to count for the risk window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anoms: Option<u64>,
    /// Weight of the model, from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ml_weight: Option<f64>,
}

/// The weights that may be injected, both ends included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Injectable {
    /// Least.
    pub min: f64,
    /// Most.
    pub max: f64,
}

impl Default for Injectable {
    fn default() -> Self {
        Self { min: 0.01, max: 1.0 }
    }
}

impl InjectionPayload {
    /// Whether it may be injected.
    ///
    /// # Errors
    /// Says what is wrong, and what to write.
    pub fn validate(&self, injectable: Injectable) -> Result<(), String> {
        if self.anoms.is_none() && self.ml_weight.is_none() {
            return Err("injects nothing; give anoms, mlWeight or both".into());
        }
        if self.anoms.is_some_and(|anoms| anoms > MAX_ANOMS) {
            return Err(format!("anoms must be 0 to {MAX_ANOMS}; write a whole number in that range"));
        }
        let Injectable { min, max } = injectable;
        match self.ml_weight {
            Some(weight) if !(min..=max).contains(&weight) => {
                Err(format!("mlWeight must be {min} to {max}, which is what may be injected here"))
            }
            _ => Ok(()),
        }
    }
}

/// An injection on its way to the ledger.
#[derive(Clone, Debug, PartialEq)]
pub struct InjectionEvent {
    /// The client's own id.
    pub id: InjectionId,
    /// The peer that took it in. Proven where that peer itself sent it; else the word of the peer that
    /// passed it on.
    pub origin: Identity,
    /// Counts what its origin has taken in since it started, from 1.
    pub seq: u64,
    /// What is injected.
    pub payload: InjectionPayload,
}

/// What became of an injection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// It is in the ledger for good, as this entry.
    Committed {
        /// The index of the entry.
        entry: u64,
    },
    /// It is not in the ledger and never will be.
    Refused {
        /// Why, and what to do.
        reason: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_short_and_plain() {
        for text in ["a", "0198f3c2-0000-7000-8000-000000000000", &"x".repeat(64)] {
            assert!(text.parse::<InjectionId>().is_ok(), "{text}");
        }
        for text in ["", "a b", "a/b", "é", "a_b", &"x".repeat(65)] {
            assert!(text.parse::<InjectionId>().is_err(), "{text}");
        }
    }

    #[test]
    fn only_version_7_says_when_it_was_made() {
        let made = |text: &str| text.parse::<InjectionId>().unwrap().created_at();
        assert_eq!(
            made("01890a5d-ac96-774b-bcce-b302099a8057"),
            Some(Duration::from_millis(1_688_096_058_518))
        );
        assert_eq!(made("550e8400-e29b-41d4-a716-446655440000"), None);
        assert_eq!(made("mine-1"), None);
    }

    #[test]
    fn a_dose_is_within_its_bounds() {
        let told =
            |anoms, ml_weight| InjectionPayload { anoms, ml_weight }.validate(Injectable::default()).err();
        assert_eq!(told(Some(MAX_ANOMS), Some(0.01)), None);
        assert_eq!(told(Some(0), None), None);
        assert!(told(None, None).unwrap().contains("give anoms"));
        assert!(told(Some(MAX_ANOMS + 1), None).unwrap().contains("0 to 1000000"));
        for weight in [0.0099, 1.1, f64::NAN, f64::INFINITY] {
            assert!(told(None, Some(weight)).unwrap().contains("0.01 to 1"), "{weight}");
        }
    }
}
