//! One organism as the beater holds it: its state, what is [`pending`] for the ledger, and the injections that
//! wait in its [`intake`].
//!
//! No I/O and no clock: the moments come in as arguments.

mod intake;
mod pending;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use self::intake::{Intake, Recorded};
pub use self::pending::Job;
use self::pending::Pending;
use super::Key;
use super::budget::Budget;
use super::view::{Decided, Standing, View};
use crate::ledger::canonical::NotCanonical;
use crate::ledger::entry::{Continues, Genesis, Origin, Record};
use crate::ledger::replay::SNAPSHOT_EVERY;
use crate::ledger::{Chain, Hash};
use crate::mesh::{Answers, Event, Injectable};
use crate::organism::input::{ConfigChange, Resume, ResumeReason, Scale};
use crate::organism::{Action, Beat, Config, Genome, Input, State, VERSION};

/// Early beats are at least this far apart.
const EARLY_SPACING: Duration = Duration::from_millis(20);
/// What the specs ask of an organism.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// From the Genome.
    pub genome: Genome,
    /// From both; `pulse.p` is P.
    pub config: Config,
    /// Stop at this beat.
    pub beats: Option<u64>,
    /// Do not beat.
    pub pause: Option<Pause>,
    /// How long calm beats may wait for their commit.
    pub commit_interval: Duration,
    /// Bytes to keep.
    pub retain: u64,
    /// metadata.generation of the Organism.
    pub generation: i64,
    /// metadata.generation of the Genome.
    pub genome_generation: i64,
    /// Weights of the model that may be injected.
    pub injectable: Injectable,
}

/// Why an organism is not to beat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// `spec.suspend`.
    Suspended,
    /// Its Genome is gone.
    GenomeNotFound,
}

/// How a life starts.
pub struct Begin {
    /// Which organism.
    pub key: Key,
    /// Where its jobs go.
    pub jobs: mpsc::Sender<Job>,
    /// What the specs ask.
    pub wanted: Wanted,
    /// Epoch of this writer.
    pub epoch: u64,
    /// Name of this operator.
    pub operator: Arc<str>,
    /// What there is to go on from.
    pub past: Past,
    /// Where to say what became of injections.
    pub answers: Option<Answers>,
}

/// What a life goes on from.
pub enum Past {
    /// Nothing: the ledger starts with a genesis.
    New {
        /// Whose it is.
        origin: Origin,
        /// What went before.
        continues: Option<Continues>,
    },
    /// A committed ledger.
    Ledger {
        /// After its last entry.
        state: Box<State>,
        /// Its end.
        chain: Chain,
        /// The decision in force.
        decided: Option<Decided>,
        /// Why beating had stopped.
        reason: ResumeReason,
    },
}

/// One organism.
pub struct Life {
    /// Which one.
    pub key: Key,
    wanted: Wanted,
    epoch: u64,
    operator: Arc<str>,
    /// Nothing before genesis.
    state: Option<State>,
    new: Option<(Origin, Option<Continues>)>,
    pending: Pending,
    intake: Intake,
    running: bool,
    resume: Option<ResumeReason>,
    /// When the next beat is due.
    pub deadline: Instant,
    last_beat: Option<Instant>,
    beats_since_snapshot: u64,
    decided: Option<Decided>,
    last: Option<Box<Beat>>,
    failed: Vec<(String, String)>,
    settled: Option<bool>,
    throttled: bool,
}

impl Life {
    /// A life that has not started yet.
    #[must_use]
    pub fn new(begin: Begin, now: Instant) -> Self {
        let (state, new, chain, decided, resume) = match begin.past {
            Past::New { origin, continues } => {
                (None, Some((origin, continues)), Chain::default(), None, None)
            }
            Past::Ledger { state, chain, decided, reason } => {
                (Some(*state), None, chain, decided, Some(reason))
            }
        };
        Self {
            key: begin.key,
            wanted: begin.wanted,
            epoch: begin.epoch,
            operator: begin.operator,
            settled: state.as_ref().and_then(|state| state.pid.settled()),
            resume,
            state,
            new,
            pending: Pending::new(begin.jobs, chain, now),
            intake: Intake::new(begin.answers),
            running: false,
            deadline: now,
            last_beat: None,
            beats_since_snapshot: 0,
            decided,
            last: None,
            failed: vec![],
            throttled: false,
        }
    }

