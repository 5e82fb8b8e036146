//! On the golden ledger, which has all types of entries; and on what a forger or a full disk makes of it.

use super::super::*;
use super::{assert_adds_up, explain};
use crate::ledger::entry::Data;
use crate::ledger::{Chain, Entry};
use crate::organism::Action;
use crate::organism::decision::Details;

/// Altered entries, hashed anew: a forger can do that.
fn rehashed(entries: impl IntoIterator<Item = Entry>) -> Vec<Entry> {
    let mut chain = Chain::default();
    let entries = entries.into_iter().map(|mut entry| {
        entry.previous_hash = *chain.last_hash();
        entry.index = chain.size();
        entry.hash = chain.append(entry.timestamp, &entry.data);
        entry
    });
    entries.collect()
}

fn golden() -> Vec<Entry> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/ledger.jsonl");
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| Entry::from_line(line).unwrap()).collect()
}

#[test]
fn every_beat_of_the_golden_ledger_is_explained_by_its_recorded_numbers() {
    let entries = golden();
    let mut held = 0;
    for entry in &entries {
        let Data::Action(recorded) = entry.data().unwrap() else { continue };
        let it = explain(&entries, Target::Entry(entry.index)).unwrap();
        let beat = &it.beat;
        assert_eq!(
            (beat.action, beat.action_entry, beat.held),
            (recorded.action, entry.index, recorded.held)
        );
        assert_eq!(beat.action_hash, crate::ledger::hex(&entry.hash));
        assert_eq!(it.asked, None);
        assert_adds_up(&beat.anomalies);
        for listed in &beat.anomalies.listed {
            let entry = &entries[listed.entry.unwrap() as usize];
            assert_eq!((entry.kind().as_str(), Some(entry.timestamp)), (listed.r#type, listed.timestamp));
            assert!(entry.data.contains(&format!("\"anoms\":{},", listed.anoms)));
        }
        if recorded.held {
            held += 1;
            assert!(beat.rules.is_empty() && beat.cores.iter().any(|core| core.failed.is_some()));
            continue;
        }
        let details: Details = serde_json::from_value(recorded.details).unwrap();
        let Data::FlowResult(entropy) = entries[entry.index as usize - 2].data().unwrap() else { panic!() };
        assert_eq!(entropy.result.unwrap()["total_anoms"], beat.anomalies.total);
        let products: Vec<_> = beat.cores.iter().map(|core| core.product.unwrap()).collect();
        assert_eq!(products, [details.repair_score, details.stability, details.threat, details.opt_gain]);
        for core in &beat.cores {
            let product = core.value.unwrap() * core.weight;
            assert!((product - core.product.unwrap()).abs() <= 1e-9 * product.abs(), "{core:?}");
        }
        let applies = beat.rules.iter().find(|rule| rule.applies).map(|rule| rule.rule.action);
        let decided = beat.rules.iter().find(|rule| rule.decided).map(|rule| rule.rule.action);
        assert_eq!(applies, decided);
        assert_eq!(decided.unwrap_or(Action::Noop), recorded.action);
    }
    assert!(held > 0);
}

#[test]
fn the_newest_decision_of_the_golden_ledger() {
    let it = explain(&golden(), Target::Newest).unwrap();
    assert_eq!((it.decision.action, it.decision.since.entry), (Action::Quarantine, 746));
    assert_eq!((it.decision.before, it.decision.until, it.last_entry), (Some(Action::Alert), None, 940));
    assert_eq!((it.beat.action_entry, it.beat.anomalies.total), (746, 16));
    let enforced: Vec<_> = it.response.enforcements.iter().map(|it| it.entry).collect();
    assert_eq!((enforced, it.response.released), (vec![748], None));
}

/// Inputs are in force from the next pulse; an enforcement follows from the action that it names.
#[test]
fn an_entry_between_beats_leads_to_the_beat_that_it_belongs_to() {
    let entries = golden();
    let mut kinds = std::collections::BTreeSet::new();
    for entry in &entries {
        let kind = entry.kind();
        // All of those between beats; of beats any of their entries, now and then.
        let is_of_beat = ["pulse", "flow_result", "action", "evolution"].contains(&kind.as_str());
        if is_of_beat && entry.index % 13 != 0 {
            continue;
        }
        let next = entries[entry.index as usize..].iter().find(|it| it.kind() == "pulse");
        let result = explain(&entries, Target::Entry(entry.index));
        match (kind.as_str(), next) {
            _ if is_of_beat => {
                let beat = result.unwrap().beat;
                assert!((beat.first_entry..=beat.last_entry).contains(&entry.index));
                continue;
            }
            ("enforcement", _) => {
                let Data::Enforcement(it) = entry.data().unwrap() else { panic!() };
                match result {
                    Ok(told) => assert_eq!(told.beat.action_entry, it.entry),
                    Err(ExplainError::ReadAgain { follows, asked }) => {
                        assert_eq!((follows, asked.entry), (it.entry, entry.index));
                        let told = explain(&entries, Target::Entry(follows)).unwrap();
                        assert!(told.response.enforcements.iter().any(|it| it.entry == entry.index));
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            (_, Some(next)) => {
                let told = result.unwrap();
                assert_eq!(told.beat.first_entry, next.index);
                assert_eq!(told.asked.unwrap().entry, entry.index);
            }
            (_, None) => {
                assert_eq!(result, Err(ExplainError::NotInForce { entry: entry.index, last: 940 }));
            }
        }
        kinds.insert(kind);
    }
    assert!(kinds.len() >= 7, "{kinds:?}");
}

/// A replay that starts later gives the same explanation, as far as what precedes it does not matter.
#[test]
fn an_explanation_from_a_snapshot_has_the_same_numbers() {
    let entries = golden();
    let mut unknown = 0;
    for start in entries.iter().filter(|it| it.kind() == "snapshot") {
        let rest = &entries[start.index as usize..];
        for entry in rest.iter().filter(|it| it.kind() == "action").step_by(9) {
            let (whole, part) =
                (explain(&entries, Target::Entry(entry.index)), explain(rest, Target::Entry(entry.index)));
            let (whole, part) = (whole.unwrap(), part.unwrap());
            assert_eq!(part.replayed_from, start.index);
            assert_eq!((&whole.beat.cores, &whole.beat.rules), (&part.beat.cores, &part.beat.rules));
            let sum = |it: &Explanation| (it.beat.anomalies.total, it.beat.anomalies.sensed);
            assert_eq!(sum(&whole), sum(&part));
            assert_adds_up(&part.beat.anomalies);
            unknown += part.beat.anomalies.listed.iter().filter(|it| it.entry.is_none()).count();
            assert_eq!(part.decision.taken_earlier, whole.decision.since.entry < start.index);
        }
        let wanted = Target::Entry(start.index - 1);
        let error = explain(rest, wanted).unwrap_err();
        assert_eq!(error, ExplainError::TooOld { entry: start.index - 1, first: start.index });
    }
    assert!(unknown > 0);
}

#[test]
fn nothing_is_explained_of_a_ledger_that_does_not_replay() {
    let entries = golden();
    // A decision, an input, a number: before the explained beat and after it.
    for (at, from, to) in [
        (746, "\"QUARANTINE\"", "\"ALERT\""),
        (693, "\"anoms\":2", "\"anoms\":20"),
        (932, "\"anoms\":2", "\"anoms\":3"),
        (490, "\"raw_threat\":0.89", "\"raw_threat\":0.88"),
    ] {
        let mut forged = entries.clone();
        let changed = forged[at].data.replacen(from, to, 1);
        assert_ne!(*changed, *forged[at].data);
        forged[at].data = changed.into();
        let forged = rehashed(forged);
        for target in [Target::Newest, Target::Entry(746), Target::At(1_782_086_798.0)] {
            let error = explain(&forged, target).unwrap_err();
            assert!(matches!(error, ExplainError::Mismatch(_)), "{at}: {error}");
        }
    }
    // A beat is missing, or its end.
    let cut = rehashed(entries.iter().filter(|it| !(741..748).contains(&it.index)).cloned());
    assert!(matches!(explain(&cut, Target::Newest), Err(ExplainError::Mismatch(_))));
    for end in 742..748 {
        let error = explain(&entries[..end], Target::Newest).unwrap_err();
        assert!(error.to_string().contains("ends in the middle of a beat"), "{error}");
    }
}

#[test]
fn what_is_not_there_is_said() {
    let entries = golden();
    assert_eq!(explain(&[], Target::Newest), Err(ExplainError::NoStart));
    assert_eq!(explain(&entries[1..20], Target::Newest), Err(ExplainError::NoStart));
    assert_eq!(explain(&entries[..1], Target::Newest), Err(ExplainError::NoBeat(0)));
    assert_eq!(explain(&entries[..1], Target::Entry(0)), Err(ExplainError::NoBeat(0)));
    let error = ExplainError::NoEntry { entry: 941, last: 940 };
    assert_eq!(explain(&entries, Target::Entry(941)), Err(error));
    let error = ExplainError::TooEarly { entry: 6, timestamp: entries[6].timestamp };
    assert_eq!(explain(&entries, Target::At(0.0)), Err(error));
}
