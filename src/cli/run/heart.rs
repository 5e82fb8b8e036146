//! The beat loop of one organism.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::super::{Error, complain};
use super::keeper::{Job, Keeper};
use super::progress::Progress;
use super::wanted::Wanted;
use crate::ledger::canonical::NotCanonical;
use crate::ledger::entry::{Genesis, Record};
use crate::ledger::replay::SNAPSHOT_EVERY;
use crate::mesh::Event;
use crate::organism::cores::Cores;
use crate::organism::input::{ConfigChange, Resume, Scale};
use crate::organism::pid::{History, PidStep};
use crate::organism::{Action, Arbiter, Beat, Input, State, VERSION, beat};
use crate::store::injections;

/// At most so many records go into one commit, which is one segment.
const SEGMENT_RECORDS: usize = 4_000;

/// An injection makes an organism due now, but not sooner than this after the last beat that one brought on.
const EARLY_BEATS: Duration = Duration::from_millis(20);

/// What wakes the heart before its deadline.
pub(super) enum Wake {
    /// Somebody stops it.
    Stop,
    /// Somebody injects.
    Inject(Event),
}

/// An injection that was recorded.
#[derive(Clone, Debug)]
pub(super) struct Recorded {
    pub(super) event: Event,
    pub(super) entry: u64,
    /// Seconds since 1970.
    pub(super) time: f64,
}

/// A living organism.
pub(super) struct Heart {
    state: State,
    pending: Job,
    /// Injections that there is no room for yet, in the order in which they came: as many as the mesh keeps.
    waiting: VecDeque<Event>,
    /// That was said.
    crowded: bool,
    /// An injection was recorded since the last beat.
    injected: bool,
    /// When an injection may bring a beat on again.
    early: Instant,
    since_snapshot: u64,
    /// What this run has come to.
    pub(super) tally: Tally,
}

/// What a run has come to.
pub(super) struct Tally {
    /// Entries of the ledger, committed or not.
    pub(super) entries: u64,
    /// Beats of this run.
    pub(super) beats: u64,
    /// Deadlines that were missed, and skipped.
    pub(super) missed: u64,
    /// How long it has been beating.
    pub(super) took: Duration,
    /// Decisions, in the order of [`Action::ALL`].
    pub(super) decisions: [u64; Action::ALL.len()],
    /// The PID's first step.
    pub(super) first: Option<PidStep>,
    /// The PID's last steps.
    pub(super) history: History,
    /// The last beat.
    pub(super) last: Option<Beat>,
}

impl Tally {
    fn new(entries: u64) -> Self {
        Self {
            entries,
            beats: 0,
            missed: 0,
            took: Duration::ZERO,
            decisions: [0; Action::ALL.len()],
            first: None,
            history: History::default(),
            last: None,
        }
    }

    fn count(&mut self, beat: &Beat) {
        self.beats += 1;
        for (action, count) in Action::ALL.iter().zip(&mut self.decisions) {
            *count += u64::from(*action == beat.action);
        }
        if let Some(step) = beat.evolved.pid {
            self.first.get_or_insert(step);
            self.history.push(step);
        }
        self.last = Some(beat.clone());
    }
}

fn bad_number(error: NotCanonical) -> Error {
    Error::Failed(format!("a number cannot be recorded: {error}; check the parameters"))
}

impl Heart {
    /// A new organism.
    pub(super) fn new(wanted: &Wanted) -> Result<Self, Error> {
        let Wanted { genome, config, .. } = *wanted;
        let now = wall();
        let genesis = Genesis {
            config,
            continues: None,
            genome,
            message: "VENOM Λ-GENESIS".into(),
            origin: None,
            version: VERSION.into(),
        };
        let mut heart = Self::at(State::genesis(VERSION, now, genome, config), 0);
        heart.append(Record::genesis(now, &genesis).map_err(bad_number)?);
        Ok(heart)
    }

    /// One that beat before and stood in `state` after `entries`: a resume, what is wanted differently now,
    /// and a snapshot.
    pub(super) fn again(state: State, entries: u64, wanted: &Wanted, resume: Resume) -> Result<Self, Error> {
        let now = wall();
        let old = (state.genome, state.config);
        let version = (*state.version != *VERSION).then(|| VERSION.to_owned());
        let mut heart = Self::at(state, entries);

        heart.input(now, &Input::Resume(resume))?;
        let mut change = ConfigChange::between((&old.0, &old.1), (&wanted.genome, &wanted.config));
        if version.is_some() {
            change.get_or_insert_default().version = version;
        }
        if let Some(change) = change {
            heart.input(now, &Input::Config(Box::new(change)))?;
        }
        let (from, p) = (old.1.pulse.p, wanted.config.pulse.p);
        if from != p {
            heart.input(now, &Input::Scale(Scale { from, p }))?;
        }
        if heart.state.has_pending_anomalies() {
            // No snapshot may stand where an injection waits for its pulse: it comes after that one.
            heart.since_snapshot = SNAPSHOT_EVERY;
        } else {
            heart.snapshot(now)?;
        }
        Ok(heart)
    }

    fn at(state: State, entries: u64) -> Self {
        Self {
            waiting: VecDeque::new(),
            crowded: false,
            injected: state.has_pending_anomalies(),
            state,
            pending: Job::default(),
            early: Instant::now(),
            since_snapshot: 0,
            tally: Tally::new(entries),
        }
    }

    /// The state after the last beat.
    pub(super) fn state(&self) -> &State {
        &self.state
    }

