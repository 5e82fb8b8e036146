//! Ledger entries and the types of their data, as specified in `docs/ledger-format.md`.
//!
//! The data of an [`Entry`] is its canonical JSON text, because that text is what is hashed, stored and exported.
//! Parsing and serializing it again could change it: fields of later versions would be lost. [`Data`] is the
//! parsed form, for replay.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha3::{Digest, Sha3_256};

use super::{Hash, canonical, hex, parse_hash};
use crate::organism::beat::Evolved;
use crate::organism::cores::{Balance, Entropy, Flow, Flows, Optimize, Regen};
use crate::organism::decision::{Action, Details};
use crate::organism::input::{ConfigChange, Injection, Resume, Scale, Sense};
use crate::organism::pulse::Pulse;
use crate::organism::{Beat, Config, Genome, Input, State};

/// An entry of the hash chain.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Position in the ledger, from 0.
    pub index: u64,
    /// Seconds since 1970.
    pub timestamp: f64,
    /// Canonical JSON of an object with a `type`.
    pub data: Box<str>,
    /// Hash of the previous entry; all zeros at index 0.
    pub previous_hash: Hash,
    /// SHA3-256 of the canonical JSON of the other four fields.
    pub hash: Hash,
}

/// A line is not a valid entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// The line is not JSON or does not have the five fields of an entry.
    #[error("not an entry: {0}")]
    Malformed(String),
    /// The line is a valid entry, but not in canonical JSON.
    #[error("not in canonical form")]
    NotCanonical,
}

impl Entry {
    /// Computes the hash of an entry from its other fields. `scratch` is a reusable buffer.
    pub(super) fn hash_fields(
        scratch: &mut Vec<u8>,
        index: u64,
        timestamp: f64,
        data: &str,
        previous_hash: &Hash,
    ) -> Hash {
        scratch.clear();
        write_preimage(scratch, index, timestamp, data, previous_hash);
        Sha3_256::digest(scratch.as_slice()).into()
    }

    /// Computes the hash that belongs to the other fields. `scratch` is a reusable buffer.
    #[must_use]
    pub fn compute_hash(&self, scratch: &mut Vec<u8>) -> Hash {
        Self::hash_fields(scratch, self.index, self.timestamp, &self.data, &self.previous_hash)
    }

    /// Returns the entry as a line of an export: canonical JSON, without line break.
    #[must_use]
    pub fn to_line(&self) -> String {
        // Canonical key order: data, hash, index, previous_hash, timestamp.
        let mut line = Vec::with_capacity(self.data.len() + 220);
        line.extend_from_slice(b"{\"data\":");
        line.extend_from_slice(self.data.as_bytes());
        line.extend_from_slice(b",\"hash\":\"");
        line.extend_from_slice(hex(&self.hash).as_bytes());
        line.push(b'"');
        write_tail(&mut line, self.index, self.timestamp, &self.previous_hash);
        String::from_utf8_lossy(&line).into_owned()
    }

    /// Parses a line of an export, which must be canonical JSON. The hash is not verified.
    ///
    /// # Errors
    /// Returns [`EntryError`] if the line is not an entry in canonical JSON.
    pub fn from_line(line: &str) -> Result<Self, EntryError> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Line {
            data: serde_json::Map<String, Value>,
            hash: String,
            index: u64,
            previous_hash: String,
            timestamp: f64,
        }
        let malformed = |error: &dyn std::fmt::Display| EntryError::Malformed(error.to_string());
        let parsed: Line = serde_json::from_str(line).map_err(|error| malformed(&error))?;
        let hash = |text: &str| {
            let error = || malformed(&format!("'{text}' is not 64 lower-case hexadecimal digits"));
            parse_hash(text).ok_or_else(error)
        };
        let entry = Self {
            index: parsed.index,
            timestamp: parsed.timestamp,
            data: canonical::to_string(&parsed.data).map_err(|error| malformed(&error))?.into(),
            previous_hash: hash(&parsed.previous_hash)?,
            hash: hash(&parsed.hash)?,
        };
        if entry.to_line() != line {
            return Err(EntryError::NotCanonical);
        }
        // serde_json takes more nesting than canonical JSON has, which no segment could store.
        canonical::check(&entry.data).map_err(|error| malformed(&error))?;
        Ok(entry)
    }

    /// Parses the data.
    ///
    /// # Errors
    /// Returns an error if a known type lacks one of its fields or has one of another JSON type.
    pub fn data(&self) -> Result<Data, serde_json::Error> {
        serde_json::from_str(&self.data)
    }

    /// Returns the `type` of the data, or an empty string if it has none.
    #[must_use]
    pub fn kind(&self) -> String {
        #[derive(Deserialize)]
        struct Kind {
            r#type: String,
        }
        serde_json::from_str::<Kind>(&self.data).map_or_else(|_| String::new(), |it| it.r#type)
    }
}

