//! The head of a ledger, its only mutable part.
//!
//! A segment belongs to the ledger if and only if the head lists it. Writing the head commits.

use serde::{Deserialize, Serialize};

use crate::ledger::merkle::{MAX_SIZE, Tree};
use crate::ledger::sealed::{HexHash, ReplayStart, SealedSegment};
use crate::ledger::{Chain, hex};
use crate::organism::input::ResumeReason;
use crate::printable::{QUOTE, line};

mod contents;
mod parse;

pub use contents::{Contents, LastEnforcement};
pub use parse::HeadError;

use super::rebuild::Published;

/// The head of a ledger.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Head {
    /// Fencing token: each take-over increments it, across generations too.
    #[serde(deserialize_with = "bounded")]
    pub epoch: u64,
    /// First index that is still stored. Entries before it were pruned.
    #[serde(deserialize_with = "bounded")]
    pub floor: u64,
    /// Counts the ledgers of this name, from 1. It is not metadata.generation.
    #[serde(deserialize_with = "bounded")]
    pub generation: u64,
    /// Identity of the last writer that took the ledger over.
    #[serde(default)]
    pub holder: String,
    /// Number of injection entries committed in this generation.
    #[serde(deserialize_with = "bounded")]
    pub injected_total: u64,
    /// Hash of the last entry.
    pub last_hash: HexHash,
    /// The last enforcement entry of this generation: it is written once for each change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enforcement: Option<LastEnforcement>,
    /// What was found in place of the published ledger, if that is why this generation began. Kept until the genesis of
    /// this generation is pruned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forged: Option<Forged>,
    /// The newest injection: its index and its timestamp in seconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_injection: Option<(u64, f64)>,
    /// The newest observation of a sensor, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_sense: Option<(u64, f64)>,
    /// First and last index of the entries that the previous generation published and lost, if that is why this
    /// generation began. Kept until the genesis of this generation is pruned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_tail: Option<(u64, u64)>,
    /// Peaks of the Merkle tree over all entries since genesis.
    pub peaks: Vec<HexHash>,
    /// Whether the holder has given the ledger back: another one may take it over at once.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub released: bool,
    /// Whether the Organism was deleted with `onDelete: Retain`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retained: bool,
    /// Merkle root over all entries since genesis.
    pub root: HexHash,
    /// The segments, oldest first, without gaps.
    pub segments: Vec<SegmentRef>,
    /// Number of entries since genesis.
    #[serde(deserialize_with = "bounded")]
    pub size: u64,
    /// UID of the Organism; empty in a folder.
    pub uid: String,
}

/// A ledger that contradicts what its Organism's status has published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Forged {
    /// Generation that the found head states; its archived head has that number.
    pub generation: u64,
    /// What is wrong with it.
    pub found: String,
    /// Generation that was published.
    pub published_generation: u64,
    /// Number of its entries that were published.
    pub published_size: u64,
    /// Their Merkle root.
    pub published_root: HexHash,
}

impl Forged {
    /// A ledger of this `generation` in place of what was published.
    #[must_use]
    pub fn new(generation: u64, mut found: String, published: &Published) -> Self {
        if let Some((at, _)) = found.char_indices().nth(LONGEST_TEXT / 2) {
            found.truncate(at);
        }
        Self {
            generation,
            found,
            published_generation: published.generation,
            published_size: published.size,
            published_root: HexHash(published.root),
        }
    }
}

/// Refuses counters that no writer can have reached: they would overflow, or fence every later writer for good.
fn bounded<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let number = u64::deserialize(deserializer)?;
    if number <= LARGEST_COUNTER {
        Ok(number)
    } else {
        Err(serde::de::Error::custom(format!("{number} is larger than any count can be")))
    }
}

