mod golden;

use proptest::prelude::*;

use super::inputs::Counted;
use super::why_not::{Span, span_of};
use super::*;
use crate::ledger::entry::{Enforcement, Genesis, Record};
use crate::ledger::replay::Replay;
use crate::ledger::{Chain, Entry};
use crate::organism::cores::{CoreInput, Cores, Entropy};
use crate::organism::decision::{Details, decide};
use crate::organism::genome::{Evolution, Ml, Risk, Thresholds};
use crate::organism::input::{ConfigChange, Injection, MlChange, Resume, ResumeReason, RiskChange, Sense};
use crate::organism::{Action, Config, Genome, Input, State, VERSION, beat};

/// A ledger in the making, one beat a second.
struct Maker {
    state: State,
    chain: Chain,
    entries: Vec<Entry>,
    now: f64,
}

impl Maker {
    fn new(genome: Genome) -> Self {
        let now = 1_000.0;
        let state = State::genesis(VERSION, now, genome, Config::default());
        let mut maker = Self { state, chain: Chain::default(), entries: vec![], now };
        let genesis = Genesis {
            config: Config::default(),
            continues: None,
            genome,
            message: "test".into(),
            origin: None,
            version: VERSION.into(),
        };
        maker.add(&Record::genesis(now, &genesis).unwrap());
        maker
    }

    fn add(&mut self, record: &Record) -> u64 {
        let first = self.chain.size();
        let mut rows = vec![];
        record.write(&mut vec![], &mut |time, data| rows.push((time, Box::<str>::from(data)))).unwrap();
        for (timestamp, data) in rows {
            let (index, previous_hash) = (self.chain.size(), *self.chain.last_hash());
            let hash = self.chain.append(timestamp, &data);
            self.entries.push(Entry { index, timestamp, data, previous_hash, hash });
        }
        first
    }

    fn input(&mut self, input: Input) -> u64 {
        self.state.apply(&input).unwrap();
        self.add(&Record::input(self.now, &input).unwrap())
    }

    fn inject(&mut self, anoms: u64) -> u64 {
        let id = format!("inj-{}", self.chain.size());
        self.input(Input::Injection(Injection { anoms: Some(anoms), id, ..Injection::default() }))
    }

    fn sense(&mut self, anoms: u64, suppressed: bool) -> u64 {
        let subject = format!("uid/node/{}", self.chain.size());
        let (kind, source) = ("restart".into(), "pods".into());
        self.input(Input::Sense(Sense { anoms, kind, source, subject, suppressed }))
    }

    fn set_anoms(&mut self, anoms: u64) -> u64 {
        let risk = Some(RiskChange { anoms: Some(anoms), window: None });
        self.input(Input::Config(Box::new(ConfigChange { risk, ..ConfigChange::default() })))
    }

    /// The index of the action entry.
    fn beat_with(&mut self, cores: &Cores) -> u64 {
        self.now += 1.0;
        let beat = beat::beat(&mut self.state, self.now, cores).unwrap();
        self.add(&Record::Beat(Box::new(beat))) + 5
    }

    fn beat(&mut self) -> u64 {
        self.beat_with(&Cores::default())
    }

    fn snapshot(&mut self) -> u64 {
        let record = Record::snapshot(self.now, &self.state).unwrap();
        self.add(&record)
    }

    fn enforce(&mut self, entry: u64, change: Change, mode: &str, refused: Option<&str>) -> u64 {
        let what = vec!["NetworkPolicy venom-quarantine".into()];
        let refused = refused.map(str::to_owned);
        let enforcement = Enforcement { change, entry, mode: mode.into(), refused, what };
        self.add(&Record::enforcement(self.now, &enforcement).unwrap())
    }
}

fn with_window(window: f64) -> Genome {
    Genome { risk: Risk { anoms: 0, window }, ..Genome::default() }
}

fn explain(entries: &[Entry], target: Target) -> Result<Explanation, ExplainError> {
    explain_why_not(entries, target, None)
}

fn explain_why_not(
    entries: &[Entry],
    target: Target,
    why_not: Option<Action>,
) -> Result<Explanation, ExplainError> {
    let mut explainer = Explainer::new(target, why_not);
    entries.iter().try_for_each(|entry| explainer.feed(entry.clone()))?;
    explainer.finish()
}

