//! Stored bytes with some of them changed.

use venom::ledger::{Chain, Entry, SealedSegment};
use venom::store::Head;
use venom::store::head::{Contents, SegmentRef};

use crate::memory::{alone, bounded};
use crate::mutate::mutate;
use crate::{cases, each_case, golden, seal};

#[test]
fn mutated_segments_are_refused() {
    let _alone = alone();
    let (sealed, _) = seal(&Chain::default(), &golden()[..200]);
    let head = sealed.head_text().unwrap();
    bounded("mutated segments", || {
        each_case("mutated segments", cases(4_000), |rng| {
            let (mut text, mut entries) = (head.clone().into_bytes(), sealed.entries.clone());
            if rng.bool() {
                mutate(rng, &mut entries);
            }
            if rng.bool() {
                mutate(rng, &mut text);
            }
            let text = String::from_utf8_lossy(&text).into_owned();
            let Ok(mutant) = SealedSegment::from_parts(&text, entries) else { return };
            if let Ok((after, _)) = mutant.verify(None) {
                assert_eq!(after.last_hash(), &mutant.head.last_hash.0);
            }
            let _ = SealedSegment::merge(None, &[mutant.clone(), mutant]);
        });
    });
}

#[test]
fn mutated_heads_are_refused_or_add_up() {
    let _alone = alone();
    let mut head = Head::empty("00000000-0000-4000-8000-000000000000", 3, 7, "alpha");
    let mut end = Chain::default();
    for part in golden().chunks(100) {
        let (sealed, after) = seal(&end, part);
        head.append(
            SegmentRef::new(&sealed, 7, "uid".into(), 0),
            &after,
            Contents { injections: vec![(end.size(), 1.0)], ..Contents::default() },
        );
        end = after;
    }
    let text = serde_json::to_vec(&head).unwrap();
    assert_eq!(Head::parse(&String::from_utf8_lossy(&text)).unwrap(), head);
    bounded("mutated heads", || {
        each_case("mutated heads", cases(20_000), |rng| {
            let mut bytes = text.clone();
            mutate(rng, &mut bytes);
            let Ok(mut parsed) = Head::parse(&String::from_utf8_lossy(&bytes)) else { return };
            // Whatever is done with a head that was parsed.
            let _ = (parsed.chain(), parsed.bytes(), parsed.mergeable(u64::MAX, |_| true));
            parsed.prune(parsed.prunable(0, u64::MAX));
            parsed.take_over("beta");
            assert!(parsed.segments.iter().all(|it| it.end() <= parsed.size));
        });
        // Many unknown fields, and one segment too many.
        let mut wide = serde_json::to_value(&head).unwrap();
        (0..20_000).for_each(|at| wide[format!("f{at}")] = at.into());
        assert!(Head::parse(&wide.to_string()).is_err());
        let listed = |at: u64| serde_json::json!([at, 1, 1, "gone", 1, 0, null]);
        let mut long = serde_json::to_value(Head::empty("u", 1, 1, "")).unwrap();
        long["segments"] = (0..15_000).map(listed).collect();
        assert!(Head::parse(&long.to_string()).is_err());
    });
}

#[test]
fn mutated_lines_are_refused() {
    let _alone = alone();
    let mut chain = Chain::default();
    let mut lines = vec![];
    for (time, data) in golden() {
        let (index, previous_hash) = (chain.size(), *chain.last_hash());
        let hash = chain.append(time, &data);
        lines.push(Entry { index, timestamp: time, data: data.into(), previous_hash, hash }.to_line());
    }
    bounded("mutated lines", || {
        each_case("mutated lines", cases(20_000), |rng| {
            let line = &lines[rng.usize(..lines.len())];
            let mut bytes = line.clone().into_bytes();
            mutate(rng, &mut bytes);
            let text = String::from_utf8_lossy(&bytes);
            if let Ok(entry) = Entry::from_line(&text) {
                assert_eq!(entry.to_line(), text, "two texts of one entry");
                let _ = entry.data();
            }
        });
    });
}