/// A segment as a head lists it. Serialized as an array in the order of these fields, because the head is rewritten at
/// every commit and must stay small.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Row", into = "Row")]
pub struct SegmentRef {
    /// Index of the first entry.
    pub first: u64,
    /// Number of entries.
    pub count: u64,
    /// Epoch of the writer that created the segment.
    pub epoch: u64,
    /// Identifies the stored object: its UID in a cluster, the SHA3-256 of the file in a folder.
    pub object: String,
    /// Encoded size of the entries.
    pub bytes: u64,
    /// Merge level: 0 for a committed segment, one more for each merge.
    pub level: u8,
    /// The first genesis or snapshot in the segment.
    pub start: Option<ReplayStart>,
}

type Row = (u64, u64, u64, String, u64, u8, Option<(u64, f64)>);

impl TryFrom<Row> for SegmentRef {
    type Error = &'static str;

    fn try_from((first, count, epoch, object, bytes, level, start): Row) -> Result<Self, Self::Error> {
        if first.max(count).max(bytes).max(epoch) > LARGEST_COUNTER {
            return Err("a segment's first, count, bytes or epoch is too large");
        }
        let start = start.map(|(index, time)| ReplayStart { index, time });
        Ok(Self { first, count, epoch, object, bytes, level, start })
    }
}

impl From<SegmentRef> for Row {
    fn from(it: SegmentRef) -> Self {
        let start = it.start.map(|start| (start.index, start.time));
        (it.first, it.count, it.epoch, it.object, it.bytes, it.level, start)
    }
}

impl SegmentRef {
    /// The reference to `sealed`, which the writer of `epoch` stored as `object`.
    #[must_use]
    pub fn new(sealed: &SealedSegment, epoch: u64, object: String, level: u8) -> Self {
        Self {
            first: sealed.head.first,
            count: sealed.head.count,
            epoch,
            object,
            bytes: sealed.entries.len() as u64,
            level,
            start: sealed.head.start,
        }
    }

    /// Index after the last entry.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.first + self.count
    }
}

impl Head {
    /// The head of a ledger without entries.
    #[must_use]
    pub fn empty(uid: &str, generation: u64, epoch: u64, holder: &str) -> Self {
        let tree = Tree::default();
        Self {
            enforcement: None,
            epoch,
            floor: 0,
            forged: None,
            generation,
            holder: holder.to_owned(),
            injected_total: 0,
            last_hash: HexHash::default(),
            last_injection: None,
            last_sense: None,
            lost_tail: None,
            peaks: vec![],
            released: false,
            retained: false,
            root: HexHash(tree.root()),
            segments: vec![],
            size: 0,
            uid: uid.to_owned(),
        }
    }

    /// Makes `holder` the writer. Storing the head then fences every earlier writer. Returns the reason for the
    /// `resume` entry.
    pub fn take_over(&mut self, holder: &str) -> ResumeReason {
        self.epoch += 1;
        (self.released, self.retained) = (false, false);
        match std::mem::replace(&mut self.holder, holder.to_owned()) == holder {
            true => ResumeReason::Restart,
            false => ResumeReason::TakeOver,
        }
    }

    /// Gives the ledger back, whether or not a life of this holder still goes on: storing the head then fences it.
    pub fn disown(&mut self) {
        self.epoch += 1;
        self.released = true;
    }

    /// Whether `other` states the same ledger: the same entries in the same segments, whoever wrote the head last.
    #[must_use]
    pub fn states_the_same_as(&self, other: &Self) -> bool {
        let ranges = |head: &Self| -> Vec<_> {
            head.segments.iter().map(|it| (it.epoch, it.first, it.count)).collect()
        };
        let ledger = |head: &Self| (head.uid.clone(), head.generation, head.size, head.root, head.last_hash);
        ledger(self) == ledger(other) && ranges(self) == ranges(other)
    }

    /// The end of the chain as the head states it; `None` if its peaks do not match its size or its root.
    #[must_use]
    pub fn chain(&self) -> Option<Chain> {
        let tree = Tree::from_peaks(self.size, self.peaks.iter().map(|peak| peak.0).collect())?;
        (tree.root() == self.root.0).then(|| Chain::from_parts(tree, self.last_hash.0))
    }