/// Writes what is hashed: the canonical JSON of data, index, previous_hash and timestamp.
fn write_preimage(out: &mut Vec<u8>, index: u64, timestamp: f64, data: &str, previous_hash: &Hash) {
    out.extend_from_slice(b"{\"data\":");
    out.extend_from_slice(data.as_bytes());
    write_tail(out, index, timestamp, previous_hash);
}

/// Writes the fields that sort after `hash`.
fn write_tail(out: &mut Vec<u8>, index: u64, timestamp: f64, previous_hash: &Hash) {
    out.extend_from_slice(b",\"index\":");
    out.extend_from_slice(index.to_string().as_bytes());
    out.extend_from_slice(b",\"previous_hash\":\"");
    out.extend_from_slice(hex(previous_hash).as_bytes());
    out.extend_from_slice(b"\",\"timestamp\":");
    canonical::push_f64(out, timestamp);
    out.push(b'}');
}

/// The data of an entry, by `type`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Data {
    /// The first entry of a ledger.
    Genesis(Box<Genesis>),
    /// The spec changed.
    Config(Box<ConfigChange>),
    /// A client injected anomalies or model parameters.
    Injection(Injection),
    /// A sensor observed anomalies.
    Sense(Sense),
    /// The number of nodes P changed.
    Scale(Scale),
    /// Beating resumed after an interruption.
    Resume(Resume),
    /// The complete state after the last beat.
    Snapshot(Box<State>),
    /// The first entry of a beat.
    Pulse(PulseData),
    /// The result or failure of one core.
    FlowResult(FlowData),
    /// The decision of a beat.
    Action(Box<ActionData>),
    /// The last entry of a beat: weights and PID step.
    Evolution(Box<EvolutionData>),
    /// The response to a decision.
    Enforcement(Enforcement),
    /// A type that this version does not know. Readers ignore it.
    #[serde(other)]
    Unknown,
}

/// A genesis entry: the parameters at the start of a ledger.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Genesis {
    /// Pulse and PID parameters.
    pub config: Config,
    /// The previous ledger of the same name, which this one continues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continues: Option<Continues>,
    /// Weights, risk, model and thresholds.
    pub genome: Genome,
    /// Free text for human readers.
    pub message: String,
    /// Identity of the ledger; absent outside a cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// Version of the engine.
    pub version: String,
}

/// Identity of a ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Number of this ledger among those of the same name, from 1.
    pub generation: u64,
    /// Name of the Organism.
    pub name: String,
    /// Namespace of the Organism.
    pub namespace: String,
    /// UID of the Organism.
    pub uid: String,
}

/// The end of the ledger that a genesis continues.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Continues {
    /// Identity of that ledger.
    pub origin: Origin,
    /// Its Merkle root in hexadecimal digits.
    pub root: String,
    /// Its number of entries.
    pub size: u64,
}

/// A pulse entry.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct PulseData {
    /// Sums over the sensors.
    pub features: Features,
    /// The pulse, with the timestamp of the beat.
    pub pulse: Pulse,
}

