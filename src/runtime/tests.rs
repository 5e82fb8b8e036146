use std::time::{Duration, Instant};

use super::*;
use crate::ledger::entry::{Origin, Record};
use crate::ledger::replay::Replay;
use crate::ledger::{Chain, Entry};
use crate::mesh::{Identity, InjectionEvent, InjectionPayload, Outcome};
use crate::organism::cores::{CoreInput, Cores, Entropy};
use crate::organism::{Action, State};

const INTERVAL: Duration = Duration::from_secs(1);
const INTERVALS: CommitIntervals = CommitIntervals { calm: INTERVAL, input: Duration::ZERO };

/// An engine with a clock of its own, and the ledger that its batches make.
struct Harness {
    engine: Engine,
    start: Instant,
    seconds: f64,
    entries: Vec<Entry>,
    chain: Chain,
    statuses: Vec<EngineStatus>,
}

fn desired() -> Desired {
    Desired { commit_interval: INTERVAL, ..Desired::for_tests() }
}

impl Harness {
    fn new(desired: Desired) -> Self {
        Self::with_min_period(desired, Duration::ZERO)
    }

    fn with_min_period(desired: Desired, min_period: Duration) -> Self {
        let start = Instant::now();
        let origin =
            Origin { generation: 1, name: "venom".into(), namespace: "default".into(), uid: "u".into() };
        let params = StartParams {
            enforcement: None,
            desired,
            epoch: 1,
            operator: "test".into(),
            history: History::Empty { origin: Some(origin), continues: None },
            batch_spacing: Duration::from_millis(50),
            min_period,
            publishes: true,
        };
        let mut engine = Engine::new(params, start);
        engine.start(start, 1_000.0).unwrap();
        let (entries, statuses) = (vec![], vec![]);
        Self { engine, start, seconds: 0.0, entries, chain: Chain::default(), statuses }
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_secs_f64(self.seconds)
    }

    /// Beats at `now`; false when no beat was opened.
    fn beat_at(&mut self, now: Instant, wall: f64, cores: &Cores) -> bool {
        let Some(open) = self.engine.open_beat(now, wall, 1.0, MAX_PENDING).unwrap().open else {
            return false;
        };
        let flows = cores.run(&open.input);
        self.engine.close_beat(open, flows, now).unwrap().is_some()
    }

    /// One beat, a second after the last one.
    fn beat(&mut self, cores: &Cores) {
        self.seconds += 1.0;
        self.beat_at(self.now(), 1_000.0 + self.seconds, cores);
        self.commit();
    }

    fn beats(&mut self, count: usize) {
        for _ in 0..count {
            self.beat(&Cores::default());
        }
    }

    /// Commits the batch that is due.
    fn commit(&mut self) {
        while let Some(batch) = self.engine.take_batch(self.now(), INTERVALS) {
            assert_eq!(batch.before, self.chain);
            for record in &batch.records {
                record
                    .write(&mut vec![], &mut |timestamp, data| {
                        let (index, previous_hash) = (self.chain.size(), *self.chain.last_hash());
                        let hash = self.chain.append(timestamp, data);
                        self.entries.push(Entry { index, timestamp, data: data.into(), previous_hash, hash });
                    })
                    .unwrap();
            }
            assert_eq!(batch.after.last_hash(), self.chain.last_hash());
            self.statuses.push(batch.status);
            self.engine.acknowledge();
        }
    }

    fn set_desired(&mut self, change: impl FnOnce(&mut Desired)) {
        let mut desired = self.engine.desired().clone();
        change(&mut desired);
        let now = self.now();
        self.engine.set_desired(desired, now, 1_000.0 + self.seconds).unwrap();
        self.seconds += 0.1;
        self.commit();
    }

    fn inject(&mut self, id: &str, anoms: Option<u64>, ml_weight: Option<f64>) {
        let origin = Identity::pod("venom", "u", "node").unwrap();
        let payload = InjectionPayload { anoms, ml_weight };
        let now = self.now();
        self.engine.inject(InjectionEvent { id: id.parse().unwrap(), origin, seq: 1, payload }, now);
    }

    /// Outcomes of injections since the last call.
    fn outcomes(&mut self) -> Vec<(String, Outcome)> {
        self.engine.take_outcomes().into_iter().map(|(event, it)| (event.id.to_string(), it)).collect()
    }

    fn kinds(&self) -> Vec<String> {
        self.entries.iter().map(Entry::kind).collect()
    }

    fn status(&self) -> &EngineStatus {
        self.statuses.last().unwrap()
    }

    /// The state that the committed entries lead to.
    fn replay(&self) -> State {
        let mut replay = Replay::default();
        for entry in &self.entries {
            replay.feed(entry.clone()).unwrap();
        }
        replay.finish().unwrap().unwrap()
    }
}

