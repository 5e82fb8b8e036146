//! The beater owns all engines: one thread, deadlines in order, due organisms beaten in batches.
//!
//! It does no I/O. Commands arrive by one channel; batches leave by one bounded channel an organism, in which at
//! most one is in flight. An engine is addressed by a number of its own, not by its key: a command for an ended
//! engine never reaches the next one of that name.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, oneshot};

use super::budget::Budget;
use super::committer::CommitRequest;
use super::key::Key;
use super::metrics::Metrics;
use super::publisher::report::ReportSender;
use crate::mesh::{InjectionEvent, OutcomeSender};
use crate::organism::beat::OpenBeat;
use crate::organism::cores::Cores;
use crate::organism::{Action, Arbiter};
use crate::runtime::{Desired, Engine, EngineError, StartParams};

/// How often the budget is adjusted; the thread wakes at least as often.
const BUDGET_PERIOD: Duration = Duration::from_secs(5);
/// A beater that has not gone round its loop for this long is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(30);

type EngineId = u64;

enum Command {
    Start(EngineId, Box<Slot>),
    SetDesired(EngineId, Box<Desired>),
    Inject(EngineId, Box<InjectionEvent>),
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

/// A running engine. Dropping this removes it, whatever is pending.
pub struct EngineHandle {
    id: EngineId,
    commands: Sender<Command>,
}

/// Hands injections to a running engine.
#[derive(Clone)]
pub struct Injector {
    id: EngineId,
    commands: Sender<Command>,
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
            budget_due: started + BUDGET_PERIOD,
            heartbeat: heartbeat.clone(),
            started,
        };
        let thread = std::thread::Builder::new().name("venom-beater".into()).spawn(move || beats.run())?;
        Ok(Self { commands, next: AtomicU64::new(0), thread, heartbeat, started })
    }

    /// Starts an engine. Its batches go to `commits`, the outcomes of its injections to `outcomes`, and how it keeps
    /// its pace to `report`.
    #[must_use]
    pub fn start_engine(
        &self,
        key: Key,
        params: StartParams,
        commits: mpsc::Sender<CommitRequest>,
        outcomes: Option<OutcomeSender>,
        report: ReportSender,
    ) -> EngineHandle {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let handle = EngineHandle { id, commands: self.commands.clone() };
        let engine = Engine::new(params, Instant::now());
        let slot = Slot { key, engine, commits, outcomes, report, scheduled: None, flushed: None };
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

impl EngineHandle {
    /// Replaces the desired state.
    pub fn set_desired(&self, desired: Desired) {
        self.send(Command::SetDesired(self.id, Box::new(desired)));
    }

    /// Requests a snapshot as soon as one may stand.
    pub fn request_snapshot(&self) {
        self.send(Command::Snapshot(self.id));
    }

    /// Stops beating for good. Returns when everything recorded is committed, or when there is no beater.
    pub async fn flush(&self) {
        let (flushed, done) = oneshot::channel();
        self.send(Command::Flush(self.id, flushed));
        let _ = done.await;
    }

    /// A handle that can only inject. It does not keep the engine.
    #[must_use]
    pub fn injector(&self) -> Injector {
        Injector { id: self.id, commands: self.commands.clone() }
    }

    fn send(&self, command: Command) {
        // The thread has ended only after a panic: the health check reports that.
        let _ = self.commands.send(command);
    }
}

impl Drop for EngineHandle {
    fn drop(&mut self) {
        self.send(Command::Remove(self.id));
    }
}

impl Injector {
    /// Hands in an injection. One for an engine that has ended is dropped: its nodes offer it to the next.
    pub fn inject(&self, event: InjectionEvent) {
        let _ = self.commands.send(Command::Inject(self.id, Box::new(event)));
    }
}

/// An engine and where its output goes.
struct Slot {
    key: Key,
    engine: Engine,
    commits: mpsc::Sender<CommitRequest>,
    outcomes: Option<OutcomeSender>,
    report: ReportSender,
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
        self.report.send_if_modified(|report| std::mem::replace(&mut report.pace, pace) != pace);
    }

    /// Writes a second at the commit interval of the spec: a segment and the head each time, and every two
    /// seconds the statuses of Organism and Genome.
    fn writes_per_second(&self) -> f64 {
        let interval = self.engine.desired().commit_interval.max(self.engine.period(1.0)).as_secs_f64();
        if self.engine.is_running() { 2.0 / interval + 1.0 } else { 0.0 }
    }
}