/// The anomalies of an explanation add up to what the model was given.
fn assert_adds_up(it: &Counted) {
    let listed: u64 = it.listed.iter().map(|it| it.anoms).sum();
    assert_eq!(listed + it.more_anoms, it.injected + it.sensed);
    assert_eq!(it.injected + it.sensed + it.genome, it.total);
}

#[test]
fn a_time_leads_to_the_decision_in_force_then() {
    let mut maker = Maker::new(Genome::default());
    let (calm, _) = (maker.beat(), maker.beat());
    maker.set_anoms(20);
    let threat = maker.beat();
    maker.beat();
    maker.set_anoms(0);
    let calm_again = maker.beat();
    for (time, entry) in [
        (1_001.0, calm),
        (1_002.9, calm),
        (1_003.0, threat),
        (1_004.999, threat),
        (1_005.0, calm_again),
        (9e9, calm_again),
    ] {
        let it = explain(&maker.entries, Target::At(time)).unwrap();
        assert_eq!(it.beat.action_entry, entry, "{time}");
    }
    let it = explain(&maker.entries, Target::At(1_003.5)).unwrap();
    assert_eq!((it.decision.beats, it.decision.before), (2, Some(Action::Noop)));
    assert_eq!(it.decision.until.map(|it| (it.action, it.entry)), Some((Action::Noop, calm_again)));
    let error = explain(&maker.entries, Target::At(1_000.999)).unwrap_err();
    assert_eq!(error, ExplainError::TooEarly { entry: calm, timestamp: 1_001.0 });
}

/// Restarts do not matter: all is in the ledger.
#[test]
fn a_decision_outlives_restarts_and_snapshots() {
    let mut maker = Maker::new(Genome::default());
    maker.beat();
    maker.set_anoms(20);
    let decided = maker.beat();
    for epoch in 2..5 {
        let resume = Resume { epoch, operator: "o".into(), reason: ResumeReason::Restart };
        maker.input(Input::Resume(resume));
        maker.snapshot();
        maker.beat();
    }
    let it = explain(&maker.entries, Target::Newest).unwrap();
    assert_eq!((it.beat.action_entry, it.decision.beats), (decided, 4));
    // From a snapshot the first beat is not there, and that is said.
    let snapshot = maker.entries.iter().rposition(|it| it.kind() == "snapshot").unwrap();
    let it = explain(&maker.entries[snapshot..], Target::Newest).unwrap();
    assert!(it.decision.taken_earlier && it.decision.before.is_none());
    assert_eq!(it.beat.anomalies.genome_set_by, snapshot as u64);
}

#[test]
fn a_held_beat_says_which_core_failed() {
    fn broken(_: &CoreInput) -> Entropy {
        panic!("no \x1b[2J model")
    }
    let mut maker = Maker::new(Genome::default());
    maker.set_anoms(20);
    let decided = maker.beat();
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let held = maker.beat_with(&Cores { entropy: broken, ..Cores::default() });
    std::panic::set_hook(hook);
    maker.beat();
    let it = explain_why_not(&maker.entries, Target::Entry(held), Some(Action::Alert)).unwrap();
    assert!(it.beat.held && it.beat.rules.is_empty());
    assert_eq!((it.beat.action, it.decision.since.entry), (Action::Quarantine, decided));
    assert_eq!((it.decision.beats, it.decision.held_beats), (3, 1));
    assert_eq!(it.beat.cores[2].failed.as_deref(), Some("no \x1b[2J model"));
    assert_eq!((it.beat.cores[2].value, it.beat.cores[2].product), (None, None));
    assert!(it.beat.cores[1].value.is_some() && it.beat.cores[1].product.is_none());
    assert!(it.why_not.unwrap().missing.is_empty());
}

