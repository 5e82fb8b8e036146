//! `venom train`.

use std::fs::File;

use serde_json::{Value, json};

use super::{Done, Place};

/// The example's rows.
const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/training/incidents.csv");

fn repository(path: &str) -> String {
    std::fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// A folder with the example's rows, by the name that the docs use.
fn with_example() -> Place {
    let place = Place::new();
    std::fs::create_dir_all(place.path("examples/training")).unwrap();
    std::fs::copy(EXAMPLE, place.path("examples/training/incidents.csv")).unwrap();
    place
}

/// What docs/training.md shows is what is printed and drawn.
#[test]
fn the_walk_through_is_true() {
    let place = with_example();
    let docs = repository("docs/training.md");
    let mut shown = docs.split("```console\n").skip(1).filter_map(|it| it.split("```").next());
    let example = shown.next().unwrap();
    let (command, printed) = example.split_once('\n').unwrap();
    let command = command.strip_prefix("$ venom ").unwrap();
    assert_eq!(place.ok(command), printed);
    for name in ["roc.svg", "calibration.svg"] {
        let drawn = std::fs::read_to_string(place.path(&format!("docs/training/{name}"))).unwrap();
        assert_eq!(drawn, repository(&format!("docs/training/{name}")), "{name} is another one now");
        assert!(docs.contains(&format!("(training/{name})")), "{name}");
    }
}

#[test]
fn the_report_as_json_has_all_digits_and_the_rest() {
    let place = with_example();
    let text = place.ok("train examples/training/incidents.csv -o json");
    assert_eq!(text.lines().count(), 1);
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["source"], "examples/training/incidents.csv");
    assert_eq!(
        (&value["loss"], &value["alpha"], &value["seed"]),
        (&json!("logistic"), &json!(1.0), &json!(1))
    );
    assert_eq!(value["present"]["model"], json!({"mlWeight": 0.12, "bias": 0.0}));
    assert_eq!(value["present"]["decisions"]["quarantine"], json!({"from": 15, "to": null}));
    assert_eq!(value["warnings"], json!([]));
    let new = &value["new"];
    for part in [&new["train"], &new["heldOut"]] {
        assert!(part["auc"].as_f64().unwrap() > 0.95, "{part}");
        assert_eq!(part["roc"][0], json!({"anoms": null, "falsePositiveRate": 0.0, "truePositiveRate": 0.0}));
        let confusion = &part["alert"];
        let sum: u64 = confusion.as_object().unwrap().values().map(|it| it.as_u64().unwrap()).sum();
        let rows = &part["rows"];
        assert_eq!(sum, rows["calm"].as_u64().unwrap() + rows["incident"].as_u64().unwrap());
    }
    // Options reach the fit.
    let weight = |options: &str| {
        let text = place.ok(&format!("train examples/training/incidents.csv -o json {options}"));
        serde_json::from_str::<Value>(&text).unwrap()["new"]["model"]["mlWeight"].as_f64().unwrap()
    };
    let plain = weight("");
    for options in ["--alpha 1000", "--loss mse", "--seed 2", "--test 0", "--balance"] {
        assert!((weight(options) - plain).abs() > 1e-6, "{options}");
    }
    assert!(weight("--alpha 1000") < plain);
}

#[test]
fn columns_have_names_and_rows_come_from_stdin_too() {
    let place = Place::new();
    let text = "when,errors,bad\n1,0,no\n2,1,no\n3,2,yes\n4,3,no\n5,4,yes\n6,5,yes\n";
    let path = place.write("rows.csv", text);
    let flags = "--anoms errors --label bad --test 0";
    let of_file = place.ok(&format!("train rows.csv {flags}"));
    assert!(of_file.starts_with("rows.csv: trained on 6 rows (3 incidents, 3 calm)\n"), "{of_file}");
    assert!(of_file.contains("held out: none"), "{of_file}");
    let stdin = File::open(path).unwrap();
    let done: Done = place.command(&format!("train - {flags}")).stdin(stdin).output().unwrap().into();
    assert_eq!((done.code, done.err.as_str()), (Some(0), ""));
    assert_eq!(done.out, of_file.replace("rows.csv:", "stdin:"));
}

