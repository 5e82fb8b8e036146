//! The head of a ledger: the only thing about it that changes.
//!
//! A segment is part of the ledger when the head lists it, and not before: writing the head is what commits.

use serde::{Deserialize, Serialize};

use crate::ledger::merkle::{MAX_SIZE, Tree};
use crate::ledger::sealed::{HexHash, ReplayStart, SealedSegment};
use crate::ledger::{Chain, hex};
use crate::organism::input::ResumeReason;

/// The head of a ledger.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Head {
    /// Counts the writers of this name's ledgers: each take-over raises it, also across generations.
    pub epoch: u64,
    /// First index that is still stored; entries before it were pruned.
    pub floor: u64,
    /// Counts the ledgers of this name from 1. Not metadata.generation.
    pub generation: u64,
    /// Name of the writer that took the ledger over last.
    #[serde(default)]
    pub holder: String,
    /// Injection entries committed in this generation.
    pub injected_total: u64,
    /// Hash of the last entry.
    pub last_hash: HexHash,
    /// The newest injection: its index, and when it was recorded, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_injection: Option<(u64, f64)>,
    /// First and last index of what the generation before had published and lost: the reason for this one.
    /// Kept for as long as this generation's own genesis is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_tail: Option<(u64, u64)>,
    /// Peaks of the tree over all entries since genesis.
    pub peaks: Vec<HexHash>,
    /// The Organism was deleted and its ledger is to stay.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retained: bool,
    /// Root over all entries since genesis.
    pub root: HexHash,
    /// The segments, oldest first, without a gap.
    pub segments: Vec<Listed>,
    /// Number of entries since genesis.
    pub size: u64,
    /// UID of the Organism; empty where there is no cluster.
    pub uid: String,
}

/// A segment that a head lists. Written as an array, in the order of these fields: a head is rewritten at
/// every commit and has to stay small.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Row", into = "Row")]
pub struct Listed {
    /// Index of its first entry.
    pub first: u64,
    /// Number of its entries.
    pub count: u64,
    /// Epoch of the writer that made it.
    pub epoch: u64,
    /// What proves that an object is the one meant: in a cluster its UID, in a folder the SHA3-256 of the file.
    pub object: String,
    /// Encoded size.
    pub bytes: u64,
    /// How often it was merged.
    pub level: u8,
    /// The first genesis or snapshot in it.
    pub start: Option<ReplayStart>,
}

type Row = (u64, u64, u64, String, u64, u8, Option<(u64, f64)>);

impl TryFrom<Row> for Listed {
    type Error = &'static str;

    fn try_from((first, count, epoch, object, bytes, level, start): Row) -> Result<Self, Self::Error> {
        if first.max(count).max(bytes) > MAX_SIZE / 2 {
            return Err("a segment's first, count or bytes is too large");
        }
        let start = start.map(|(index, time)| ReplayStart { index, time });
        Ok(Self { first, count, epoch, object, bytes, level, start })
    }
}

impl From<Listed> for Row {
    fn from(it: Listed) -> Self {
        let start = it.start.map(|start| (start.index, start.time));
        (it.first, it.count, it.epoch, it.object, it.bytes, it.level, start)
    }
}

impl Listed {
    /// How a head lists `sealed`, stored as `object` by the writer of `epoch`.
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

