//! The beater owns all lives: one thread of control, deadlines in order, due organisms beaten in batches.
//!
//! It does no I/O. Specs and acknowledgements come in by one channel, jobs go out by one bounded channel an
//! organism, of which at most one is under way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::oneshot;

use super::Key;
use super::budget::Budget;
use super::life::{Begin, Life, Wanted};
use super::metrics::Metrics;
use crate::mesh::Event;
use crate::organism::beat::{self, OpenBeat};
use crate::organism::cores::Cores;
use crate::organism::{Action, Arbiter};

/// How often budgets are looked at.
const BUDGET_PERIOD: Duration = Duration::from_secs(5);

/// What the beater is told.
enum Command {
    Begin(Box<Begin>),
    Want(Key, Box<Wanted>),
    Inject(Key, Box<Event>),
    Committed(Key),
    Snapshot(Key),
    End { key: Key, flush: bool, done: oneshot::Sender<()> },
    Shutdown(oneshot::Sender<()>),
}

/// The way to the beater. Cloning is cheap; the thread ends when it is shut down.
#[derive(Clone)]
pub struct Beater(Sender<Command>);

impl Beater {
    /// Starts the beater's thread.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(cores: Cores, budget: Arc<Budget>, metrics: Arc<Metrics>) -> std::io::Result<Self> {
        let (sender, receiver) = channel();
        let arbiter = Arbiter::new(cores).map_err(std::io::Error::other)?;
        std::thread::Builder::new()
            .name("venom-beater".into())
            .spawn(move || Loop::new(arbiter, budget, metrics, receiver).run())?;
        Ok(Self(sender))
    }

    /// Starts a life.
    pub fn begin(&self, begin: Begin) {
        self.send(Command::Begin(Box::new(begin)));
    }

    /// Tells what the specs ask of an organism now.
    pub fn want(&self, key: &Key, wanted: Wanted) {
        self.send(Command::Want(key.clone(), Box::new(wanted)));
    }

    /// Hands in an injection of the organism's mesh.
    pub fn inject(&self, key: &Key, event: Event) {
        self.send(Command::Inject(key.clone(), Box::new(event)));
    }

    /// Tells that the job under way is committed.
    pub fn committed(&self, key: &Key) {
        self.send(Command::Committed(key.clone()));
    }

    /// Asks for a snapshot as soon as one may stand.
    pub fn snapshot(&self, key: &Key) {
        self.send(Command::Snapshot(key.clone()));
    }

    /// Ends a life: it stops beating and is forgotten, with `flush` when all it recorded is committed.
    pub async fn end(&self, key: &Key, flush: bool) {
        let (done, ended) = oneshot::channel();
        self.send(Command::End { key: key.clone(), flush, done });
        // An error means that there was no such life, or no beater any more.
        let _ = ended.await;
    }

    /// Stops all beating; comes back when all that was recorded is committed.
    pub async fn shutdown(&self) {
        let (done, ended) = oneshot::channel();
        self.send(Command::Shutdown(done));
        let _ = ended.await;
    }

    fn send(&self, command: Command) {
        // A beater that is gone has been shut down.
        let _ = self.0.send(command);
    }
}

struct Loop {
    arbiter: Arbiter,
    budget: Arc<Budget>,
    metrics: Arc<Metrics>,
    commands: Receiver<Command>,
    lives: BTreeMap<Key, Life>,
    /// When each life has to be looked at; one item a life.
    schedule: BTreeSet<(Instant, Key)>,
    scheduled: BTreeMap<Key, Instant>,
    ending: BTreeMap<Key, oneshot::Sender<()>>,
    shutdown: Option<oneshot::Sender<()>>,
    budget_due: Instant,
}

impl Loop {
    fn new(
        arbiter: Arbiter,
        budget: Arc<Budget>,
        metrics: Arc<Metrics>,
        commands: Receiver<Command>,
    ) -> Self {
        Self {
            arbiter,
            budget,
            metrics,
            commands,
            lives: BTreeMap::new(),
            schedule: BTreeSet::new(),
            scheduled: BTreeMap::new(),
            ending: BTreeMap::new(),
            shutdown: None,
            budget_due: Instant::now() + BUDGET_PERIOD,
        }
    }

