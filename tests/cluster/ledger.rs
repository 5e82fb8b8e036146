//! A ledger read from the cluster, checked by the library and by `rederive`, which is independent of the library.
use std::convert::Infallible;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::ObjectMeta;
use venom::api::OrganismStatus;
use venom::ledger::entry::Record;
use venom::ledger::replay::Replay;
use venom::ledger::{Entry, SealedSegment, hex};
use venom::store::configmap::ConfigMaps;
use venom::store::{Head, SegmentRef};

use crate::harness::eventually;
use crate::rederive::{Before, Summary, rederive};

/// Another object of that name, whose entries begin where those of `object` do and end in another hash.
pub fn forged(object: ConfigMap) -> ConfigMap {
    let text = &object.data.as_ref().unwrap()["head"];
    let entries = object.binary_data.as_ref().unwrap()["entries"].0.clone();
    let sealed = SealedSegment::from_parts(text, entries).unwrap();
    let before = sealed.chain_before().unwrap();
    let mut records = vec![];
    let each = |entry: Entry| {
        records.push(Record::Other(entry.timestamp + 1e-3, entry.data.to_string().into()));
        Ok::<_, Infallible>(())
    };
    sealed.visit(each).unwrap();
    let mut after = before.clone();
    for record in &records {
        after.record(record).unwrap();
    }
    let other = SealedSegment::seal(sealed.head.origin.as_ref(), &before, &after, &records).unwrap();
    ConfigMap {
        metadata: ObjectMeta {
            name: object.metadata.name,
            labels: object.metadata.labels,
            ..ObjectMeta::default()
        },
        data: Some([("head".to_owned(), other.head_text().unwrap())].into()),
        binary_data: Some([("entries".to_owned(), ByteString(other.entries))].into()),
        immutable: Some(true),
    }
}

/// A consistent snapshot of a committed ledger.
pub struct Live {
    pub head: Head,
    /// The listed segments after the last gap, oldest first, with their ranges in `entries`.
    segments: Vec<(SegmentRef, SealedSegment, std::ops::Range<usize>)>,
    /// The entries of these segments.
    pub entries: Vec<Entry>,
    /// First and last index of each listed segment that is missing.
    pub gaps: Vec<(u64, u64)>,
}

impl Live {
    /// Reads a ledger while it is written. A missing segment that the head still lists is a gap; otherwise it was
    /// merged or pruned, and the ledger is read again.
    pub async fn read(store: &ConfigMaps) -> Self {
        eventually("a head whose segments are all there when they are read", async || {
            let head = store.head().await.unwrap().expect("no head").head.expect("not a head of ours");
            let (size, segments) = (head.size, head.segments.len());
            let live = Self::listed(store, head).await;
            live.ok_or_else(|| format!("{segments} segments, {size} entries, of which some were gone"))
        })
        .await
    }

    /// Reads the segments of `head`; `None` if some were merged or pruned meanwhile.
    pub async fn listed(store: &ConfigMaps, head: Head) -> Option<Self> {
        let (mut segments, mut entries, mut gaps) = (vec![], vec![], vec![]);
        // Concurrently: one after the other would leave time for merges.
        let read = futures::future::join_all(head.segments.iter().map(|listed| store.listed(listed))).await;
        for (listed, sealed) in head.segments.iter().zip(read) {
            match sealed.unwrap() {
                Some(sealed) => {
                    let from = entries.len();
                    let each = |entry| {
                        entries.push(entry);
                        Ok::<_, Infallible>(())
                    };
                    sealed.visit(each).unwrap();
                    segments.push((listed.clone(), sealed, from..entries.len()));
                }
                None => {
                    gaps.push((listed.first, listed.end() - 1));
                    segments.clear();
                    entries.clear();
                }
            }
        }
        if !gaps.is_empty() {
            let now = store.head().await.unwrap().and_then(|found| found.head);
            let still = |gap: &(u64, u64)| {
                now.iter().flat_map(|head| &head.segments).any(|it| (it.first, it.end() - 1) == *gap)
            };
            if !gaps.iter().all(still) {
                return None;
            }
        }
        Some(Self { head, segments, entries, gaps })
    }

    /// The state of the chain before the first entry.
    fn before(&self) -> Before {
        let Some((_, sealed, _)) = self.segments.first() else { return Before::default() };
        Before {
            size: sealed.head.first,
            previous_hash: hex(&sealed.head.previous_hash.0),
            peaks: sealed.head.peaks.iter().map(|peak| hex(&peak.0)).collect(),
        }
    }

    /// Checks the statements of head and segments, every hash and link, the root, a replay by the library, and a
    /// derivation by `rederive`.
    pub fn check(&self) -> Summary {
        let Self { head, segments, entries, gaps } = self;
        let lines: Vec<String> = entries.iter().map(Entry::to_line).collect();
        let summary = rederive(&self.before(), lines.iter().map(String::as_str)).unwrap();
        assert_eq!(summary.size, head.size, "the head's size");
        assert_eq!(summary.last_hash, hex(&head.last_hash.0), "the head's last hash");
        assert_eq!(summary.root, head.root_hex(), "the head's root");
        let peaks: Vec<String> = head.peaks.iter().map(|peak| hex(&peak.0)).collect();
        assert_eq!(summary.peaks, peaks, "the head's peaks");
        assert_eq!(head.floor, head.segments.first().map_or(head.size, |it| it.first), "floor");
        assert!(head.segments.windows(2).all(|pair| pair[0].end() == pair[1].first), "side by side");
        let mut tree = segments.first().map(|(_, sealed, _)| sealed.chain_before().unwrap().tree().clone());
        for (listed, sealed, its) in segments {
            self.check_segment(listed, sealed, its.clone());
            let tree = tree.as_mut().unwrap();
            assert_eq!(
                sealed.chain_before().unwrap().tree(),
                tree,
                "peaks of the segment at {}",
                listed.first
            );
            entries[its.clone()].iter().for_each(|entry| tree.push(&entry.hash));
        }
        let mut replay = Replay::default();
        entries.iter().for_each(|entry| replay.feed(entry.clone()).unwrap());
        if gaps.is_empty() {
            assert_eq!(replay.from(), head.replayable_from().map(|it| it.index), "where a replay starts");
        }
        assert_eq!((summary.from, summary.beats), (replay.from(), replay.beats()));
        assert_eq!(summary.state["beat"].as_u64(), replay.state().map(|state| state.beat));
        replay.finish().unwrap();
        summary
    }

