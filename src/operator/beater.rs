//! The beater owns all engines: one thread, deadlines in order, due organisms beaten in batches.
//!
//! It does no I/O. Commands arrive by one channel; batches leave by one bounded channel an organism, in which at
//! most one is in flight. An engine is addressed by a number of its own, not by its key: a command for an ended
//! engine never reaches the next one of that name.

mod handle;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, oneshot};

pub use self::handle::{EngineHandle, Inputs};
use super::budget::{Account, Budget, COMMIT_SPACING, Demand};
use super::committer::CommitRequest;
use super::key::Key;
use super::members::permit::Tenure;
use super::metrics::Metrics;
use super::publisher::report::ReportSender;
use crate::mesh::{InjectionEvent, OutcomeSender};
use crate::organism::beat::OpenBeat;
use crate::organism::cores::Cores;
use crate::organism::input::Sense;
use crate::organism::{Action, Arbiter};
use crate::runtime::{Desired, Engine, EngineError, StartParams};
use crate::store::head::LastEnforcement;

/// How often it is measured what organisms ask for, and divided; the thread wakes at least as often.
const BUDGET_PERIOD: Duration = Duration::from_secs(5);
/// Organisms that come and go and specs that change wait this long for the next division.
const DIVISION_SPACING: Duration = Duration::from_millis(100);
/// What an organism asked for is forgotten by this factor in each [`BUDGET_PERIOD`].
const FORGETTING: f64 = 0.8;
/// Time of a beat before it is measured, in seconds.
const FIRST_BEAT_SECONDS: f64 = 10e-6;
/// Slowed organisms that beat at a time: those at their own pace wait for no more than these.
const SLOWED_BATCH: usize = 64;
/// A beater that has not gone round its loop for this long is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(30);

type EngineId = u64;

enum Command {
    Start(EngineId, Box<Slot>),
    SetDesired(EngineId, Box<Desired>),
    Inject(EngineId, Box<InjectionEvent>),
    Sense(EngineId, Box<Sense>),
    Enforced(EngineId, Box<LastEnforcement>, Vec<String>),
    Acknowledge(EngineId),
    Snapshot(EngineId),
    /// Stop beating; `flushed` is called once all is committed.
    Flush(EngineId, oneshot::Sender<()>),
    Remove(EngineId),
    Stop,
    #[cfg(test)]
    Panic,
}

/// The beater's thread. Dropping this ends it, and with it all engines.
pub struct Beater {
    commands: Sender<Command>,
    next: AtomicU64,
    thread: JoinHandle<()>,
    /// Milliseconds from `started` to the last round of the loop.
    heartbeat: Arc<AtomicU64>,
    started: Instant,
}

impl Beater {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system provides no thread.
    pub fn start(cores: Cores, budget: Arc<Budget>, metrics: Arc<Metrics>) -> std::io::Result<Self> {
        let (commands, receiver) = channel();
        let arbiter = Arbiter::new(cores).map_err(std::io::Error::other)?;
        let (heartbeat, started) = (Arc::new(AtomicU64::new(0)), Instant::now());
        let beats = Loop {
            arbiter,
            budget,
            metrics,
            commands: receiver,
            acknowledgements: commands.clone(),
            slots: BTreeMap::new(),
            schedule: BTreeSet::new(),
            measure_due: started + BUDGET_PERIOD,
            divide_due: started + BUDGET_PERIOD,
            beating: Duration::ZERO,
            beats: 0,
            beat_seconds: FIRST_BEAT_SECONDS,
            heartbeat: heartbeat.clone(),
            started,
        };
        let thread = std::thread::Builder::new().name("venom-beater".into()).spawn(move || beats.run())?;
        Ok(Self { commands, next: AtomicU64::new(0), thread, heartbeat, started })
    }

    /// Starts an engine within the shares of `account`. Outside of `tenure` it skips its beats.
    #[must_use]
    pub fn start_engine(
        &self,
        key: Key,
        params: StartParams,
        account: Arc<Account>,
        tenure: Arc<Tenure>,
        outputs: Outputs,
    ) -> EngineHandle {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let handle = EngineHandle { id, commands: self.commands.clone() };
        let engine = Engine::new(params, Instant::now());
        let slot = Slot {
            key,
            engine,
            account,
            tenure,
            usage: Usage::default(),
            outputs,
            scheduled: None,
            flushed: None,
        };
        handle.send(Command::Start(id, Box::new(slot)));
        handle
    }