    /// Appends a segment after which the chain is `chain`, with what the head says of its entries.
    pub fn append(&mut self, segment: SegmentRef, chain: &Chain, contents: Contents) {
        let Contents { injections, senses, enforcement } = contents;
        self.size = chain.size();
        self.last_hash = HexHash(*chain.last_hash());
        self.root = HexHash(chain.tree().root());
        self.peaks = chain.tree().peaks().iter().copied().map(HexHash).collect();
        self.injected_total += injections.len() as u64;
        self.last_injection = injections.last().copied().or(self.last_injection);
        self.last_sense = senses.last().copied().or(self.last_sense);
        self.enforcement = enforcement.or(self.enforcement.take());
        self.segments.push(segment);
    }

    /// Removes the oldest `count` segments from the list and returns them.
    pub fn prune(&mut self, count: usize) -> Vec<SegmentRef> {
        let pruned = self.segments.drain(..count).collect();
        self.floor = self.segments.first().map_or(self.size, |it| it.first);
        if self.floor > 0 {
            (self.lost_tail, self.forged) = (None, None);
        }
        pruned
    }

    /// Encoded size of all listed segments.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|it| it.bytes).sum()
    }

    /// The first genesis or snapshot that is still stored.
    #[must_use]
    pub fn replayable_from(&self) -> Option<ReplayStart> {
        self.segments.iter().find_map(|it| it.start)
    }

    /// The Merkle root in hexadecimal.
    #[must_use]
    pub fn root_hex(&self) -> String {
        hex(&self.root.0)
    }

    /// The next segments to merge, as a range of `segments`: [`MERGE`] neighbours of one level, together at most
    /// `largest` bytes and [`LARGEST_COUNT`] entries. If there are none and the list has [`MANY`] segments or more,
    /// the longest mergeable run of neighbours of any level, and the smallest in bytes among runs of that length.
    /// Segments for which `present` returns false are skipped.
    #[must_use]
    pub fn mergeable(
        &self,
        largest: u64,
        present: impl Fn(&SegmentRef) -> bool,
    ) -> Option<std::ops::Range<usize>> {
        let bytes = |run: &[SegmentRef]| run.iter().map(|it| it.bytes).sum::<u64>();
        let runs = |length: usize, largest: u64| {
            self.segments
                .windows(length)
                .enumerate()
                .filter(|(_, run)| run.windows(2).all(|pair| pair[0].end() == pair[1].first))
                .filter(|(_, run)| run.iter().map(|it| it.count).sum::<u64>() <= LARGEST_COUNT)
                .filter(move |(_, run)| bytes(run) <= largest)
                .filter(|(_, run)| run.iter().all(&present))
        };
        let of_one_level = |run: &[SegmentRef]| run.iter().all(|it| it.level == run[0].level);
        if let Some((at, _)) = runs(MERGE, largest).find(|(_, run)| of_one_level(run)) {
            return Some(at..at + MERGE);
        }
        if self.segments.len() < MANY {
            return None;
        }
        (2..=MERGE).rev().find_map(|length| {
            let (at, _) = runs(length, LARGEST_MERGE).min_by_key(|(_, run)| bytes(run))?;
            Some(at..at + length)
        })
    }

    /// The number of oldest segments to prune so that the rest has at most `retain` bytes and [`MOST`] segments. Stops
    /// early if the rest would contain no genesis or snapshot, or not the entry `keep` and all entries after it.
    #[must_use]
    pub fn prunable(&self, retain: u64, keep: u64) -> usize {
        let mut bytes = self.bytes();
        let mut prune = 0;
        for (at, segment) in self.segments.iter().enumerate() {
            let rest = &self.segments[at + 1..];
            let enough = bytes <= retain && rest.len() < MOST;
            if enough || segment.end() > keep || !rest.iter().any(|it| it.start.is_some()) {
                break;
            }
            bytes -= segment.bytes;
            prune = at + 1;
        }
        prune
    }
}

