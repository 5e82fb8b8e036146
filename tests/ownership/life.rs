//! The lives of organisms: recovery, beats, commits and the mark at the end, modelled again after actor and committer.
//! That an organism may be taken over at all is decided by the product's `may_take`.
//!
//! A commit is its second step here, the write of the head: the segment before it commits nothing.

use std::time::Duration;

use venom::operator::members::transfer::{Why, is_held_elsewhere, may_take};

use super::process::{End, Life};
use super::reconcile::holder;
use super::server::{Answer, Head, Refusal, Reply, Request};
use super::world::{Op, Timer, World, seconds};

/// Wait before the next recovery after a lost race for the head, and after any other failure; doubled each time.
const RECOVERY_CONFLICT: Duration = Duration::from_millis(200);
const FIRST_WAIT: Duration = Duration::from_secs(5);
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// Wait before a failed write of the head is tried again; doubled each time. And while etcd is full.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(5);
const FULL_RETRY: Duration = Duration::from_secs(10);
/// Wait before it is read again whether an organism is still held.
const CONFIRM_RETRY: Duration = Duration::from_secs(1);
/// Beats that may wait for their commit.
const MOST_PENDING: u64 = 1_000;

impl World {
    /// Reads the head of an organism that is to be taken over.
    pub fn recover(&mut self, at: usize, organism: usize, id: u64) {
        if self.processes[at].actor(organism, id).is_some_and(|it| it.life.is_none()) {
            let deadline = self.call_deadline(at);
            self.call(at, Op::Recover(organism, id), Request::GetHead(organism), deadline);
        }
    }

    /// Writes it with the next epoch, if the product allows it.
    pub fn take_over(&mut self, at: usize, organism: usize, id: u64, answer: Answer) {
        if self.processes[at].actor(organism, id).is_none() {
            return;
        }
        let Ok(Reply::Head(found)) = answer else {
            return self.recovery_failed(at, organism, id, answer.is_err_and(|it| it == Refusal::Conflict));
        };
        let process = &self.processes[at];
        let permitted = process.is_permitted(self.now);
        let written = process.is_written(self.now, organism);
        let may_take = |head: &Head| match may_take(&process.view, holder(head)) {
            Some(Why::Expired) => !written,
            why => why.is_some(),
        };
        if !permitted || found.as_ref().is_some_and(|head| !may_take(head)) {
            return self.lose(at, organism);
        }
        let holder = process.name.clone();
        let version = found.as_ref().map(|it| it.version);
        let (epoch, size) = found.map_or((1, 0), |it| (it.epoch + 1, it.size));
        let bytes = self.number();
        let next = Head { version: 0, epoch, holder, released: false, size, life: id, bytes };
        let deadline = self.call_deadline(at);
        let put = Request::PutHead(organism, version, next.clone());
        self.call(at, Op::TakeOver(organism, id, next), put, deadline);
    }

    pub fn taken_over(&mut self, at: usize, organism: usize, id: u64, head: Head, answer: &Answer) {
        let version = match answer {
            Ok(Reply::Written(version)) => *version,
            _ => {
                let conflict = matches!(answer, Err(Refusal::Conflict));
                return self.recovery_failed(at, organism, id, conflict);
            }
        };
        let began = self.processes[at].term;
        let Some(actor) = self.processes[at].actor(organism, id) else { return };
        let head = Head { version, ..head };
        actor.failures = 0;
        actor.life = Some(Life { head, began, pending: 0, next: None, retries: 0, end: None });
        let soon = seconds(self.rng.f64() * 0.1);
        self.timer(at, soon, Timer::Beat(organism, id));
    }

    fn recovery_failed(&mut self, at: usize, organism: usize, id: u64, conflict: bool) {
        let Some(actor) = self.processes[at].actor(organism, id) else { return };
        let wait = if conflict {
            RECOVERY_CONFLICT
        } else {
            FIRST_WAIT.saturating_mul(1 << actor.failures.min(10)).min(LONGEST_WAIT)
        };
        actor.failures += 1;
        self.timer(at, wait, Timer::Recover(organism, id));
    }

    /// The deadline of a beat. Outside of its tenure an organism skips it.
    pub fn beat(&mut self, at: usize, organism: usize, id: u64) -> Result<(), String> {
        let process = &mut self.processes[at];
        let valid = process.has_tenure(self.now, organism);
        let Some(life) = process.actor(organism, id).and_then(|it| it.life.as_mut()) else { return Ok(()) };
        if life.end.is_some() {
            return Ok(());
        }
        if valid && life.pending < MOST_PENDING {
            life.pending += 1;
            let idle = life.next.is_none();
            self.check_beat(at, organism)?;
            if idle {
                self.write_next(at, organism);
            }
        }
        self.timer(at, self.pace, Timer::Beat(organism, id));
        Ok(())
    }