#[test]
fn it_begins_with_a_genesis_and_what_it_commits_replays() {
    let mut harness = Harness::new(desired());
    harness.beats(20);
    assert_eq!(harness.kinds()[..3], ["genesis", "pulse", "flow_result"]);
    assert_eq!(harness.status().beats, 20);
    assert_eq!(harness.status().stable, Some(true));
    assert_eq!(harness.replay().beat, 20);
}

#[test]
fn a_snapshot_stands_every_thousand_beats() {
    let mut harness = Harness::new(desired());
    harness.beats(2_001);
    assert_eq!(harness.kinds().iter().filter(|kind| *kind == "snapshot").count(), 2);
    harness.replay();
}

#[test]
fn suspended_it_writes_nothing_and_records_all_changes_at_once_when_it_goes_on() {
    let mut harness = Harness::new(desired());
    harness.beats(3);
    harness.set_desired(|desired| desired.pause = Some(PauseReason::Suspended));
    assert_eq!(harness.status().phase, Phase::Suspended);
    let size = harness.entries.len();
    harness.beats(3);
    harness.set_desired(|desired| desired.genome.risk.anoms = 5);
    harness.set_desired(|desired| desired.config.pid.kp = 0.7);
    harness.set_desired(|desired| desired.config.pulse.p = 3);
    assert_eq!(harness.entries.len(), size);
    harness.set_desired(|desired| desired.pause = None);
    harness.beats(1);
    assert_eq!(harness.kinds()[size..size + 5], ["resume", "config", "scale", "snapshot", "pulse"]);
    assert!(harness.entries[size].data.contains("\"unsuspended\""));
    assert_eq!(harness.status().phase, Phase::Beating);
    assert_eq!(harness.replay().config.pulse.p, 3);
}

#[test]
fn it_ends_at_exactly_the_beats_that_are_asked_for() {
    let mut harness = Harness::new(Desired { beats: Some(10), ..desired() });
    harness.beats(15);
    assert_eq!((harness.status().beats, harness.status().phase), (10, Phase::Completed));
    harness.set_desired(|desired| desired.beats = Some(12));
    harness.beats(5);
    assert_eq!((harness.status().beats, harness.status().phase), (12, Phase::Completed));
    assert!(harness.entries.iter().any(|entry| entry.data.contains("\"beatsRaised\"")));
    harness.replay();
}

#[test]
fn a_patch_sets_only_what_changed_and_is_decided_on_early() {
    let mut slow = desired();
    slow.config.pulse.min_period = Some(60.0);
    let mut harness = Harness::new(slow);
    harness.beats(5);
    let deadline = harness.engine.deadline();
    harness.set_desired(|desired| desired.genome.risk.anoms = 20);
    assert!(harness.engine.deadline() < deadline);
    harness.beats(1);
    let config = harness.entries.iter().find(|entry| entry.kind() == "config").unwrap();
    assert_eq!(&*config.data, "{\"risk\":{\"anoms\":20},\"type\":\"config\"}");
    assert_eq!(harness.status().decision.unwrap().action, Action::Quarantine);
    harness.replay();
}

#[test]
fn a_core_that_panics_holds_the_beat_and_the_last_decision_stands() {
    fn broken(_: &CoreInput) -> Entropy {
        panic!("out of order")
    }
    let mut harness = Harness::new(desired());
    harness.set_desired(|desired| desired.genome.risk.anoms = 20);
    harness.beats(2);
    harness.beat(&Cores { entropy: broken, ..Cores::default() });
    assert_eq!(harness.status().failed_cores, [("Entropy".to_owned(), "out of order".to_owned())]);
    assert_eq!(harness.status().decision.unwrap().action, Action::Quarantine);
    assert!(harness.entries.iter().any(|entry| entry.data.starts_with("{\"failed\":\"out of order\"")));
    harness.beats(1);
    assert!(harness.status().failed_cores.is_empty());
    harness.replay();
}

#[test]
fn missed_deadlines_are_skipped_and_counted() {
    let mut harness = Harness::new(desired());
    let period = harness.engine.period(1.0);
    assert_eq!(harness.engine.deadline(), harness.start);
    let late = harness.start + period * 10 + period / 2;
    assert_eq!(harness.engine.open_beat(late, 1_001.0, 1.0, MAX_PENDING).unwrap().missed, 10);
    assert!(harness.engine.deadline() > late && harness.engine.deadline() <= late + period);
}

