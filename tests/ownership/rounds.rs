//! How a process takes part among the replicas: the I/O of `Members::run` and `OwnLease::renew`, modelled again call by
//! call. What the lists mean is decided by the product's `Observer`.

use std::sync::Arc;
use std::time::Duration;

use venom::operator::members::view::Stated;
use venom::operator::members::{LEASE_DURATION, PERMIT_DURATION, RENEW_PERIOD};

use super::process::{Phase, Round, Written};
use super::server::{Answer, Head, Lease, Refusal, Reply, Request};
use super::world::{Op, Timer, World, seconds};

/// Upper bound on the two calls of a round: private in the product.
const ROUND_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a replica that stops goes on, so that the others see it. Private too.
const LEAVING: Duration = Duration::from_secs(2);
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

impl World {
    /// The beginning of a round: both calls go out side by side.
    pub fn tick(&mut self, at: usize, after: u64) {
        let process = &mut self.processes[at];
        if process.round.is_some() || process.rounds != after || process.phase == Phase::Left {
            return;
        }
        process.told = false;
        process.rounds += 1;
        let number = process.rounds;
        let started = process.clock(self.now);
        let deadline = self.now + ROUND_TIMEOUT.div_f64(process.rate);
        let (accepts, was_seen) =
            (process.says_it_accepts(), process.announced && process.is_permitted(self.now));
        process.round =
            Some(Round { number, started, accepts, was_seen, deadline, renewed: None, listed: None });
        let version = match process.lease {
            Written::Version(version) => Some(version),
            Written::Fresh | Written::Displaced(..) => None,
        };
        let name = process.name.clone();
        match version {
            Some(_) => {
                self.call(at, Op::Renew(number), Request::PutLease(name, version, accepts), deadline);
            }
            None => self.call(at, Op::FindLease(number), Request::GetLease(name), deadline),
        }
        self.call(at, Op::List(number), Request::ListLeases, deadline);
        for (name, version) in std::mem::take(&mut self.processes[at].expired) {
            self.call(at, Op::Expire, Request::DeleteLease(name, Some(version)), deadline);
        }
    }

    /// A call of the renewal was answered.
    pub fn renewal(&mut self, at: usize, op: &Op, answer: Answer) {
        let number = match op {
            Op::Renew(number) | Op::FindLease(number) | Op::WriteFound(number) => *number,
            _ => return,
        };
        let now = self.now;
        let process = &mut self.processes[at];
        let name = process.name.clone();
        let Some(round) = process.round.as_ref().filter(|it| it.number == number) else { return };
        let (started, deadline, accepts) = (round.started, round.deadline, round.accepts);
        if now >= deadline && answer.is_err() {
            return self.renewed(at, false);
        }
        match (op, answer) {
            (_, Ok(Reply::Written(version))) => {
                process.lease = Written::Version(version);
                self.renewed(at, true);
            }
            (Op::Renew(_), Err(Refusal::Conflict | Refusal::NotFound)) => {
                self.call(at, Op::FindLease(number), Request::GetLease(name), deadline);
            }
            (Op::FindLease(_), Ok(Reply::Lease(None))) => {
                self.call(at, Op::WriteFound(number), Request::PutLease(name, None, accepts), deadline);
            }
            (Op::FindLease(_), Ok(Reply::Lease(Some(Lease { version, process: writer, .. })))) => {
                let over = match process.lease {
                    Written::Fresh => true,
                    Written::Displaced(seen, since) => {
                        seen == version && started.saturating_sub(since) >= LEASE_DURATION
                    }
                    Written::Version(_) => false,
                };
                if writer == at || over {
                    let put = Request::PutLease(name, Some(version), accepts);
                    return self.call(at, Op::WriteFound(number), put, deadline);
                }
                if !matches!(process.lease, Written::Displaced(seen, _) if seen == version) {
                    process.lease = Written::Displaced(version, started);
                }
                self.renewed(at, false);
            }
            _ => self.renewed(at, false),
        }
    }

    fn renewed(&mut self, at: usize, renewed: bool) {
        if let Some(round) = &mut self.processes[at].round {
            round.renewed = Some(renewed);
        }
        self.end_round(at);
    }

    pub fn leases_listed(&mut self, at: usize, number: u64, answer: Answer) {
        let process = &mut self.processes[at];
        let Some(round) = process.round.as_mut().filter(|it| it.number == number) else { return };
        round.listed = Some(match answer {
            Ok(Reply::Leases(found)) => {
                process.found = found;
                true
            }
            _ => false,
        });
        self.end_round(at);
    }