/// What is wrong with the unreadable head `name` (`namespace/organism-ledger`), and the cure.
#[must_use]
pub fn head_unreadable(name: &str, why: &str) -> String {
    let (namespace, head) = name.split_once('/').unwrap_or(("", name));
    let organism = head.strip_suffix("-ledger").unwrap_or(head);
    let why = line(why, QUOTE);
    format!(
        "ConfigMap {name} is not a readable ledger head: {why}. Restore its data.head, or run `venom ledger repair \
         organism/{organism} -n {namespace}`. Until then nothing is committed."
    )
}

/// Largest number in a head. Sums of a few of them do not overflow, and are exact in every JSON parser.
const LARGEST_COUNTER: u64 = MAX_SIZE / 4;
/// Most segments that a head may list: several times as many as a writer lists.
const MOST_LISTED: usize = 4 * MOST;
/// Longest text in a head, in bytes: a UID, a holder, a hash.
const LONGEST_TEXT: usize = 512;
/// Number of segments of one level that become one segment of the next.
const MERGE: usize = 8;
/// From this number of segments on, neighbours of different levels are merged.
const MANY: usize = 64;
/// Segments beyond this number are pruned. Together with the head and the segments being committed and merged, an
/// organism has at most 80 objects.
const MOST: usize = 74;
/// Encoded size from which a segment is not merged any more.
pub const LARGEST_MERGE: u64 = 512 * 1024;
/// Largest number of entries in a merged segment. It bounds memory: a beat is a few bytes encoded, and more than two
/// kilobytes decoded.
const LARGEST_COUNT: u64 = 48 << 10;

