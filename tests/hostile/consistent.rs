//! Entries changed and all hashes made anew: nothing but the rules of a replay can tell.

use serde_json::{Map, Number, Value, json};
use venom::ledger::canonical;
use venom::ledger::entry::Record;
use venom::ledger::replay::Replay;
use venom::ledger::sealed::VisitError;
use venom::ledger::{Chain, SealedSegment};

use crate::memory::{alone, bounded};
use crate::{cases, each_case, golden, seal};

/// Replays forged segments as a take-over does. The result does not matter: it must be one.
fn replay(segments: &[SealedSegment]) -> Result<(), String> {
    let mut replay = Replay::default();
    for sealed in segments {
        sealed.visit(|entry| replay.feed(entry)).map_err(|error| match error {
            VisitError::Open(error) => panic!("its hashes are right: {error}"),
            VisitError::Each(mismatch) => mismatch.to_string(),
        })?;
    }
    let _ = replay.decision();
    replay.finish().map(drop).map_err(|mismatch| mismatch.to_string())
}

/// A value of the kind that somebody would try.
fn hostile(rng: &mut fastrand::Rng) -> Value {
    match rng.u8(..14) {
        0 => Value::Null,
        1 => json!(rng.bool()),
        2 => json!(0),
        3 => json!(u64::MAX),
        4 => json!(i64::MIN),
        5 => json!(1_u64 << 53),
        6 => Number::from_f64([1e308, -1e308, 5e-324, -0.0, 1e-300][rng.usize(..5)]).unwrap().into(),
        7 => json!(rng.f64()),
        8 => json!(""),
        9 => json!("\u{1b}]0;x\u{7}\u{202e}\u{0}"),
        10 => json!("a".repeat(rng.usize(..70_000))),
        11 => Value::Array(vec![json!([1.0, u64::MAX]); rng.usize(..5_000)]),
        12 => json!({"type": "snapshot"}),
        _ => json!(rng.i64(..)),
    }
}

/// Changes one random place of `value`.
fn change(rng: &mut fastrand::Rng, value: &mut Value) {
    match value {
        Value::Object(fields) if !fields.is_empty() && rng.u8(..8) > 0 => {
            let at = rng.usize(..fields.len());
            let key = fields.keys().nth(at).cloned().unwrap();
            match rng.u8(..12) {
                0 => drop(fields.remove(&key)),
                1 => drop(fields.insert("extra".into(), hostile(rng))),
                _ => change(rng, &mut fields[&key]),
            }
        }
        Value::Array(items) if !items.is_empty() && rng.u8(..8) > 0 => {
            let at = rng.usize(..items.len());
            change(rng, &mut items[at]);
        }
        Value::Number(number) if rng.bool() => {
            // Of the same JSON type: it gets past the parser.
            *value = match number.as_u64() {
                Some(_) if number.is_u64() => {
                    [json!(u64::MAX), json!(0), json!(rng.u64(..))][rng.usize(..3)].clone()
                }
                _ => json!([f64::MAX, f64::MIN, 0.0, -0.0, 5e-324, rng.f64() * 10.0][rng.usize(..6)]),
            };
        }
        other => *other = hostile(rng),
    }
}

#[test]
fn forged_ledgers_are_replayed_or_refused() {
    let _alone = alone();
    let golden = golden();
    let starts: Vec<usize> = (0..golden.len())
        .filter(|at| {
            ["genesis", "snapshot"].iter().any(|it| golden[*at].1.contains(&format!("\"type\":\"{it}\"")))
        })
        .collect();
    let mut refused = 0;
    let count = cases(1_500);
    bounded("consistent forgeries", || {
        each_case("consistent forgeries", count, |rng| {
            let start = starts[rng.usize(..starts.len())];
            let mut entries: Vec<_> = golden[start..].iter().take(80).cloned().collect();
            for _ in 0..=rng.usize(..3) {
                // What a replay starts from is the most worth changing.
                let at = if rng.u8(..4) == 0 { 0 } else { rng.usize(..entries.len()) };
                match rng.u8(..10) {
                    0 => drop(entries.remove(at)),
                    1 => entries.insert(at, entries[at].clone()),
                    2 => entries.swap(0, at),
                    3 => entries[at].0 = [f64::MAX, -1.0, 0.0, 1e18][rng.usize(..4)],
                    _ => {
                        let mut data: Value = serde_json::from_str(&entries[at].1).unwrap();
                        change(rng, &mut data);
                        let data = if data.is_object() { data } else { Value::Object(Map::new()) };
                        entries[at].1 = canonical::to_string(&data).unwrap();
                    }
                }
            }
            let entries: Vec<_> = entries.into_iter().filter(|it| it.1.len() < 200_000).collect();
            let middle = rng.usize(..entries.len());
            let (left, end) = seal(&Chain::default(), &entries[..middle]);
            let (right, _) = seal(&end, &entries[middle..]);
            refused += u64::from(replay(&[left, right]).is_err());
        });
    });
    assert!(refused > count / 2, "{refused} of {count} were refused");
}

/// Every input that a ledger can hold, with numbers at the ends of their ranges, and a beat after them.
#[test]
fn the_engine_survives_any_input() {
    let _alone = alone();
    let golden = golden();
    let (time, genesis) = golden[0].clone();
    each_case("inputs", cases(500), |rng| {
        let mut entries = vec![(time, genesis.clone())];
        for at in 0..rng.u32(1..30) {
            let anoms = [0, 1, u64::MAX, u64::MAX / 2, 1_000_000][rng.usize(..5)];
            let data = match rng.u8(..5) {
                0 => json!({"type": "injection", "id": "x", "anoms": anoms, "ml_weight": rng.f64() * 1e300}),
                1 => {
                    json!({"type": "sense", "source": "pod", "kind": "restart", "subject": "s", "anoms": anoms})
                }
                2 => json!({"type": "scale", "from": 5, "p": anoms}),
                3 => {
                    json!({"type": "config", "pulse": {"k": anoms, "p": anoms, "t1": rng.f64() * 1e-300, "u": 1e300}})
                }
                _ => {
                    json!({"type": "config", "risk": {"window": ([0.0, 1e308, -1.0][rng.usize(..3)]), "anoms": anoms}})
                }
            };
            entries.push((time + f64::from(at), canonical::to_string(&data).unwrap()));
        }
        let pulse = golden.iter().position(|it| it.1.contains("\"type\":\"pulse\"")).unwrap();
        entries.extend(golden[pulse..pulse + 7].iter().cloned());
        let (sealed, _) = seal(&Chain::default(), &entries);
        let _ = replay(&[sealed]);
    });
}

#[test]
fn a_record_of_another_ledger_does_not_fit() {
    let _alone = alone();
    let mut chain = Chain::default();
    chain.record(&Record::Other(1.0, "{\"type\":\"x\"}".into())).unwrap();
    let (sealed, _) = seal(&chain, &golden()[..1]);
    assert!(SealedSegment::merge(None, &[seal(&Chain::default(), &golden()[..2]).0, sealed]).is_err());
}
