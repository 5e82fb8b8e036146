//! Tests of the independent verifier, `rederive`: it accepts the golden ledger from genesis and from every snapshot,
//! and detects every changed number in it.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in tests, which excludes their helpers

#[allow(dead_code)] // used by other test targets
mod rederive;

use rederive::{Before, Summary, rederive, text};
use serde_json::{Value, json};

fn file(name: &str) -> String {
    let path = format!("{}/tests/vectors/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn golden() -> Vec<Value> {
    file("ledger.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Recomputes links and hashes of `entries`, so that only their data can be wrong, and verifies them.
fn verify_forged(mut entries: Vec<Value>) -> Result<Summary, String> {
    let size = entries[0]["index"].as_u64().unwrap();
    // The root is not compared here: any peaks will do.
    let peaks = vec!["0".repeat(64); size.count_ones() as usize];
    let before = Before { size, previous_hash: "0".repeat(64), peaks };
    let mut previous = before.previous_hash.clone();
    let mut lines = vec![];
    for entry in &mut entries {
        entry["previous_hash"] = json!(previous);
        previous = text::entry_hash(entry);
        entry["hash"] = json!(previous);
        lines.push(text::canonical(entry));
    }
    rederive(&before, lines.iter().map(String::as_str))
}

fn is(entry: &Value, kinds: &[&str]) -> bool {
    kinds.iter().any(|kind| entry["data"]["type"] == *kind)
}

#[test]
fn the_golden_ledger_verifies_from_genesis_and_from_every_snapshot() {
    let export = file("ledger.jsonl");
    let manifest: Value = serde_json::from_str(&file("merkle.json")).unwrap();
    let whole = rederive(&Before::default(), export.lines()).unwrap();
    assert_eq!((whole.from, whole.beats), (Some(0), whole.types["pulse"]));
    let stated = &manifest["ledger"];
    assert_eq!((json!(whole.size), json!(whole.root)), (stated["size"].clone(), stated["root"].clone()));

    let mut snapshots = 0;
    for (index, entry) in golden().iter().enumerate().filter(|(_, it)| it["data"]["type"] == "snapshot") {
        // The state before the snapshot, from the entries before it.
        let before = Before {
            size: index as u64,
            previous_hash: entry["previous_hash"].as_str().unwrap().into(),
            peaks: rederive(&Before::default(), export.lines().take(index)).unwrap().peaks,
        };
        let part = rederive(&before, export.lines().skip(index)).unwrap();
        assert_eq!(part.from, Some(index as u64));
        assert_eq!((&part.root, &part.state), (&whole.root, &whole.state));
        snapshots += 1;
    }
    assert!(snapshots > 0);
}

/// Changes derived numbers one by one: integers by one, floats by a thousandth.
#[test]
fn every_changed_number_is_detected() {
    let entries = golden();
    let mut start = 0;
    let mut tried = 0;
    for (at, entry) in entries.iter().enumerate() {
        let snapshot = is(entry, &["snapshot"]);
        // A beat has 7 entries, so that every 13th entry covers all of them in turn. Inputs cannot be checked:
        // beats are derived from them.
        let derived = is(entry, &["pulse", "flow_result", "action", "evolution"]) && at % 13 == 0;
        // Later entries are not needed, but an incomplete beat would be an error of its own.
        let end = at + entries[at..].iter().position(|it| is(it, &["evolution", "snapshot"])).unwrap();
        for path in numbers(&entry["data"], String::new()).iter().filter(|_| derived || snapshot) {
            let mut changed = entries[start..=end].to_vec();
            let number = changed[at - start]["data"].pointer_mut(path).unwrap();
            *number = match number.as_u64() {
                Some(whole) => json!(whole + 1),
                None => json!(number.as_f64().unwrap() * 1.001 + 1e-4),
            };
            assert!(verify_forged(changed).is_err(), "the change of entry {at}{path} was not detected");
            tried += 1;
        }
        if snapshot {
            start = at;
        }
    }
    assert!(tried > 300, "only {tried} numbers were changed");
}

fn numbers(value: &Value, path: String) -> Vec<String> {
    match value {
        Value::Number(_) => vec![path],
        Value::Array(items) => {
            items.iter().enumerate().flat_map(|(at, it)| numbers(it, format!("{path}/{at}"))).collect()
        }
        Value::Object(fields) => {
            fields.iter().flat_map(|(key, it)| numbers(it, format!("{path}/{key}"))).collect()
        }
        _ => vec![],
    }
}

/// Removes, duplicates or moves entries, with correct indices, links and hashes.
#[test]
fn an_invalid_order_of_entries_is_detected() {
    let entries = golden();
    let at = |kind: &str| entries.iter().position(|it| it["data"]["type"] == kind).unwrap();
    let (pulse, action) = (at("pulse"), at("action"));
    type Edit<'a> = Box<dyn Fn(&mut Vec<Value>) + 'a>;
    let edits: [(&str, Edit<'_>); 6] = [
        ("no pulse", Box::new(|it| drop(it.remove(pulse)))),
        ("no action", Box::new(|it| drop(it.remove(action)))),
        ("no genesis", Box::new(|it| drop(it.remove(0)))),
        ("two genesis entries", Box::new(|it| it.insert(1, it[0].clone()))),
        ("flows in the wrong order", Box::new(|it| it.swap(pulse + 1, pulse + 2))),
        ("an incomplete beat at the end", Box::new(|it| it.truncate(pulse + 3))),
    ];
    for (what, edit) in edits {
        let mut changed = entries.clone();
        edit(&mut changed);
        for (index, entry) in changed.iter_mut().enumerate() {
            entry["index"] = json!(index);
        }
        assert!(verify_forged(changed).is_err(), "{what}: not detected");
    }
}