    /// Writes what is pending, or the mark at the end. An actor whose end has nothing left to write is gone.
    pub fn write_next(&mut self, at: usize, organism: usize) {
        let bytes = self.number();
        let Some(actor) = self.processes[at].organisms[organism].actor.as_mut() else { return };
        let id = actor.id;
        let Some(life) = actor.life.as_mut() else { return };
        let head = &life.head;
        let next = match life.end {
            _ if head.released => None,
            _ if life.pending > 0 => Some(Head { size: head.size + life.pending, bytes, ..head.clone() }),
            Some(End::Released | End::Stop) => {
                Some(Head { epoch: head.epoch + 1, released: true, bytes, ..head.clone() })
            }
            Some(End::Last) | None => None,
        };
        match next {
            Some(next) => {
                (life.next, life.retries) = (Some(next), 0);
                self.write(at, organism, id);
            }
            None if life.end.is_some() => self.remove_actor(at, organism),
            None => {}
        }
    }

    pub fn write(&mut self, at: usize, organism: usize, id: u64) {
        let Some(life) = self.processes[at].actor(organism, id).and_then(|it| it.life.as_ref()) else {
            return;
        };
        let (version, Some(next)) = (life.head.version, life.next.clone()) else { return };
        let deadline = self.call_deadline(at);
        self.call(at, Op::Commit(organism, id), Request::PutHead(organism, Some(version), next), deadline);
    }

    /// A write of the head was answered. Where it failed, only the head can tell what has happened.
    pub fn written(&mut self, at: usize, organism: usize, id: u64, answer: &Answer) {
        if self.processes[at].actor(organism, id).is_none() {
            return;
        }
        match answer {
            Ok(Reply::Written(version)) => self.committed(at, organism, *version),
            Err(refusal) => {
                let deadline = self.call_deadline(at);
                self.call(at, Op::Look(organism, id, *refusal), Request::GetHead(organism), deadline);
            }
            Ok(_) => {}
        }
    }

    /// As `after_failed_put`.
    pub fn looked(&mut self, at: usize, organism: usize, id: u64, why: Refusal, answer: Answer) {
        let full = self.server.full;
        let process = &mut self.processes[at];
        let name = process.name.clone();
        let Some(actor) = process.actor(organism, id) else { return };
        let Some(life) = actor.life.as_mut() else { return };
        let Some(next) = life.next.clone() else { return };
        if let Ok(Reply::Head(Some(found))) = answer {
            if found.bytes == next.bytes {
                return self.committed(at, organism, found.version);
            }
            if found.epoch > life.head.epoch {
                return self.fenced(at, organism, found.holder == name);
            }
            life.head.version = found.version;
            if found.bytes == life.head.bytes && why == Refusal::Conflict {
                return self.write(at, organism, id);
            }
        }
        let wait = match why {
            Refusal::Refused if full => FULL_RETRY,
            _ => FIRST_RETRY.saturating_mul(1 << life.retries.min(10)).min(LONGEST_RETRY),
        };
        life.retries += 1;
        self.timer(at, wait, Timer::Write(organism, id));
    }

    fn committed(&mut self, at: usize, organism: usize, version: u64) {
        let Some(actor) = self.processes[at].organisms[organism].actor.as_mut() else { return };
        let Some(life) = actor.life.as_mut() else { return };
        let Some(next) = life.next.take() else { return };
        life.pending -= next.size - life.head.size;
        self.checks.acknowledged.push((organism, next.bytes));
        life.head = Head { version, ..next };
        self.write_next(at, organism);
    }

    /// Another writer holds the ledger: this life is over. Under our own name the ledger is recovered again.
    fn fenced(&mut self, at: usize, organism: usize, own: bool) {
        let process = &mut self.processes[at];
        let name = process.name.clone();
        let Some(actor) = process.organisms[organism].actor.as_mut() else { return };
        let ends = actor.life.as_ref().is_some_and(|it| it.end.is_some());
        if ends || !own {
            self.note(|| format!("{name} ({at}) is fenced off {organism}"));
            return self.lose(at, organism);
        }
        (actor.life, actor.failures) = (None, 0);
        let id = actor.id;
        self.timer(at, FIRST_WAIT, Timer::Recover(organism, id));
    }

    /// The permit had lapsed: is the organism still held?
    pub fn confirm(&mut self, at: usize, organism: usize) {
        let process = &self.processes[at];
        let Some(actor) = &process.organisms[organism].actor else { return };
        let op = Op::Confirm(organism, actor.id, process.term);
        let deadline = self.call_deadline(at);
        self.call(at, op, Request::GetHead(organism), deadline);
    }

    pub fn confirmed(&mut self, at: usize, organism: usize, id: u64, term: u64, answer: Answer) {
        let process = &mut self.processes[at];
        let (current, view) = (process.term, process.view.clone());
        // A newer term has begun another confirmation.
        let Some(actor) = process.actor(organism, id).filter(|_| term == current) else { return };
        let epoch = actor.life.as_ref().map(|it| it.head.epoch);
        let Ok(Reply::Head(head)) = answer else {
            return self.timer(at, CONFIRM_RETRY, Timer::Confirm(organism, id));
        };
        let lost = |head: Head| match epoch {
            Some(epoch) => head.epoch != epoch,
            None => is_held_elsewhere(&view, holder(&head)),
        };
        if head.is_some_and(lost) {
            return self.lose(at, organism);
        }
        actor.confirmed = term;
    }
}