#[test]
fn anomalies_leave_with_the_window_and_suppressed_ones_never_count() {
    let mut maker = Maker::new(with_window(3.0));
    let (first, weak) = (maker.inject(3), maker.sense(2, true));
    let one = maker.beat();
    let second = maker.sense(4, false);
    let two = maker.beat();
    maker.beat();
    let four = maker.beat();
    maker.beat();
    let six = maker.beat();
    let told = |entry| explain(&maker.entries, Target::Entry(entry)).unwrap().beat.anomalies;
    let entries = |list: &[Anomaly]| list.iter().map(|it| it.entry.unwrap()).collect::<Vec<_>>();
    assert_eq!((entries(&told(one).listed), entries(&told(one).suppressed)), (vec![first], vec![weak]));
    assert_eq!(entries(&told(two).listed), [second, first]);
    assert_eq!(told(two).listed[1].age, 1.0);
    assert_eq!((entries(&told(four).listed), told(four).suppressed.len()), (vec![second], 0));
    assert_eq!((told(six).listed.len(), told(six).total), (0, 0));
    // The suppressed sense is in force from its beat on, and counts nothing.
    let it = explain(&maker.entries, Target::Entry(weak)).unwrap();
    assert_eq!((it.beat.action_entry, it.asked.unwrap().counts), (one, Some(false)));
    let it = explain(&maker.entries, Target::Entry(second)).unwrap();
    assert_eq!((it.beat.action_entry, it.asked.unwrap().counts), (two, Some(true)));
}

#[test]
fn lists_and_texts_are_bounded() {
    let mut maker = Maker::new(Genome::default());
    let long = "Λ".repeat(500);
    for anoms in 1..=250 {
        let (kind, source, subject) = (long.clone(), long.clone(), long.clone());
        let suppressed = anoms > 200;
        maker.input(Input::Sense(Sense { anoms: 1 + anoms % 3, kind, source, subject, suppressed }));
    }
    let action = maker.beat();
    for _ in 0..20 {
        maker.enforce(action, Change::Apply, &long, Some(&long));
    }
    let it = explain(&maker.entries, Target::Newest).unwrap();
    let anomalies = &it.beat.anomalies;
    assert_adds_up(anomalies);
    assert_eq!((anomalies.listed.len(), anomalies.more, anomalies.suppressed.len()), (100, 100, 50));
    let subject = anomalies.listed[0].subject.as_ref().unwrap();
    assert!(subject.len() <= QUOTED + '…'.len_utf8() && subject.ends_with("Λ…"));
    assert_eq!((it.response.enforcements.len(), it.response.more), (Response::LISTED, 10));
    let json = serde_json::to_string(&it).unwrap();
    assert!(json.len() < 300_000, "{}", json.len());
}

