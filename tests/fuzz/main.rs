//! Everything that parses bytes of others: run over a corpus, and over changes of it, the same at each run.
//!
//! `targets/` states what has to hold, `corpus/` has a folder for each target. `VENOM_CASES=1000000 cargo test --release
//! --test fuzz` runs more changes. An input that shows a mistake belongs into the corpus, under a name that says what.
#![allow(clippy::unwrap_used, clippy::expect_used)] // clippy.toml's allowance does not reach a test's helpers

mod corpus;
#[path = "../hostile/mutate.rs"]
mod mutate;
mod targets;

use targets::{Target, ledger, mesh, text};

#[test]
fn what_is_stored_and_exported() {
    ledger::TARGETS.iter().for_each(run);
}

#[test]
fn what_nodes_and_clients_send() {
    mesh::TARGETS.iter().for_each(run);
}

#[test]
fn texts_and_manifests() {
    text::TARGETS.iter().for_each(run);
}

/// Changed inputs of each target.
const CASES: u64 = 1_000;

/// Runs a target over its corpus, and over as many changes of it as `VENOM_CASES` says.
fn run(target: &Target) {
    let (name, corpus) = (target.0, corpus::read(target.0));
    let accepted = corpus.iter().filter(|input| check(target, input)).count();
    assert!(accepted > 0, "{name}: nothing of the corpus is accepted any more; see {}", corpus::HOW);
    let cases = std::env::var("VENOM_CASES").map_or(CASES, |it| it.parse().expect("a number"));
    let mut refused = 0;
    for seed in 0..cases {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut input = corpus[rng.usize(..corpus.len())].clone();
        if rng.u8(..4) == 0 {
            // The beginning of one and the end of another.
            let other = &corpus[rng.usize(..corpus.len())];
            input.truncate(rng.usize(..=input.len()));
            input.extend(&other[rng.usize(..=other.len())..]);
        }
        mutate::mutate(&mut rng, &mut input);
        refused += u64::from(!check(target, &input));
    }
    assert!(refused > 0, "{name}: whatever the input, it is accepted");
}

/// Runs a target over one input, which is printed if the target fails.
fn check((name, target): &Target, input: &[u8]) -> bool {
    let run = std::panic::AssertUnwindSafe(|| target(input));
    std::panic::catch_unwind(run).unwrap_or_else(|panic| {
        eprintln!("{name}: b\"{}\"", input.escape_ascii());
        std::panic::resume_unwind(panic)
    })
}
