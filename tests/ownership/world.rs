//! Simulated time, the network between processes and API server, and the queue of all that is to come.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;

use super::checks::Checks;
use super::process::{Phase, Process};
use super::schedule::Fault;
use super::server::{Answer, Head, Refusal, Request, Server};

/// Events that a failing seed prints.
const HISTORY: usize = 60;

/// What a process waits for.
#[derive(Clone, Debug)]
pub enum Op {
    /// The calls of a round, by its number.
    Renew(u64),
    FindLease(u64),
    WriteFound(u64),
    List(u64),
    /// Deletes a Lease that nobody renews. Its answer says nothing.
    Expire,
    Leave,
    /// The first list of heads.
    Heads,
    /// A reconciliation reads a head: was it taken over, or is it still named after an earlier process?
    IsLost(usize),
    Disown(usize),
    Disowned(usize),
    /// A recovery, by organism and actor.
    Recover(usize, u64),
    TakeOver(usize, u64, Head),
    Commit(usize, u64),
    /// Reads what a failed write of the head has come to.
    Look(usize, u64, Refusal),
    Confirm(usize, u64, u64),
}

/// What a process does after a while.
pub enum Timer {
    /// The next round, after that of this number.
    Tick(u64),
    Heads,
    Leaving,
    Stopped,
    Reconcile(usize),
    Beat(usize, u64),
    Recover(usize, u64),
    Write(usize, u64),
    Confirm(usize, u64),
    EndLimit(usize, u64),
}

enum Event {
    Reach { process: usize, op: Op, request: Request, deadline: Duration, answered: bool },
    Answer { process: usize, op: Op, answer: Answer, deadline: Duration },
    Timer(usize, Timer),
    Watch(usize, usize, Head),
    Fault(Fault),
}

/// How calls fare.
#[derive(Clone, Copy, Debug, Default)]
pub struct Network {
    /// Shares of calls that are lost before or after they took effect, or slow.
    pub lost: f64,
    pub slow: f64,
    /// How slow.
    pub slowest: f64,
}

pub struct World {
    pub rng: Rng,
    pub now: Duration,
    /// When somebody has deleted Leases by hand.
    pub leases_deleted: Duration,
    pub network: Network,
    pub server: Server,
    pub processes: Vec<Process>,
    pub uids: Vec<String>,
    /// Time between two beats.
    pub pace: Duration,
    pub checks: Checks,
    queue: BTreeMap<(Duration, u64), Event>,
    order: u64,
    history: Option<VecDeque<String>>,
}

pub fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

impl World {
    pub fn new(seed: u64, organisms: usize, remember: bool) -> Self {
        let mut rng = Rng::with_seed(seed);
        let uids = (0..organisms).map(|_| format!("{:032x}", rng.u128(..))).collect();
        Self {
            now: Duration::ZERO,
            leases_deleted: Duration::ZERO,
            network: Network::default(),
            server: Server::new(organisms),
            processes: vec![],
            uids,
            pace: seconds(0.5 + rng.f64() * 0.5),
            checks: Checks::new(organisms),
            queue: BTreeMap::new(),
            order: 0,
            history: remember.then(VecDeque::new),
            rng,
        }
    }

    /// Remembers what happens, where that is going to be printed.
    pub fn note(&mut self, event: impl FnOnce() -> String) {
        if let Some(history) = &mut self.history {
            if history.len() == HISTORY {
                history.pop_front();
            }
            history.push_back(format!("{:9.3} s  {}", self.now.as_secs_f64(), event()));
        }
    }

    pub fn history(&self) -> Vec<String> {
        self.history.iter().flatten().cloned().collect()
    }

    fn push(&mut self, at: Duration, event: Event) {
        self.order += 1;
        self.queue.insert((at, self.order), event);
    }

    /// A number that nothing else in this world has.
    pub fn number(&mut self) -> u64 {
        self.order += 1;
        self.order
    }

    pub fn fault(&mut self, at: Duration, fault: Fault) {
        self.push(at, Event::Fault(fault));
    }

