//! Segments, heads and lines that somebody has made to do harm: decoded in bounded memory, refused without a panic.
//!
//! The same cases at each run. `VENOM_CASES=100000 cargo test --release --test hostile` runs more of them, and prints the
//! slowest.
#![allow(clippy::unwrap_used, clippy::expect_used)] // clippy.toml's allowance does not reach a test's helpers

mod bombs;
mod consistent;
mod memory;
mod mutants;
mod mutate;

use std::time::{Duration, Instant};

/// Number of cases: as many as `VENOM_CASES` says, or few enough for every run.
fn cases(few: u64) -> u64 {
    std::env::var("VENOM_CASES").ok().map_or(few, |it| it.parse().expect("VENOM_CASES is a number"))
}

/// Runs `case` for each seed, and prints how long the slowest took.
fn each_case(name: &str, cases: u64, mut case: impl FnMut(&mut fastrand::Rng)) {
    let mut slowest = (0, Duration::ZERO);
    for seed in 0..cases {
        let started = Instant::now();
        let mut rng = fastrand::Rng::with_seed(seed);
        if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| case(&mut rng))) {
            eprintln!("{name}: seed {seed}");
            std::panic::resume_unwind(panic);
        }
        let took = started.elapsed();
        if took > slowest.1 {
            slowest = (seed, took);
        }
    }
    println!("{name}: {cases} cases, the slowest took {:?} (seed {})", slowest.1, slowest.0);
}

/// The golden ledger's entries: timestamp and canonical data.
fn golden() -> Vec<(f64, String)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/ledger.jsonl");
    let text = std::fs::read_to_string(path).unwrap();
    let entries = text.lines().map(|line| venom::ledger::Entry::from_line(line).unwrap());
    entries.map(|it| (it.timestamp, it.data.into())).collect()
}

/// Seals entries, with every hash made anew.
fn seal(
    before: &venom::ledger::Chain,
    entries: &[(f64, String)],
) -> (venom::ledger::SealedSegment, venom::ledger::Chain) {
    use venom::ledger::entry::Record;
    let records: Vec<Record> =
        entries.iter().map(|(time, data)| Record::Other(*time, data.as_str().into())).collect();
    let mut after = before.clone();
    for record in &records {
        after.record(record).unwrap();
    }
    (venom::ledger::SealedSegment::seal(None, before, &after, &records).unwrap(), after)
}
