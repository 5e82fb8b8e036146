//! A segment as it is stored: a readable head and the encoded entries.
//!
//! The head holds what a reader needs to decode the entries, and the state of the hash chain at both ends. The
//! hashes of entries are not stored. A reader computes them from the previous hash and the data, and the last one
//! must be the head's `lastHash`. The format is specified in `docs/segment-format.md`.

use std::convert::Infallible;

use serde::{Deserialize, Serialize};

use super::entry::{Entry, Origin, Record};
use super::merkle::{MAX_SIZE, Tree};
use super::segment::{self, DecodeError, EncodeError, Row};
use super::{Chain, Hash, canonical, hex, parse_hash};

/// Version of the head. The encoded entries have a version of their own.
const FORMAT: u32 = 1;

/// A hash that serializes as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct HexHash(pub Hash);

impl Serialize for HexHash {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex(&self.0))
    }
}

impl<'de> Deserialize<'de> for HexHash {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_hash(&text).map(Self).ok_or_else(|| {
            serde::de::Error::custom(format!("'{text}' is not 64 lower-case hexadecimal digits"))
        })
    }
}

/// A position in the ledger at which a replay can start.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReplayStart {
    /// Index of the genesis or snapshot entry.
    pub index: u64,
    /// Timestamp of that entry, in seconds since 1970.
    pub time: f64,
}

/// The head of a segment: what a reader needs to decode the entries and to verify their hashes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SegmentHead {
    /// Size of the columns in bytes, before compression.
    pub columns: u64,
    /// Number of entries.
    pub count: u64,
    /// Index of the first entry.
    pub first: u64,
    /// Version of the head. The encoded entries have a version of their own.
    pub format: u32,
    /// Hash of the last entry.
    pub last_hash: HexHash,
    /// The ledger that the segment belongs to; absent outside a cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// Peaks of the Merkle tree over all entries before `first`, largest subtree first.
    pub peaks: Vec<HexHash>,
    /// Hash of the entry before `first`; all zeros if `first` is 0.
    pub previous_hash: HexHash,
    /// The first genesis or snapshot entry in the segment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<ReplayStart>,
}

/// A segment as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct SealedSegment {
    /// The readable head.
    pub head: SegmentHead,
    /// The entries, as [`segment::encode`] wrote them.
    pub entries: Vec<u8>,
}

/// Error of [`SealedSegment::seal`].
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// A number is not finite.
    #[error(transparent)]
    NotCanonical(#[from] canonical::NotCanonical),
    /// The entries exceed the limits of a segment.
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

/// A stored segment is damaged or forged.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The head is malformed or of an unknown version.
    #[error("invalid segment head: {0}")]
    Head(String),
    /// The entries cannot be decoded.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The last computed hash is not the head's `lastHash`.
    #[error("entries {first} to {last} do not match the lastHash of their segment's head")]
    LastHash {
        /// Index of the first entry.
        first: u64,
        /// Index of the last entry.
        last: u64,
    },
}

/// Largest total size of the data of merged entries, in bytes. It bounds the memory of a merge: the texts are held
/// together with what they are encoded to.
const MAX_MERGED_BYTES: usize = 18 << 20;

/// The texts of entries, one after the other.
#[derive(Default)]
struct Texts {
    text: String,
    /// Timestamp of each entry, and where its text ends.
    ends: Vec<(f64, usize)>,
}

impl Texts {
    fn push(&mut self, timestamp: f64, data: &str) {
        self.text.push_str(data);
        self.ends.push((timestamp, self.text.len()));
    }

    fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        let starts = std::iter::once(0).chain(self.ends.iter().map(|(_, end)| *end));
        let ranges = starts.zip(&self.ends);
        ranges.map(|(start, (timestamp, end))| Row { timestamp: *timestamp, data: &self.text[start..*end] })
    }
}

/// What has ended the visit of a segment.
#[derive(Debug)]
pub enum VisitError<E> {
    /// The segment is damaged or forged.
    Open(OpenError),
    /// The visitor has failed.
    Each(E),
}

impl VisitError<Infallible> {
    /// The error of the segment, where the visitor cannot fail.
    #[must_use]
    pub fn open(self) -> OpenError {
        match self {
            Self::Open(error) => error,
            Self::Each(never) => match never {},
        }
    }
}