/// Sums over the sensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Features {
    /// Sensed anomalies in the risk window.
    pub anoms: u64,
}

/// A flow_result entry.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct FlowData {
    /// Reason for the failure of the core; excludes `result`.
    #[serde(default)]
    pub failed: Option<String>,
    /// The core.
    pub flow: Flow,
    /// Result of the core.
    #[serde(default)]
    pub result: Option<Value>,
}

/// An action entry.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ActionData {
    /// The decision; in a held beat that of the previous beat.
    pub action: Action,
    /// The decision vector; an empty object in a held beat.
    pub details: Value,
    /// Whether the beat is held.
    #[serde(default)]
    pub held: bool,
}

/// An evolution entry.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct EvolutionData {
    /// Beat number, weights and PID step.
    #[serde(flatten)]
    pub evolved: Evolved,
    /// Whether the beat is held.
    #[serde(default)]
    pub held: bool,
}

/// An enforcement entry: the response to a decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enforcement {
    /// Whether the response was applied or undone.
    pub change: Change,
    /// Index of the action entry that it enforces.
    pub entry: u64,
    /// The response mode, `Enforce` or `Observe`.
    pub mode: String,
    /// Why nothing of `what` was done: `LimitReached`, `SelectorOverlap`, `HandsOff` or `Contested`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// The changes, one for each object; with `Observe` those that would have been made.
    pub what: Vec<String>,
}

/// Direction of an enforcement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// The response was applied.
    Apply,
    /// The response was undone.
    Release,
}

/// An append to the ledger: one entry, or the seven entries of a beat.
///
/// A pending beat is kept in its derived form, which is a tenth of the size of its text. The text is generated
/// when the beat is hashed and again when it is committed.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// The seven entries of a beat.
    Beat(Box<Beat>),
    /// Any other entry: timestamp and canonical text.
    Other(f64, Box<str>),
}

impl Record {
    /// Number of entries.
    #[must_use]
    pub fn entries(&self) -> u64 {
        match self {
            Self::Beat(_) => 7,
            Self::Other(..) => 1,
        }
    }

    /// Calls `each` with the timestamp and the canonical text of each entry, in order. `scratch` is a reusable
    /// buffer.
    ///
    /// # Errors
    /// Returns [`canonical::NotCanonical`] if a number is not finite. `each` may have been called before.
    pub fn write(
        &self,
        scratch: &mut Vec<u8>,
        each: &mut dyn FnMut(f64, &str),
    ) -> Result<(), canonical::NotCanonical> {
        match self {
            Self::Other(timestamp, text) => each(*timestamp, text),
            Self::Beat(beat) => {
                let mut out = EntryWriter { scratch, timestamp: beat.pulse.timestamp, each };
                out.write(&PulseEntry {
                    features: Features { anoms: beat.features_anoms },
                    pulse: &beat.pulse,
                    r#type: "pulse",
                })?;
                let Flows { regen, balance, entropy, optimize } = &beat.flows;
                out.write(&FlowEntry::<Regen>::new(Flow::R, regen))?;
                out.write(&FlowEntry::<Balance>::new(Flow::B, balance))?;
                out.write(&FlowEntry::<Entropy>::new(Flow::E, entropy))?;
                out.write(&FlowEntry::<Optimize>::new(Flow::O, optimize))?;
                let held = beat.held();
                out.write(&ActionEntry {
                    action: beat.action,
                    details: DetailsOrEmpty(beat.details.as_ref()),
                    held,
                    r#type: "action",
                })?;
                let Evolved { beat: number, pid, weights } = &beat.evolved;
                out.write(&EvolutionEntry {
                    beat: *number,
                    held,
                    pid: pid.as_ref(),
                    r#type: "evolution",
                    weights,
                })?;
            }
        }
        Ok(())
    }

