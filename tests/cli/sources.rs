//! `venom ledger show`, and the sources of a ledger.

use std::io::Read;
use std::process::Stdio;

use venom::ledger::Entry;

use super::{Done, Place};

#[test]
fn shows_entries() {
    let place = Place::new();
    place.ok("run --beats 10");
    place.ok("run --beats 10 --p-nodes 2");
    let all = place.ok("ledger show venom-ledger");
    assert_eq!(all.lines().count(), 1 + 70 + 3 + 70);
    assert!(all.lines().next().unwrap().contains("genesis      VENOM Λ-GENESIS, version"), "{all}");
    let last = place.ok("ledger show venom-ledger --tail 2");
    assert_eq!(last.lines().count(), 2);
    assert!(last.lines().next().unwrap().contains("action       NOOP, threat 0.5000"), "{last}");
    let inputs = place.ok("ledger show venom-ledger --kind resume,scale --kind snapshot");
    assert_eq!(inputs.lines().count(), 3);
    assert!(inputs.contains("scale        P 5 → 2"), "{inputs}");
    let action = place.ok("ledger show venom-ledger --kind action --tail 1 --json");
    assert_eq!(Entry::from_line(action.trim_end()).unwrap().kind(), "action");
}

#[test]
fn reads_from_a_file_and_from_stdin() {
    let place = Place::new();
    place.ok("run --beats 10");
    place.ok("ledger export venom-ledger -o ledger.jsonl");
    for command in ["show", "verify", "replay", "export"] {
        let of_folder = place.ok(&format!("ledger {command} venom-ledger"));
        let of_lines = place.ok(&format!("ledger {command} ledger.jsonl"));
        match command {
            // Lines have no head, and these two say so.
            "verify" | "replay" => assert!(of_lines.contains("end not anchored"), "{of_lines}"),
            _ => assert_eq!(of_lines, of_folder),
        }
        let stdin = std::fs::File::open(place.path("ledger.jsonl")).unwrap();
        let done: Done = place.command(&format!("ledger {command} -")).stdin(stdin).output().unwrap().into();
        assert_eq!((done.code, done.out), (Some(0), of_lines));
    }
}

/// The golden ledger contains every type of entry.
#[test]
fn reads_the_golden_ledger() {
    let place = Place::new();
    let path = format!("{}/tests/vectors/ledger.jsonl", env!("CARGO_MANIFEST_DIR"));
    let lines = std::fs::read_to_string(&path).unwrap();
    let shown = place.ok(&format!("ledger show {path}"));
    assert_eq!(shown.lines().count(), lines.lines().count());
    assert_eq!(place.ok(&format!("ledger export {path}")), lines);
    place.ok(&format!("ledger verify {path}"));
    place.ok(&format!("ledger replay {path}"));
}

/// A replay detects an altered decision even if the chain was rebuilt around it.
#[test]
fn replay_detects_an_altered_decision() {
    let place = Place::new();
    place.ok("run --beats 10");
    let mut chain = venom::ledger::Chain::default();
    let mut text = String::new();
    for mut entry in place.entries() {
        if entry.index == 20 {
            assert_eq!(entry.kind(), "action");
            entry.data = entry.data.replace("NOOP", "ALERT").into();
        }
        entry.previous_hash = *chain.last_hash();
        entry.hash = chain.append(entry.timestamp, &entry.data);
        text += &format!("{}\n", entry.to_line());
    }
    place.write("forged.jsonl", &text);
    place.ok("ledger verify forged.jsonl");
    let told = place.fails("ledger replay forged.jsonl", 1);
    assert!(told.contains("entry 20: action.action is \"ALERT\", expected \"NOOP\""), "{told}");
}

/// As in `venom ledger show | head`.
#[test]
fn a_closed_pipe_is_not_an_error() {
    let place = Place::new();
    place.ok("run --beats 300");
    for command in ["show", "export"] {
        let mut child = place
            .command(&format!("ledger {command} venom-ledger"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut some = [0; 64];
        child.stdout.take().unwrap().read_exact(&mut some).unwrap();
        let done = Done::from(child.wait_with_output().unwrap());
        assert_eq!((done.code, done.err.as_str()), (Some(0), ""), "{command}");
    }
}
