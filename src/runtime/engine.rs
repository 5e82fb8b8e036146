//! One organism's running engine.

mod inputs;
mod shown;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::desired::{Desired, PauseReason};
use super::injections::{InjectionOutcome, InjectionQueue, RecordedInjection};
use super::pace::{Pace, PaceMeter};
use super::pending::{Batch, CommitIntervals, MAX_PENDING, Pending};
use super::start::{History, StartParams};
use super::status::CurrentDecision;
use crate::ledger::canonical::NotCanonical;
use crate::ledger::entry::{Continues, Genesis, Origin, Record};
use crate::ledger::replay::SNAPSHOT_EVERY;
use crate::ledger::{Chain, Hash};
use crate::mesh::Outcome;
use crate::organism::beat::{self, OpenBeat};
use crate::organism::cores::Flows;
use crate::organism::decision::Details;
use crate::organism::genome::Thresholds;
use crate::organism::input::{ConfigChange, Resume, ResumeReason, Scale, Sense};
use crate::organism::pulse::{self, PulseError};
use crate::organism::state::ApplyError;
use crate::organism::{Beat, Input, State, VERSION};
use crate::store::head::LastEnforcement;

/// A new input makes an organism due at once, but its beats stay at least this far apart.
const EARLY_BEAT_SPACING: Duration = Duration::from_millis(20);
/// An engine that has beaten this often since its last snapshot ends with one.
const SNAPSHOT_AT_END: u64 = 20;
/// A beat's entries before its action entry: pulse and four flow results.
const ENTRIES_BEFORE_ACTION: u64 = 5;
/// A period is slowed to at most this many seconds: the ledger's own time follows no longer ones that no spec asks for.
const LONGEST_SLOWED: f64 = 10.0;
/// The period where a spec asks for one that a Duration cannot hold.
const LONGEST_PERIOD: Duration = Duration::from_secs(86_400);

