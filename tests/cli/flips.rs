//! Detection of altered, truncated, missing and unexpected files, and of altered JSON lines.

use std::fs;

use venom::cli::ledger::verify::{self, Expected};
use venom::store::directory::Folder;

use super::{Place, files};

/// The findings for the ledger's folder. Calls the library, because a process for each byte would take too long.
fn findings(place: &Place) -> Vec<String> {
    match verify::store(&Folder::new(place.ledger()), &Expected::default()) {
        Ok(report) => report.findings,
        Err(error) => vec![error.to_string()],
    }
}

/// Flips a bit in every `step`th byte of each file, and truncates each file at some places. Returns the number of flips.
fn flip(place: &Place, step: usize) -> usize {
    assert_eq!(findings(place), [""; 0]);
    let mut flipped = 0;
    for path in files(&place.ledger()) {
        let whole = fs::read(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        for at in (0..whole.len()).step_by(step) {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            fs::write(&path, &bytes).unwrap();
            let found = findings(place);
            assert!(found.iter().any(|line| line.contains(name)), "{name}, byte {at}: {found:?}");
            flipped += 1;
        }
        for length in [0, 1, whole.len() / 2, whole.len().saturating_sub(1)] {
            fs::write(&path, &whole[..length.min(whole.len())]).unwrap();
            assert!(whole.is_empty() || !findings(place).is_empty(), "{name}: {length} bytes");
        }
        fs::write(&path, &whole).unwrap();
    }
    assert_eq!(findings(place), [""; 0]);
    flipped
}

#[test]
fn every_flipped_byte_of_a_small_folder_is_detected() {
    let place = Place::new();
    place.ok("run --beats 2");
    let flipped = flip(&place, 1);
    assert!(flipped > 1_500, "{flipped}");
}

#[test]
fn flipped_bytes_of_a_larger_folder_are_detected() {
    let place = Place::new();
    place.ok("run --beats 100");
    place.ok("run --beats 100 --p-nodes 4");
    let flipped = flip(&place, 149);
    assert!(flipped > 30, "{flipped}");
}

/// `verify` and `run` fail on an altered folder, and `run` changes nothing.
#[test]
fn commands_fail_on_an_altered_folder() {
    let place = Place::new();
    place.ok("run --beats 5");
    place.ok("run --beats 5");
    for path in files(&place.ledger()).into_iter().filter(|path| !path.ends_with("lock")) {
        let whole = fs::read(&path).unwrap();
        for at in [0, whole.len() / 3, whole.len() - 1] {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            fs::write(&path, &bytes).unwrap();
            let found = place.venom("ledger verify venom-ledger");
            assert_eq!(found.code, Some(1), "{found:?}");
            let told = place.fails("run --beats 1", 1);
            assert!(told.contains("restore it from a backup"), "{told}");
            assert_eq!(fs::read(&path).unwrap(), bytes);
        }
        fs::write(&path, &whole).unwrap();
    }
    place.ok("ledger verify venom-ledger");
}

#[test]
fn unexpected_files_are_named() {
    let place = Place::new();
    place.ok("run --beats 5");
    place.ok("run --beats 5");
    let ledger = place.ledger();

    for (name, told) in [
        ("notes.txt", "not part of a ledger; move it elsewhere"),
        ("segments/notes.txt", "not part of a ledger; move it elsewhere"),
        ("segments/9-0-1.segment", "left by a writer that was killed"),
        ("head.json.tmp", "left by a writer that was killed"),
    ] {
        fs::write(ledger.join(name), "x").unwrap();
        let found = place.venom("ledger verify venom-ledger");
        assert_eq!(found.code, Some(1));
        assert_eq!(found.out.lines().count(), 1, "{found:?}");
        assert!(found.out.contains(name) && found.out.contains(told), "{found:?}");
        if told.contains("killed") {
            place.ok("run --beats 1");
            assert!(!ledger.join(name).exists());
        } else {
            fs::remove_file(ledger.join(name)).unwrap();
        }
        place.ok("ledger verify venom-ledger");
    }
}

/// `verify` names a gap; `export` and `replay` begin after it.
#[test]
fn a_gap_is_named_and_skipped() {
    let place = Place::new();
    place.ok("run --beats 5");
    place.ok("run --beats 5");
    let ledger = place.ledger();
    let first = files(&ledger).into_iter().find(|path| path.ends_with("segments/1-1-35.segment")).unwrap();
    fs::rename(&first, place.path("kept")).unwrap();
    let found = place.venom("ledger verify venom-ledger");
    assert_eq!(found.code, Some(1));
    assert!(
        found.out.contains("1-1-35.segment: missing") && found.out.contains("entries 1 to 35"),
        "{found:?}"
    );
    let exported = place.venom("ledger export venom-ledger");
    assert_eq!(exported.code, Some(0));
    assert!(exported.err.contains("entries 1 to 35 are missing or altered"), "{exported:?}");
    assert!(exported.out.lines().next().unwrap().contains(r#""type":"snapshot""#), "{exported:?}");
    let replayed = place.venom("ledger replay venom-ledger");
    assert_eq!(replayed.code, Some(0), "{replayed:?}");
    assert!(replayed.out.contains("5 beats from entry 37"), "{replayed:?}");
    fs::rename(place.path("kept"), &first).unwrap();

    fs::rename(ledger.join("head.json"), place.path("kept")).unwrap();
    let told = place.fails("run --beats 1", 1);
    assert!(told.contains("head.json: missing, but there are segments"), "{told}");
    place.fails("ledger verify venom-ledger", 1);
    fs::rename(place.path("kept"), ledger.join("head.json")).unwrap();
    place.ok("ledger verify venom-ledger");
}

#[test]
fn altered_json_lines_are_detected() {
    let place = Place::new();
    place.ok("run --beats 12");
    place.ok("ledger export venom-ledger -o whole.jsonl");
    let verified = place.ok("ledger verify whole.jsonl");
    let (note, verified) = verified.split_once('\n').unwrap();
    assert!(
        note.starts_with("end not anchored: nothing here shows whether entries are missing at the end"),
        "{note}"
    );
    assert_eq!(verified.replace("verified but for that", "verified"), place.ok("ledger verify venom-ledger"));
    let whole = fs::read_to_string(place.path("whole.jsonl")).unwrap();
    let lines: Vec<&str> = whole.lines().collect();
    let altered = |lines: Vec<String>| lines.join("\n") + "\n";
    let with = |at: usize, line: String| {
        let mut all: Vec<String> = lines.iter().map(|&line| line.to_owned()).collect();
        all[at] = line;
        altered(all)
    };
    for (text, told) in [
        (with(3, lines[3].replacen(':', ": ", 1)), "altered.jsonl:4: not in canonical form"),
        (with(3, format!("{} ", lines[3])), "altered.jsonl:4: not in canonical form"),
        (with(3, format!("{}\r", lines[3])), "altered.jsonl:4: not in canonical form"),
        (with(3, String::new()), "altered.jsonl:4: not an entry"),
        (with(6, lines[6].replace("NOOP", "ALERT")), "altered.jsonl:7: entry 6: hash does not match"),
        (
            lines[..4].iter().chain(&lines[5..]).map(|it| format!("{it}\n")).collect(),
            "expected entry 4, found entry 5",
        ),
        (whole[..whole.len() - 5].to_owned(), "altered.jsonl:85: not an entry"),
        (String::new(), "contains no entry"),
    ] {
        place.write("altered.jsonl", &text);
        let done = place.venom("ledger verify altered.jsonl");
        assert_eq!(done.code, Some(1), "{told}: {done:?}");
        assert!(done.out.contains(told), "{told}: {done:?}");
    }
    // One alteration is one finding.
    place.write("altered.jsonl", &with(6, lines[6].replace("NOOP", "ALERT")));
    assert_eq!(place.venom("ledger verify altered.jsonl").out.lines().count(), 1);

    for at in (0..whole.len() - 1).step_by(97) {
        let mut bytes = whole.clone().into_bytes();
        bytes[at] ^= 1 << (at % 7);
        fs::write(place.path("altered.jsonl"), &bytes).unwrap();
        assert_eq!(place.venom("ledger verify altered.jsonl").code, Some(1), "byte {at}");
    }
}

/// A chain alone does not show that its end was cut off.
#[test]
fn an_expected_root_detects_truncation() {
    let place = Place::new();
    place.ok("run --beats 12");
    place.ok("ledger export venom-ledger -o whole.jsonl");
    let root = |verified: String| verified.trim().rsplit(' ').next().unwrap().to_owned();
    let old = root(place.ok("ledger verify venom-ledger"));
    let whole = fs::read_to_string(place.path("whole.jsonl")).unwrap();
    let cut: String = whole.lines().take(70).map(|line| format!("{line}\n")).collect();
    place.write("cut.jsonl", &cut);
    let said = place.ok("ledger verify cut.jsonl");
    assert!(
        said.starts_with("end not anchored: ") && said.contains("\nverified but for that: 70 entries"),
        "{said}"
    );
    let json = |line: &str| -> serde_json::Value {
        let done = place.venom(&format!("ledger verify -o json {line}"));
        let mut value: serde_json::Value = serde_json::from_str(&done.out).unwrap();
        assert_eq!(value["verified"], done.code == Some(0), "{done:?}");
        value.as_object_mut().unwrap().remove("root");
        value
    };
    let of_lines = |anchor: Option<&str>, anchored: u64| {
        serde_json::json!({
            "source": "cut.jsonl", "verified": true, "findings": [], "floor": 0, "size": 70,
            "endAnchoredBy": anchor, "anchoredSize": anchored,
        })
    };
    assert_eq!(json("cut.jsonl"), of_lines(None, 0));
    assert_eq!(json("cut.jsonl --size 70"), of_lines(Some("size"), 70));
    let root_of_cut = root(said);
    assert_eq!(json(&format!("cut.jsonl --root {root_of_cut}")), of_lines(Some("root"), 70));
    assert!(place.ok(&format!("ledger verify cut.jsonl --root {root_of_cut}")).starts_with("verified: 70"));
    assert_eq!(json("venom-ledger")["endAnchoredBy"], "head");
    let wrong = json("cut.jsonl --size 85");
    assert_eq!(
        (&wrong["verified"], &wrong["findings"]),
        (&false.into(), &serde_json::json!(["cut.jsonl: expected 85 entries, found 70"]))
    );
    place.fails(&format!("ledger verify cut.jsonl --root {old}"), 1);
    place.fails("ledger verify cut.jsonl --size 85", 1);
    place.fails(&format!("ledger verify cut.jsonl --root {old} --size 85"), 1);

    // An earlier root stays the root of the entries that it covers.
    place.ok("run --beats 3");
    place.ok(&format!("ledger verify venom-ledger --root {old} --size 85"));
    place.fails(&format!("ledger verify venom-ledger --root {old}"), 1);
    place.fails(&format!("ledger verify venom-ledger --root {old} --size 84"), 1);
    place.ok("ledger export venom-ledger -o longer.jsonl");
    place.ok(&format!("ledger verify longer.jsonl --root {old} --size 85"));
    let said = place.ok(&format!("ledger verify longer.jsonl --root {old} --size 85"));
    assert!(
        said.starts_with("end not anchored: nothing here shows whether entries are missing after entry 84"),
        "{said}"
    );
    let new = root(place.ok("ledger verify longer.jsonl"));
    place.ok(&format!("ledger verify venom-ledger --root {new}"));

    // Without the entries from index 0 on, links can be checked but the root cannot.
    let tail: String = whole.lines().skip(40).map(|line| format!("{line}\n")).collect();
    place.write("tail.jsonl", &tail);
    let verified = place.ok("ledger verify tail.jsonl");
    assert!(verified.contains("no root: it also covers entries 0 to 39"), "{verified}");
    let told = place.venom(&format!("ledger verify tail.jsonl --root {old}"));
    assert_eq!(told.code, Some(1));
    assert!(told.out.contains("cannot be computed"), "{told:?}");
}
