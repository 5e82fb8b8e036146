//! Hostile text in a ledger, a head or a file name is shown escaped and cut; data is passed on as it is.

use std::fs;

use serde_json::{Value, json};
use venom::ledger::{Chain, Entry, canonical};

use super::{Done, Place};

/// Clears the screen, sets a title, starts a line of its own, reorders what is read.
const HOSTILE: &str = "\x1b[2J\x1b]0;owned\x07\r\nverified: all is well\n\u{9b}31m\u{202e}\u{7f}";

/// What people read of it.
const SHOWN: &str = r"\u{1b}[2J\u{1b}]0;owned\u{7}\r\nverified: all is well\n\u{9b}31m\u{202e}\u{7f}";

fn assert_printable(what: &str, done: &Done) {
    for line in done.out.lines().chain(done.err.lines()) {
        assert!(!line.chars().any(|it| it.is_control() || it == '\u{202e}'), "{what}: {line:?}");
        assert!(line.len() <= 5000, "{what}: a line of {} bytes", line.len());
        assert!(!line.starts_with("verified: all is well"), "{what}: {done:?}");
    }
}

/// Entries of a ledger whose types and texts are hostile, with every hash right.
fn hostile_lines() -> String {
    let mut chain = Chain::default();
    let mut text = String::new();
    let long = HOSTILE.to_owned() + &"x".repeat(100_000);
    let contents = [
        json!({"type": HOSTILE, "what": HOSTILE}),
        json!({"type": long}),
        json!({
            "type": "sense", "anoms": 1, "kind": "restart", "source": HOSTILE, "subject": long, "suppressed": false,
        }),
        json!({
            "type": "injection", "anoms": 5, "from": HOSTILE, "id": HOSTILE, "ml_bias": null, "ml_weight": null,
        }),
    ];
    for data in contents {
        let data: Box<str> = canonical::to_string(&data).unwrap().into();
        let (index, previous_hash) = (chain.size(), *chain.last_hash());
        let hash = chain.append(1.0, &data);
        text += &(Entry { index, timestamp: 1.0, data, previous_hash, hash }.to_line() + "\n");
    }
    text
}

#[test]
fn hostile_entries_steer_no_terminal() {
    let place = Place::new();
    let lines = hostile_lines();
    place.write("hostile.jsonl", &lines);
    let shown = place.venom("ledger show hostile.jsonl");
    assert_eq!((shown.code, shown.out.lines().count()), (Some(0), 4), "{shown:?}");
    assert!(shown.out.contains(SHOWN), "{shown:?}");
    assert_printable("show", &shown);
    for command in ["verify", "replay"] {
        let done = place.venom(&format!("ledger {command} hostile.jsonl"));
        assert_printable(command, &done);
    }
    // Data stays as it is: canonical JSON has escaped all of that.
    for line in ["ledger export hostile.jsonl", "ledger show --json hostile.jsonl"] {
        let done = place.venom(line);
        assert_eq!((done.code, &done.out), (Some(0), &lines));
        assert!(done.out.bytes().all(|it| it == b'\n' || (b' '..=b'~').contains(&it)));
    }
}

#[test]
fn a_line_that_is_no_entry_is_quoted_without_its_controls() {
    let place = Place::new();
    for content in [
        json!({HOSTILE: 1}).to_string(),
        json!({"data": HOSTILE, "hash": HOSTILE, "index": 0, "previous_hash": HOSTILE, "timestamp": 0})
            .to_string(),
        HOSTILE.to_owned(),
        HOSTILE.repeat(10_000),
    ] {
        place.write("bad.jsonl", &content);
        for command in ["show", "verify", "verify -o json", "replay", "export"] {
            let done = place.venom(&format!("ledger {command} bad.jsonl"));
            assert_eq!(done.code, Some(1), "{command}: {done:?}");
            if command == "verify -o json" {
                let told: Value = serde_json::from_str(&done.out).unwrap();
                assert_eq!(told["verified"], false);
                assert!(done.out.bytes().all(|it| it == b'\n' || (b' '..=b'~').contains(&it)), "{done:?}");
            } else {
                assert_printable(command, &done);
            }
        }
    }
}

#[test]
fn a_hostile_head_and_a_hostile_file_name_steer_no_terminal() {
    let place = Place::new();
    place.ok("run --beats 10");
    fs::write(place.ledger().join(HOSTILE.replace('/', "")), "").unwrap();
    let done = place.venom("ledger verify venom-ledger");
    assert_eq!(done.code, Some(1));
    assert!(done.out.contains(SHOWN), "{done:?}");
    assert_printable("a stray file", &done);

    let path = place.ledger().join("head.json");
    let mut head: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    head["size"] = json!(HOSTILE.to_owned() + &"x".repeat(100_000));
    fs::write(&path, head.to_string()).unwrap();
    for command in
        ["ledger show", "ledger verify", "ledger replay", "ledger export", "run --beats 1 --ledger"]
    {
        let done = place.venom(&format!("{command} venom-ledger"));
        assert_eq!(done.code, Some(1), "{command}: {done:?}");
        assert_printable(command, &done);
    }
    let mut command = place.command("ledger verify");
    let done: Done = command.arg(HOSTILE).output().unwrap().into();
    assert!(done.err.contains(SHOWN), "{done:?}");
    assert_printable("an argument", &done);
    let mut command = place.command("ledger");
    assert_printable("a subcommand", &command.arg(HOSTILE).output().unwrap().into());
}

#[test]
fn a_hostile_manifest_steers_no_terminal() {
    let place = Place::new();
    let hostile = serde_json::to_string(HOSTILE).unwrap();
    for text in [
        format!(r#"{{"apiVersion": "v1", "kind": {hostile}, "metadata": {{"name": {hostile}}}}}"#),
        format!(
            r#"{{"apiVersion": "genesis.venom.dev/v1alpha1", "kind": "Organism", "spec": {{{hostile}: 1}}}}"#
        ),
        format!(
            r#"{{"apiVersion": "genesis.venom.dev/v1alpha1", "kind": "Organism", "spec": {{"beats": {hostile}}}}}"#
        ),
        HOSTILE.to_owned(),
    ] {
        place.write("organism.yaml", &text);
        assert_printable(&text, &place.venom("run --beats 1 -f organism.yaml"));
    }
}
