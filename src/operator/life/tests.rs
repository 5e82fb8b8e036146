use super::*;
use crate::ledger::Entry;
use crate::ledger::replay::Replay;
use crate::mesh::{Dose, Identity, Outcome};
use crate::organism::beat;
use crate::organism::cores::{CoreInput, Cores, Entropy};

/// A life with a clock of its own, beside the ledger that its jobs make.
struct Bench {
    life: Life,
    jobs: mpsc::Receiver<Job>,
    told: mpsc::UnboundedReceiver<(Event, Outcome)>,
    budget: Budget,
    start: Instant,
    seconds: f64,
    entries: Vec<Entry>,
    chain: Chain,
    views: Vec<View>,
}

fn wanted() -> Wanted {
    Wanted {
        genome: Genome::default(),
        config: Config::default(),
        beats: None,
        pause: None,
        commit_interval: Duration::from_secs(1),
        retain: 4 << 20,
        generation: 1,
        genome_generation: 1,
        injectable: Injectable::default(),
    }
}

impl Bench {
    fn new(wanted: Wanted) -> Self {
        let (sender, jobs) = mpsc::channel(1);
        let (answers, told) = Answers::channel();
        let start = Instant::now();
        let origin =
            Origin { generation: 1, name: "venom".into(), namespace: "default".into(), uid: "u".into() };
        let begin = Begin {
            key: Key { namespace: "default".into(), name: "venom".into() },
            jobs: sender,
            wanted,
            epoch: 1,
            operator: "test".into(),
            past: Past::New { origin, continues: None },
            answers: Some(answers),
        };
        let mut life = Life::new(begin, start);
        life.steer(start, 1_000.0).unwrap();
        let budget = Budget::new(50.0, 1 << 20, 1 << 28);
        let (entries, views) = (vec![], vec![]);
        Self { life, jobs, told, budget, start, seconds: 0.0, entries, chain: Chain::default(), views }
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_secs_f64(self.seconds)
    }

    /// One beat, a second after the one before.
    fn beat(&mut self, cores: &Cores) {
        self.seconds += 1.0;
        let (now, wall) = (self.now(), 1_000.0 + self.seconds);
        self.life.next_deadline(now, 1.0);
        self.life.take_in(wall).unwrap();
        if let Some(state) = self.life.state_to_beat() {
            let beat = beat::beat(state, wall, cores).unwrap();
            self.life.beaten(beat, now, 1.0).unwrap();
        }
        self.commit();
    }

    fn beats(&mut self, count: usize) {
        for _ in 0..count {
            self.beat(&Cores::default());
        }
    }

    /// Takes the job there is, if it is time for one.
    fn commit(&mut self) {
        self.life.commit(self.now(), &self.budget);
        while let Ok(job) = self.jobs.try_recv() {
            assert_eq!(job.before, self.chain);
            for record in &job.records {
                record
                    .write(&mut vec![], &mut |timestamp, data| {
                        let (index, previous_hash) = (self.chain.size(), *self.chain.last_hash());
                        let hash = self.chain.append(timestamp, data);
                        self.entries.push(Entry { index, timestamp, data: data.into(), previous_hash, hash });
                    })
                    .unwrap();
            }
            assert_eq!(job.after.last_hash(), self.chain.last_hash());
            self.views.extend(job.view);
            self.life.committed();
        }
    }

    fn want(&mut self, change: impl FnOnce(&mut Wanted)) {
        let mut wanted = self.life.wanted.clone();
        change(&mut wanted);
        let now = self.now();
        self.life.want(wanted, now, 1_000.0 + self.seconds).unwrap();
        self.seconds += 0.1;
        self.commit();
    }

    fn inject(&mut self, id: &str, anoms: Option<u64>, ml_weight: Option<f64>) {
        let origin = Identity::pod("venom", "u", "node").unwrap();
        let dose = Dose { anoms, ml_weight };
        let now = self.now();
        self.life.inject(Event { id: id.parse().unwrap(), origin, seq: 1, dose }, now);
    }

    /// What became of injections since it was asked last.
    fn told(&mut self) -> Vec<(String, Outcome)> {
        std::iter::from_fn(|| self.told.try_recv().ok())
            .map(|(event, it)| (event.id.to_string(), it))
            .collect()
    }

    fn kinds(&self) -> Vec<String> {
        self.entries.iter().map(Entry::kind).collect()
    }

    fn view(&self) -> &View {
        self.views.last().unwrap()
    }

