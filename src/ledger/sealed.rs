//! A segment as it is stored: a readable head, and the entries encoded.
//!
//! The head states what a reader has to know before it decodes, and the hashes between which the entries
//! have to fit. Hashes of entries are never stored: they are computed from the texts, and have to end at
//! the head's last hash.

use serde::{Deserialize, Serialize};

use super::entry::{Entry, Origin, Record};
use super::merkle::Tree;
use super::segment::{self, DecodeError, EncodeError, Row};
use super::{Chain, Hash, canonical, hex, unhex};

/// Version of the head. The encoding behind it states its own.
const FORMAT: u32 = 1;

/// The hex text of a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Hex(pub Hash);

impl Serialize for Hex {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex(&self.0))
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        unhex(&text).map(Self).ok_or_else(|| serde::de::Error::custom(format!("'{text}' is no hash")))
    }
}

/// A place in the ledger from which a replay can start.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// Index of the genesis or snapshot entry.
    pub index: u64,
    /// Its timestamp, seconds since 1970.
    pub time: f64,
}

/// What a reader has to know of a segment before decoding it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SegmentHead {
    /// Size of the columns in bytes, before compression.
    pub columns: u64,
    /// Number of entries.
    pub count: u64,
    /// Index of the first entry.
    pub first: u64,
    /// Version of this head. The encoding states its own.
    pub format: u32,
    /// Hash of the last entry.
    pub last_hash: Hex,
    /// Whose ledger it is part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// Peaks of the tree over all entries before `first`.
    pub peaks: Vec<Hex>,
    /// Hash of the entry before `first`.
    pub previous_hash: Hex,
    /// The first genesis or snapshot in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Start>,
}

/// A segment as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Sealed {
    /// What a reader has to know.
    pub head: SegmentHead,
    /// The encoded entries.
    pub entries: Vec<u8>,
}