    /// Whether it beats.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.running
    }

    /// Its state, for the beat; nothing while it does not run.
    pub fn state_to_beat(&mut self) -> Option<&mut State> {
        if self.running && !self.pending.is_full() { self.state.as_mut() } else { None }
    }

    /// Writes a second the API server is asked for at the wanted commit interval: a segment and the head each
    /// time, and every two seconds the statuses of Organism and Genome.
    #[must_use]
    pub fn writes_per_second(&self) -> f64 {
        let interval = self.wanted.commit_interval.max(self.period(1.0)).as_secs_f64();
        if self.running { 2.0 / interval + 1.0 } else { 0.0 }
    }

    fn completed(&self) -> bool {
        let beat = self.state.as_ref().map_or(0, |state| state.beat);
        self.wanted.beats.is_some_and(|beats| beat >= beats)
    }

    /// Where the organism stands.
    fn standing(&self) -> Standing {
        match self.wanted.pause {
            Some(Pause::GenomeNotFound) => Standing::GenomeNotFound,
            Some(Pause::Suspended) => Standing::Suspended,
            None if self.completed() => Standing::Completed,
            None if self.throttled => Standing::Throttled,
            None => Standing::Beating,
        }
    }

    /// Takes new specs in, at the moment `wall` (seconds since 1970).
    ///
    /// # Errors
    /// [`NotCanonical`] when a parameter is not finite.
    pub fn want(&mut self, wanted: Wanted, now: Instant, wall: f64) -> Result<(), NotCanonical> {
        if wanted == self.wanted {
            return Ok(());
        }
        self.wanted = wanted;
        self.pending.changed();
        self.steer(now, wall)
    }

    /// Starts, stops, or records what changed, as the specs have it.
    ///
    /// # Errors
    /// [`NotCanonical`] when a parameter is not finite.
    pub fn steer(&mut self, now: Instant, wall: f64) -> Result<(), NotCanonical> {
        let run = self.wanted.pause.is_none() && !self.completed();
        match (self.running, run) {
            (false, true) => self.start(now, wall)?,
            (true, false) => {
                self.running = false;
                self.resume = Some(match self.wanted.pause {
                    Some(Pause::Suspended) => ResumeReason::Unsuspended,
                    Some(Pause::GenomeNotFound) => ResumeReason::GenomeBack,
                    None => ResumeReason::BeatsRaised,
                });
                self.pending.changed();
            }
            (true, true) => {
                if self.record_differences(wall)? {
                    self.hurry(now);
                }
            }
            (false, false) => {}
        }
        Ok(())
    }

    fn start(&mut self, now: Instant, wall: f64) -> Result<(), NotCanonical> {
        if let Some((origin, continues)) = self.new.take() {
            let Wanted { genome, config, .. } = self.wanted;
            let genesis = Genesis {
                config,
                continues,
                genome,
                message: "VENOM Λ-GENESIS".into(),
                origin: Some(origin),
                version: VERSION.into(),
            };
            self.pending.append(Record::genesis(wall, &genesis)?)?;
            self.state = Some(State::genesis(VERSION, wall, genome, config));
        } else {
            if let Some(reason) = self.resume.take() {
                let operator = self.operator.to_string();
                self.input(wall, &Input::Resume(Resume { epoch: self.epoch, operator, reason }))?;
            }
            self.record_differences(wall)?;
            self.snapshot(wall)?;
        }
        self.running = true;
        self.deadline = now;
        self.pending.changed();
        Ok(())
    }

    /// Records in what the specs differ from what was last recorded. Returns whether they did.
    fn record_differences(&mut self, wall: f64) -> Result<bool, NotCanonical> {
        let Some(state) = &self.state else { return Ok(false) };
        let wanted = (&self.wanted.genome, &self.wanted.config);
        let mut change = ConfigChange::between((&state.genome, &state.config), wanted);
        if *state.version != *VERSION {
            change.get_or_insert_default().version = Some(VERSION.into());
        }
        let (from, p) = (state.config.pulse.p, self.wanted.config.pulse.p);
        let scale = (from != p).then_some(Scale { from, p });
        let any = change.is_some() || scale.is_some();
        if let Some(change) = change {
            self.input(wall, &Input::Config(Box::new(change)))?;
        }
        if let Some(scale) = scale {
            self.input(wall, &Input::Scale(scale))?;
        }
        Ok(any)
    }

    fn input(&mut self, wall: f64, input: &Input) -> Result<(), NotCanonical> {
        self.pending.append(Record::input(wall, input)?)?;
        if let Some(state) = &mut self.state
            && let Err(refused) = state.apply(input)
        {
            // Only injections are refused, and those are asked for before they come here.
            tracing::error!(organism = %self.key, %refused, "an input was recorded that the engine refuses");
        }
        Ok(())
    }

    /// Writes a snapshot unless an input waits for its pulse; then it follows the next beat.
    ///
    /// # Errors
    /// [`NotCanonical`] never: a state holds finite numbers.
    pub fn snapshot(&mut self, wall: f64) -> Result<(), NotCanonical> {
        match &self.state {
            Some(state) if !state.has_pending_anomalies() => {
                let record = Record::snapshot(wall, state)?;
                self.beats_since_snapshot = 0;
                self.pending.append(record)
            }
            _ => {
                self.beats_since_snapshot = SNAPSHOT_EVERY;
                Ok(())
            }
        }
    }

    /// Makes it due now, or as soon as beats may follow one another.
    fn hurry(&mut self, now: Instant) {
        let earliest = self.last_beat.map_or(now, |last| last + EARLY_SPACING);
        self.deadline = self.deadline.min(earliest.max(now));
        self.pending.urge();
    }

    /// An injection came in: the next beat takes it in.
    pub fn inject(&mut self, event: Event, now: Instant) {
        self.intake.push(event);
        self.hurry(now);
    }

    /// Records the injections that wait. To be followed by a beat: so they are committed with it, and whoever
    /// goes on with this ledger finds none that waits for its pulse.
    ///
    /// # Errors
    /// [`NotCanonical`] when a number is not finite: that injection is not recorded.
    pub fn take_in(&mut self, wall: f64) -> Result<(), NotCanonical> {
        while self.running
            && !self.pending.is_full()
            && let Some(state) = &mut self.state
            && let Some((event, input)) = self.intake.next(state, self.wanted.injectable)
        {
            let entry = self.pending.size();
            self.pending.append(Record::input(wall, &input)?)?;
            self.pending.injected(Recorded { event, entry, time: wall });
            self.pending.urge();
        }
        Ok(())
    }

    /// Takes a closed beat in.
    ///
    /// # Errors
    /// [`NotCanonical`] when a number is not finite: the beat is then not recorded.
    pub fn beaten(&mut self, beat: Beat, now: Instant, tempo: f64) -> Result<(), NotCanonical> {
        let timestamp = beat.pulse.timestamp;
        let entry = self.pending.size() + 5;
        if self.decided.is_none_or(|decided| decided.action != beat.action) {
            self.decided = Some(Decided { action: beat.action, since: timestamp, entry });
            self.pending.changed();
        }
        let failed: Vec<_> =
            beat.flows.failures().map(|(flow, why)| (flow.to_string(), why.to_string())).collect();
        let settled = self.state.as_ref().and_then(|state| state.pid.settled());
        if failed != self.failed || settled != self.settled || self.last.is_none() {
            (self.failed, self.settled) = (failed, settled);
            self.pending.changed();
        }
        self.last_beat = Some(now);
        self.last = Some(Box::new(beat.clone()));
        self.pending.append(Record::Beat(Box::new(beat)))?;
        self.beats_since_snapshot += 1;
        if self.beats_since_snapshot >= SNAPSHOT_EVERY {
            self.snapshot(timestamp)?;
        }
        let throttled = tempo > 1.0;
        if throttled != self.throttled {
            self.throttled = throttled;
            self.pending.changed();
        }
        if self.completed() {
            self.steer(now, timestamp)?;
        }
        Ok(())
    }

    /// Length of a beat at this tempo (1 is the specs' own, 2 half as fast).
    #[must_use]
    pub fn period(&self, tempo: f64) -> Duration {
        let pulse = &self.wanted.config.pulse;
        let t_lambda =
            crate::organism::pulse::t_lambda(pulse.k, pulse.p, pulse.t1, pulse.u).unwrap_or(f64::MAX);
        Duration::try_from_secs_f64(t_lambda.max(pulse.min_period()) * tempo)
            .unwrap_or(Duration::from_secs(86_400))
    }

    /// Sets the deadline after this one. Missed ones are skipped, never bunched; returns how many.
    pub fn next_deadline(&mut self, now: Instant, tempo: f64) -> u64 {
        let period = self.period(tempo);
        self.deadline += period;
        if self.deadline >= now {
            return 0;
        }
        let missed = (now - self.deadline).as_nanos() / period.as_nanos().max(1) + 1;
        self.deadline += period.saturating_mul(u32::try_from(missed).unwrap_or(u32::MAX));
        u64::try_from(missed).unwrap_or(u64::MAX)
    }

    /// When the beater has to look at this life again.
    #[must_use]
    pub fn due(&self, budget: &Budget) -> Option<Instant> {
        let beat = self.running.then_some(self.deadline);
        [beat, self.pending.due(self.wanted.commit_interval, budget)].into_iter().flatten().min()
    }

    /// Hands what is pending to the committer, if it is time and none is under way.
    pub fn commit(&mut self, now: Instant, budget: &Budget) {
        if self.pending.due(self.wanted.commit_interval, budget).is_some_and(|due| due <= now) {
            let view = self.view();
            self.pending.commit(now, self.wanted.retain, view);
        }
    }

    /// The job under way is committed.
    pub fn committed(&mut self) {
        self.pending.committed(self.intake.answers.as_ref());
    }

    /// Whether all that it has recorded is committed.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        self.pending.is_flushed()
    }

    /// Stops for good; what is pending is to be committed at once.
    pub fn end(&mut self) {
        self.running = false;
        self.pending.urge();
    }

    fn view(&self) -> View {
        let state = self.state.as_ref();
        View {
            standing: self.standing(),
            generation: self.wanted.generation,
            genome_generation: self.wanted.genome_generation,
            beats: state.map_or(0, |state| state.beat),
            p: self.wanted.config.pulse.p,
            t_lambda: self.last.as_ref().map(|beat| beat.pulse.t_lambda),
            decided: self.decided,
            threat: self.last.as_ref().and_then(|beat| beat.details).map(|it| it.raw_threat),
            weights: state.map(|state| state.weights),
            anoms: state.map(|state| state.genome_anoms().saturating_add(state.features_anoms())),
            settled: self.settled,
            failed: self.failed.clone(),
        }
    }

    /// Action in force.
    #[must_use]
    pub fn action(&self) -> Option<Action> {
        self.decided.map(|decided| decided.action)
    }

    /// Hash of the last entry recorded.
    #[must_use]
    pub fn last_hash(&self) -> &Hash {
        self.pending.last_hash()
    }
}

#[cfg(test)]
mod tests;