struct Loop {
    arbiter: Arbiter,
    budget: Arc<Budget>,
    metrics: Arc<Metrics>,
    commands: Receiver<Command>,
    /// For the acknowledgement that goes along with each batch.
    acknowledgements: Sender<Command>,
    slots: BTreeMap<EngineId, Slot>,
    /// When each engine is due; one item an engine.
    schedule: BTreeSet<(Instant, EngineId)>,
    budget_due: Instant,
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
            let due: Vec<EngineId> =
                self.schedule.iter().take_while(|(at, _)| *at <= now).map(|(_, id)| *id).collect();
            self.beat(&due, now);
            for id in due {
                self.hand_over(id, now);
            }
            self.adjust_budget(now);
            let wake = self.schedule.first().map_or(self.budget_due, |(at, _)| (*at).min(self.budget_due));
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

    fn handle(&mut self, command: Command) -> ControlFlow<()> {
        let now = Instant::now();
        match command {
            Command::Start(id, slot) => {
                self.slots.insert(id, *slot);
                self.update(id, now, |slot| slot.engine.start(now, unix_seconds()));
                self.share_budget();
            }
            Command::SetDesired(id, desired) => {
                self.update(id, now, |slot| slot.engine.set_desired(*desired, now, unix_seconds()));
                self.share_budget();
            }
            Command::Inject(id, event) => self.update(id, now, |slot| {
                slot.engine.inject(*event, now);
                Ok(())
            }),
            Command::Acknowledge(id) => self.update(id, now, |slot| {
                slot.engine.acknowledge();
                Ok(())
            }),
            Command::Snapshot(id) => self.update(id, now, |slot| {
                if slot.engine.is_running() { slot.engine.record_snapshot(unix_seconds()) } else { Ok(()) }
            }),
            Command::Flush(id, flushed) => self.update(id, now, |slot| {
                slot.engine.end();
                slot.flushed = Some(flushed);
                Ok(())
            }),
            Command::Remove(id) => {
                if let Some(at) = self.slots.remove(&id).and_then(|slot| slot.scheduled) {
                    self.schedule.remove(&(at, id));
                }
                self.share_budget();
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
        let most = self.budget.pending_records();
        let mut opened: Vec<(EngineId, OpenBeat)> = Vec::with_capacity(due.len());
        for &id in due {
            let Some(slot) = self.slots.get_mut(&id) else { continue };
            if !slot.engine.is_running() || slot.engine.deadline() > now {
                continue;
            }
            self.metrics.deviation(now - slot.engine.deadline());
            let slowdown = self.budget.slowdown() * slot.engine.pressure(most);
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
        let interval = self.budget.commit_interval(slot.engine.desired().commit_interval);
        if let Some(batch) = slot.engine.take_batch(now, interval) {
            let commands = self.acknowledgements.clone();
            let acknowledge = Box::new(move || drop(commands.send(Command::Acknowledge(id))));
            // A closed channel means that the committer has ended: its actor removes this engine.
            let _ = slot.commits.try_send(CommitRequest { batch, acknowledge });
        }
        for (event, outcome) in slot.engine.take_outcomes() {
            if let Some(outcomes) = &slot.outcomes {
                outcomes.send(event, outcome);
            }
        }
        if slot.engine.is_flushed()
            && let Some(flushed) = slot.flushed.take()
        {
            let _ = flushed.send(());
        }
        if let Some(at) = slot.engine.due(interval) {
            slot.scheduled = Some(at);
            self.schedule.insert((at, id));
        }
    }

    fn share_budget(&self) {
        self.budget.share_among(self.slots.len() as u64);
        self.budget.ask(self.slots.values().map(Slot::writes_per_second).sum());
        self.metrics.organisms(self.slots.len());
    }

    fn adjust_budget(&mut self, now: Instant) {
        if now >= self.budget_due {
            self.budget_due = now + BUDGET_PERIOD;
            self.budget.adjust(BUDGET_PERIOD.as_secs_f64());
            self.share_budget();
            let most = self.budget.pending_records();
            let pressure = self.slots.values().map(|slot| slot.engine.pressure(most)).fold(1.0, f64::max);
            self.metrics.slowdown(self.budget.slowdown() * pressure);
        }
    }
}

/// Seconds since 1970. A clock that steps is an ordinary event: the ledger's own time copes with it.
fn unix_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests;
