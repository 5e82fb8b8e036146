//! `venom explain`.

use std::process::Stdio;

use serde_json::{Value, json};
use venom::ledger::{Chain, Entry, canonical};

use super::{Done, Place};

const ORGANISM: &str = "
apiVersion: genesis.venom.dev/v1alpha1
kind: Organism
metadata: {name: venom}
---
apiVersion: genesis.venom.dev/v1alpha1
kind: Genome
metadata: {name: venom}
spec: {risk: {anoms: ANOMS}}
";

/// A folder whose organism was calm, then had 20 anomalies, then 5: NOOP, QUARANTINE and ALERT, 10 beats each.
fn decided() -> Place {
    let place = Place::new();
    for anoms in ["0", "20", "5"] {
        place.write("organism.yaml", &ORGANISM.replace("ANOMS", anoms));
        place.ok("run -f organism.yaml --beats 10");
    }
    place
}

/// Index of the first action entry that records `action`.
fn first(entries: &[Entry], action: &str) -> u64 {
    let wanted = format!("{{\"action\":\"{action}\"");
    entries.iter().find(|it| it.data.starts_with(&wanted)).unwrap().index
}

/// Whether some line has these words in this order, whatever is between them.
fn has_line(text: &str, words: &str) -> bool {
    text.lines().any(|line| {
        let mut found = line.split_whitespace();
        words.split_whitespace().all(|word| found.any(|it| it == word))
    })
}

fn assert_one_screen(text: &str) {
    assert!(text.lines().count() <= 42, "{} lines: {text}", text.lines().count());
    for line in text.lines() {
        assert!(line.chars().count() <= 100 || line.contains("venom ledger"), "{line}");
    }
}

fn json_of(place: &Place, line: &str) -> Value {
    let text = place.ok(&format!("{line} -o json"));
    assert!(text.bytes().all(|it| it == b'\n' || (b' '..=b'~').contains(&it)), "{text}");
    assert_eq!(text.lines().count(), 1);
    serde_json::from_str(&text).unwrap()
}

#[test]
fn explains_a_quarantine_on_one_screen() {
    let place = decided();
    let entries = place.entries();
    let entry = first(&entries, "QUARANTINE");
    let text = place.ok(&format!("explain venom-ledger --entry {entry}"));
    assert_one_screen(&text);
    assert!(text.starts_with("QUARANTINE, decided on beat 11 at 20"), "{text}");
    for words in [
        "before it NOOP; in force until then ALERT",
        "What counted: 20 anomalies",
        "20 risk.anoms of the Genome,",
        "Regen urgency 0.2000 × =",
        "Balance conserve × = stability",
        "Entropy threat_score 0.9168 × = threat from sigmoid(0.1200 · 20 +",
        "Optimize expected_gain × = opt_gain",
        "QUARANTINE raw_threat 0.9168 >= quarantine 0.85 holds by 0.0668 ← decided",
        "ALERT raw_threat 0.9168 >= alert 0.6 holds by 0.3168",
        "APPLY_BALANCE stability > stability 0.25 fails by",
        "and repair_score < repair 0.1 holds by",
        "APPLY_OPTIMIZE opt_gain > gain 0.1 fails by",
        "nothing is recorded: have no enforcement entry at all",
    ] {
        assert!(has_line(&text, words), "{words}: {text}");
    }
    let action = &entries[entry as usize];
    assert!(text.contains(&venom::ledger::hex(&action.hash)), "{text}");

    // The commands that it gives check the ledger, with the root.
    let joined = text.replace("\\\n", "");
    let commands: Vec<&str> =
        joined.lines().filter_map(|line| line.trim().strip_prefix("venom ledger ")).collect();
    assert_eq!(commands.len(), 2, "{text}");
    for command in commands {
        place.ok(&format!("ledger {command}"));
    }

    let value = json_of(&place, &format!("explain venom-ledger --entry {entry}"));
    assert_eq!(value["decision"]["action"], "QUARANTINE");
    assert_eq!(value["decision"]["since"]["entry"], entry);
    assert_eq!(value["beat"]["actionHash"], venom::ledger::hex(&action.hash));
    assert_eq!(value["beat"]["anomalies"]["total"], 20);
    assert_eq!(value["beat"]["rules"][0]["decided"], true);
    assert_eq!(value["beat"]["timestamp"], action.timestamp);
    assert_eq!((&value["size"], &value["endAnchored"]), (&json!(entries.len()), &json!(true)));
    let verified: Value = serde_json::from_str(&place.ok("ledger verify venom-ledger -o json")).unwrap();
    assert_eq!(value["root"], verified["root"]);
}