#[test]
fn what_teaches_nothing_is_refused() {
    let place = Place::new();
    for (text, told) in [
        ("", "rows.csv: no rows; a header and at least two rows are needed"),
        ("anoms,label\n", "rows.csv: no rows;"),
        ("anoms,label\n1,0\n2,0\n", "all 2 rows are calm (0): there is nothing to tell apart"),
        ("anoms,label\n3,0\n3,1\n", "all 2 rows have 3 anomalies: nothing can be learned from a constant"),
        (
            "anoms,label\n3,0\n-3,1\n",
            "rows.csv: row 3, column anoms: \"-3\" is negative; write a whole number",
        ),
        ("anoms,label\n3,0\n3,maybe\n", "rows.csv: row 3, column label: \"maybe\" is not a label;"),
        ("count,label\n3,0\n", "rows.csv: row 1: no column anoms;"),
        ("anoms,label\n3,\x1b[2J\n", "\"\\u{1b}[2J\" is not a label"),
    ] {
        place.write("rows.csv", text);
        let said = place.fails("train rows.csv", 1);
        assert!(said.contains(told), "{told}: {said}");
    }
    assert!(place.fails("train nowhere.csv", 1).contains("nowhere.csv: No such file"));
    assert!(place.fails("train .", 1).contains(".: is a folder; name a file of comma-separated values"));
    place.write("rows.csv", "anoms,label\n1,0\n2,1\n3,0\n4,1\n");
    place.write("file", "");
    assert!(place.fails("train rows.csv --out file/sub", 1).contains("name a folder that can be written"));
    for (line, told) in [
        ("", "<DATA>"),
        ("rows.csv --loss absolute", "write logistic or mse"),
        ("rows.csv --alpha=-1", "write a number of 0 to 1e12"),
        ("rows.csv --loss mse --alpha 1", "--alpha is the penalty of the logistic loss"),
        ("rows.csv --test 1", "write a number of 0 to 0.9"),
        ("rows.csv --yes", "--apply <GENOME>"),
        ("rows.csv --apply venom", "venom: a model is applied to a Genome; write genome/NAME"),
        ("rows.csv --from-ledger ledger --incidents i.csv", "cannot be used with"),
        ("--from-ledger ledger", "--incidents <FILE>"),
        ("rows.csv --incidents i.csv", "cannot be used with"),
        ("--from-ledger - --incidents -", "cannot both come from stdin"),
    ] {
        let said = place.fails(&format!("train {line}"), 2);
        assert!(said.contains(told), "{line}: {said}");
    }
}

/// One's own history: calm, then an incident of 20 anomalies, then calm; from a folder and from an export.
#[test]
fn a_ledger_is_a_training_set() {
    let place = Place::new();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/ledger.jsonl");
    let text = std::fs::read_to_string(path).unwrap();
    let entries: Vec<venom::ledger::Entry> =
        text.lines().map(|line| venom::ledger::Entry::from_line(line).unwrap()).collect();
    let time = |seconds: f64| {
        let moment = k8s_openapi::jiff::Timestamp::from_millisecond((seconds * 1000.0) as i64).unwrap();
        moment.to_string()
    };
    // The clock of the vectors steps back and forth.
    let times = || entries.iter().map(|it| it.timestamp);
    let (first, last) = (times().fold(f64::INFINITY, f64::min), times().fold(f64::NEG_INFINITY, f64::max));
    let (start, end) =
        (time(entries[entries.len() / 3].timestamp), time(entries[entries.len() * 2 / 3].timestamp));
    place.write("incidents.csv", &format!("start,end\n{start},{end}\n"));
    let stdin = File::open(path).unwrap();
    let command = "train --from-ledger - --incidents incidents.csv";
    let done: Done = place.command(command).stdin(stdin).output().unwrap().into();
    assert_eq!((done.code, done.err.as_str()), (Some(0), ""), "{done:?}");
    assert!(done.out.starts_with("stdin: trained on "), "{}", done.out);
    let of_file = place.ok(&format!("train --from-ledger {path} --incidents incidents.csv"));
    assert_eq!(of_file.split_once(": ").unwrap().1, done.out.split_once(": ").unwrap().1);

    let early = "2001-01-01T00:00:00Z,2001-01-01T01:00:00Z\n";
    place.write("incidents.csv", &format!("start,end\n{early}{start},{end}\n"));
    let done = place.venom(&format!("train --from-ledger {path} --incidents incidents.csv"));
    assert_eq!(done.out, of_file);
    assert!(
        done.err.contains("1 of 2 incidents lie outside of the ledger's time")
            && done.err.lines().count() == 1
    );
    for (incidents, told) in [
        (format!("start,end\n{early}"), "no incident lies in the time of the ledger, "),
        (format!("start,end\n{},{}\n", time(first - 1.0), time(last + 1.0)), "rows are incidents (1)"),
        ("start,end\nnow,then\n".into(), "incidents.csv: row 2, column start: \"now\" is not a time"),
    ] {
        place.write("incidents.csv", &incidents);
        let said = place.fails(&format!("train --from-ledger {path} --incidents incidents.csv"), 1);
        assert!(said.contains(told), "{said}");
    }
    place.write("incidents.csv", &format!("start,end\n{start},{end}\n"));
    let cut: String = text.lines().take(4).map(|line| line.to_owned() + "\n").collect();
    place.write("cut.jsonl", &cut);
    let said = place.fails("train --from-ledger cut.jsonl --incidents incidents.csv", 1);
    assert!(
        said.contains("cut.jsonl: entry 3: the ledger ends in the middle of a beat; a ledger that"),
        "{said}"
    );
}