    /// Wakes a process after this time by its own clock.
    pub fn timer(&mut self, process: usize, after: Duration, timer: Timer) {
        let at = self.now + after.div_f64(self.processes[process].rate);
        self.push(at, Event::Timer(process, timer));
    }

    /// Sends a request. It is answered by `deadline` at the latest, if only with a time-out.
    pub fn call(&mut self, process: usize, op: Op, request: Request, deadline: Duration) {
        let late = |op, answer| Event::Answer { process, op, answer, deadline };
        if self.processes[process].cut && self.rng.bool() {
            // Nobody listens: that shows at once.
            let soon = self.now + seconds(0.005);
            return self.push(soon.min(deadline), late(op, Err(Refusal::Refused)));
        }
        let lost = self.rng.f64() < self.network.lost;
        if lost && self.rng.bool() {
            return self.push(deadline, late(op, Err(Refusal::TimeOut)));
        }
        // A request that nobody waits for any more may still arrive, for a while.
        let at = (self.now + self.delay()).min(deadline + seconds(1.0));
        let late_request = at >= deadline;
        if late_request {
            self.push(deadline, late(op.clone(), Err(Refusal::TimeOut)));
        }
        self.push(at, Event::Reach { process, op, request, deadline, answered: !lost && !late_request });
    }

    /// When a call under the product's own time-out ends, by the clock of this process.
    pub fn call_deadline(&self, process: usize) -> Duration {
        self.now + venom::store::CALL_TIMEOUT.div_f64(self.processes[process].rate)
    }

    pub fn delay(&mut self) -> Duration {
        let slow = self.rng.f64() < self.network.slow;
        let most = if slow { self.network.slowest } else { 0.02 };
        seconds(0.001 + most * self.rng.f64())
    }

    /// Runs until then.
    pub fn run_until(&mut self, end: Duration) -> Result<(), String> {
        while let Some(next) = self.queue.first_entry() {
            if next.key().0 > end {
                break;
            }
            let ((at, _), event) = next.remove_entry();
            self.now = at;
            self.handle(event)?;
        }
        self.now = end;
        Ok(())
    }

    fn handle(&mut self, event: Event) -> Result<(), String> {
        let process = match &event {
            // The request of a process that is gone may still arrive.
            Event::Reach { .. } | Event::Fault(_) => None,
            Event::Answer { process, .. } | Event::Timer(process, _) | Event::Watch(process, ..) => {
                Some(*process)
            }
        };
        if let Some(at) = process {
            if !self.processes[at].is_up() {
                return Ok(());
            }
            if self.processes[at].is_paused(self.now) {
                let later = self.processes[at].paused_until + seconds(self.rng.f64() * 0.02);
                self.push(later, event);
                return Ok(());
            }
        }
        match event {
            Event::Reach { process, op, request, deadline, answered } => {
                self.reach(process, op, request, deadline, answered)?;
            }
            Event::Answer { process, op, answer, deadline } => {
                if self.processes[process].cut && answer.is_ok() && self.now < deadline {
                    let answer = Err(Refusal::TimeOut);
                    self.push(deadline, Event::Answer { process, op, answer, deadline });
                } else {
                    self.answered(process, op, answer);
                }
            }
            Event::Timer(process, timer) => self.due(process, timer)?,
            Event::Watch(process, organism, head) => {
                if self.processes[process].cut {
                    // The watch is made again some time after the connection.
                    let later = self.now + seconds(0.5);
                    self.push(later, Event::Watch(process, organism, head));
                } else {
                    self.see(process, organism, head);
                }
            }
            Event::Fault(fault) => self.strike(fault),
        }
        Ok(())
    }

    /// A request takes effect, unless the process was cut off meanwhile.
    fn reach(
        &mut self,
        process: usize,
        op: Op,
        request: Request,
        deadline: Duration,
        answered: bool,
    ) -> Result<(), String> {
        let (mut answer, mut answered) = (Err(Refusal::TimeOut), answered);
        if self.processes[process].cut {
            answered = false;
        } else {
            let put = match &request {
                Request::PutHead(organism, ..) => Some(*organism),
                _ => None,
            };
            answer = self.server.handle(self.now, process, request)?;
            if let Some(organism) = put.filter(|_| answer.is_ok()) {
                self.tell(organism);
            }
        }
        let at = self.now + self.delay();
        let in_time = answered && at < deadline;
        let (at, answer) =
            if in_time { (at, answer) } else { (deadline.max(self.now), Err(Refusal::TimeOut)) };
        self.push(at, Event::Answer { process, op, answer, deadline });
        Ok(())
    }