#[test]
fn explains_the_newest_the_one_at_a_time_and_that_of_any_source() {
    let place = decided();
    let entries = place.entries();
    assert!(place.ok("explain venom-ledger").starts_with("ALERT, decided on beat 21 "));
    let entry = first(&entries, "QUARANTINE");
    let time = entries[entry as usize].timestamp;
    let shown = json_of(&place, &format!("explain venom-ledger --entry {entry}"));
    let shown = shown["time"].as_str().unwrap();
    // The shown milliseconds are rounded down: a millisecond later the beat has been.
    let later = shown.replace('Z', "999Z");
    for at in [time.to_string(), later] {
        let text = place.ok(&format!("explain venom-ledger --at {at}"));
        assert!(text.starts_with("QUARANTINE, decided on beat 11 "), "{at}: {text}");
    }
    let in_between = place.ok(&format!("explain venom-ledger --entry {}", entry + 7));
    assert!(in_between.starts_with("QUARANTINE, in force on beat 12 "), "{in_between}");
    assert!(has_line(&in_between, "decided on beat 11 at"), "{in_between}");

    place.ok("ledger export venom-ledger -o ledger.jsonl");
    let of_file = place.ok("explain ledger.jsonl");
    assert!(has_line(&of_file, "end not anchored:"), "{of_file}");
    let stdin = std::fs::File::open(place.path("ledger.jsonl")).unwrap();
    let done: Done = place.command("explain -").stdin(stdin).output().unwrap().into();
    assert_eq!((done.code, done.err.as_str()), (Some(0), ""));
    assert_eq!(
        done.out,
        of_file.replace("ledger ledger.jsonl", "ledger stdin").replace(" ledger.jsonl", " -")
    );
}

#[test]
fn says_what_another_action_would_have_needed() {
    let place = decided();
    for (action, words) in [
        ("QUARANTINE", "it takes at least 15 anomalies; there were 5, 10 too few"),
        ("quarantine", "raw_threat 0.6457 is not >= 0.85: 0.2043 is missing"),
        ("ALERT", "it is what was decided"),
        ("APPLY_BALANCE", "ALERT comes before it, and its rule holds"),
        ("APPLY_BALANCE", "out of reach without a change of weights, thresholds or model"),
        ("APPLY_OPTIMIZE", "it takes O above 0.9129"),
        ("APPLY_OPTIMIZE", "evolution can bring it to at most 0.1077: above the threshold"),
        ("NOOP", "it takes at most 3 anomalies; there were 5, 2 too many"),
    ] {
        let text = place.ok(&format!("explain venom-ledger --why-not {action}"));
        assert!(has_line(&text, words), "{words}: {text}");
        assert_one_screen(&text);
    }
    let value = json_of(&place, "explain venom-ledger --why-not QUARANTINE");
    assert_eq!(value["whyNot"]["anomalies"], json!({"from": 15, "to": null}));
    assert_eq!(value["whyNot"]["missing"][0]["quantity"], "raw_threat");
}