    fn check_segment(&self, listed: &SegmentRef, sealed: &SealedSegment, its: std::ops::Range<usize>) {
        let (head, entries) = (&sealed.head, &self.entries[its]);
        let name = format!("segment {} + {}", listed.first, listed.count);
        assert_eq!((head.first, head.count), (listed.first, listed.count), "{name}");
        assert_eq!((head.first, head.count), (entries[0].index, entries.len() as u64), "{name}");
        assert_eq!(head.previous_hash.0, entries[0].previous_hash, "{name}: previous hash");
        assert_eq!(Some(head.last_hash.0), entries.last().map(|it| it.hash), "{name}: last hash");
        assert_eq!(sealed.entries.len() as u64, listed.bytes, "{name}: bytes");
        assert!(listed.epoch <= self.head.epoch, "{name}: epoch");
        let origin = head.origin.as_ref().expect("no origin");
        assert_eq!(
            (&origin.uid, origin.generation),
            (&self.head.uid, self.head.generation),
            "{name}: origin"
        );
        let start = entries.iter().find(|it| ["genesis", "snapshot"].contains(&&*it.kind()));
        let start = start.map(|entry| (entry.index, entry.timestamp));
        assert_eq!(head.start.map(|it| (it.index, it.time)), start, "{name}: first genesis or snapshot");
        assert_eq!(listed.start, head.start, "{name}: as listed");
    }

    /// Checks that this ledger contains `earlier`, which was read before it, byte for byte as far as it is not pruned.
    /// Returns the number of compared entries.
    pub fn continues(&self, earlier: &Self) -> usize {
        assert!(self.head.size >= earlier.head.size, "entries were taken back");
        let first = self.entries.first().map_or(self.head.size, |it| it.index);
        let kept: Vec<&Entry> = earlier.entries.iter().filter(|it| it.index >= first).collect();
        let from = kept.first().map_or(0, |it| usize::try_from(it.index - first).unwrap());
        for (now, then) in self.entries[from..].iter().zip(&kept) {
            assert_eq!(now.to_line(), then.to_line(), "entry {} has changed", then.index);
        }
        kept.len()
    }

    /// Checks a status, which was read before this ledger, against the ledger up to the size in the status.
    pub fn check_status(&self, status: &OrganismStatus) {
        let stated = status.ledger.as_ref().expect("no ledger in the status");
        assert_eq!(stated.generation, self.head.generation);
        let first = self.entries[0].index;
        let count = usize::try_from(stated.size.checked_sub(first).expect("pruned meanwhile")).unwrap();
        let part = &self.entries[..count];
        let mut tree = self.segments[0].1.chain_before().unwrap().tree().clone();
        part.iter().for_each(|entry| tree.push(&entry.hash));
        assert_eq!(stated.merkle_root, hex(&tree.root()), "status.ledger.merkleRoot");
        assert_eq!(
            Some(&stated.last_hash),
            part.last().map(|it| hex(&it.hash)).as_ref(),
            "status.ledger.lastHash"
        );

        let data: Vec<serde_json::Value> =
            part.iter().map(|entry| serde_json::from_str(&entry.data).unwrap()).collect();
        let last = |kind: &str| data.iter().rposition(|it| it["type"] == kind);
        let Some((pulse, action)) = last("pulse").zip(last("action")) else {
            assert_eq!(status.beats, Some(0));
            return;
        };
        assert_eq!(status.beats, data[pulse]["pulse"]["pulse_id"].as_u64(), "status.beats");
        let near = |shown: f64, exact: &serde_json::Value, what: &str| {
            let exact = exact.as_f64().unwrap();
            assert!((shown - exact).abs() <= 0.5001e-4, "status.{what} is {shown}, the ledger has {exact}");
        };
        near(status.t_lambda.unwrap(), &data[pulse]["pulse"]["t_lambda"], "tLambda");
        let decision = status.decision.as_ref().expect("no decision");
        near(decision.threat, &data[action]["details"]["raw_threat"], "decision.threat");
        let action = data[action]["action"].as_str().unwrap();
        assert_eq!(decision.action.as_str(), action, "status.decision.action");
        // The first action of the last run of equal decisions.
        let actions: Vec<usize> = (0..data.len()).filter(|&at| data[at]["type"] == "action").collect();
        let run = actions.iter().rev().take_while(|&&at| data[at]["action"] == action).last().unwrap();
        if *run != actions[0] || first == 0 {
            assert_eq!(decision.entry, part[*run].index, "status.decision.entry");
            let since = decision.since.0.as_microsecond() as f64 / 1e6;
            assert!((since - part[*run].timestamp).abs() < 1.0, "status.decision.since");
        }
    }
}