    /// What was committed derives from its own inputs.
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
    let mut bench = Bench::new(wanted());
    bench.beats(20);
    assert_eq!(bench.kinds()[..3], ["genesis", "pulse", "flow_result"]);
    assert_eq!(bench.view().beats, 20);
    assert_eq!(bench.view().settled, Some(true));
    assert_eq!(bench.replay().beat, 20);
}

#[test]
fn a_snapshot_stands_every_thousand_beats() {
    let mut bench = Bench::new(wanted());
    bench.beats(2_001);
    assert_eq!(bench.kinds().iter().filter(|kind| *kind == "snapshot").count(), 2);
    bench.replay();
}

#[test]
fn suspended_it_writes_nothing_and_records_all_changes_at_once_when_it_goes_on() {
    let mut bench = Bench::new(wanted());
    bench.beats(3);
    bench.want(|wanted| wanted.pause = Some(Pause::Suspended));
    assert_eq!(bench.view().standing, Standing::Suspended);
    let size = bench.entries.len();
    bench.beats(3);
    bench.want(|wanted| wanted.genome.risk.anoms = 5);
    bench.want(|wanted| wanted.config.pid.kp = 0.7);
    bench.want(|wanted| wanted.config.pulse.p = 3);
    assert_eq!(bench.entries.len(), size);
    bench.want(|wanted| wanted.pause = None);
    bench.beats(1);
    assert_eq!(bench.kinds()[size..size + 5], ["resume", "config", "scale", "snapshot", "pulse"]);
    assert!(bench.entries[size].data.contains("\"unsuspended\""));
    assert_eq!(bench.view().standing, Standing::Beating);
    assert_eq!(bench.replay().config.pulse.p, 3);
}

#[test]
fn it_ends_at_exactly_the_beats_that_are_asked_for() {
    let mut bench = Bench::new(Wanted { beats: Some(10), ..wanted() });
    bench.beats(15);
    assert_eq!((bench.view().beats, bench.view().standing), (10, Standing::Completed));
    bench.want(|wanted| wanted.beats = Some(12));
    bench.beats(5);
    assert_eq!((bench.view().beats, bench.view().standing), (12, Standing::Completed));
    assert!(bench.entries.iter().any(|entry| entry.data.contains("\"beatsRaised\"")));
    bench.replay();
}

#[test]
fn a_patch_sets_only_what_changed_and_is_decided_on_early() {
    let mut slow = wanted();
    slow.config.pulse.min_period = Some(60.0);
    let mut bench = Bench::new(slow);
    bench.beats(5);
    let deadline = bench.life.deadline;
    bench.want(|wanted| wanted.genome.risk.anoms = 20);
    assert!(bench.life.deadline < deadline);
    bench.beats(1);
    let config = bench.entries.iter().find(|entry| entry.kind() == "config").unwrap();
    assert_eq!(&*config.data, "{\"risk\":{\"anoms\":20},\"type\":\"config\"}");
    assert_eq!(bench.view().decided.unwrap().action, Action::Quarantine);
    bench.replay();
}

#[test]
fn a_core_that_panics_holds_the_beat_and_the_last_decision_stands() {
    fn broken(_: &CoreInput) -> Entropy {
        panic!("out of order")
    }
    let mut bench = Bench::new(wanted());
    bench.want(|wanted| wanted.genome.risk.anoms = 20);
    bench.beats(2);
    bench.beat(&Cores { entropy: broken, ..Cores::default() });
    assert_eq!(bench.view().failed, [("Entropy".to_owned(), "out of order".to_owned())]);
    assert_eq!(bench.view().decided.unwrap().action, Action::Quarantine);
    assert!(bench.entries.iter().any(|entry| entry.data.starts_with("{\"failed\":\"out of order\"")));
    bench.beats(1);
    assert!(bench.view().failed.is_empty());
    bench.replay();
}

#[test]
fn missed_deadlines_are_skipped_and_counted() {
    let mut bench = Bench::new(wanted());
    let period = bench.life.period(1.0);
    bench.life.deadline = bench.start;
    let late = bench.start + period * 10 + period / 2;
    assert_eq!(bench.life.next_deadline(late, 1.0), 10);
    assert!(bench.life.deadline > late && bench.life.deadline <= late + period);
}