#[test]
fn one_batch_is_in_flight_at_a_time_and_calm_ones_wait_for_the_interval() {
    let mut harness = Harness::new(desired());
    harness.beats(15);
    harness.seconds += 0.01;
    let now = harness.now();
    let after = |seconds| now + Duration::from_secs_f64(seconds);
    assert!(harness.beat_at(now, 1_015.01, &Cores::default()));
    assert!(harness.engine.take_batch(after(0.5), INTERVALS).is_none(), "calm beats wait for the interval");
    assert_eq!(harness.engine.take_batch(after(2.0), INTERVALS).unwrap().records.len(), 1);
    assert!(harness.beat_at(now, 1_016.0, &Cores::default()));
    assert!(harness.engine.take_batch(after(60.0), INTERVALS).is_none(), "the first is not acknowledged yet");
    harness.engine.acknowledge();
    assert!(harness.engine.take_batch(after(60.0), INTERVALS).is_some());
}

#[test]
fn an_ended_engine_never_runs_again() {
    let mut harness = Harness::new(desired());
    harness.beats(3);
    harness.engine.end(1_004.0).unwrap();
    harness.seconds += 1.0;
    harness.commit();
    let size = harness.entries.len();
    harness.set_desired(|desired| desired.config.pulse.p = 3);
    harness.beats(2);
    assert_eq!((harness.entries.len(), harness.engine.is_running()), (size, false));
    assert!(harness.engine.is_flushed());
}

#[test]
fn an_engine_ends_with_a_snapshot_unless_one_was_recorded_lately_or_it_does_not_run() {
    let kinds_after = |beats: usize, suspend: bool| {
        let mut harness = Harness::new(desired());
        harness.beats(beats);
        harness.set_desired(|desired| desired.pause = suspend.then_some(PauseReason::Suspended));
        let before = harness.kinds().len();
        harness.engine.end(2_000.0).unwrap();
        harness.seconds += 1.0;
        harness.commit();
        assert!(harness.engine.is_flushed());
        harness.replay();
        harness.kinds().split_off(before)
    };
    assert_eq!(kinds_after(20, false), ["snapshot"]);
    assert!(kinds_after(19, false).is_empty() && kinds_after(20, true).is_empty());
}

#[test]
fn an_injection_is_recorded_with_the_beat_that_takes_it_in_and_answered_when_that_is_committed() {
    let mut slow = desired();
    slow.config.pulse.min_period = Some(60.0);
    let mut harness = Harness::new(slow);
    harness.beats(5);
    let (deadline, size) = (harness.engine.deadline(), harness.entries.len());
    harness.inject("a", Some(20), None);
    harness.inject("b", None, Some(0.2));
    assert!(harness.engine.deadline() < deadline, "it is due now");
    harness.commit();
    assert_eq!((harness.entries.len(), harness.outcomes()), (size, vec![]));
    harness.beats(1);
    assert_eq!(harness.kinds()[size..size + 3], ["injection", "injection", "pulse"]);
    let data =
        "{\"anoms\":20,\"from\":\"spiffe://venom/org/u/pod/node\",\"id\":\"a\",\"type\":\"injection\"}";
    assert_eq!(&*harness.entries[size].data, data);
    let committed = |id: &str, entry: usize| (id.to_owned(), Outcome::Committed { entry: entry as u64 });
    assert_eq!(harness.outcomes(), [committed("a", size), committed("b", size + 1)]);
    assert_eq!(harness.status().decision.unwrap().action, Action::Quarantine);
    harness.replay();
}

#[test]
fn what_may_not_be_injected_is_refused_and_not_recorded() {
    let mut harness = Harness::new(desired());
    harness.beats(1);
    harness.inject("a", None, Some(1.5));
    harness.beats(1);
    let outcomes = harness.outcomes();
    assert!(
        matches!(&outcomes[..], [(id, Outcome::Refused { reason })] if id == "a" && reason.contains("0.01 to 1"))
    );
    harness.set_desired(|desired| desired.injectable.max = 2.0);
    harness.inject("b", None, Some(1.5));
    harness.beats(1);
    assert!(matches!(harness.outcomes()[..], [(_, Outcome::Committed { .. })]));
    assert_eq!(harness.kinds().iter().filter(|kind| *kind == "injection").count(), 1);
    harness.replay();
}

#[test]
fn injections_wait_while_it_does_not_beat() {
    let mut harness = Harness::new(desired());
    harness.beats(1);
    harness.set_desired(|desired| desired.pause = Some(PauseReason::Suspended));
    let size = harness.entries.len();
    harness.inject("a", Some(1), None);
    harness.beats(2);
    assert_eq!((harness.entries.len(), harness.outcomes()), (size, vec![]));
    harness.set_desired(|desired| desired.pause = None);
    harness.beats(1);
    assert_eq!(harness.kinds()[size..size + 4], ["resume", "snapshot", "injection", "pulse"]);
    assert_eq!(harness.outcomes().len(), 1);
    harness.replay();
}

