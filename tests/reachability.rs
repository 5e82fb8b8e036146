//! Which actions can be decided: with the default thresholds never APPLY_BALANCE, and APPLY_OPTIMIZE only after the
//! anomalies have changed; all five with `examples/adaptive.yaml`. The formulas are fixed by the mission; the thresholds are up to the user.
#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

use std::collections::BTreeSet;

use serde::Deserialize;
use venom::api;
use venom::organism::cores::Cores;
use venom::organism::input::{ConfigChange, RiskChange, Scale};
use venom::organism::{Action, Config, Genome, Input, State, VERSION, beat};
use venom::runtime::desired as spec;

/// A state with a simulated clock that beats every `period` seconds.
struct Organism {
    state: State,
    now: f64,
    period: f64,
}

impl Organism {
    fn new(genome: Genome, config: Config, period: f64) -> Self {
        let now = 1.75e9;
        Self { state: State::genesis(VERSION, now, genome, config), now, period }
    }

    fn beat(&mut self) -> beat::Beat {
        self.now += self.period;
        beat::beat(&mut self.state, self.now, &Cores::default()).unwrap()
    }

    /// Runs `beats` beats and returns their actions without consecutive duplicates.
    fn actions(&mut self, beats: usize) -> Vec<Action> {
        let mut actions: Vec<Action> = (0..beats).map(|_| self.beat().action).collect();
        actions.dedup();
        actions
    }

    fn set_anoms(&mut self, anoms: u64) {
        let risk = Some(RiskChange { anoms: Some(anoms), window: None });
        self.state.apply(&Input::Config(Box::new(ConfigChange { risk, ..ConfigChange::default() }))).unwrap();
    }

    fn scale(&mut self, p: u64) {
        let from = self.state.config.pulse.p;
        self.state.apply(&Input::Scale(Scale { from, p })).unwrap();
    }
}

/// Follows from the formulas: while E rests at 0.1 or O is near 0.9 from the start, O is at most 0.9 after a beat and gain =
/// 0.12·O, so O·gain ≤ 0.0972. conserve is at most
/// 0.5, and B starts at 0.25 and exceeds it only while O decreases.
#[test]
fn with_anomalies_that_stay_the_default_thresholds_decide_neither_balance_nor_optimize() {
    let mut seen = BTreeSet::new();
    let (mut gain, mut stability) = (0.0_f64, 0.0_f64);
    for p in [1, 2, 3, 5, 10, 100, 1000] {
        for anoms in [0, 1, 3, 4, 10, 15, 1000] {
            for period in [0.000_001, 0.004, 1.0, 3600.0] {
                let mut config = Config::default();
                config.pulse.p = p;
                let mut organism = Organism::new(Genome::default(), config, period);
                organism.set_anoms(anoms);
                for _ in 0..2_000 {
                    let beat = organism.beat();
                    let details = beat.details.unwrap();
                    seen.insert(beat.action);
                    gain = gain.max(details.opt_gain);
                    stability = stability.max(details.stability);
                }
            }
        }
    }
    assert_eq!(seen, [Action::Quarantine, Action::Alert, Action::Noop].into());
    assert!(gain <= 0.0972 + 1e-12, "{gain}");
    assert!(stability < 0.14, "{stability}");
}

/// After a long calm R and B are nearly 0. A threat just above 0.5 then lowers E to 0.05, so O is up to 0.9/0.95.
#[test]
fn a_little_threat_after_a_long_calm_decides_optimize_with_the_default_thresholds() {
    let mut organism = Organism::new(Genome::default(), Config::default(), 0.0042);
    assert_eq!(organism.actions(2_000), [Action::Noop]);
    organism.set_anoms(2);
    let beats: Vec<_> = (0..200).map(|_| organism.beat()).collect();
    let optimized = beats.iter().filter(|it| it.action == Action::ApplyOptimize).count();
    let gain = beats.iter().filter_map(|it| it.details).map(|it| it.opt_gain).fold(0.0, f64::max);
    assert!(optimized > 0, "the largest gain is {gain}");
    assert!(gain <= 0.12 * (0.9_f64 / 0.95).powi(2) + 1e-12, "{gain}");
}

fn adaptive() -> Organism {
    let path = format!("{}/examples/adaptive.yaml", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let (mut organism, mut genome) = (None, None);
    for document in serde_yaml::Deserializer::from_str(&text) {
        let object = serde_json::Value::deserialize(document).unwrap();
        match object["kind"].as_str() {
            Some("Organism") => organism = Some(api::read::<api::Organism>(object).unwrap()),
            Some("Genome") => genome = Some(api::read::<api::Genome>(object).unwrap()),
            other => panic!("{other:?}"),
        }
    }
    let (organism, genome) = (organism.unwrap().spec, genome.unwrap().spec);
    let config = spec::config(&organism, &genome);
    let period = config.pulse.min_period();
    Organism::new(spec::genome(&genome), config, period)
}

/// In the situations that the comments of the example describe.
#[test]
fn the_adaptive_example_decides_all_five_actions() {
    use Action::{Alert, ApplyBalance, ApplyOptimize, Noop, Quarantine};
    let mut organism = adaptive();
    let calm = organism.actions(600);
    assert_eq!(calm, [ApplyBalance, Noop, ApplyOptimize]);

    organism.set_anoms(5);
    assert_eq!(organism.actions(60), [Alert]);
    organism.set_anoms(20);
    assert_eq!(organism.actions(60), [Quarantine]);
    organism.set_anoms(0);
    assert_eq!(organism.actions(60), [ApplyOptimize]);

    organism.scale(1);
    assert_eq!(organism.actions(600), [ApplyOptimize, Noop, ApplyBalance]);
    organism.scale(5);
    assert_eq!(organism.actions(6_000), [ApplyBalance, Noop, ApplyOptimize]);
}

/// Half a minute of APPLY_BALANCE, two minutes of NOOP, as the comments of the example state.
#[test]
fn the_adaptive_example_changes_its_action_after_the_documented_time() {
    let mut organism = adaptive();
    let mut counts = std::collections::BTreeMap::new();
    for _ in 0..600 {
        *counts.entry(organism.beat().action).or_insert(0) += 1;
    }
    assert!((20..45).contains(&counts[&Action::ApplyBalance]), "{counts:?}");
    assert!((90..150).contains(&counts[&Action::Noop]), "{counts:?}");
}
