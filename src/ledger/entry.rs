//! An entry of the ledger and the kinds of its data (ledger-format page).
//!
//! At rest an entry's data is its canonical JSON text: that is what is hashed, stored and exported, so no
//! reader's idea of a kind can change it. [`Data`] is that text understood, for replay.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha3::{Digest, Sha3_256};

use super::{Hash, canonical, hex, unhex};
use crate::organism::beat::Evolved;
use crate::organism::cores::{Balance, Entropy, Flow, Flows, Optimize, Regen};
use crate::organism::decision::{Action, Details};
use crate::organism::input::{ConfigChange, Injection, Resume, Scale, Sense};
use crate::organism::pulse::Pulse;
use crate::organism::{Beat, Config, Genome, Input, State};

/// One link of the chain.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Place in the ledger, from 0.
    pub index: u64,
    /// Seconds since 1970.
    pub timestamp: f64,
    /// Canonical JSON of an object with a `type`.
    pub data: Box<str>,
    /// Hash of the entry before; zeros at index 0.
    pub previous_hash: Hash,
    /// SHA3-256 of the canonical JSON of the other four.
    pub hash: Hash,
}

/// Why a line is no entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// Not JSON, or not an entry's five fields.
    #[error("not an entry: {0}")]
    Shape(String),
    /// Well-formed, but written differently than canonical JSON writes it.
    #[error("not in canonical form")]
    NotCanonical,
}

impl Entry {
    /// Makes the entry that follows `previous_hash` at `index`. `scratch` is a buffer to hash from.
    pub(super) fn link(
        scratch: &mut Vec<u8>,
        index: u64,
        timestamp: f64,
        data: &str,
        previous_hash: &Hash,
    ) -> Hash {
        scratch.clear();
        preimage(scratch, index, timestamp, data, previous_hash);
        Sha3_256::digest(scratch.as_slice()).into()
    }

    /// The hash this entry should have.
    #[must_use]
    pub fn compute_hash(&self, scratch: &mut Vec<u8>) -> Hash {
        Self::link(scratch, self.index, self.timestamp, &self.data, &self.previous_hash)
    }

    /// The line that an export holds for this entry: canonical JSON, no line break.
    #[must_use]
    pub fn to_line(&self) -> String {
        // Keys sort as data, hash, index, previous_hash, timestamp.
        let mut line = Vec::with_capacity(self.data.len() + 220);
        line.extend_from_slice(b"{\"data\":");
        line.extend_from_slice(self.data.as_bytes());
        line.extend_from_slice(b",\"hash\":\"");
        line.extend_from_slice(hex(&self.hash).as_bytes());
        line.push(b'"');
        tail(&mut line, self.index, self.timestamp, &self.previous_hash);
        String::from_utf8_lossy(&line).into_owned()
    }

    /// Reads one line of an export. The line has to be canonical: a ledger has one text.
    ///
    /// # Errors
    /// [`EntryError`]; nothing is checked against the chain here.
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
        let shape = |error: &dyn std::fmt::Display| EntryError::Shape(error.to_string());
        let read: Line = serde_json::from_str(line).map_err(|error| shape(&error))?;
        let digest = |text: &str| unhex(text).ok_or_else(|| shape(&format!("'{text}' is no hash")));
        let entry = Self {
            index: read.index,
            timestamp: read.timestamp,
            data: canonical::to_string(&read.data).map_err(|error| shape(&error))?.into(),
            previous_hash: digest(&read.previous_hash)?,
            hash: digest(&read.hash)?,
        };
        if entry.to_line() == line { Ok(entry) } else { Err(EntryError::NotCanonical) }
    }

    /// The data, understood.
    ///
    /// # Errors
    /// When a kind that this version knows does not have its fields.
    pub fn data(&self) -> Result<Data, serde_json::Error> {
        serde_json::from_str(&self.data)
    }

    /// The `type` of the data.
    #[must_use]
    pub fn kind(&self) -> String {
        #[derive(Deserialize)]
        struct Kind {
            r#type: String,
        }
        serde_json::from_str::<Kind>(&self.data).map_or_else(|_| String::new(), |it| it.r#type)
    }
}

