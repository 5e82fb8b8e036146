//! Writers that are killed with SIGKILL.

use std::process::Stdio;
use std::time::{Duration, Instant};

use super::{MANY_SEGMENTS, Place};

/// After a kill the committed entries are unchanged, the ledger continues, and every index is used once. Each beat commits
/// and merges, so that a kill often interrupts one.
#[test]
fn kills_lose_no_committed_entry() {
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
        // Until it has taken over, and then for a varying time.
        while std::fs::read(&head).ok() == before && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(40 + 37 * round % 200));
        child.kill().unwrap();
        child.wait().unwrap();

        // The only findings are leftovers of the killed writer.
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

/// A folder is usable after its writer was killed before the first commit.
#[test]
fn a_folder_without_a_commit_is_usable() {
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
