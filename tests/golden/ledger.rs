use serde_json::{Value, from_value};
use venom::ledger::replay::Replay;
use venom::ledger::{Chain, Entry, Ledger, hex};

use super::{json, text};

fn entries() -> Vec<Entry> {
    text("ledger.jsonl")
        .lines()
        .map(|line| Entry::from_line(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

/// Also, each line is reproduced byte for byte.
#[test]
fn the_golden_ledger_verifies() {
    let mut chain = Chain::default();
    for (entry, line) in entries().iter().zip(text("ledger.jsonl").lines()) {
        chain.verify_next(entry).unwrap();
        assert_eq!(entry.to_line(), line);
    }
    let want = &json("merkle.json")["ledger"];
    assert_eq!(chain.size(), want["size"]);
    assert_eq!(hex(&chain.tree().root()), want["root"]);
}

/// The ledger in memory, whose operations the mission names.
#[test]
fn recording_the_golden_ledger_reproduces_it() {
    let mut ledger = Ledger::default();
    for entry in &entries() {
        let (time, data) = (entry.timestamp, serde_json::from_str::<Value>(&entry.data).unwrap());
        match entry.kind().as_str() {
            "pulse" => {
                let anoms = data["features"]["anoms"].as_u64().unwrap();
                ledger.record_pulse(&from_value(data["pulse"].clone()).unwrap(), anoms)
            }
            "flow_result" if data.get("result").is_some() => {
                let flow = from_value(data["flow"].clone()).unwrap();
                ledger.record_flow_result(time, flow, &data["result"])
            }
            "action" if data.get("held").is_none() => {
                let action = from_value(data["action"].clone()).unwrap();
                ledger.record_action(time, action, &from_value(data["details"].clone()).unwrap())
            }
            _ => ledger.add_entry(time, &data),
        }
        .unwrap();
    }
    assert_eq!(ledger.entries(), entries());
    ledger.verify_chain().unwrap();
    let want = &json("merkle.json")["ledger"];
    assert_eq!(hex(&ledger.compute_merkle_root()), want["root"]);
    let manifest = ledger.get_manifest();
    assert_eq!((&manifest["size"], &manifest["merkle_root"]), (&want["size"], &want["root"]));
    assert_eq!(manifest["last_hash"], hex(&ledger.entries().last().unwrap().hash));
}

#[test]
fn the_golden_ledger_replays_from_genesis_and_from_each_snapshot() {
    let entries = entries();
    let starts: Vec<_> =
        entries.iter().filter(|entry| ["genesis", "snapshot"].contains(&entry.kind().as_str())).collect();
    assert!(starts.len() > 1);
    for start in starts {
        let mut replay = Replay::default();
        for entry in &entries[start.index as usize..] {
            replay.feed(entry.clone()).unwrap();
        }
        assert_eq!(replay.from(), Some(start.index));
        assert!(replay.finish().unwrap().is_some());
    }
}

/// Replaces the action of each action entry in turn.
#[test]
fn a_replay_detects_a_changed_decision() {
    let entries = entries();
    let actions: Vec<_> = entries.iter().filter(|entry| entry.kind() == "action").collect();
    for action in actions {
        let changed = if action.data.contains("\"NOOP\"") {
            action.data.replacen("\"NOOP\"", "\"ALERT\"", 1)
        } else {
            action.data.replacen("\"action\":\"", "\"action\":\"NOOP\",\"was\":\"", 1)
        };
        let mut replay = Replay::default();
        let result = entries.iter().try_for_each(|entry| {
            let mut entry = entry.clone();
            if entry.index == action.index {
                entry.data = changed.clone().into();
            }
            replay.feed(entry)
        });
        let mismatch = result.expect_err("the changed decision was not detected");
        assert_eq!(mismatch.index, action.index);
    }
}