/// What is hashed: the canonical JSON of data, index, previous_hash and timestamp.
fn preimage(out: &mut Vec<u8>, index: u64, timestamp: f64, data: &str, previous_hash: &Hash) {
    out.extend_from_slice(b"{\"data\":");
    out.extend_from_slice(data.as_bytes());
    tail(out, index, timestamp, previous_hash);
}

fn tail(out: &mut Vec<u8>, index: u64, timestamp: f64, previous_hash: &Hash) {
    out.extend_from_slice(b",\"index\":");
    out.extend_from_slice(index.to_string().as_bytes());
    out.extend_from_slice(b",\"previous_hash\":\"");
    out.extend_from_slice(hex(previous_hash).as_bytes());
    out.extend_from_slice(b"\",\"timestamp\":");
    canonical::push_f64(out, timestamp);
    out.push(b'}');
}

/// The kinds of data that this version knows.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Data {
    /// Index 0.
    Genesis(Box<Genesis>),
    /// A changed spec.
    Config(Box<ConfigChange>),
    /// Injected from outside.
    Injection(Injection),
    /// Seen by a sensor.
    Sense(Sense),
    /// P changed.
    Scale(Scale),
    /// Beating starts again.
    Resume(Resume),
    /// The whole state after the last beat.
    Snapshot(Box<State>),
    /// Opens a beat.
    Pulse(PulseData),
    /// What a core gave.
    FlowResult(FlowData),
    /// The decision.
    Action(Box<ActionData>),
    /// Weights and PID after a beat.
    Evolution(Box<EvolutionData>),
    /// What was done about a decision.
    Enforcement(Enforcement),
    /// A kind that this version does not know; readers pass over it.
    #[serde(other)]
    Unknown,
}

/// How a ledger begins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Genesis {
    /// Pulse and PID.
    pub config: Config,
    /// The ledger of this name that went before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continues: Option<Continues>,
    /// The genome.
    pub genome: Genome,
    /// For people.
    pub message: String,
    /// Whose ledger this is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// Version of the engine.
    pub version: String,
}

/// Whose ledger it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Counts the ledgers of this name from 1.
    pub generation: u64,
    /// The Organism's name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its UID.
    pub uid: String,
}

/// The ledger that a genesis continues.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Continues {
    /// Whose it was.
    pub origin: Origin,
    /// Its root, hex.
    pub root: String,
    /// Its entries.
    pub size: u64,
}

/// A pulse entry.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct PulseData {
    /// What was sensed.
    pub features: Features,
    /// The pulse.
    pub pulse: Pulse,
}

/// What the sensors add up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Features {
    /// Anomalies sensed that count.
    pub anoms: u64,
}

/// A flow_result entry.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct FlowData {
    /// Why the core gave no result.
    #[serde(default)]
    pub failed: Option<String>,
    /// Which core.
    pub flow: Flow,
    /// What it gave.
    #[serde(default)]
    pub result: Option<Value>,
}

/// An action entry.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ActionData {
    /// The decision.
    pub action: Action,
    /// The decision vector; empty in a held beat.
    pub details: Value,
    /// The beat is held.
    #[serde(default)]
    pub held: bool,
}

/// An evolution entry.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct EvolutionData {
    /// Beat, weights, PID.
    #[serde(flatten)]
    pub evolved: Evolved,
    /// The beat is held.
    #[serde(default)]
    pub held: bool,
}

/// What was done about a decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enforcement {
    /// apply or release.
    pub change: Change,
    /// Index of the action entry that it follows from.
    pub entry: u64,
    /// Enforce or Observe.
    pub mode: String,
    /// The objects touched.
    pub what: Vec<String>,
}

/// Whether something was done or undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// Done.
    Apply,
    /// Undone.
    Release,
}