/// Why an entry could not be recorded.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A number is not finite, so canonical JSON cannot hold it.
    #[error("cannot record an entry: {0}")]
    NotCanonical(#[from] NotCanonical),
    /// The state refuses an input that is not an injection.
    #[error("cannot apply an input: {0}")]
    Input(#[from] ApplyError),
    /// The parameters define no T_Λ.
    #[error("cannot open a beat: {0}")]
    Pulse(#[from] PulseError),
}

/// One organism's running engine.
pub struct Engine {
    desired: Desired,
    epoch: u64,
    operator: Arc<str>,
    /// None before genesis.
    state: Option<State>,
    /// Contents of the genesis entry that is still to be recorded.
    genesis: Option<(Option<Origin>, Option<Continues>)>,
    pending: Pending,
    injections: InjectionQueue,
    outcomes: Vec<InjectionOutcome>,
    running: bool,
    /// An ended engine never runs again.
    ended: bool,
    resume: Option<ResumeReason>,
    /// Shortest period that the driver allows.
    min_period: Duration,
    deadline: Instant,
    last_beat: Option<Instant>,
    beats_since_snapshot: u64,
    decision: Option<CurrentDecision>,
    last: Option<Box<Beat>>,
    /// What was decided by at the last beat that was not held.
    decided_by: Option<(Details, Thresholds)>,
    /// Observations that wait for the next beat.
    senses: VecDeque<Sense>,
    /// The enforcement recorded last.
    enforcement: Option<LastEnforcement>,
    /// The ledger's own time, in seconds, at the last beat that decided QUARANTINE, or at the start of this process.
    last_quarantine: Option<f64>,
    calm: bool,
    failed_cores: Vec<(String, String)>,
    stable: Option<bool>,
    pace: PaceMeter,
}

impl Engine {
    /// An engine that has recorded nothing yet; [`Engine::start`] makes it run.
    #[must_use]
    pub fn new(params: StartParams, now: Instant) -> Self {
        let (state, genesis, chain, decision, resume) = match params.history {
            History::Empty { origin, continues } => {
                (None, Some((origin, continues)), Chain::default(), None, None)
            }
            History::Recovered { state, chain, decision, reason } => {
                (Some(*state), None, chain, decision, Some(reason))
            }
        };
        Self {
            desired: params.desired,
            epoch: params.epoch,
            operator: params.operator,
            stable: state.as_ref().and_then(|state| state.pid.settled()),
            // How long ago the last one was decided before is not known: a restart makes a quarantine longer.
            last_quarantine: state.as_ref().map(|state| state.tau),
            calm: state.is_none(),
            resume,
            state,
            genesis,
            pending: Pending::new(chain, params.batch_spacing, params.publishes, now),
            injections: InjectionQueue::default(),
            outcomes: vec![],
            running: false,
            ended: false,
            min_period: params.min_period,
            deadline: now,
            last_beat: None,
            beats_since_snapshot: 0,
            decision,
            last: None,
            decided_by: None,
            senses: VecDeque::new(),
            enforcement: params.enforcement,
            failed_cores: vec![],
            pace: PaceMeter::new(now),
        }
    }

    /// Starts beating at `now`, if the desired state asks for it. `wall` is in seconds since 1970.
    ///
    /// # Errors
    /// [`EngineError`] when an entry cannot be recorded.
    pub fn start(&mut self, now: Instant, wall: f64) -> Result<(), EngineError> {
        self.reconcile(now, wall)
    }

    /// Replaces the desired state.
    ///
    /// # Errors
    /// [`EngineError`] when an entry cannot be recorded.
    pub fn set_desired(&mut self, desired: Desired, now: Instant, wall: f64) -> Result<(), EngineError> {
        if desired == self.desired {
            return Ok(());
        }
        self.desired = desired;
        self.pending.mark_spec_changed();
        self.reconcile(now, wall)
    }

    /// Stops for good. What is pending is due at once. One that runs ends with a snapshot, unless its last is hardly
    /// older or an input waits for its pulse: the next writer of this ledger then has few beats to replay.
    ///
    /// # Errors
    /// [`EngineError`] when that cannot be recorded; the engine has ended all the same.
    pub fn end(&mut self, wall: f64) -> Result<(), EngineError> {
        let wants_snapshot = self.running && self.beats_since_snapshot >= SNAPSHOT_AT_END;
        self.running = false;
        self.ended = true;
        self.pending.mark_urgent();
        if wants_snapshot { self.record_snapshot(wall) } else { Ok(()) }
    }

    /// Whether it beats.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.running
    }

    /// Whether everything recorded is committed.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        self.pending.is_flushed()
    }

    /// The state after the last beat and the inputs recorded since; none before genesis.
    #[must_use]
    pub fn state(&self) -> Option<&State> {
        self.state.as_ref()
    }

    /// The desired state.
    #[must_use]
    pub fn desired(&self) -> &Desired {
        &self.desired
    }

    /// Entries recorded since genesis, committed or not.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.pending.size()
    }

    /// Hash of the last entry recorded.
    #[must_use]
    pub fn last_hash(&self) -> &Hash {
        self.pending.last_hash()
    }

    /// The decision in force.
    #[must_use]
    pub fn decision(&self) -> Option<CurrentDecision> {
        self.decision
    }

    /// When the next beat is due.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Period of a beat, `slowdown` times as long as the spec and the driver's shortest period ask.
    #[must_use]
    pub fn period(&self, slowdown: f64) -> Duration {
        let seconds = self.spec_period().max(self.min_period.as_secs_f64());
        let slowed = (seconds * slowdown).min(seconds.max(LONGEST_SLOWED));
        Duration::try_from_secs_f64(slowed).unwrap_or(LONGEST_PERIOD)
    }

    /// The period that the spec asks for, in seconds.
    fn spec_period(&self) -> f64 {
        let pulse = &self.desired.config.pulse;
        let t_lambda = pulse::t_lambda(pulse.k, pulse.p, pulse.t1, pulse.u).unwrap_or(f64::MAX);
        t_lambda.max(pulse.min_period())
    }

    /// How it keeps its pace, as observed until now.
    #[must_use]
    pub fn pace(&self, now: Instant) -> Pace {
        self.pace.pace(now)
    }

    /// Factor by which its period is longer because more than half of the records that it may hold are not
    /// committed. `most` is their number.
    #[must_use]
    pub fn pressure(&self, most: usize) -> f64 {
        let fill = self.pending.held() as f64 / most.max(1) as f64;
        1.0 / (1.0 - 1.98 * (fill.min(1.0) - 0.5).max(0.0))
    }

    /// Whether inputs wait for their commit, and no changed decision does.
    #[must_use]
    pub fn has_uncommitted_input(&self) -> bool {
        self.pending.has_input()
    }

    /// When a driver has to look at this engine again.
    #[must_use]
    pub fn due(&self, intervals: CommitIntervals) -> Option<Instant> {
        let beat = self.running.then_some(self.deadline);
        [beat, self.pending.due(intervals)].into_iter().flatten().min()
    }

    /// Opens the beat that is due and moves the deadline, unless `most` records or more are not committed. Injections
    /// that wait are recorded right before it, so that both are in one batch and no ledger ends with an injection that
    /// waits for its pulse.
    ///
    /// # Errors
    /// [`EngineError`] when there is no T_Λ or an injection cannot be recorded; the deadline has moved.
    pub fn open_beat(
        &mut self,
        now: Instant,
        wall: f64,
        slowdown: f64,
        most: usize,
    ) -> Result<OpenedBeat, EngineError> {
        let mut missed = self.advance_deadline(now, slowdown);
        let full = self.pending.held() >= most.min(MAX_PENDING);
        if !full {
            self.record_senses(wall, most)?;
        }
        let blocked = if full { None } else { self.record_injections(wall, most)? };
        let open = match &mut self.state {
            Some(state) if self.running && !full => Some(beat::open(state, wall)?),
            _ => None,
        };
        missed += u64::from(open.is_none());
        let period = self.period(1.0);
        let slowdown = slowdown * (self.min_period.as_secs_f64() / self.spec_period()).max(1.0);
        match &open {
            Some(_) => self.pace.beat(now, missed, slowdown, period),
            None if full => self.pace.blocked(now, missed, slowdown, period),
            None => {}
        }
        Ok(OpenedBeat { missed, open, blocked })
    }

    /// Closes a beat with the results of its cores and records it.
    ///
    /// # Errors
    /// [`EngineError`] when a number is not finite: that beat is not recorded.
    pub fn close_beat(
        &mut self,
        open: OpenBeat,
        flows: Flows,
        now: Instant,
    ) -> Result<Option<Beat>, EngineError> {
        let Some(state) = &mut self.state else { return Ok(None) };
        let beat = beat::close(state, open, flows);
        self.observe(&beat);
        self.last_beat = Some(now);
        let timestamp = beat.pulse.timestamp;
        self.last = Some(Box::new(beat.clone()));
        self.pending.append(Record::Beat(Box::new(beat.clone())))?;
        self.beats_since_snapshot += 1;
        if self.beats_since_snapshot >= SNAPSHOT_EVERY {
            self.record_snapshot(timestamp)?;
        }
        if self.is_completed() {
            self.reconcile(now, timestamp)?;
        }
        if self.pending.wants_cut() {
            self.pending.cut(self.status());
        }
        Ok(Some(beat))
    }

    /// Records a snapshot, or, while an input waits for its pulse, lets one follow the next beat.
    ///
    /// # Errors
    /// [`EngineError::NotCanonical`] never: a state holds finite numbers.
    pub fn record_snapshot(&mut self, wall: f64) -> Result<(), EngineError> {
        match &self.state {
            Some(state) if !state.has_pending_anomalies() => {
                let record = Record::snapshot(wall, state)?;
                self.beats_since_snapshot = 0;
                Ok(self.pending.append(record)?)
            }
            _ => {
                self.beats_since_snapshot = SNAPSHOT_EVERY;
                Ok(())
            }
        }
    }

    /// Takes the batch that is due; none while another one is in flight.
    pub fn take_batch(&mut self, now: Instant, intervals: CommitIntervals) -> Option<Batch> {
        self.pending.due(intervals).filter(|due| *due <= now)?;
        let status = self.status();
        let batch = self.pending.take_batch(now, intervals, self.desired.retain, status);
        Some(Batch { last: self.ended && self.pending.held() == batch.records.len(), ..batch })
    }

    /// Marks the batch in flight as committed.
    pub fn acknowledge(&mut self) {
        for RecordedInjection { event, entry, .. } in self.pending.acknowledge() {
            self.outcomes.push((event, Outcome::Committed { entry }));
        }
    }

    /// Starts, stops, or records a changed spec, as the desired state asks.
    fn reconcile(&mut self, now: Instant, wall: f64) -> Result<(), EngineError> {
        let run = !self.ended && self.desired.pause.is_none() && !self.is_completed();
        match (self.running, run) {
            (false, true) => self.begin(now, wall)?,
            (true, false) => {
                self.running = false;
                self.resume = Some(match self.desired.pause {
                    Some(PauseReason::Suspended) => ResumeReason::Unsuspended,
                    Some(PauseReason::GenomeNotFound) => ResumeReason::GenomeBack,
                    None => ResumeReason::BeatsRaised,
                });
                match self.desired.pause {
                    Some(_) => self.pending.mark_spec_changed(),
                    None => self.pending.mark_status_changed(),
                }
            }
            (true, true) => {
                if self.record_spec_changes(wall)? {
                    self.make_due(now);
                }
            }
            (false, false) => {}
        }
        Ok(())
    }

    /// Records the genesis, or else the resume, what changed while it did not beat, and a snapshot.
    fn begin(&mut self, now: Instant, wall: f64) -> Result<(), EngineError> {
        if let Some((origin, continues)) = self.genesis.take() {
            let Desired { genome, config, .. } = self.desired;
            let genesis = Genesis {
                config,
                continues,
                genome,
                message: "VENOM Λ-GENESIS".into(),
                origin,
                version: VERSION.into(),
            };
            self.pending.append(Record::genesis(wall, &genesis)?)?;
            self.state = Some(State::genesis(VERSION, wall, genome, config));
        } else {
            if let Some(reason) = self.resume.take() {
                let operator = self.operator.to_string();
                self.record_input(wall, &Input::Resume(Resume { epoch: self.epoch, operator, reason }))?;
            }
            self.record_spec_changes(wall)?;
            self.record_snapshot(wall)?;
        }
        self.running = true;
        self.deadline = now;
        self.pending.mark_spec_changed();
        Ok(())
    }

    /// Records how the desired state differs from the spec recorded last. Returns whether it does.
    fn record_spec_changes(&mut self, wall: f64) -> Result<bool, EngineError> {
        let Some(state) = &self.state else { return Ok(false) };
        let desired = (&self.desired.genome, &self.desired.config);
        let mut change = ConfigChange::between((&state.genome, &state.config), desired);
        if *state.version != *VERSION {
            change.get_or_insert_default().version = Some(VERSION.into());
        }
        let (from, p) = (state.config.pulse.p, self.desired.config.pulse.p);
        let scale = (from != p).then_some(Scale { from, p });
        let changed = change.is_some() || scale.is_some();
        if let Some(change) = change {
            self.record_input(wall, &Input::Config(Box::new(change)))?;
        }
        if let Some(scale) = scale {
            self.record_input(wall, &Input::Scale(scale))?;
        }
        Ok(changed)
    }

    fn record_input(&mut self, wall: f64, input: &Input) -> Result<(), EngineError> {
        self.pending.append(Record::input(wall, input)?)?;
        if let Some(state) = &mut self.state {
            state.apply(input)?;
        }
        Ok(())
    }

    /// Moves the deadline to now, or to the earliest moment at which the next beat may follow the last one.
    fn make_due(&mut self, now: Instant) {
        let earliest = self.last_beat.map_or(now, |last| last + EARLY_BEAT_SPACING);
        self.deadline = self.deadline.min(earliest.max(now));
        self.pending.mark_input();
    }

    /// Sets the deadline after this one. Missed deadlines are skipped, never bunched; returns how many.
    fn advance_deadline(&mut self, now: Instant, slowdown: f64) -> u64 {
        let period = self.period(slowdown);
        self.deadline += period;
        if self.deadline >= now {
            return 0;
        }
        let missed = (now - self.deadline).as_nanos() / period.as_nanos().max(1) + 1;
        self.deadline += period.saturating_mul(u32::try_from(missed).unwrap_or(u32::MAX));
        u64::try_from(missed).unwrap_or(u64::MAX)
    }

    fn is_completed(&self) -> bool {
        let beat = self.state.as_ref().map_or(0, |state| state.beat);
        self.desired.beats.is_some_and(|beats| beat >= beats)
    }
}

/// A beat that [`Engine::open_beat`] opened.
#[must_use = "an open beat has to be closed"]
pub struct OpenedBeat {
    /// Deadlines skipped, this one included when no beat is opened.
    pub missed: u64,
    /// What the cores read; none while too many entries are pending or the engine does not run.
    pub open: Option<OpenBeat>,
    /// Why injections wait, said once when it begins.
    pub blocked: Option<String>,
}
