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

/// Hashes, links and root; and each line prints back as it was read.
#[test]
fn chain_and_root() {
    let mut chain = Chain::default();
    for (entry, line) in entries().iter().zip(text("ledger.jsonl").lines()) {
        chain.follow(entry).unwrap();
        assert_eq!(entry.to_line(), line);
    }
    let want = &json("merkle.json")["ledger"];
    assert_eq!(chain.size(), want["size"]);
    assert_eq!(hex(&chain.tree().root()), want["root"]);
}

/// The mission's operations make the same ledger.
#[test]
fn made_again_by_the_missions_operations() {
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

/// Every number follows, from genesis and from each snapshot.
#[test]
fn derives_from_genesis_and_from_each_snapshot() {
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

/// A record that does not follow is found: each action entry turned into another action.
#[test]
fn a_changed_decision_is_found() {
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
        let mismatch = result.expect_err("a changed decision passed");
        assert_eq!(mismatch.index, action.index);
    }
}