    fn append(&mut self, record: Record) {
        self.tally.entries += record.entries();
        self.pending.records.push(record);
    }

    fn input(&mut self, now: f64, input: &Input) -> Result<(), Error> {
        self.append(Record::input(now, input).map_err(bad_number)?);
        self.state.apply(input).map_err(|refused| Error::Failed(refused.to_string()))
    }

    fn snapshot(&mut self, now: f64) -> Result<(), Error> {
        self.append(Record::snapshot(now, &self.state).map_err(bad_number)?);
        self.since_snapshot = 0;
        Ok(())
    }

    /// Beats until beat `limit`, or until it is woken to stop; commits what is pending every
    /// `commit_interval`, with an injection at once, and at the end.
    pub(super) fn beat_on(
        &mut self,
        limit: Option<u64>,
        commit_interval: Duration,
        keeper: &mut Keeper,
        woken: &Receiver<Wake>,
    ) -> Result<(), Error> {
        let arbiter = Arbiter::new(Cores::default())
            .map_err(|error| Error::Failed(format!("threads for the cores: {error}")))?;
        let mut progress = Progress::new();
        let started = Instant::now();
        let mut deadline = started;
        // What was recorded before the first beat is committed at once.
        let mut commit_at = started;
        while limit.is_none_or(|limit| self.state.beat < limit) {
            let due = Instant::now() >= commit_at || self.pending.records.len() >= SEGMENT_RECORDS;
            // An injection and the beat that takes it in are committed together: whoever continues this ledger
            // finds none that waits.
            if !self.injected && (due || !self.pending.injections.is_empty()) {
                if keeper.commit(std::mem::take(&mut self.pending)).is_err() {
                    break;
                }
                commit_at = Instant::now() + commit_interval;
            }
            match woken.recv_timeout(deadline.saturating_duration_since(Instant::now()).min(LONGEST_WAIT)) {
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => continue,
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Wake::Inject(event)) => {
                    self.waiting.push_back(event);
                    self.take_in()?;
                    deadline = deadline.min(self.early.max(Instant::now()));
                    continue;
                }
                Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => break,
            }
            // At the last pulse some may have left the risk window.
            self.take_in()?;
            if self.injected {
                self.early = Instant::now() + EARLY_BEATS;
            }
            let t_lambda = self.beat(&arbiter)?;
            self.tally.took = started.elapsed();
            progress.show(&self.tally, &self.state);

            let period = period(t_lambda.max(self.state.config.pulse.min_period()));
            let missed;
            (deadline, missed) = next_deadline(deadline, period, Instant::now());
            self.tally.missed += missed;
        }
        if self.injected {
            self.beat(&arbiter)?;
        }
        progress.end(&self.tally, &self.state);
        // An error here is one of the keeper, which tells it itself.
        let _ = keeper.commit(std::mem::take(&mut self.pending));
        Ok(())
    }

    /// Records the injections that there is room for; they are answered once they are committed.
    fn take_in(&mut self) -> Result<(), Error> {
        while let Some(event) = self.waiting.front() {
            let input = injections::input(event);
            if let Err(refused) = self.state.apply(&input) {
                if !std::mem::replace(&mut self.crowded, true) {
                    complain(&format!("an injection waits: {refused}"));
                }
                return Ok(());
            }
            let (entry, time) = (self.tally.entries, wall());
            self.append(Record::input(time, &input).map_err(bad_number)?);
            let event = self.waiting.pop_front();
            self.pending.injections.extend(event.map(|event| Recorded { event, entry, time }));
            self.injected = true;
        }
        self.crowded = false;
        Ok(())
    }

    /// One beat, now. Returns its T_Λ.
    fn beat(&mut self, arbiter: &Arbiter) -> Result<f64, Error> {
        let now = wall();
        let opened = beat::open(&mut self.state, now).map_err(|error| Error::Failed(error.to_string()))?;
        let flows = arbiter.time_wrap(vec![opened.input.clone()]).remove(0);
        let beat = beat::close(&mut self.state, opened, flows);
        self.injected = false;
        let t_lambda = beat.pulse.t_lambda;
        self.tally.count(&beat);
        self.append(Record::Beat(Box::new(beat)));
        self.since_snapshot += 1;
        if self.since_snapshot >= SNAPSHOT_EVERY {
            self.snapshot(now)?;
        }
        Ok(t_lambda)
    }
}

/// A pending commit is looked at, at least, this often.
const LONGEST_WAIT: Duration = Duration::from_millis(500);

fn period(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::from_secs(86_400))
}

/// The deadline after `deadline`, and how many were missed: those are skipped, never bunched.
fn next_deadline(deadline: Instant, period: Duration, now: Instant) -> (Instant, u64) {
    let next = deadline + period;
    if next >= now {
        return (next, 0);
    }
    let missed = (now - next).as_nanos() / period.as_nanos().max(1) + 1;
    let missed = u32::try_from(missed).unwrap_or(u32::MAX);
    (next + period.saturating_mul(missed), missed.into())
}

/// Seconds since 1970.
fn wall() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missed_deadlines_are_skipped_and_counted() {
        let (start, period) = (Instant::now(), Duration::from_millis(10));
        let after = |millis| start + Duration::from_millis(millis);
        assert_eq!(next_deadline(start, period, after(3)), (after(10), 0));
        assert_eq!(next_deadline(start, period, after(10)), (after(10), 0));
        assert_eq!(next_deadline(start, period, after(11)), (after(20), 1));
        assert_eq!(next_deadline(start, period, after(35)), (after(40), 3));
    }
}
