//! Where rows come from: fields of a table, entries of a ledger.

use serde_json::Value;

use crate::ledger::Entry;
use crate::training::{Columns, DataError, History, Incident, Rows};

#[test]
fn fields_are_read_or_refused_in_one_line() {
    let columns = Columns::find(&["time", " label ", "anoms"], "anoms", "label").unwrap();
    let read = |anoms: &str, label: &str| {
        let fields = ["12:00", label, anoms];
        columns.read(7, |at| fields.get(at).copied()).map_err(|error| error.to_string())
    };
    for (anoms, label, wanted) in [
        ("0", "0", (0, false)),
        (" 12 ", "1", (12, true)),
        ("3.0", "TRUE", (3, true)),
        ("1e3", "No", (1_000, false)),
        ("1000000", "yes", (1_000_000, true)),
        ("-0", "false", (0, false)),
    ] {
        assert_eq!(read(anoms, label), Ok(wanted), "{anoms}, {label}");
    }
    for (anoms, label, told) in [
        ("", "1", "row 7, column anoms: empty; write a whole number, 0 to 1000000"),
        ("many", "1", "row 7, column anoms: \"many\" is not a number;"),
        ("NaN", "1", "\"NaN\" is not a number;"),
        ("-3", "1", "\"-3\" is negative;"),
        ("-inf", "1", "\"-inf\" is negative;"),
        ("2.5", "1", "\"2.5\" is not whole;"),
        ("1000001", "1", "\"1000001\" is too many;"),
        ("1e300", "1", "\"1e300\" is too many;"),
        ("inf", "1", "\"inf\" is too many;"),
        ("99999999999999999999999", "1", "is too many;"),
        ("3", "", "row 7, column label: empty; write 0 or 1"),
        ("3", "2", "row 7, column label: \"2\" is not a label; write 0 or 1, false or true, no or yes"),
        ("3", "\u{1b}[2J\n", r#""\u{1b}[2J" is not a label"#),
    ] {
        let error = read(anoms, label).unwrap_err();
        assert!(error.contains(told) && error.lines().count() == 1, "{anoms:?}, {label:?}: {error}");
    }
    for (header, told) in [
        (
            vec!["a", "b"],
            "row 1: no column anoms; the header has \"a\", \"b\", separated by commas; name one with --anoms",
        ),
        (vec!["anoms;label"], "no column anoms; the header has \"anoms;label\""),
        (
            vec!["anoms"],
            "no column label; the header has \"anoms\", separated by commas; name one with --label",
        ),
        (vec!["label", "anoms", "label"], "there are two columns label"),
        (vec![""], "no rows; a header and at least two rows are needed"),
    ] {
        let error = Columns::find(&header, "anoms", "label").unwrap_err().to_string();
        assert!(error.contains(told), "{header:?}: {error}");
    }
}

/// The golden ledger, which has all kinds of entries: restarts, windows, senses, held beats.
fn entries() -> Vec<Entry> {
    let text = include_str!("../../../tests/vectors/ledger.jsonl");
    text.lines().map(|line| Entry::from_line(line).unwrap()).collect()
}

/// Rows of a ledger, from its text by the words of docs/ledger-format.md, without the engine.
fn by_hand(entries: &[Entry], incident: Incident) -> Rows {
    let (mut rows, mut tau, mut last, mut second) = (Rows::default(), 0.0, None, None);
    let (mut min_period, mut due) = (0.0, false);
    // Of the pulse and of Regen, where Entropy failed: urgency = anomalies of the Genome / 100, below 0.9.
    let (mut sensed, mut of_genome) = (0, None);
    for entry in entries {
        let data: Value = serde_json::from_str(&entry.data).unwrap();
        match data["type"].as_str().unwrap() {
            "genesis" => min_period = data["config"]["pulse"]["min_period"].as_f64().unwrap_or(0.0),
            "config" => min_period = data["pulse"]["min_period"].as_f64().unwrap_or(min_period),
            "resume" => last = None,
            "pulse" => {
                if let Some(last) = last {
                    tau += f64::max(0.0, entry.timestamp - last).min(f64::max(10.0, 2.0 * min_period));
                }
                last = Some(entry.timestamp);
                sensed = data["features"]["anoms"].as_u64().unwrap();
                due = second.is_none_or(|second| tau.floor() > second);
            }
            "flow_result" if data["flow"] == "R" => {
                let urgency = data["result"]["urgency"].as_f64().filter(|it| *it < 0.9);
                of_genome = urgency.map(|it| (it * 100.0).round() as u64);
            }
            "flow_result" if data["flow"] == "E" && due => {
                second = Some(tau.floor());
                let anoms =
                    data["result"]["total_anoms"].as_u64().or(of_genome.map(|it| it + sensed)).unwrap();
                let is_in = incident.start <= entry.timestamp && entry.timestamp < incident.end;
                rows.add(anoms as u32, is_in);
            }
            _ => {}
        }
    }
    rows
}

#[test]
fn a_ledger_gives_a_row_for_each_second_of_its_own_time() {
    let entries = entries();
    // The clock steps back in them.
    let mut times: Vec<f64> = entries.iter().map(|it| it.timestamp).collect();
    times.sort_by(f64::total_cmp);
    let (first, last) = (times[0], times[times.len() - 1]);
    let at = |part: usize| times[times.len() * part / 6];
    let incident = Incident { start: at(2), end: at(4) };
    let wanted = by_hand(&entries, incident);
    assert!(wanted.total().has_both() && wanted.total().rows() > 20, "{:?}", wanted.total());
    // Cut in two that overlap, and one that is over before the ledger begins.
    let incidents = vec![
        Incident { start: (at(2) + at(3)) / 2.0, end: incident.end },
        Incident { start: first - 9.0, end: first - 8.0 },
        Incident { start: incident.start, end: at(3) },
    ];
    let mut history = History::new(incidents);
    entries.iter().for_each(|entry| history.feed(entry.clone()).unwrap());
    let taken = history.finish().unwrap();
    assert_eq!(taken.rows, wanted);
    assert_eq!(taken.outside, 1);
    assert!(first <= taken.range.0 && taken.range.1 <= last, "{:?}", taken.range);
}

#[test]
fn a_ledger_that_does_not_replay_teaches_nothing() {
    let entries = entries();
    let told = |entries: &[Entry]| {
        let mut history = History::new(vec![]);
        let fed = entries.iter().try_for_each(|entry| history.feed(entry.clone()));
        fed.and_then(|()| history.finish().map(|_| ())).unwrap_err().to_string()
    };
    let mut forged = entries.clone();
    let at = forged.iter().position(|it| it.data.contains("\"total_anoms\":0")).unwrap();
    forged[at].data = forged[at].data.replace("\"total_anoms\":0", "\"total_anoms\":1").into();
    assert!(told(&forged).contains("teaches nothing; see venom ledger replay"), "{}", told(&forged));
    assert!(told(&entries[..4]).contains("middle of a beat"), "{}", told(&entries[..4]));
    assert!(told(&entries[1..2]).contains("no genesis and no snapshot"), "{}", told(&entries[1..2]));
    assert_eq!(told(&entries[..1]), DataError::Empty.to_string());
}