impl<E> From<OpenError> for VisitError<E> {
    fn from(error: OpenError) -> Self {
        Self::Open(error)
    }
}

impl<E> From<DecodeError> for VisitError<E> {
    fn from(error: DecodeError) -> Self {
        Self::Open(error.into())
    }
}

/// Error of [`SealedSegment::merge`].
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// One of the segments is damaged or forged.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The merged entries cannot be sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The segments are not adjacent.
    #[error("the segment at entry {0} does not continue the previous segment")]
    Gap(u64),
}

impl From<DecodeError> for MergeError {
    fn from(error: DecodeError) -> Self {
        Self::Open(error.into())
    }
}

fn check_merged(what: &'static str, actual: usize, limit: usize) -> Result<(), MergeError> {
    if actual <= limit {
        return Ok(());
    }
    Err(SealError::from(EncodeError::TooLarge { what, actual, limit }).into())
}

impl SealedSegment {
    /// Seals the entries of `records`, which lead the chain from `before` to `after`.
    ///
    /// # Errors
    /// Returns [`SealError`] if a number is not finite or the entries exceed the limits of a segment.
    pub fn seal<'a>(
        origin: Option<&Origin>,
        before: &Chain,
        after: &Chain,
        records: impl IntoIterator<Item = &'a Record>,
    ) -> Result<Self, SealError> {
        let (mut texts, mut scratch) = (Texts::default(), Vec::new());
        for record in records {
            record.write(&mut scratch, &mut |timestamp, data| texts.push(timestamp, data))?;
        }
        Ok(Self::encode(origin, before, after, &texts)?)
    }

    /// Verifies adjacent segments and merges them into one.
    ///
    /// The parts are not trusted: what their heads declare is added up before anything is decoded, and decoding ends
    /// where their data exceeds [`MAX_MERGED_BYTES`].
    ///
    /// # Errors
    /// Returns [`MergeError`] if a segment is damaged, if there is a gap, or if the merged segment is too large.
    pub fn merge(origin: Option<&Origin>, parts: &[Self]) -> Result<Self, MergeError> {
        let Some(first) = parts.first() else { return Err(MergeError::Gap(0)) };
        let sum = |declared: fn(&SegmentHead) -> u64| {
            let sum = parts.iter().fold(0, |sum: u64, part| sum.saturating_add(declared(&part.head)));
            usize::try_from(sum).unwrap_or(usize::MAX)
        };
        check_merged("entries", sum(|head| head.count), segment::MAX_ENTRIES)?;
        check_merged("bytes of columns", sum(|head| head.columns), segment::MAX_COLUMN_BYTES)?;
        let before = first.chain_before()?;
        let (mut texts, mut after) = (Texts::default(), before.clone());
        for part in parts {
            if part.chain_before()? != after {
                return Err(MergeError::Gap(part.head.first));
            }
            part.rows(|timestamp, data| {
                check_merged("bytes of data", texts.text.len() + data.len(), MAX_MERGED_BYTES)?;
                after.append(timestamp, data);
                texts.push(timestamp, data);
                Ok::<(), MergeError>(())
            })?;
            part.check_last_hash(&after)?;
        }
        Ok(Self::encode(origin, &before, &after, &texts).map_err(SealError::from)?)
    }

    fn encode(
        origin: Option<&Origin>,
        before: &Chain,
        after: &Chain,
        texts: &Texts,
    ) -> Result<Self, EncodeError> {
        let rows: Vec<Row<'_>> = texts.rows().collect();
        let encoded = segment::encode(&rows)?;
        let start = (before.size()..).zip(&rows).find(|(_, row)| is_replay_start(row.data));
        Ok(Self {
            head: SegmentHead {
                columns: encoded.columns,
                count: rows.len() as u64,
                first: before.size(),
                format: FORMAT,
                last_hash: HexHash(*after.last_hash()),
                origin: origin.cloned(),
                peaks: before.tree().peaks().iter().copied().map(HexHash).collect(),
                previous_hash: HexHash(*before.last_hash()),
                start: start.map(|(index, row)| ReplayStart { index, time: row.timestamp }),
            },
            entries: encoded.bytes,
        })
    }

    /// Returns the chain before the first entry, according to the head.
    ///
    /// # Errors
    /// Returns [`OpenError::Head`] if the head has an unknown version, indices out of range or the wrong number of peaks.
    pub fn chain_before(&self) -> Result<Chain, OpenError> {
        let SegmentHead { first, count, peaks, previous_hash, format, .. } = &self.head;
        if *format != FORMAT {
            return Err(OpenError::Head(format!(
                "unsupported format {format}; use a newer version of venom"
            )));
        }
        if first.checked_add(*count).is_none_or(|end| end > MAX_SIZE) {
            return Err(OpenError::Head(format!("{count} entries from {first} on are beyond any ledger")));
        }
        let tree = Tree::from_peaks(*first, peaks.iter().map(|peak| peak.0).collect()).ok_or_else(|| {
            OpenError::Head(format!("{} peaks do not fit {first} preceding entries", peaks.len()))
        })?;
        Ok(Chain::from_parts(tree, previous_hash.0))
    }

    /// Decodes the entries, computes their hashes, and verifies the last one against the head. Returns the chain after
    /// the last entry, and the chain at `size` where that lies within the segment or at one of its ends.
    ///
    /// # Errors
    /// Returns [`OpenError`] if the segment is damaged or forged.
    pub fn verify(&self, size: Option<u64>) -> Result<(Chain, Option<Chain>), OpenError> {
        let mut chain = self.chain_before()?;
        let mut at_size = (size == Some(chain.size())).then(|| chain.clone());
        self.rows(|timestamp, data| {
            chain.append(timestamp, data);
            if size == Some(chain.size()) {
                at_size = Some(chain.clone());
            }
            Ok::<(), OpenError>(())
        })?;
        self.check_last_hash(&chain)?;
        Ok((chain, at_size))
    }

    /// As [`Self::verify`], and calls `each` with every entry. The last hash is verified after that: what `each` has
    /// seen counts only if this returns `Ok`.
    ///
    /// # Errors
    /// [`VisitError::Open`] if the segment is damaged or forged, or the first error of `each`.
    pub fn visit<E>(&self, mut each: impl FnMut(Entry) -> Result<(), E>) -> Result<Chain, VisitError<E>> {
        let mut chain = self.chain_before()?;
        self.rows(|timestamp, data| {
            let (index, previous_hash) = (chain.size(), *chain.last_hash());
            let hash = chain.append(timestamp, data);
            each(Entry { index, timestamp, data: data.into(), previous_hash, hash }).map_err(VisitError::Each)
        })?;
        self.check_last_hash(&chain)?;
        Ok(chain)
    }

    fn rows<E: From<DecodeError>>(&self, each: impl FnMut(f64, &str) -> Result<(), E>) -> Result<(), E> {
        segment::visit(&self.entries, self.head.count, self.head.columns, each)
    }

    fn check_last_hash(&self, chain: &Chain) -> Result<(), OpenError> {
        let SegmentHead { count, first, last_hash, .. } = &self.head;
        if *chain.last_hash() == last_hash.0 {
            return Ok(());
        }
        Err(OpenError::LastHash { first: *first, last: first + count.saturating_sub(1) })
    }

    /// Returns the head as one line of canonical JSON.
    ///
    /// # Errors
    /// Returns an error only if `start.time` is not finite, which no sealed or parsed head contains.
    pub fn head_text(&self) -> Result<String, canonical::NotCanonical> {
        canonical::to_string(&canonical::to_value(&self.head)?)
    }

    /// Parses a stored head and pairs it with the stored entries. Neither is verified.
    ///
    /// # Errors
    /// Returns [`OpenError::Head`] if the head is not valid JSON or has other fields.
    pub fn from_parts(head: &str, entries: Vec<u8>) -> Result<Self, OpenError> {
        let head: SegmentHead =
            serde_json::from_str(head).map_err(|error| OpenError::Head(error.to_string()))?;
        Ok(Self { head, entries })
    }
}

/// Returns whether a replay can start at this entry: a genesis or a snapshot.
fn is_replay_start(data: &str) -> bool {
    // Most entries belong to beats: search before parsing.
    (data.contains("\"type\":\"snapshot\"") || data.contains("\"type\":\"genesis\""))
        && serde_json::from_str::<serde_json::Value>(data)
            .is_ok_and(|value| ["snapshot", "genesis"].iter().any(|kind| value["type"] == *kind))
}