    /// Creates the entry of an input.
    ///
    /// # Errors
    /// Returns [`canonical::NotCanonical`] if a number is not finite.
    pub fn input(timestamp: f64, input: &Input) -> Result<Self, canonical::NotCanonical> {
        Self::other(timestamp, None, input)
    }

    /// Creates a snapshot entry.
    ///
    /// # Errors
    /// Returns [`canonical::NotCanonical`] if a number is not finite.
    pub fn snapshot(timestamp: f64, state: &State) -> Result<Self, canonical::NotCanonical> {
        Self::other(timestamp, Some("snapshot"), state)
    }

    /// Creates a genesis entry.
    ///
    /// # Errors
    /// Returns [`canonical::NotCanonical`] if a number is not finite.
    pub fn genesis(timestamp: f64, genesis: &Genesis) -> Result<Self, canonical::NotCanonical> {
        Self::other(timestamp, Some("genesis"), genesis)
    }

    /// Creates an enforcement entry.
    ///
    /// # Errors
    /// Never returns an error in practice: an enforcement contains no floats.
    pub fn enforcement(timestamp: f64, enforcement: &Enforcement) -> Result<Self, canonical::NotCanonical> {
        Self::other(timestamp, Some("enforcement"), enforcement)
    }

    /// Creates an entry from any serializable data; adds the field `type` if `kind` is given.
    ///
    /// # Errors
    /// Returns [`canonical::NotCanonical`] if a number is not finite.
    pub fn other<T: Serialize>(
        timestamp: f64,
        kind: Option<&str>,
        data: &T,
    ) -> Result<Self, canonical::NotCanonical> {
        let mut value = canonical::to_value(data)?;
        if let (Value::Object(fields), Some(kind)) = (&mut value, kind) {
            fields.insert("type".into(), kind.into());
        }
        Ok(Self::Other(timestamp, canonical::to_string(&value)?.into()))
    }
}

/// Serializes the entries of a beat, which share one timestamp.
struct EntryWriter<'a> {
    scratch: &'a mut Vec<u8>,
    timestamp: f64,
    each: &'a mut dyn FnMut(f64, &str),
}

impl EntryWriter<'_> {
    fn write<T: Serialize>(&mut self, data: &T) -> Result<(), canonical::NotCanonical> {
        self.scratch.clear();
        canonical::write(self.scratch, data)?;
        // Canonical JSON is ASCII.
        (self.each)(self.timestamp, std::str::from_utf8(self.scratch).unwrap_or_default());
        Ok(())
    }
}

#[derive(Serialize)]
struct PulseEntry<'a> {
    features: Features,
    pulse: &'a Pulse,
    r#type: &'static str,
}

#[derive(Serialize)]
struct FlowEntry<'a, T> {
    #[serde(skip_serializing_if = "Option::is_none")]
    failed: Option<&'a str>,
    flow: Flow,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a T>,
    r#type: &'static str,
}

impl<'a, T> FlowEntry<'a, T> {
    fn new(flow: Flow, result: &'a Result<T, crate::organism::cores::Failure>) -> Self {
        Self {
            failed: result.as_ref().err().map(|it| &**it),
            flow,
            result: result.as_ref().ok(),
            r#type: "flow_result",
        }
    }
}

#[derive(Serialize)]
struct ActionEntry<'a> {
    action: Action,
    details: DetailsOrEmpty<'a>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    held: bool,
    r#type: &'static str,
}

/// Serializes as the decision vector, or as `{}` in a held beat.
struct DetailsOrEmpty<'a>(Option<&'a Details>);

impl Serialize for DetailsOrEmpty<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Some(details) => details.serialize(serializer),
            None => serde::ser::SerializeMap::end(serializer.serialize_map(Some(0))?),
        }
    }
}

#[derive(Serialize)]
struct EvolutionEntry<'a> {
    beat: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    held: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<&'a crate::organism::pid::PidStep>,
    r#type: &'static str,
    weights: &'a crate::organism::genome::Weights,
}