/// Something the ledger records. A beat is kept as what it derived, a tenth of its text; the seven entries
/// are written out of it when it is hashed and again when it is committed.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// Seven entries.
    Beat(Box<Beat>),
    /// One entry: the moment it was taken in, and its canonical text.
    Other(f64, Box<str>),
}

impl Record {
    /// How many entries it makes.
    #[must_use]
    pub fn entries(&self) -> u64 {
        match self {
            Self::Beat(_) => 7,
            Self::Other(..) => 1,
        }
    }

    /// Calls `each` with the timestamp and the canonical text of each entry, in order.
    ///
    /// # Errors
    /// [`canonical::NotCanonical`] when a number is not finite.
    pub fn write(
        &self,
        scratch: &mut Vec<u8>,
        each: &mut dyn FnMut(f64, &str),
    ) -> Result<(), canonical::NotCanonical> {
        match self {
            Self::Other(timestamp, text) => each(*timestamp, text),
            Self::Beat(beat) => {
                let mut out = Out { scratch, timestamp: beat.pulse.timestamp, each };
                out.put(&PulseEntry {
                    features: Features { anoms: beat.features_anoms },
                    pulse: &beat.pulse,
                    r#type: "pulse",
                })?;
                let Flows { regen, balance, entropy, optimize } = &beat.flows;
                out.put(&FlowEntry::<Regen>::new(Flow::R, regen))?;
                out.put(&FlowEntry::<Balance>::new(Flow::B, balance))?;
                out.put(&FlowEntry::<Entropy>::new(Flow::E, entropy))?;
                out.put(&FlowEntry::<Optimize>::new(Flow::O, optimize))?;
                let held = beat.held();
                out.put(&ActionEntry {
                    action: beat.action,
                    details: DetailsOrNone(beat.details.as_ref()),
                    held,
                    r#type: "action",
                })?;
                let Evolved { beat: number, pid, weights } = &beat.evolved;
                out.put(&EvolutionEntry {
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

    /// An input as it is recorded.
    ///
    /// # Errors
    /// [`canonical::NotCanonical`] when a number is not finite.
    pub fn input(timestamp: f64, input: &Input) -> Result<Self, canonical::NotCanonical> {
        Self::other(timestamp, None, input)
    }

    /// The state, as a snapshot records it.
    ///
    /// # Errors
    /// [`canonical::NotCanonical`] when a number is not finite.
    pub fn snapshot(timestamp: f64, state: &State) -> Result<Self, canonical::NotCanonical> {
        Self::other(timestamp, Some("snapshot"), state)
    }

    /// How a ledger begins.
    ///
    /// # Errors
    /// [`canonical::NotCanonical`] when a number is not finite.
    pub fn genesis(timestamp: f64, genesis: &Genesis) -> Result<Self, canonical::NotCanonical> {
        Self::other(timestamp, Some("genesis"), genesis)
    }

    /// What was done about a decision.
    ///
    /// # Errors
    /// [`canonical::NotCanonical`] never: it holds no float.
    pub fn enforcement(timestamp: f64, it: &Enforcement) -> Result<Self, canonical::NotCanonical> {
        Self::other(timestamp, Some("enforcement"), it)
    }

    /// Any data: through a JSON value, whose keys are sorted, with `type` put among them.
    ///
    /// # Errors
    /// [`canonical::NotCanonical`] when a number is not finite.
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

struct Out<'a> {
    scratch: &'a mut Vec<u8>,
    timestamp: f64,
    each: &'a mut dyn FnMut(f64, &str),
}

impl Out<'_> {
    fn put<T: Serialize>(&mut self, data: &T) -> Result<(), canonical::NotCanonical> {
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
    details: DetailsOrNone<'a>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    held: bool,
    r#type: &'static str,
}

/// The decision vector, or `{}`.
struct DetailsOrNone<'a>(Option<&'a Details>);

impl Serialize for DetailsOrNone<'_> {
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