    /// 1. Take in what was told. 2. Beat whoever is due. 3. Hand over what is to be committed.
    /// 4. Sleep until the next deadline or command.
    fn run(mut self) {
        loop {
            while let Ok(command) = self.commands.try_recv() {
                self.take(command);
            }
            let now = Instant::now();
            let due: Vec<Key> =
                self.schedule.iter().take_while(|(at, _)| *at <= now).map(|(_, key)| key.clone()).collect();
            self.beat(&due, now);
            for key in &due {
                self.settle(key, now);
            }
            self.adjust_budget(now);
            if self.lives.is_empty()
                && let Some(done) = self.shutdown.take()
            {
                let _ = done.send(());
                return;
            }
            let wake = self.schedule.first().map_or(self.budget_due, |(at, _)| (*at).min(self.budget_due));
            match self.commands.recv_timeout(wake.saturating_duration_since(Instant::now())) {
                Ok(command) => self.take(command),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn take(&mut self, command: Command) {
        let now = Instant::now();
        match command {
            Command::Begin(begin) => {
                let key = begin.key.clone();
                let mut life = Life::new(*begin, now);
                self.report(&key, life.steer(now, wall()));
                self.lives.insert(key.clone(), life);
                self.settle(&key, now);
                self.share();
            }
            Command::Want(key, wanted) => {
                if let Some(life) = self.lives.get_mut(&key) {
                    let outcome = life.want(*wanted, now, wall());
                    self.report(&key, outcome);
                    self.settle(&key, now);
                    self.share();
                }
            }
            Command::Inject(key, event) => {
                // For a life that has ended: its nodes offer it again to whoever comes next.
                if let Some(life) = self.lives.get_mut(&key) {
                    life.inject(*event, now);
                    self.settle(&key, now);
                }
            }
            Command::Committed(key) => {
                if let Some(life) = self.lives.get_mut(&key) {
                    life.committed();
                    self.settle(&key, now);
                }
            }
            Command::Snapshot(key) => {
                if let Some(life) = self.lives.get_mut(&key)
                    && life.runs()
                {
                    let outcome = life.snapshot(wall());
                    self.report(&key, outcome);
                    self.settle(&key, now);
                }
            }
            Command::End { key, flush: false, done } => {
                self.unschedule(&key);
                self.ending.remove(&key);
                self.lives.remove(&key);
                let _ = done.send(());
                self.share();
            }
            Command::End { key, flush: true, done } => {
                if let Some(life) = self.lives.get_mut(&key) {
                    life.end();
                    self.ending.insert(key.clone(), done);
                    self.settle(&key, now);
                }
            }
            Command::Shutdown(done) => {
                self.shutdown = Some(done);
                for key in self.lives.keys().cloned().collect::<Vec<_>>() {
                    if let Some(life) = self.lives.get_mut(&key) {
                        life.end();
                    }
                    self.settle(&key, now);
                }
            }
        }
    }

    /// One beat of every life in `due` whose deadline has come: pulses, then all cores in one pool scope,
    /// then decisions.
    fn beat(&mut self, due: &[Key], now: Instant) {
        let tempo = self.budget.tempo();
        let mut keys = Vec::with_capacity(due.len());
        let mut opened: Vec<OpenBeat> = Vec::with_capacity(due.len());
        for key in due {
            let Some(life) = self.lives.get_mut(key).filter(|life| life.runs() && life.deadline <= now)
            else {
                continue;
            };
            self.metrics.deviation(now - life.deadline);
            let missed = life.next_deadline(now, tempo);
            let wall = wall();
            if let Err(error) = life.take_in(wall) {
                tracing::error!(organism = %key, %error, "an injection was not recorded");
            }
            let Some(state) = life.state_to_beat() else {
                self.metrics.missed(missed + 1);
                continue;
            };
            self.metrics.missed(missed);
            match beat::open(state, wall) {
                Ok(open) => {
                    keys.push(key);
                    opened.push(open);
                }
                Err(error) => tracing::error!(organism = %key, %error, "no beat"),
            }
        }
        if opened.is_empty() {
            return;
        }
        let readings: Vec<_> = opened.iter().map(|open| open.input.clone()).collect();
        let flows = self.arbiter.time_wrap(readings);
        for ((key, open), flows) in keys.into_iter().zip(opened).zip(flows) {
            let Some(life) = self.lives.get_mut(key) else { continue };
            let before = life.action();
            let Some(state) = life.state_to_beat() else { continue };
            let beat = beat::close(state, open, flows);
            self.metrics.beat(beat.held());
            let outcome = life.beaten(beat, now, tempo);
            let after = life.action();
            if before != after {
                self.metrics.decided(after.unwrap_or(Action::Noop));
            }
            self.report(key, outcome);
        }
    }

    /// Commits what is due and schedules the next look at this life; forgets it when it has ended.
    fn settle(&mut self, key: &Key, now: Instant) {
        self.unschedule(key);
        let Some(life) = self.lives.get_mut(key) else { return };
        life.commit(now, &self.budget);
        if (self.shutdown.is_some() || self.ending.contains_key(key)) && life.is_flushed() {
            self.lives.remove(key);
            if let Some(done) = self.ending.remove(key) {
                let _ = done.send(());
            }
            self.share();
        } else if let Some(at) = life.due(&self.budget) {
            self.schedule.insert((at, key.clone()));
            self.scheduled.insert(key.clone(), at);
        }
    }

    fn unschedule(&mut self, key: &Key) {
        if let Some(at) = self.scheduled.remove(key) {
            self.schedule.remove(&(at, key.clone()));
        }
    }

    fn share(&self) {
        self.budget.share_among(self.lives.len() as u64);
        self.budget.ask(self.lives.values().map(Life::writes_per_second).sum());
        self.metrics.organisms(self.lives.len());
    }

    fn adjust_budget(&mut self, now: Instant) {
        if now >= self.budget_due {
            self.budget_due = now + BUDGET_PERIOD;
            self.budget.adjust(BUDGET_PERIOD.as_secs_f64());
            self.share();
            self.metrics.tempo(self.budget.tempo());
        }
    }

    fn report(&self, key: &Key, outcome: Result<(), crate::ledger::canonical::NotCanonical>) {
        if let Err(error) = outcome {
            tracing::error!(organism = %key, %error, "not recorded");
        }
    }
}

/// Seconds since 1970. A clock that steps is an ordinary event: the ledger's own time copes with it.
pub fn wall() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