    /// The watches show what a head says of its holder, where that has changed.
    fn tell(&mut self, organism: usize) {
        if self.server.changed[organism] != self.now {
            return;
        }
        let Some(head) = self.server.heads[organism].clone() else { return };
        self.note(|| {
            format!("head {organism}: epoch {} {} released={}", head.epoch, head.holder, head.released)
        });
        for process in 0..self.processes.len() {
            let at = self.now + self.delay();
            self.push(at, Event::Watch(process, organism, head.clone()));
        }
    }

    fn answered(&mut self, at: usize, op: Op, answer: Answer) {
        match op {
            Op::Renew(_) | Op::FindLease(_) | Op::WriteFound(_) => self.renewal(at, &op, answer),
            Op::List(number) => self.leases_listed(at, number, answer),
            Op::Expire => {}
            Op::Leave => self.processes[at].phase = Phase::Gone,
            Op::Heads => self.heads_listed(at, answer),
            Op::IsLost(organism) => self.whether_lost(at, organism, answer),
            Op::Disown(organism) => self.disown(at, organism, answer),
            Op::Disowned(organism) => self.disowned(at, organism, &answer),
            Op::Recover(organism, id) => self.take_over(at, organism, id, answer),
            Op::TakeOver(organism, id, head) => self.taken_over(at, organism, id, head, &answer),
            Op::Commit(organism, id) => self.written(at, organism, id, &answer),
            Op::Look(organism, id, why) => self.looked(at, organism, id, why, answer),
            Op::Confirm(organism, id, term) => self.confirmed(at, organism, id, term, answer),
        }
    }

    fn due(&mut self, at: usize, timer: Timer) -> Result<(), String> {
        match timer {
            Timer::Tick(after) => self.tick(at, after),
            Timer::Heads => {
                let deadline = self.call_deadline(at);
                self.call(at, Op::Heads, Request::ListHeads, deadline);
            }
            Timer::Leaving => self.stop(at),
            Timer::Stopped => self.stopped(at),
            Timer::Reconcile(organism) => self.reconcile(at, organism),
            Timer::Beat(organism, id) => self.beat(at, organism, id)?,
            Timer::Recover(organism, id) => self.recover(at, organism, id),
            Timer::Write(organism, id) => self.write(at, organism, id),
            Timer::Confirm(organism, id) => {
                if self.processes[at].actor(organism, id).is_some() {
                    self.confirm(at, organism);
                }
            }
            Timer::EndLimit(organism, id) => {
                if self.processes[at].actor(organism, id).is_some_and(|it| it.life.is_some()) {
                    self.remove_actor(at, organism);
                }
            }
        }
        Ok(())
    }

    /// A process that starts now.
    pub fn start(&mut self, name: &str) -> usize {
        let rate = 0.95 + 0.1 * self.rng.f64();
        let offset = seconds(self.rng.f64() * 1e6);
        let process = Process::new(Arc::from(name), rate, offset, self.uids.len());
        self.processes.push(process);
        let at = self.processes.len() - 1;
        self.note(|| format!("{name} starts as process {at}"));
        self.timer(at, Duration::ZERO, Timer::Tick(0));
        let listed = seconds(0.1 + self.rng.f64());
        self.timer(at, listed, Timer::Heads);
        at
    }

    /// kill -9.
    pub fn kill(&mut self, process: usize) {
        self.processes[process].phase = Phase::Gone;
        let name = self.processes[process].name.clone();
        self.note(|| format!("{name} ({process}) is killed"));
    }

    /// Processes that run, or are paused.
    pub fn up(&self) -> Vec<usize> {
        (0..self.processes.len()).filter(|at| self.processes[*at].is_up()).collect()
    }
}