#[test]
fn refuses_what_cannot_be_explained() {
    let place = decided();
    let last = place.entries().len() - 1;
    for (line, told) in [
        ("--entry 100000", format!("there is no entry 100000: the last one is {last}")),
        ("--at 1", "the first beat that can be replayed is that of entry 6, at 20".into()),
    ] {
        let said = place.fails(&format!("explain venom-ledger {line}"), 1);
        assert!(said.contains(&told), "{line}: {said}");
    }
    for (line, told) in [
        ("--at yesterday", "write a time such as 2026-11-23T06:23:26Z, or seconds since 1970"),
        ("--at NaN", "write a time such as"),
        ("--entry many", "invalid value 'many'"),
        ("--entry 1 --at 2", "cannot be used with"),
        ("--why-not PANIC", "write QUARANTINE, ALERT, APPLY_BALANCE, APPLY_OPTIMIZE, NOOP"),
        ("-o yaml", "text, json"),
    ] {
        let said = place.fails(&format!("explain venom-ledger {line}"), 2);
        assert!(said.contains(told), "{line}: {said}");
    }
    assert!(place.fails("explain", 2).contains("<SOURCE>"));
    assert!(place.fails("explain nowhere", 1).contains("name a folder, a file, - or organism/NAME"));
    place.write("empty.jsonl", "");
    assert!(place.fails("explain empty.jsonl", 1).contains("no genesis and no snapshot"));

    // Cut in the middle of a beat, after genesis, and before the first snapshot.
    place.ok("ledger export venom-ledger -o ledger.jsonl");
    let text = std::fs::read_to_string(place.path("ledger.jsonl")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    for (range, told) in [
        (0..5, "the ledger ends in the middle of a beat"),
        (0..1, "no beat follows entry 0"),
        (3..20, "no genesis and no snapshot"),
    ] {
        place.write("cut.jsonl", &(lines[range].join("\n") + "\n"));
        let said = place.fails("explain cut.jsonl", 1);
        assert!(said.contains(told), "{said}");
    }
    // From the snapshot after the first restart on.
    let snapshot = lines.iter().position(|line| line.contains("\"type\":\"snapshot\"")).unwrap();
    place.write("rest.jsonl", &(lines[snapshot..].join("\n") + "\n"));
    let said = place.fails("explain rest.jsonl --entry 3", 1);
    assert!(
        said.contains(&format!("what precedes entry {snapshot} cannot be replayed; try --entry")),
        "{said}"
    );
    let text = place.ok("explain rest.jsonl");
    assert!(has_line(&text, "no root: it also covers entries that are missing here."), "{text}");
}

/// Neither a changed entry nor a whole chain that was hashed anew around it looks like an explanation.
#[test]
fn a_forged_ledger_is_not_explained() {
    let place = decided();
    let entries = place.entries();
    let at = first(&entries, "QUARANTINE");
    let mut chain = Chain::default();
    let (mut changed, mut rehashed) = (String::new(), String::new());
    for mut entry in entries {
        if entry.index == at {
            entry.data = entry.data.replace("QUARANTINE", "NOOP").into();
        }
        changed += &(entry.to_line() + "\n");
        entry.previous_hash = *chain.last_hash();
        entry.hash = chain.append(entry.timestamp, &entry.data);
        rehashed += &(entry.to_line() + "\n");
    }
    place.write("changed.jsonl", &changed);
    place.write("rehashed.jsonl", &rehashed);
    for line in ["", " --entry 6", " -o json"] {
        let said = place.fails(&format!("explain changed.jsonl{line}"), 1);
        assert!(said.contains("hash does not match the content of the entry"), "{said}");
        let said = place.fails(&format!("explain rehashed.jsonl{line}"), 1);
        let told = format!("entry {at}: action.action is \"NOOP\", expected \"QUARANTINE\"");
        assert!(said.contains(&told) && said.contains("explains nothing"), "{said}");
        let done = place.venom(&format!("explain rehashed.jsonl{line}"));
        assert_eq!(done.out, "");
    }
}

/// Clears the screen, starts a line of its own, reorders what is read.
const HOSTILE: &str = "\x1b[2J\r\nQUARANTINE, decided\u{9b}31m\u{202e}";

/// Appends entries to the export of a folder, with every hash right.
fn with_more(place: &Place, more: &[Value]) -> String {
    let entries = place.entries();
    let mut chain = Chain::default();
    entries.iter().for_each(|entry| chain.push_hash(entry.hash));
    let mut text: String = entries.iter().map(|entry| entry.to_line() + "\n").collect();
    let timestamp = entries.last().unwrap().timestamp;
    for data in more {
        let data: Box<str> = canonical::to_string(data).unwrap().into();
        let (index, previous_hash) = (chain.size(), *chain.last_hash());
        let hash = chain.append(timestamp, &data);
        text += &(Entry { index, timestamp, data, previous_hash, hash }.to_line() + "\n");
    }
    text
}

#[test]
fn tells_what_was_done_and_escapes_the_text_of_others() {
    let place = decided();
    let entries = place.entries();
    let (at, alert) = (first(&entries, "QUARANTINE"), first(&entries, "ALERT"));
    let what = json!([HOSTILE, "Service shop"]);
    let enforcement = |entry, change, mode: &str| json!({"type": "enforcement", "entry": entry, "change": change, "mode": mode, "what": what});
    let mut refused = enforcement(at, "apply", "Enforce");
    refused["refused"] = HOSTILE.into();
    let last = entries.len();
    let text = with_more(
        &place,
        &[
            refused,
            enforcement(at, "apply", "Enforce"),
            enforcement(alert, "apply", "Observe"),
            enforcement(alert, "release", "Enforce"),
        ],
    );
    place.write("done.jsonl", &text);
    let told = place.ok(&format!("explain done.jsonl --entry {at}"));
    assert_one_screen(&told);
    for words in [
        format!("entry {last}, refused"),
        format!("entry {}, applied:", last + 1),
        format!("entry {}, undone:", last + 3),
    ] {
        assert!(has_line(&told, &words), "{words}: {told}");
    }
    let observed = place.ok("explain done.jsonl");
    assert!(has_line(&observed, "only observed, would have done:"), "{observed}");
    // From the enforcement to its decision.
    let told_of = place.ok(&format!("explain done.jsonl --entry {}", last + 1));
    assert!(has_line(&told_of, &format!("asked for: entry {} (enforcement),", last + 1)), "{told_of}");
    assert!(told_of.starts_with("QUARANTINE, decided on beat 11 "));
    for (text, lines) in [(&told, 1), (&told_of, 1), (&observed, 0)] {
        assert!(text.contains(r"\u{1b}[2J\r\nQUARANTINE, decided\u{9b}31m\u{202e}"), "{text}");
        let steers = |it: char| it.is_control() || it == '\u{202e}';
        assert!(text.lines().all(|line| !line.chars().any(steers)), "{text:?}");
        assert_eq!(text.lines().filter(|line| line.starts_with("QUARANTINE, decided")).count(), lines);
    }
    let value = json_of(&place, &format!("explain done.jsonl --entry {at}"));
    assert_eq!(value["response"]["enforcements"][0]["what"][0], HOSTILE);
    assert_eq!(value["response"]["released"]["entry"], last + 3);
}

/// Senses that count, suppressed ones and injections, in the golden ledger, which has all kinds of entries.
#[test]
fn names_senses_and_injections_and_those_that_are_suppressed() {
    let place = Place::new();
    let path = format!("{}/tests/vectors/ledger.jsonl", env!("CARGO_MANIFEST_DIR"));
    let text = place.ok(&format!("explain {path} --entry 817"));
    for words in [
        "asked for: entry 817 (sense), which counts 0:",
        "What counted: 32 anomalies (each for 20.0 s",
        "6 entry 749: injection inj-13 from pod-1 by tester",
        "2 entry 693: sense restart venom-0 (kubelet)",
        "10 and 8 more",
        "1 entry 817: sense oom venom-4 (kubelet), suppressed: counts 0",
    ] {
        assert!(has_line(&text, words), "{words}: {text}");
    }
    // An enforcement that follows from a decision long ago, found by a second reading: not from stdin.
    let value = json_of(&place, &format!("explain {path} --entry 492"));
    assert_eq!(
        (&value["beat"]["actionEntry"], &value["asked"]["type"]),
        (&json!(490), &json!("enforcement"))
    );
}

/// An enforcement of a beat that is not the first of its decision takes a second reading, which stdin does not allow.
#[test]
fn an_enforcement_of_a_later_beat_is_found_too() {
    let place = decided();
    let at = first(&place.entries(), "ALERT") + 14;
    let last = place.entries().len();
    let enforcement =
        json!({"type": "enforcement", "entry": at, "change": "apply", "mode": "Enforce", "what": ["Event"]});
    place.write("done.jsonl", &with_more(&place, &[enforcement]));
    let text = place.ok(&format!("explain done.jsonl --entry {last}"));
    assert!(text.starts_with("ALERT, in force on beat 23 "), "{text}");
    assert!(has_line(&text, &format!("asked for: entry {last} (enforcement),")), "{text}");
    let stdin = std::fs::File::open(place.path("done.jsonl")).unwrap();
    let done: Done = place
        .command(&format!("explain - --entry {last}"))
        .stdin(Stdio::from(stdin))
        .output()
        .unwrap()
        .into();
    assert_eq!((done.code, done.out.as_str()), (Some(1), ""));
    assert!(done.err.contains(&format!("run again with --entry {at}")), "{done:?}");
}