    /// What follows once both calls are answered, as in `Members::run`.
    fn end_round(&mut self, at: usize) {
        let now = self.now;
        let process = &mut self.processes[at];
        let Some(Round { started, accepts, was_seen, renewed: Some(renewed), listed: Some(listed), .. }) =
            process.round
        else {
            return;
        };
        if renewed && std::mem::replace(&mut process.announced, accepts) != accepts {
            process.told = true;
        }
        let found = std::mem::take(&mut process.found);
        let answered = process.clock(now);
        let seen = listed.then(|| process.observer.observe(started, answered, renewed, &found));
        let mut lapsed = false;
        if renewed {
            lapsed = process.extend(now, started + PERMIT_DURATION);
        } else if process.is_permitted(now) && seen.as_ref().is_some_and(|seen| seen.nobody_moves) {
            process.permit = process.permit.max(started + 2 * RENEW_PERIOD);
        }
        let mut changed = false;
        if let Some(seen) = seen {
            let view = seen.view(accepts && was_seen && process.is_permitted(now));
            changed = *process.view != view;
            process.view = Arc::new(view);
        }
        if listed && renewed {
            let stated = |it: Stated| (it.identity, it.version.parse().expect("a number"));
            process.expired = process.observer.expired(started, found).into_iter().map(stated).collect();
        }
        let name = process.name.clone();
        if lapsed {
            self.note(|| format!("{name} ({at}) may beat again"));
            for organism in 0..self.uids.len() {
                self.confirm(at, organism);
            }
        }
        if changed {
            let view = self.processes[at].view.clone();
            self.note(|| format!("{name} ({at}) sees {:?}, taking {:?}", view.live(), view.owners()));
            self.reconcile_all(at);
        }
        let process = &mut self.processes[at];
        let passed = process.clock(self.now).saturating_sub(started);
        let wait = match (process.told, renewed) {
            (true, _) => Duration::ZERO,
            (false, true) => RENEW_PERIOD.saturating_sub(passed),
            (false, false) => RENEW_PERIOD / 2,
        };
        process.round = None;
        let number = process.rounds;
        self.timer(at, wait, Timer::Tick(number));
    }

    /// Says whether this replica takes organisms: a round follows at once.
    pub fn set_accepts(&mut self, at: usize, accepts: bool) {
        let process = &mut self.processes[at];
        (process.accepts, process.told) = (accepts, true);
        let number = process.rounds;
        self.timer(at, Duration::ZERO, Timer::Tick(number));
    }

    /// SIGTERM: takes no more organisms, and lets the others see it.
    pub fn leave(&mut self, at: usize) {
        let process = &mut self.processes[at];
        if !matches!(process.phase, Phase::Serving) {
            return;
        }
        process.phase = Phase::Leaving;
        let wait = if process.view.has_others() { LEAVING } else { Duration::ZERO };
        let name = process.name.clone();
        self.note(|| format!("{name} ({at}) leaves"));
        self.set_accepts(at, false);
        self.timer(at, wait, Timer::Leaving);
    }

    /// Gives everything back, side by side.
    pub fn stop(&mut self, at: usize) {
        self.processes[at].phase = Phase::Stopping;
        self.timer(at, STOP_TIMEOUT, Timer::Stopped);
        for organism in 0..self.uids.len() {
            self.end_for_stop(at, organism);
        }
        self.look_whether_stopped(at);
    }

    pub fn look_whether_stopped(&mut self, at: usize) {
        let process = &self.processes[at];
        let left = process.organisms.iter().any(|it| it.actor.is_some());
        if process.phase == Phase::Stopping && !left {
            self.stopped(at);
        }
    }

    /// Nothing is held any more, or there is no more time: the Lease goes, then the process.
    pub fn stopped(&mut self, at: usize) {
        let process = &mut self.processes[at];
        if process.phase != Phase::Stopping {
            return;
        }
        // The task that renews has ended; its calls are not waited for.
        (process.phase, process.permit, process.round) = (Phase::Left, Duration::ZERO, None);
        for organism in &mut process.organisms {
            organism.actor = None;
        }
        let (name, deadline) = (process.name.clone(), self.call_deadline(at));
        self.call(at, Op::Leave, Request::DeleteLease(name, None), deadline);
    }

    /// All that it needs to know is listed: it takes organisms from now on.
    pub fn heads_listed(&mut self, at: usize, answer: Answer) {
        let Ok(Reply::Heads(heads)) = answer else {
            return self.timer(at, seconds(0.8), Timer::Heads);
        };
        let process = &mut self.processes[at];
        for (organism, head) in process.organisms.iter_mut().zip(heads) {
            // The watch may have shown a newer one.
            let version = |it: &Option<Head>| it.as_ref().map(|it| it.version);
            if version(&organism.seen) < version(&head) {
                organism.seen = head;
            }
        }
        process.phase = Phase::Serving;
        self.set_accepts(at, true);
        self.reconcile_all(at);
    }
}
