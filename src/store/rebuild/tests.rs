use serde_json::json;

use super::*;
use crate::ledger::entry::Record;
use crate::organism::Input;
use crate::organism::input::Injection;

/// A ledger under construction, with the segments that its writers have stored.
struct Ledger {
    origin: Origin,
    end: Chain,
    segments: Vec<(u64, SealedSegment)>,
}

impl Ledger {
    fn new(uid: &str, generation: u64) -> Self {
        let origin = Origin { generation, name: "venom".into(), namespace: "a".into(), uid: uid.into() };
        Self { origin, end: Chain::default(), segments: vec![] }
    }

    /// Stores a segment of `count` entries by the writer of `epoch`. The first is a snapshot.
    fn add(&mut self, epoch: u64, count: u64) -> &mut Self {
        let before = self.end.clone();
        let records: Vec<Record> = (0..count)
            .map(|at| {
                let kind = if at == 0 { "snapshot" } else { "note" };
                Record::other(before.size() as f64, Some(kind), &json!({"epoch": epoch, "n": at})).unwrap()
            })
            .collect();
        self.seal(epoch, &before, &records)
    }

    fn seal(&mut self, epoch: u64, before: &Chain, records: &[Record]) -> &mut Self {
        for record in records {
            self.end.record(record).unwrap();
        }
        let sealed = SealedSegment::seal(Some(&self.origin), before, &self.end, records).unwrap();
        self.segments.push((epoch, sealed));
        self
    }

    fn published(&self) -> Published {
        Published {
            generation: self.origin.generation,
            size: self.end.size(),
            root: self.end.tree().root(),
            last_hash: *self.end.last_hash(),
        }
    }
}

fn open(segments: &[(u64, SealedSegment)], published: Option<&Published>) -> Vec<Candidate> {
    let open = |(epoch, sealed): &(u64, SealedSegment)| {
        let name = format!("venom-ledger-{epoch}-{}-{}", sealed.head.first, sealed.head.count);
        Candidate::open(name.clone(), format!("uid of {name}"), *epoch, sealed, published).unwrap()
    };
    segments.iter().map(open).collect()
}

fn known(published: Option<Published>) -> Known {
    Known { uid: Some("u".into()), published, highest_epoch: 5, ..Known::default() }
}

fn ranges(rebuilt: &Rebuilt) -> Vec<(u64, u64, u64)> {
    rebuilt.head.segments.iter().map(|it| (it.epoch, it.first, it.count)).collect()
}

fn left_out(rebuilt: &Rebuilt) -> Vec<&str> {
    rebuilt.left_out.iter().map(|it| it.0.as_str()).collect()
}

#[test]
fn a_head_is_rebuilt_up_to_the_published_end_and_beyond() {
    let mut ledger = Ledger::new("u", 1);
    ledger.add(1, 7).add(1, 9);
    let published = ledger.published();
    let injection = Injection { anoms: Some(2), id: "x".into(), ..Injection::default() };
    let record = Record::input(99.0, &Input::Injection(injection)).unwrap();
    let before = ledger.end.clone();
    ledger.seal(2, &before, &[record]).add(5, 3);
    // Their order does not matter.
    ledger.segments.reverse();
    let rebuilt = rebuild(open(&ledger.segments, Some(&published)), &known(Some(published))).unwrap();
    assert_eq!(ranges(&rebuilt), [(1, 0, 7), (1, 7, 9), (2, 16, 1), (5, 17, 3)]);
    let head = &rebuilt.head;
    assert_eq!(head.chain().as_ref(), Some(&ledger.end));
    assert_eq!((head.floor, head.generation, head.uid.as_str(), head.holder.as_str()), (0, 1, "u", HOLDER));
    assert_eq!((head.injected_total, head.last_injection), (1, Some((16, 99.0))));
    assert_eq!(head.replayable_from().map(|it| it.index), Some(0));
    assert!(head.epoch > 5 + 1, "a writer may hold an epoch that no name shows");
    assert!(rebuilt.left_out.is_empty());
    assert_eq!(
        rebuilt.not_proven,
        ["entries 16 to 19: they continue the chain, but nothing published covers them"]
    );
}

#[test]
fn the_published_end_may_lie_within_a_segment() {
    let mut ledger = Ledger::new("u", 1);
    ledger.add(1, 4);
    let published = ledger.published();
    ledger.add(1, 4);
    let parts: Vec<_> = ledger.segments.iter().map(|it| it.1.clone()).collect();
    let merged = SealedSegment::merge(Some(&ledger.origin), &parts).unwrap();
    ledger.segments.push((1, merged));
    let rebuilt = rebuild(open(&ledger.segments, Some(&published)), &known(Some(published))).unwrap();
    assert_eq!(ranges(&rebuilt), [(1, 0, 8)]);
    assert_eq!(left_out(&rebuilt).len(), 2, "the parts of a merge");
}

