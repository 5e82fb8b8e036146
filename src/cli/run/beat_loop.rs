//! The beat loop of one organism: drives a [`runtime::Engine`](crate::runtime::Engine) by this machine's clock.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::super::Error;
use super::super::output::complain;
use super::committer::Committer;
use super::progress::Progress;
use super::tally::Tally;
use crate::mesh::{InjectionEvent, OutcomeSender};
use crate::organism::Arbiter;
use crate::organism::cores::Cores;
use crate::runtime::{CommitIntervals, Engine, EngineError, MAX_PENDING};

/// Longest wait for a message: nothing is due later than this.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// The pace is the spec's: no budget slows an organism without a cluster.
const NO_SLOWDOWN: f64 = 1.0;

/// What wakes the loop before its deadline.
pub(super) enum Message {
    /// A signal asks the process to stop.
    Stop,
    /// A node of the mesh has taken an injection in.
    Inject(InjectionEvent),
    /// The batch in flight is committed.
    Committed,
    /// The committer has ended, because it failed.
    CommitterEnded,
}

/// The loop's parts.
pub(super) struct BeatLoop<'a> {
    pub(super) engine: &'a mut Engine,
    pub(super) committer: &'a Committer,
    pub(super) messages: &'a Receiver<Message>,
    /// Where outcomes of injections go; none without a mesh.
    pub(super) outcomes: Option<OutcomeSender>,
    pub(super) tally: &'a mut Tally,
}

impl BeatLoop<'_> {
    /// Beats until the engine has completed its beats or a stop is asked for, and until everything recorded is
    /// committed; or until the committer ends.
    pub(super) fn run(mut self) -> Result<(), Error> {
        let arbiter = Arbiter::new(Cores::default())
            .map_err(|error| Error::Failed(format!("threads for the cores: {error}")))?;
        let mut progress = Progress::new();
        let started = Instant::now();
        self.engine.start(started, unix_seconds()).map_err(failed)?;
        while self.engine.is_running() || !self.engine.is_flushed() {
            let now = Instant::now();
            if !self.engine.is_running() {
                // The beats asked for are made: what is pending is due at once.
                self.engine.end(unix_seconds()).map_err(failed)?;
            }
            // What is recorded before the first beat is a batch of its own.
            let interval = CommitIntervals::unlimited(self.engine.desired().commit_interval);
            if let Some(batch) = self.engine.take_batch(now, interval)
                && self.committer.commit(batch).is_err()
            {
                break;
            }
            if self.engine.is_running() && self.engine.deadline() <= now {
                self.beat(&arbiter, now)?;
                self.tally.elapsed = started.elapsed();
                if let Some(state) = self.engine.state() {
                    progress.show(self.tally, state);
                }
            }
            let due = self.engine.due(interval).unwrap_or(now + LONGEST_WAIT);
            if !self.receive(due.saturating_duration_since(Instant::now())) {
                break;
            }
        }
        if let Some(state) = self.engine.state() {
            progress.end(self.tally, state);
        }
        Ok(())
    }

    /// Opens, runs and closes the beat that is due.
    fn beat(&mut self, arbiter: &Arbiter, now: Instant) -> Result<(), Error> {
        let opened = self.engine.open_beat(now, unix_seconds(), NO_SLOWDOWN, MAX_PENDING).map_err(failed)?;
        self.tally.missed += opened.missed;
        if let Some(reason) = opened.blocked {
            complain(&format!("an injection waits: {reason}"));
        }
        if let Some(open) = opened.open {
            let flows = arbiter.time_wrap(vec![open.input.clone()]).remove(0);
            if let Some(beat) = self.engine.close_beat(open, flows, now).map_err(failed)? {
                self.tally.count(beat);
            }
        }
        self.tally.entries = self.engine.size();
        self.send_outcomes();
        Ok(())
    }

    /// Handles what has arrived, waiting at most `wait` for the first message. Returns whether the loop goes on.
    fn receive(&mut self, wait: Duration) -> bool {
        let mut next = match self.messages.recv_timeout(wait) {
            Ok(message) => Some(message),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return false,
        };
        while let Some(message) = next {
            match message {
                // The engine ends in any case.
                Message::Stop => drop(self.engine.end(unix_seconds())),
                Message::Inject(event) => self.engine.inject(event, Instant::now()),
                Message::Committed => {
                    self.engine.acknowledge();
                    self.send_outcomes();
                }
                Message::CommitterEnded => return false,
            }
            next = self.messages.try_recv().ok();
        }
        true
    }

    fn send_outcomes(&mut self) {
        for (event, outcome) in self.engine.take_outcomes() {
            if let Some(outcomes) = &self.outcomes {
                outcomes.send(event, outcome);
            }
        }
    }
}

fn failed(error: EngineError) -> Error {
    Error::Failed(format!("{error}; check the parameters"))
}

fn unix_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