    /// Whether the thread runs and has gone round its loop lately.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        let last = Duration::from_millis(self.heartbeat.load(Ordering::Relaxed));
        !self.thread.is_finished() && self.started.elapsed().saturating_sub(last) < STUCK_AFTER
    }

    /// Ends the thread by a panic. Returns when it has ended.
    #[cfg(test)]
    pub(super) fn panic(&self) {
        let _ = self.commands.send(Command::Panic);
        while !self.thread.is_finished() {
            std::thread::yield_now();
        }
    }
}

impl Drop for Beater {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Stop);
    }
}

/// Where the output of an engine goes.
pub struct Outputs {
    /// Its batches.
    pub commits: mpsc::Sender<CommitRequest>,
    /// The outcomes of its injections.
    pub outcomes: Option<OutcomeSender>,
    /// How it keeps its pace.
    pub report: ReportSender,
}

/// An engine and what belongs to it.
struct Slot {
    key: Key,
    engine: Engine,
    account: Arc<Account>,
    tenure: Arc<Tenure>,
    usage: Usage,
    outputs: Outputs,
    /// Its place in the schedule.
    scheduled: Option<Instant>,
    /// To be sent once everything recorded is committed.
    flushed: Option<oneshot::Sender<()>>,
}

impl Slot {
    fn log(&self, outcome: Result<(), EngineError>) {
        if let Err(error) = outcome {
            tracing::error!(organism = %self.key, %error, "the engine failed");
        }
    }

    fn report_pace(&self, now: Instant) {
        let pace = self.engine.pace(now);
        self.outputs.report.send_if_modified(|report| std::mem::replace(&mut report.pace, pace) != pace);
    }

    /// What it asks for at its own pace: what it would do without a limit, and at least what it did.
    fn demand(&self) -> Demand {
        let (desired, running) = (self.engine.desired(), self.engine.is_running());
        let period = self.engine.period(1.0).max(Duration::from_nanos(1));
        let interval = desired.commit_interval.max(period).max(COMMIT_SPACING).as_secs_f64();
        let per_second = |seconds: f64| if running { 1.0 / seconds } else { 0.0 };
        Demand {
            account: self.account.clone(),
            running,
            beats: per_second(period.as_secs_f64()),
            commits: per_second(interval).max(self.usage.commits_per_second),
            bytes: self.usage.bytes_per_second,
            retain: desired.retain,
        }
    }

    /// Takes what it did in the last `seconds` over into what it asks for. What it asked for before is forgotten little
    /// by little, and not while a limit holds back commits: it would be lifted, and reached again.
    fn measure(&mut self, seconds: f64) {
        let Usage { commits, held_back, commits_per_second, bytes_per_second } = self.usage;
        let kept = if held_back { 1.0 } else { FORGETTING };
        let bytes = self.account.take_written() as f64 / seconds * self.account.slowdown();
        self.usage = Usage {
            commits: 0,
            held_back: false,
            commits_per_second: (f64::from(commits) / seconds).max(kept * commits_per_second),
            bytes_per_second: bytes.max(FORGETTING * bytes_per_second),
        };
    }
}

/// What an organism did in the last [`BUDGET_PERIOD`].
#[derive(Clone, Copy, Default)]
struct Usage {
    /// Commits since the last measurement.
    commits: u32,
    /// Whether commits of inputs waited since then because of a limit.
    held_back: bool,
    /// Commits a second without a limit.
    commits_per_second: f64,
    /// Ledger bytes a second without a limit.
    bytes_per_second: f64,
}

struct Loop {
    arbiter: Arbiter,
    budget: Arc<Budget>,
    metrics: Arc<Metrics>,
    commands: Receiver<Command>,
    /// For the acknowledgement that goes along with each batch.
    acknowledgements: Sender<Command>,
    /// Boxed: half of what a map of this kind holds may be empty.
    slots: BTreeMap<EngineId, Box<Slot>>,
    /// When each engine is due; one item an engine.
    schedule: BTreeSet<(Instant, EngineId)>,
    measure_due: Instant,
    divide_due: Instant,
    /// Time spent with beats since the last measurement, and their number.
    beating: Duration,
    beats: u32,
    /// Time of a beat, in seconds.
    beat_seconds: f64,
    heartbeat: Arc<AtomicU64>,
    started: Instant,
}