#[test]
fn of_two_writers_the_one_that_has_fenced_the_other_is_believed() {
    let mut ledger = Ledger::new("u", 1);
    ledger.add(1, 4);
    let (published, fork) = (ledger.published(), ledger.end.clone());
    ledger.add(1, 20);
    ledger.end = fork;
    ledger.add(2, 3);
    let rebuilt = rebuild(open(&ledger.segments, Some(&published)), &known(Some(published))).unwrap();
    assert_eq!(ranges(&rebuilt), [(1, 0, 4), (2, 4, 3)]);
    assert_eq!(left_out(&rebuilt), ["venom-ledger-1-4-20"]);

    // What was published decides against any epoch.
    let mut fenced = Ledger::new("u", 1);
    let published = fenced.add(1, 4).add(1, 20).published();
    let rebuilt = rebuild(open(&ledger.segments, Some(&published)), &known(Some(published))).unwrap();
    assert_eq!(ranges(&rebuilt), [(1, 0, 4), (1, 4, 20)]);
}

#[test]
fn a_gap_is_listed_as_lost_and_pruned_entries_are_not() {
    let mut ledger = Ledger::new("u", 3);
    ledger.add(1, 8).add(1, 8).add(1, 8).add(1, 8);
    let published = ledger.published();
    ledger.segments.remove(2);
    ledger.segments.remove(0);
    let known = Known { injected_total: 9, lost_tail: Some((0, 4)), ..known(Some(published.clone())) };
    let rebuilt = rebuild(open(&ledger.segments, Some(&published)), &known).unwrap();
    assert_eq!(ranges(&rebuilt), [(1, 8, 8), (0, 16, 8), (1, 24, 8)]);
    assert_eq!((rebuilt.head.floor, rebuilt.head.injected_total, rebuilt.head.lost_tail), (8, 9, None));
    assert_eq!(rebuilt.head.chain(), Some(ledger.end));
    let told = rebuilt.not_proven.join("\n");
    for line in [
        "entries 16 to 23: missing",
        "entries 0 to 7: not stored",
        "entries up to 15: their hashes are right",
    ] {
        assert!(told.contains(line), "{line}: {told}");
    }
}

/// A segment before a gap that belongs to another history is not listed.
#[test]
fn a_segment_before_a_gap_has_to_agree_with_what_follows() {
    let mut ledger = Ledger::new("u", 1);
    ledger.add(1, 8).add(1, 4).add(1, 4);
    let published = ledger.published();
    let mut other = Ledger::new("u", 1);
    other.add(2, 8);
    let segments = [other.segments[0].clone(), ledger.segments[2].clone()];
    let rebuilt = rebuild(open(&segments, Some(&published)), &known(Some(published))).unwrap();
    assert_eq!(ranges(&rebuilt), [(1, 12, 4)]);
    assert_eq!(left_out(&rebuilt), ["venom-ledger-2-0-8"]);
}

#[test]
fn what_contradicts_the_published_end_is_refused() {
    let mut ledger = Ledger::new("u", 1);
    ledger.add(1, 4).add(1, 4);
    let right = ledger.published();
    for (published, told) in [
        (Published { root: [7; 32], ..right.clone() }, "the segments give another one"),
        (Published { last_hash: [7; 32], ..right.clone() }, "the segments give another one"),
        (Published { size: 9, ..right.clone() }, "no readable segment reaches that size"),
        (Published { generation: 2, ..right.clone() }, "no readable segment of generation 2 is left"),
    ] {
        let candidates = open(&ledger.segments, Some(&published));
        let error = rebuild(candidates, &known(Some(published))).unwrap_err();
        assert!(error.contains(told), "{told}: {error}");
    }
    let error = rebuild(vec![], &known(None)).unwrap_err();
    assert!(error.contains("no readable segment"), "{error}");
}

/// A namespace restored from a backup: new UIDs and no status.
#[test]
fn a_ledger_of_an_organism_that_is_gone_is_rebuilt_as_that() {
    let mut ledger = Ledger::new("old", 2);
    ledger.add(4, 4);
    let archived = Head { uid: "old".into(), generation: 1, epoch: 3, ..Head::empty("old", 1, 3, "") };
    let known = Known { archived: vec![archived], old_epoch: Some(8), ..known(None) };
    let mut earlier = Ledger::new("old", 1);
    earlier.add(2, 9);
    let segments = [earlier.segments[0].clone(), ledger.segments[0].clone()];
    let rebuilt = rebuild(open(&segments, None), &known).unwrap();
    assert_eq!((rebuilt.head.uid.as_str(), rebuilt.head.generation, rebuilt.head.epoch), ("old", 2, 9));
    assert_eq!(ranges(&rebuilt), [(4, 0, 4)]);
    assert!(rebuilt.left_out.is_empty(), "segments of other generations are not touched");
    assert!(rebuilt.not_proven[0].starts_with("that no entry is missing at the end"));
}

#[test]
fn a_segment_that_is_not_what_it_states_is_no_candidate() {
    let mut ledger = Ledger::new("u", 1);
    ledger.add(1, 4);
    let (_, sealed) = ledger.segments.remove(0);
    let mut moved = sealed.clone();
    moved.head.start = moved.head.start.map(|start| crate::ledger::sealed::ReplayStart { index: 2, ..start });
    let mut other_end = sealed.clone();
    other_end.head.last_hash = crate::ledger::sealed::HexHash([1; 32]);
    let mut nobodys = sealed;
    nobodys.head.origin = None;
    for wrong in [moved, other_end, nobodys] {
        assert!(Candidate::open("x".into(), "y".into(), 1, &wrong, None).is_err());
    }
}