/// The largest segment that a merge may create if `retain` bytes are kept. A quarter, because pruning removes whole
/// segments and should stay close to the bound.
#[must_use]
pub fn largest_merge(retain: u64) -> u64 {
    LARGEST_MERGE.min(retain / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(segments: &[(u64, u8, bool)]) -> Head {
        let mut head = Head::empty("", 1, 1, "");
        for &(bytes, level, start) in segments {
            let first = head.size;
            let start = start.then_some(ReplayStart { index: first, time: 0.0 });
            head.segments.push(SegmentRef {
                first,
                count: 7,
                epoch: 1,
                object: String::new(),
                bytes,
                level,
                start,
            });
            head.size += 7;
        }
        head
    }

    #[test]
    fn eight_of_one_level_are_merged_up_to_the_bound() {
        let mut segments = vec![(500, 1, true)];
        segments.extend([(100, 0, false); 8]);
        assert_eq!(head(&segments).mergeable(800, |_| true), Some(1..9));
        assert_eq!(head(&segments).mergeable(799, |_| true), None);
        assert_eq!(head(&segments[..8]).mergeable(800, |_| true), None);
    }

    #[test]
    fn segments_are_not_merged_across_a_gap() {
        let mut head = head(&[(100, 0, false); 8]);
        head.segments.remove(3);
        head.segments.insert(3, SegmentRef { first: 1_000, ..head.segments[3].clone() });
        assert_eq!(head.mergeable(u64::MAX, |_| true), None);
    }

    #[test]
    fn missing_segments_are_not_merged() {
        let head = head(&[(100, 0, false); 10]);
        assert_eq!(head.mergeable(u64::MAX, |it| it.first != 7), Some(2..10));
    }

    #[test]
    fn many_segments_are_merged_whatever_their_level() {
        let levels: Vec<_> = (0..64).map(|at| (1_000, (at % 2) as u8, false)).collect();
        assert_eq!(head(&levels[..63]).mergeable(100, |_| true), None);
        assert!(head(&levels).mergeable(100, |_| true).is_some());
    }

    #[test]
    fn merging_is_bounded_by_the_number_of_entries() {
        let mut head = head(&[(10, 0, false); 8]);
        head.size = 0;
        for segment in &mut head.segments {
            (segment.first, segment.count) = (head.size, LARGEST_COUNT / 8);
            head.size += segment.count;
        }
        assert_eq!(head.mergeable(1_000, |_| true), Some(0..8));
        head.segments[7].count += 1;
        assert_eq!(head.mergeable(1_000, |_| true), None);
    }

    #[test]
    fn too_many_segments_are_merged_in_shorter_runs_or_pruned() {
        let mut head = head(&[(10, 0, true); 80]);
        for (at, segment) in (0..).zip(&mut head.segments) {
            (segment.first, segment.count) = (at * 20_000, 20_000);
        }
        assert_eq!(head.mergeable(1_000, |_| true), Some(0..2), "three are too many entries");
        assert_eq!(head.prunable(u64::MAX, u64::MAX), 6);
        for (at, segment) in (0..).zip(&mut head.segments) {
            (segment.first, segment.count) = (at * 40_000, 40_000);
        }
        assert_eq!(head.mergeable(1_000, |_| true), None);
    }

    #[test]
    fn pruning_keeps_a_genesis_or_snapshot() {
        let head = head(&[(100, 0, true), (100, 0, false), (100, 0, true), (100, 0, false)]);
        assert_eq!(head.prunable(400, u64::MAX), 0);
        assert_eq!(head.prunable(250, u64::MAX), 2);
        assert_eq!(head.prunable(0, u64::MAX), 2, "the last snapshot stays");
        assert_eq!(head.prunable(0, 14), 2);
        assert_eq!(head.prunable(0, 13), 1, "entry 13 is in the second segment");
    }

    #[test]
    fn a_head_round_trips_and_its_chain_is_checked() {
        let head = head(&[(100, 0, true)]);
        let text = serde_json::to_string(&head).unwrap();
        assert_eq!(serde_json::from_str::<Head>(&text).unwrap(), head);
        assert!(Head::empty("", 1, 1, "").chain().is_some());
        assert!(head.chain().is_none(), "seven entries without a peak");
    }

    #[test]
    fn numbers_out_of_range_are_rejected() {
        let row = |first: u64, count: u64| format!(r#"[{first},{count},1,"",1,0,null]"#);
        assert!(serde_json::from_str::<SegmentRef>(&row(7, 7)).is_ok());
        for row in [row(u64::MAX, 1), row(1, u64::MAX), row(1 << 53, 1)] {
            assert!(serde_json::from_str::<SegmentRef>(&row).is_err(), "{row}");
        }
        let peaks = vec![[0; 32]; 64];
        assert!(Tree::from_peaks(u64::MAX, peaks).is_none());
    }

    #[test]
    fn counters_that_no_writer_can_have_reached_are_refused() {
        let head = serde_json::to_value(Head::empty("u", 1, 1, "alpha")).unwrap();
        for field in ["epoch", "floor", "generation", "injectedTotal", "size"] {
            let mut absurd = head.clone();
            absurd[field] = u64::MAX.into();
            let error = serde_json::from_value::<Head>(absurd).unwrap_err();
            assert!(error.to_string().contains("larger than any count"), "{field}: {error}");
        }
    }

    #[test]
    fn take_over_sets_the_holder_and_increments_the_epoch() {
        let mut head = Head::empty("", 1, 1, "alpha");
        assert_eq!((head.take_over("alpha"), head.epoch), (ResumeReason::Restart, 2));
        assert_eq!((head.take_over("beta"), head.epoch), (ResumeReason::TakeOver, 3));
        assert_eq!(head.holder, "beta");
    }

    #[test]
    fn a_lost_tail_is_kept_until_the_genesis_is_pruned() {
        let mut head = head(&[(100, 0, true), (100, 0, true)]);
        head.lost_tail = Some((0, 6));
        let published = Published { generation: 1, size: 9, root: [1; 32], last_hash: [2; 32] };
        head.forged = Some(Forged::new(1, "ä".repeat(1_000), &published));
        assert!(serde_json::to_string(&head.forged).unwrap().len() < 2_000);
        assert_eq!(head.prune(0), []);
        assert_eq!((head.floor, head.lost_tail), (0, Some((0, 6))));
        assert_eq!(head.prune(1).len(), 1);
        assert_eq!((head.floor, head.lost_tail), (7, None));
    }
}