#[test]
fn one_job_is_under_way_at_a_time_and_calm_ones_wait_for_the_interval() {
    let mut bench = Bench::new(wanted());
    bench.beats(15);
    bench.seconds += 0.01;
    let now = bench.now();
    let beat = beat::beat(bench.life.state_to_beat().unwrap(), 1_015.01, &Cores::default()).unwrap();
    bench.life.beaten(beat, now, 1.0).unwrap();
    bench.life.commit(now + Duration::from_millis(500), &bench.budget);
    assert!(bench.jobs.try_recv().is_err(), "calm beats wait for the commit interval");
    bench.life.commit(now + Duration::from_secs(2), &bench.budget);
    assert_eq!(bench.jobs.try_recv().unwrap().records.len(), 1);
    let beat = beat::beat(bench.life.state_to_beat().unwrap(), 1_016.0, &Cores::default()).unwrap();
    bench.life.beaten(beat, now, 1.0).unwrap();
    bench.life.commit(now + Duration::from_secs(60), &bench.budget);
    assert!(bench.jobs.try_recv().is_err(), "the first is not acknowledged yet");
    bench.life.committed();
    bench.life.commit(now + Duration::from_secs(60), &bench.budget);
    assert!(bench.jobs.try_recv().is_ok());
}

#[test]
fn an_injection_is_recorded_with_the_beat_that_takes_it_in_and_answered_when_that_is_committed() {
    let mut slow = wanted();
    slow.config.pulse.min_period = Some(60.0);
    let mut bench = Bench::new(slow);
    bench.beats(5);
    let (deadline, size) = (bench.life.deadline, bench.entries.len());
    bench.inject("a", Some(20), None);
    bench.inject("b", None, Some(0.2));
    assert!(bench.life.deadline < deadline, "it is due now");
    bench.commit();
    assert_eq!((bench.entries.len(), bench.told()), (size, vec![]));
    bench.beats(1);
    assert_eq!(bench.kinds()[size..size + 3], ["injection", "injection", "pulse"]);
    let data =
        "{\"anoms\":20,\"from\":\"spiffe://venom/org/u/pod/node\",\"id\":\"a\",\"type\":\"injection\"}";
    assert_eq!(&*bench.entries[size].data, data);
    let committed = |id: &str, entry: usize| (id.to_owned(), Outcome::Committed { entry: entry as u64 });
    assert_eq!(bench.told(), [committed("a", size), committed("b", size + 1)]);
    assert_eq!(bench.view().decided.unwrap().action, Action::Quarantine);
    bench.replay();
}

#[test]
fn what_may_not_be_injected_is_refused_and_not_recorded() {
    let mut bench = Bench::new(wanted());
    bench.beats(1);
    bench.inject("a", None, Some(1.5));
    bench.beats(1);
    let told = bench.told();
    assert!(
        matches!(&told[..], [(id, Outcome::Refused { reason })] if id == "a" && reason.contains("0.01 to 1"))
    );
    bench.want(|wanted| wanted.injectable.max = 2.0);
    bench.inject("b", None, Some(1.5));
    bench.beats(1);
    assert!(matches!(bench.told()[..], [(_, Outcome::Committed { .. })]));
    assert_eq!(bench.kinds().iter().filter(|kind| *kind == "injection").count(), 1);
    bench.replay();
}

#[test]
fn injections_wait_while_it_does_not_beat() {
    let mut bench = Bench::new(wanted());
    bench.beats(1);
    bench.want(|wanted| wanted.pause = Some(Pause::Suspended));
    let size = bench.entries.len();
    bench.inject("a", Some(1), None);
    bench.beats(2);
    assert_eq!((bench.entries.len(), bench.told()), (size, vec![]));
    bench.want(|wanted| wanted.pause = None);
    bench.beats(1);
    assert_eq!(bench.kinds()[size..size + 4], ["resume", "snapshot", "injection", "pulse"]);
    assert_eq!(bench.told().len(), 1);
    bench.replay();
}

#[test]
fn injections_wait_for_room_in_the_risk_window() {
    let mut narrow = wanted();
    narrow.genome.risk.window = 5.0;
    let mut bench = Bench::new(narrow);
    bench.beats(1);
    (0..4_100).for_each(|number| bench.inject(&number.to_string(), Some(1), None));
    bench.beats(2);
    assert_eq!(bench.told().len(), 4_096);
    bench.beats(3);
    assert_eq!(bench.told().len(), 0);
    bench.beats(3);
    assert_eq!(bench.told().len(), 4);
    bench.replay();
}