    /// Index behind its last entry.
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
            epoch,
            floor: 0,
            generation,
            holder: holder.to_owned(),
            injected_total: 0,
            last_hash: HexHash::default(),
            last_injection: None,
            lost_tail: None,
            peaks: vec![],
            retained: false,
            root: HexHash(tree.root()),
            segments: vec![],
            size: 0,
            uid: uid.to_owned(),
        }
    }

    /// Makes it the writer `holder`'s: no earlier one can write it any more. Returns what the next `resume` says.
    pub fn take_over(&mut self, holder: &str) -> ResumeReason {
        self.epoch += 1;
        self.retained = false;
        match std::mem::replace(&mut self.holder, holder.to_owned()) == holder {
            true => ResumeReason::Restart,
            false => ResumeReason::TakeOver,
        }
    }

    /// The end of the chain as the head states it; nothing where its peaks do not fit its size or its root.
    #[must_use]
    pub fn chain(&self) -> Option<Chain> {
        let tree = Tree::from_peaks(self.size, self.peaks.iter().map(|peak| peak.0).collect())?;
        (tree.root() == self.root.0).then(|| Chain::from_parts(tree, self.last_hash.0))
    }

    /// Adds a segment that ends where `chain` stands, with the index and the moment of each injection in it.
    pub fn add(&mut self, listed: Listed, chain: &Chain, injections: &[(u64, f64)]) {
        self.size = chain.size();
        self.last_hash = HexHash(*chain.last_hash());
        self.root = HexHash(chain.tree().root());
        self.peaks = chain.tree().peaks().iter().copied().map(HexHash).collect();
        self.injected_total += injections.len() as u64;
        self.last_injection = injections.last().copied().or(self.last_injection);
        self.segments.push(listed);
    }

    /// Takes the oldest `count` segments off the list. Returns them.
    pub fn prune(&mut self, count: usize) -> Vec<Listed> {
        let pruned = self.segments.drain(..count).collect();
        self.floor = self.segments.first().map_or(self.size, |it| it.first);
        if self.floor > 0 {
            self.lost_tail = None;
        }
        pruned
    }

    /// Bytes of all listed segments.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|it| it.bytes).sum()
    }

    /// The first genesis or snapshot that is still stored.
    #[must_use]
    pub fn replayable_from(&self) -> Option<ReplayStart> {
        self.segments.iter().find_map(|it| it.start)
    }

    /// The root in hex.
    #[must_use]
    pub fn root_hex(&self) -> String {
        hex(&self.root.0)
    }

    /// Eight adjacent segments, as a range of `segments`, that are worth being one: of one level, together at
    /// most `largest` bytes and [`LARGEST_COUNT`] entries. Where segments have become many all the same, the
    /// longest run of neighbours that may be one, whatever their level; of equal ones the smallest.
    /// Only segments that are `there` are looked at.
    #[must_use]
    pub fn mergeable(&self, largest: u64, there: impl Fn(&Listed) -> bool) -> Option<std::ops::Range<usize>> {
        let bytes = |run: &[Listed]| run.iter().map(|it| it.bytes).sum::<u64>();
        let runs = |length: usize, largest: u64| {
            self.segments
                .windows(length)
                .enumerate()
                .filter(|(_, run)| run.windows(2).all(|pair| pair[0].end() == pair[1].first))
                .filter(|(_, run)| run.iter().map(|it| it.count).sum::<u64>() <= LARGEST_COUNT)
                .filter(move |(_, run)| bytes(run) <= largest)
                .filter(|(_, run)| run.iter().all(&there))
        };
        let of_one_level = |run: &[Listed]| run.iter().all(|it| it.level == run[0].level);
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

    /// How many of the oldest segments have to go for the rest to be at most `retain` bytes and [`MOST`]
    /// segments, while a genesis or snapshot stands in what remains. The entry `keep` and those after it stay in
    /// any case.
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

/// How many segments of one level become one of the next.
const MERGE: usize = 8;
/// From this number on segments are merged whatever their level.
const MANY: usize = 64;
/// Segments beyond this number are pruned: with the head, what is being committed and what is being merged an
/// organism has at most 80 objects.
const MOST: usize = 74;
/// A segment of this size is never merged again.
pub const LARGEST_MERGE: u64 = 512 * 1024;
/// Nor is one of so many entries: a beat takes a few bytes there and more than a kilobyte once it is decoded.
const LARGEST_COUNT: u64 = 1 << 17;

/// The largest segment that merging may make where `retain` bytes are kept. A quarter, so that pruning whole
/// segments stays close to the bound.
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
            head.segments.push(Listed {
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
    fn nothing_is_merged_across_a_gap() {
        let mut head = head(&[(100, 0, false); 8]);
        head.segments.remove(3);
        head.segments.insert(3, Listed { first: 1_000, ..head.segments[3].clone() });
        assert_eq!(head.mergeable(u64::MAX, |_| true), None);
    }

    #[test]
    fn nothing_that_is_gone_is_merged() {
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
    fn few_bytes_may_be_many_entries() {
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
    fn many_that_cannot_be_eight_are_fewer_and_beyond_that_pruned() {
        let mut head = head(&[(10, 0, true); 80]);
        for (at, segment) in (0..).zip(&mut head.segments) {
            (segment.first, segment.count) = (at * 50_000, 50_000);
        }
        assert_eq!(head.mergeable(1_000, |_| true), Some(0..2), "three are too many entries");
        assert_eq!(head.prunable(u64::MAX, u64::MAX), 6);
        for (at, segment) in (0..).zip(&mut head.segments) {
            (segment.first, segment.count) = (at * 100_000, 100_000);
        }
        assert_eq!(head.mergeable(1_000, |_| true), None);
    }

    #[test]
    fn pruning_leaves_a_place_to_start_from() {
        let head = head(&[(100, 0, true), (100, 0, false), (100, 0, true), (100, 0, false)]);
        assert_eq!(head.prunable(400, u64::MAX), 0);
        assert_eq!(head.prunable(250, u64::MAX), 2);
        assert_eq!(head.prunable(0, u64::MAX), 2, "the last snapshot stays");
        assert_eq!(head.prunable(0, 14), 2);
        assert_eq!(head.prunable(0, 13), 1, "entry 13 is in the second segment");
    }

    #[test]
    fn a_head_reads_back_and_states_its_chain() {
        let head = head(&[(100, 0, true)]);
        let text = serde_json::to_string(&head).unwrap();
        assert_eq!(serde_json::from_str::<Head>(&text).unwrap(), head);
        assert!(Head::empty("", 1, 1, "").chain().is_some());
        assert!(head.chain().is_none(), "seven entries without a peak");
    }

    #[test]
    fn absurd_numbers_are_refused() {
        let row = |first: u64, count: u64| format!(r#"[{first},{count},1,"",1,0,null]"#);
        assert!(serde_json::from_str::<Listed>(&row(7, 7)).is_ok());
        for row in [row(u64::MAX, 1), row(1, u64::MAX), row(1 << 53, 1)] {
            assert!(serde_json::from_str::<Listed>(&row).is_err(), "{row}");
        }
        let peaks = vec![[0; 32]; 64];
        assert!(Tree::from_peaks(u64::MAX, peaks).is_none());
    }

    #[test]
    fn who_takes_a_head_over_is_its_holder() {
        let mut head = Head::empty("", 1, 1, "alpha");
        assert_eq!((head.take_over("alpha"), head.epoch), (ResumeReason::Restart, 2));
        assert_eq!((head.take_over("beta"), head.epoch), (ResumeReason::TakeOver, 3));
        assert_eq!(head.holder, "beta");
    }

    #[test]
    fn a_lost_tail_is_told_of_until_the_genesis_is_pruned() {
        let mut head = head(&[(100, 0, true), (100, 0, true)]);
        head.lost_tail = Some((0, 6));
        assert_eq!(head.prune(0), []);
        assert_eq!((head.floor, head.lost_tail), (0, Some((0, 6))));
        assert_eq!(head.prune(1).len(), 1);
        assert_eq!((head.floor, head.lost_tail), (7, None));
    }
}
