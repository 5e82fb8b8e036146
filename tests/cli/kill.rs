//! kill -9, again and again.

use std::process::Stdio;
use std::time::{Duration, Instant};

use super::{MANY_SEGMENTS, Place};

/// However a writer dies: what was committed stays as it was, goes on, and no index comes twice. Commits and
/// merges happen with every beat here, so that a kill often falls into one.
#[test]
fn nothing_committed_is_lost() {
    let place = Place::new();
    place.write("many.yaml", MANY_SEGMENTS);
    let mut committed = vec![];
    let mut leftovers = 0;
    for round in 0..12_u64 {
        let mut child =
            place.command("run -f many.yaml").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let head = place.ledger().join("head.json");
        let before = std::fs::read(&head).ok();
        let until = Instant::now() + Duration::from_secs(60);
        // Until it has taken over, and then some odd while.
        while std::fs::read(&head).ok() == before && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(40 + 37 * round % 200));
        child.kill().unwrap();
        child.wait().unwrap();

        // What the kill left beside the ledger is told as such; nothing else is wrong.
        let verified = place.venom("ledger verify venom-ledger");
        let lines = verified.out.lines();
        if verified.code != Some(0) {
            leftovers += 1;
            assert!(
                lines.clone().all(|line| line.contains("left by a writer that was killed")),
                "{verified:?}"
            );
        }
        let now = place.entries();
        assert!(now.len() >= committed.len());
        assert_eq!(now[..committed.len()], committed, "round {round}");
        assert!(now.iter().enumerate().all(|(at, entry)| entry.index == at as u64));
        committed = now;
    }
    place.ok("run --beats 3");
    let now = place.entries();
    assert_eq!(now[..committed.len()], committed);
    place.ok("ledger verify venom-ledger");
    place.ok("ledger replay venom-ledger");
    println!("{leftovers} of 12 kills left something behind");
}

/// A writer killed before its first commit leaves a folder that can be used.
#[test]
fn a_folder_that_was_just_begun_can_be_used() {
    for made in [&["lock"][..], &["lock", "head.json.tmp"], &[]] {
        let place = Place::new();
        std::fs::create_dir_all(place.ledger().join("segments")).unwrap();
        for name in made {
            std::fs::write(place.ledger().join(name), "").unwrap();
        }
        place.fails("ledger verify venom-ledger", 1);
        place.ok("run --beats 3");
        place.ok("ledger verify venom-ledger");
    }
}