impl Loop {
    /// 1. Handle commands. 2. Beat every engine that is due. 3. Hand over batches that are due.
    /// 4. Sleep until the next deadline or command.
    fn run(mut self) {
        loop {
            while let Ok(command) = self.commands.try_recv() {
                if self.handle(command).is_break() {
                    return;
                }
            }
            let now = Instant::now();
            let alive = now.saturating_duration_since(self.started).as_millis();
            self.heartbeat.store(u64::try_from(alive).unwrap_or(u64::MAX), Ordering::Relaxed);
            let due = self.due(now);
            self.beat(&due, now);
            for id in &due {
                self.hand_over(*id, now);
            }
            if !due.is_empty() {
                self.beating += now.elapsed();
            }
            self.share_budget(now);
            let wake = self.schedule.first().map_or(self.divide_due, |(at, _)| (*at).min(self.divide_due));
            match self.commands.recv_timeout(wake.saturating_duration_since(Instant::now())) {
                Ok(command) => {
                    if self.handle(command).is_break() {
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// The engines to look at: those at their own pace, or else some of the slowed ones. The latter have taken more than
    /// their share of this thread, or of something else: they wait, not the others.
    fn due(&self, now: Instant) -> Vec<EngineId> {
        let due = self.schedule.iter().take_while(|(at, _)| *at <= now).map(|(_, id)| *id);
        let slowed = |id: &EngineId| self.slots.get(id).is_some_and(|it| it.account.slowdown() > 1.0);
        let (mut slowed, own): (Vec<_>, Vec<_>) = due.partition(slowed);
        slowed.truncate(SLOWED_BATCH);
        if own.is_empty() { slowed } else { own }
    }

    fn handle(&mut self, command: Command) -> ControlFlow<()> {
        let now = Instant::now();
        match command {
            Command::Start(id, slot) => {
                self.slots.insert(id, slot);
                self.update(id, now, |slot| slot.engine.start(now, unix_seconds()));
                self.divide_soon(now);
            }
            Command::SetDesired(id, desired) => {
                self.update(id, now, |slot| slot.engine.set_desired(*desired, now, unix_seconds()));
                self.divide_soon(now);
            }
            Command::Inject(id, event) => self.update(id, now, |slot| {
                slot.engine.inject(*event, now);
                Ok(())
            }),
            Command::Sense(id, sense) => self.update(id, now, |slot| {
                slot.engine.sense(*sense, now);
                Ok(())
            }),
            Command::Enforced(id, enforcement, what) => self
                .update(id, now, |slot| slot.engine.record_enforcement(*enforcement, what, unix_seconds())),
            Command::Acknowledge(id) => self.update(id, now, |slot| {
                slot.engine.acknowledge();
                Ok(())
            }),
            Command::Snapshot(id) => self.update(id, now, |slot| {
                if slot.engine.is_running() { slot.engine.record_snapshot(unix_seconds()) } else { Ok(()) }
            }),
            Command::Flush(id, flushed) => self.update(id, now, |slot| {
                slot.flushed = Some(flushed);
                slot.engine.end(unix_seconds())
            }),
            Command::Remove(id) => {
                if let Some(at) = self.slots.remove(&id).and_then(|slot| slot.scheduled) {
                    self.schedule.remove(&(at, id));
                }
                self.divide_soon(now);
            }
            Command::Stop => return ControlFlow::Break(()),
            #[cfg(test)]
            Command::Panic => panic!("requested by a test"),
        }
        ControlFlow::Continue(())
    }

    /// Changes an engine and looks at what is due then. A command for an engine that was removed is dropped.
    fn update(
        &mut self,
        id: EngineId,
        now: Instant,
        change: impl FnOnce(&mut Slot) -> Result<(), EngineError>,
    ) {
        if let Some(slot) = self.slots.get_mut(&id) {
            let changed = change(slot);
            slot.log(changed);
            self.hand_over(id, now);
        }
    }

    /// One beat of every engine in `due` whose deadline has come: pulses, then all cores in one pool scope,
    /// then decisions.
    fn beat(&mut self, due: &[EngineId], now: Instant) {
        let mut opened: Vec<(EngineId, OpenBeat)> = Vec::with_capacity(due.len());
        for &id in due {
            let Some(slot) = self.slots.get_mut(&id) else { continue };
            if !slot.engine.is_running() || slot.engine.deadline() > now {
                continue;
            }
            self.metrics.deviation(now - slot.engine.deadline());
            let most = slot.account.pending_records();
            let slowdown = slot.account.slowdown() * slot.engine.pressure(most);
            let most = if slot.tenure.is_valid() { most } else { 0 };
            let beat = slot.engine.open_beat(now, unix_seconds(), slowdown, most);
            slot.report_pace(now);
            match beat {
                Ok(beat) => {
                    self.metrics.missed(beat.missed);
                    if let Some(reason) = beat.blocked {
                        tracing::warn!(organism = %slot.key, "injections wait: {reason}");
                    }
                    opened.extend(beat.open.map(|open| (id, open)));
                }
                Err(error) => slot.log(Err(error)),
            }
        }
        if opened.is_empty() {
            return;
        }
        self.beats = self.beats.saturating_add(u32::try_from(opened.len()).unwrap_or(u32::MAX));
        let readings: Vec<_> = opened.iter().map(|(_, open)| open.input.clone()).collect();
        let flows = self.arbiter.time_wrap(readings);
        for ((id, open), flows) in opened.into_iter().zip(flows) {
            let Some(slot) = self.slots.get_mut(&id) else { continue };
            let before = slot.engine.decision().map(|it| it.action);
            match slot.engine.close_beat(open, flows, now) {
                Ok(beat) => self.metrics.beat(beat.is_some_and(|beat| beat.held())),
                Err(error) => slot.log(Err(error)),
            }
            let after = slot.engine.decision().map(|it| it.action);
            if before != after {
                self.metrics.decided(after.unwrap_or(Action::Noop));
            }
        }
    }

    /// Hands over the batch that is due, sends outcomes, and schedules the next look at this engine.
    fn hand_over(&mut self, id: EngineId, now: Instant) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        if let Some(at) = slot.scheduled.take() {
            self.schedule.remove(&(at, id));
        }
        let intervals = slot.account.commit_intervals(slot.engine.desired().commit_interval);
        slot.usage.held_back |= intervals.input > COMMIT_SPACING && slot.engine.has_uncommitted_input();
        if let Some(batch) = slot.engine.take_batch(now, intervals) {
            slot.usage.commits += u32::from(!batch.records.is_empty());
            let commands = self.acknowledgements.clone();
            let acknowledge = Box::new(move || drop(commands.send(Command::Acknowledge(id))));
            // A closed channel means that the committer has ended: its actor removes this engine.
            let _ = slot.outputs.commits.try_send(CommitRequest { batch: Box::new(batch), acknowledge });
        }
        for (event, outcome) in slot.engine.take_outcomes() {
            if let Some(outcomes) = &slot.outputs.outcomes {
                outcomes.send(event, outcome);
            }
        }
        if slot.engine.is_flushed()
            && let Some(flushed) = slot.flushed.take()
        {
            let _ = flushed.send(());
        }
        if let Some(at) = slot.engine.due(intervals) {
            slot.scheduled = Some(at);
            self.schedule.insert((at, id));
        }
    }

    fn divide_soon(&mut self, now: Instant) {
        self.divide_due = self.divide_due.min(now + DIVISION_SPACING);
    }

    /// Measures and divides, when that is due.
    fn share_budget(&mut self, now: Instant) {
        if now < self.divide_due {
            return;
        }
        if now >= self.measure_due {
            let seconds = (BUDGET_PERIOD + (now - self.measure_due)).as_secs_f64();
            self.slots.values_mut().for_each(|slot| slot.measure(seconds));
            if self.beats > 0 {
                self.beat_seconds = self.beating.as_secs_f64() / f64::from(self.beats);
            }
            (self.beating, self.beats) = (Duration::ZERO, 0);
            self.measure_due = now + BUDGET_PERIOD;
        }
        self.divide_due = self.measure_due;
        let demands: Vec<_> = self.slots.values().map(|slot| slot.demand()).collect();
        self.budget.divide(&demands, self.beat_seconds);
        self.metrics.organisms(self.slots.len());
        let slowdown =
            |slot: &Slot| slot.account.slowdown() * slot.engine.pressure(slot.account.pending_records());
        self.metrics.slowdown(self.slots.values().map(|slot| slowdown(slot)).fold(1.0, f64::max));
    }
}

/// Seconds since 1970. A clock that steps is an ordinary event: the ledger's own time copes with it.
fn unix_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests;