#[test]
fn what_was_done_and_when_it_was_undone() {
    let mut maker = Maker::new(Genome::default());
    let calm = maker.beat();
    maker.set_anoms(20);
    let threat = maker.beat();
    let refused = maker.enforce(threat, Change::Apply, "Enforce", Some("LimitReached"));
    maker.enforce(threat, Change::Release, "Enforce", Some("HandsOff"));
    let applied = maker.enforce(threat, Change::Apply, "Enforce", None);
    maker.beat();
    maker.set_anoms(5);
    let alert = maker.beat();
    let observed = maker.enforce(alert, Change::Apply, "Observe", None);
    maker.set_anoms(0);
    let noop = maker.beat();
    let release = maker.enforce(noop, Change::Release, "Enforce", None);
    let second = maker.enforce(noop, Change::Release, "Enforce", None);

    let it = explain(&maker.entries, Target::Entry(threat)).unwrap().response;
    let entries: Vec<_> = it.enforcements.iter().map(|it| it.entry).collect();
    assert_eq!(entries, [refused, refused + 1, applied]);
    assert_eq!(it.released.map(|it| it.entry), Some(release));
    assert_eq!(it.in_ledger, 6);
    let it = explain(&maker.entries, Target::Entry(alert)).unwrap().response;
    assert_eq!((it.enforcements.len(), it.enforcements[0].entry), (1, observed));
    assert_eq!(it.in_force.map(|it| it.entry), Some(applied));
    // Nothing was done about a NOOP, so nothing of it is undone.
    let it = explain(&maker.entries, Target::Entry(calm)).unwrap().response;
    assert_eq!((it.enforcements.len(), it.released, it.applied), (0, None, false));
    let it = explain(&maker.entries, Target::Entry(applied)).unwrap();
    assert_eq!((it.beat.action_entry, it.asked.unwrap().r#type.as_str()), (threat, "enforcement"));
    let it = explain(&maker.entries, Target::Entry(second)).unwrap();
    assert_eq!(it.beat.action_entry, noop);
}

/// A quarantine outlasts its decision: the operator does not apply it again if it is decided again meanwhile.
#[test]
fn what_is_still_in_force_belongs_to_the_next_decisions_too() {
    let mut maker = Maker::new(Genome::default());
    maker.set_anoms(20);
    let first = maker.beat();
    let applied = maker.enforce(first, Change::Apply, "Enforce", None);
    maker.set_anoms(0);
    maker.beat();
    maker.set_anoms(20);
    let again = maker.beat();
    maker.set_anoms(5);
    let alert = maker.beat();
    let release = maker.enforce(alert, Change::Release, "Enforce", None);
    let alerted = maker.enforce(alert, Change::Apply, "Enforce", None);
    maker.set_anoms(0);
    let noop = maker.beat();
    let last = maker.enforce(noop, Change::Release, "Enforce", None);
    let told = |entry| explain(&maker.entries, Target::Entry(entry)).unwrap().response;
    let it = told(again);
    assert_eq!((it.in_force.unwrap().entry, it.released.unwrap().entry), (applied, release));
    assert!(it.enforcements.is_empty() && !it.applied);
    let it = told(alert);
    assert_eq!((it.in_force.unwrap().entry, it.released.unwrap().entry), (applied, last));
    assert_eq!(it.enforcements.iter().map(|it| it.entry).collect::<Vec<_>>(), [release, alerted]);
    let it = told(noop);
    assert_eq!((it.in_force.unwrap().entry, it.released.unwrap().entry), (alerted, last));
}

#[test]
fn why_not_counts_the_missing_anomalies() {
    let mut maker = Maker::new(Genome::default());
    maker.set_anoms(5);
    let alert = maker.beat();
    let told = |action| {
        let it = explain_why_not(&maker.entries, Target::Entry(alert), Some(action)).unwrap();
        assert_eq!(it.beat.action, Action::Alert);
        it.why_not.unwrap()
    };
    let it = told(Action::Quarantine);
    assert_eq!(it.anomalies, Some(Span { from: 15, to: None }));
    assert_eq!((it.missing.len(), it.missing[0].quantity, it.preceded_by), (1, "raw_threat", None));
    assert!(it.reachable && !it.decided && it.weight.is_none());
    let it = told(Action::Alert);
    assert!(it.decided && it.missing.is_empty());
    assert_eq!(it.anomalies, Some(Span { from: 4, to: Some(14) }));
    // ALERT precedes the others.
    for action in [Action::ApplyBalance, Action::ApplyOptimize, Action::Noop] {
        let it = told(action);
        assert_eq!(
            (it.preceded_by, it.anomalies),
            (Some(Action::Alert), Some(Span { from: 0, to: Some(3) }))
        );
    }
    // With the mission's defaults and the weights at the start, neither is within reach.
    let it = told(Action::ApplyBalance);
    let weight = it.weight.unwrap();
    assert_eq!((weight.name, weight.value, weight.most, weight.needed), ("B", 0.25, 0.125, 0.5));
    assert!(!it.reachable && weight.most_evolved.unwrap() < 0.25);
    assert_eq!(it.genome_anomalies, Some(Span { from: 0, to: Some(39) }));
    let it = told(Action::ApplyOptimize);
    let weight = it.weight.unwrap();
    assert!(!it.reachable && (weight.most - 0.12 * 0.35 * 0.35).abs() < 1e-12);
    assert!((weight.needed - (0.1_f64 / 0.12).sqrt()).abs() < 1e-12);
    assert!(told(Action::Noop).reachable);
}

#[test]
fn frozen_weights_never_bring_an_action_within_reach() {
    let genome = Genome { evolution: Evolution::Frozen, ..Genome::default() };
    let mut maker = Maker::new(genome);
    maker.beat();
    let it = explain_why_not(&maker.entries, Target::Newest, Some(Action::ApplyOptimize)).unwrap();
    let weight = it.why_not.unwrap().weight.unwrap();
    assert!(!weight.evolves && weight.most_evolved == Some(weight.most));
}

/// A model whose weight an injection has set: the entry that set it is named.
#[test]
fn the_entries_that_set_the_parameters_are_named() {
    let mut maker = Maker::new(Genome::default());
    let injection = Injection { ml_weight: Some(0.5), id: "w".into(), ..Injection::default() };
    let model = maker.input(Input::Injection(injection));
    let risk = maker.set_anoms(1);
    maker.beat();
    let beat = explain(&maker.entries, Target::Newest).unwrap().beat;
    assert_eq!((beat.model.set_by, beat.model.ml_weight), (model, 0.5));
    assert_eq!((beat.anomalies.genome_set_by, beat.thresholds_set_by, beat.weights_set_by), (risk, 0, 0));
    let change = MlChange { ml_bias: Some(-1.0), ml_weight: None };
    let change = ConfigChange { ml: Some(change), ..ConfigChange::default() };
    let model = maker.input(Input::Config(Box::new(change)));
    let action = maker.beat();
    let beat = explain(&maker.entries, Target::Entry(action)).unwrap().beat;
    assert_eq!((beat.model.set_by, beat.model.ml_weight, beat.model.ml_bias), (model, 0.5, -1.0));
}

/// The format bounds the senses that count; a maker that does not is refused, so that memory stays bounded too.
#[test]
fn a_replay_refuses_more_senses_than_may_count() {
    let mut maker = Maker::new(Genome::default());
    for _ in 0..=crate::organism::state::MAX_ITEMS {
        maker.sense(1, false);
    }
    let mut replay = Replay::default();
    let error = maker.entries.iter().try_for_each(|entry| replay.feed(entry.clone())).unwrap_err();
    assert_eq!(error.index, 1 + crate::organism::state::MAX_ITEMS as u64);
    assert!(error.what.contains("must be suppressed"), "{error}");
}

#[test]
fn a_replay_counts_decisions() {
    let mut maker = Maker::new(Genome::default());
    for anoms in [0, 0, 20, 5, 5, 5, 0] {
        maker.set_anoms(anoms);
        maker.beat();
        maker.beat();
    }
    let mut replay = Replay::default();
    maker.entries.iter().for_each(|entry| replay.feed(entry.clone()).unwrap());
    assert_eq!(replay.decided(), [2, 6, 0, 0, 6]);
    // Only an action may be enforced.
    for (entry, valid) in [(7, true), (6, false), (14, true), (13, false), (15, false), (1 << 50, false)] {
        let mut maker = Maker::new(Genome::default());
        maker.set_anoms(20);
        maker.beat();
        maker.beat();
        maker.enforce(entry, Change::Apply, "Enforce", None);
        let mut replay = Replay::default();
        let result = maker.entries.iter().try_for_each(|entry| replay.feed(entry.clone()));
        assert_eq!(result.is_ok(), valid, "{entry}: {result:?}");
    }
}

proptest! {
    /// The spans are those of the decision rule itself, whatever the model and the thresholds.
    #[test]
    fn spans_agree_with_the_rule(
        ml_weight in prop_oneof![-1.0..1.0_f64, Just(0.0)],
        ml_bias in -3.0..3.0_f64,
        quarantine in 0.0..1.1_f64,
        alert in 0.0..1.1_f64,
    ) {
        let thresholds = Thresholds { quarantine, alert, ..Thresholds::default() };
        let ml = Ml { ml_weight, ml_bias };
        for anoms in (0..60).chain([1_000, 1_000_000]) {
            let raw_threat = crate::organism::cores::entropy::sigmoid(ml_weight * anoms as f64 + ml_bias);
            let details = Details {
                opt_gain: 0.0, raw_conserve: 0.0, raw_gain: 0.0, raw_threat,
                raw_urgency: 0.0, repair_score: 0.0, stability: 0.0, threat: 0.0,
            };
            let decided = decide(&details, &thresholds);
            for action in [Action::Quarantine, Action::Alert, Action::Noop] {
                let is_in = span_of(action, &ml, &thresholds).is_some_and(|span| span.contains(anoms));
                prop_assert_eq!(is_in, action == decided, "{} anoms, {}", anoms, action);
            }
        }
    }
}