/// Why a segment cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// A number is not finite.
    #[error(transparent)]
    NotCanonical(#[from] canonical::NotCanonical),
    /// Too large, most likely.
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

/// Why a stored segment is not what it claims to be.
#[derive(Debug, thiserror::Error)]
pub enum SealedError {
    /// The head is not one.
    #[error("head: {0}")]
    Head(String),
    /// The entries cannot be decoded.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The entries do not end at the hash that the head states.
    #[error("entries {first} to {last} do not end at the hash that the head states")]
    LastHash {
        /// First index.
        first: u64,
        /// Last index.
        last: u64,
    },
}

/// Why segments cannot be made one.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// One of them is not what it claims to be.
    #[error(transparent)]
    Sealed(#[from] SealedError),
    /// Together they cannot be sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// They do not lie side by side.
    #[error("the segment at entry {0} does not follow the one before")]
    Gap(u64),
}

impl Sealed {
    /// Seals the entries that lead from `before` to `after`, two ends of one chain.
    ///
    /// # Errors
    /// [`SealError`].
    pub fn seal<'a>(
        origin: Option<&Origin>,
        before: &Chain,
        after: &Chain,
        records: impl IntoIterator<Item = &'a Record>,
    ) -> Result<Self, SealError> {
        let mut texts = vec![];
        let mut scratch = Vec::new();
        for record in records {
            record.write(&mut scratch, &mut |timestamp, data| texts.push((timestamp, data.to_owned())))?;
        }
        Ok(Self::of(origin, before, after, &texts)?)
    }

    /// Makes segments that lie side by side one, checking each.
    ///
    /// # Errors
    /// [`MergeError`].
    pub fn merge(origin: Option<&Origin>, parts: &[Self]) -> Result<Self, MergeError> {
        let Some(first) = parts.first() else { return Err(MergeError::Gap(0)) };
        let before = first.before()?;
        let (mut texts, mut after) = (vec![], before.clone());
        for part in parts {
            if part.before()? != after {
                return Err(MergeError::Gap(part.head.first));
            }
            let SegmentHead { count, columns, .. } = part.head;
            for (timestamp, data) in
                segment::decode(&part.entries, count, columns).map_err(SealedError::from)?
            {
                after.append(timestamp, &data);
                texts.push((timestamp, data));
            }
            part.ends_at(&after)?;
        }
        Ok(Self::of(origin, &before, &after, &texts).map_err(SealError::from)?)
    }

    fn of(
        origin: Option<&Origin>,
        before: &Chain,
        after: &Chain,
        texts: &[(f64, String)],
    ) -> Result<Self, EncodeError> {
        let rows: Vec<Row<'_>> =
            texts.iter().map(|(timestamp, data)| Row { timestamp: *timestamp, data }).collect();
        let encoded = segment::encode(&rows)?;
        let start = (before.size()..).zip(texts).find(|(_, (_, data))| is_start(data));
        Ok(Self {
            head: SegmentHead {
                columns: encoded.columns,
                count: texts.len() as u64,
                first: before.size(),
                format: FORMAT,
                last_hash: Hex(*after.last_hash()),
                origin: origin.cloned(),
                peaks: before.tree().peaks().iter().copied().map(Hex).collect(),
                previous_hash: Hex(*before.last_hash()),
                start: start.map(|(index, (time, _))| Start { index, time: *time }),
            },
            entries: encoded.bytes,
        })
    }

    /// The chain as it stands before the first entry, as the head states it.
    ///
    /// # Errors
    /// [`SealedError::Head`] when the number of peaks does not fit the first index.
    pub fn before(&self) -> Result<Chain, SealedError> {
        let SegmentHead { first, peaks, previous_hash, format, .. } = &self.head;
        if *format != FORMAT {
            return Err(SealedError::Head(format!("format {format} is unknown here; use a newer venom")));
        }
        let tree = Tree::from_peaks(*first, peaks.iter().map(|peak| peak.0).collect())
            .ok_or_else(|| SealedError::Head(format!("{} peaks for {first} entries", peaks.len())))?;
        Ok(Chain::at(tree, previous_hash.0))
    }

    /// The entries, with their hashes, checked to end at the head's last hash.
    ///
    /// # Errors
    /// [`SealedError`].
    pub fn open(&self) -> Result<Vec<Entry>, SealedError> {
        let mut chain = self.before()?;
        let SegmentHead { count, columns, .. } = &self.head;
        let rows = segment::decode(&self.entries, *count, *columns)?;
        let mut entries = Vec::with_capacity(rows.len());
        for (timestamp, data) in rows {
            let (index, previous_hash) = (chain.size(), *chain.last_hash());
            let hash = chain.append(timestamp, &data);
            entries.push(Entry { index, timestamp, data: data.into(), previous_hash, hash });
        }
        self.ends_at(&chain)?;
        Ok(entries)
    }

    fn ends_at(&self, chain: &Chain) -> Result<(), SealedError> {
        let SegmentHead { count, first, last_hash, .. } = &self.head;
        if *chain.last_hash() == last_hash.0 {
            return Ok(());
        }
        Err(SealedError::LastHash { first: *first, last: first + count.saturating_sub(1) })
    }

    /// The readable head, one line of canonical JSON.
    ///
    /// # Errors
    /// Never for a head made here: it holds no NaN.
    pub fn head_text(&self) -> Result<String, canonical::NotCanonical> {
        canonical::to_string(&canonical::to_value(&self.head)?)
    }

    /// Puts a stored head and stored entries together.
    ///
    /// # Errors
    /// [`SealedError::Head`].
    pub fn from_parts(head: &str, entries: Vec<u8>) -> Result<Self, SealedError> {
        let head: SegmentHead =
            serde_json::from_str(head).map_err(|error| SealedError::Head(error.to_string()))?;
        Ok(Self { head, entries })
    }
}

/// Whether a replay can start at this data: a genesis or a snapshot.
fn is_start(data: &str) -> bool {
    // Cheap first look; a beat's entries are most of a ledger.
    (data.contains("\"type\":\"snapshot\"") || data.contains("\"type\":\"genesis\""))
        && serde_json::from_str::<serde_json::Value>(data)
            .is_ok_and(|value| ["snapshot", "genesis"].iter().any(|kind| value["type"] == *kind))
}