#[test]
fn injections_wait_for_room_in_the_risk_window() {
    let mut narrow = desired();
    narrow.genome.risk.window = 5.0;
    let mut harness = Harness::new(narrow);
    harness.beats(1);
    (0..4_100).for_each(|number| harness.inject(&number.to_string(), Some(1), None));
    harness.beats(2);
    assert_eq!(harness.outcomes().len(), 4_096);
    harness.beats(3);
    assert_eq!(harness.outcomes().len(), 0);
    harness.beats(3);
    assert_eq!(harness.outcomes().len(), 4);
    harness.replay();
}

/// More is pending than one batch holds. The status of each commit is that of its own last entry.
#[test]
fn a_status_is_never_older_than_the_entries_that_it_is_committed_with() {
    let mut harness = Harness::new(desired());
    harness.commit();
    for at in 0..9_000 {
        harness.seconds += 0.001;
        assert!(harness.beat_at(harness.now(), 1_000.0 + harness.seconds, &Cores::default()), "beat {at}");
    }
    let mut beats = vec![];
    harness.seconds += 1.0;
    while let Some(batch) = harness.engine.take_batch(harness.now(), INTERVALS) {
        let committed = batch.records.iter().filter(|it| matches!(it, Record::Beat(_))).count() as u64;
        let before = beats.last().copied().unwrap_or_default();
        assert_eq!(batch.status.beats, before + committed);
        beats.push(batch.status.beats);
        harness.engine.acknowledge();
        harness.seconds += 0.1;
    }
    assert_eq!((beats.len(), beats[2]), (3, 9_000), "snapshots take places too");
}

#[test]
fn an_organism_whose_commits_are_refused_slows_down_and_then_stops_at_its_share() {
    let mut harness = Harness::new(desired());
    harness.commit();
    let (mut beats, mut last) = (0, 1.0);
    for _ in 0..1_000 {
        harness.seconds += 0.1;
        let pressure = harness.engine.pressure(100);
        assert!(pressure >= last, "it slows evenly");
        last = pressure;
        let (now, wall) = (harness.now(), 1_000.0 + harness.seconds);
        if harness.engine.deadline() > now {
            continue;
        }
        if let Some(open) = harness.engine.open_beat(now, wall, pressure, 100).unwrap().open {
            let flows = Cores::default().run(&open.input);
            harness.engine.close_beat(open, flows, now).unwrap();
            beats += 1;
        }
    }
    assert!((90..=100).contains(&beats), "{beats}");
    assert!(last > 10.0, "{last}");
    assert!(harness.engine.open_beat(harness.now(), 2_000.0, 1.0, 50).unwrap().open.is_none());
    assert_ne!(harness.engine.pace(harness.now()), Pace::OnTime);
}

/// How long the commit of an injection with `anoms` waits after the one before, in tenths of a second, where inputs wait
/// for `input`.
fn wait_of_commit(input: Duration, anoms: u64) -> Option<u32> {
    let mut harness = Harness::new(desired());
    harness.beats(15);
    harness.inject("a", Some(anoms), None);
    assert!(harness.beat_at(harness.now(), 1_000.0 + harness.seconds, &Cores::default()));
    let (now, intervals) = (harness.now(), CommitIntervals { calm: INTERVAL, input });
    (0..100).find(|tenths| {
        harness.engine.take_batch(now + Duration::from_millis(100) * *tenths, intervals).is_some()
    })
}

#[test]
fn inputs_of_one_above_its_share_wait_and_changed_decisions_do_not() {
    let limited = Duration::from_secs(3);
    let soon = |wait: Option<u32>| wait.is_some_and(|tenths| tenths <= 1);
    assert!(soon(wait_of_commit(Duration::ZERO, 1)));
    assert!(wait_of_commit(limited, 1).is_some_and(|tenths| tenths > 10));
    assert!(soon(wait_of_commit(limited, 20)), "it decides to quarantine");
}

#[test]
fn a_shortest_period_of_the_driver_changes_when_it_beats_and_nothing_that_is_recorded() {
    let record = |min_period| {
        let mut harness = Harness::with_min_period(desired(), min_period);
        harness.beats(30);
        harness.commit();
        (harness.engine.period(1.0), harness.engine.state().map(|it| it.config))
    };
    let (spec, longer) = (Duration::ZERO, Duration::from_secs(7));
    assert_eq!(record(longer).0, longer);
    assert!(record(spec).0 < longer);
    assert_eq!(record(spec).1, record(longer).1);
}
