//! How a process follows the steps: the reconciler of Organisms, modelled again. The steps are the product's.

use std::time::Duration;

use venom::operator::members::transfer::{Holder, Step, Why, is_held_elsewhere, step};

use super::process::{Actor, End, Phase};
use super::server::{Answer, Head, Refusal, Reply, Request};
use super::world::{Op, Timer, World};

/// When an organism that is given back, or has to be given back by another replica, is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// Wait before a reconciliation that has failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

pub fn holder(head: &Head) -> Holder<'_> {
    Holder { identity: &head.holder, released: head.released }
}

impl World {
    /// What the watch shows of a head: whoever may have to act looks again.
    pub fn see(&mut self, at: usize, organism: usize, head: Head) {
        let clock = self.processes[at].clock(self.now);
        let known = &mut self.processes[at].organisms[organism];
        if known.seen.as_ref().is_some_and(|it| it.version >= head.version) {
            return;
        }
        (known.seen, known.changed) = (Some(head), Some(clock));
        self.reconcile(at, organism);
    }

    pub fn reconcile_all(&mut self, at: usize) {
        for organism in 0..self.uids.len() {
            self.reconcile(at, organism);
        }
    }

    /// One reconciliation of an organism at a time; what comes meanwhile makes it look again.
    pub fn reconcile(&mut self, at: usize, organism: usize) {
        let written = self.processes[at].is_written(self.now, organism);
        let process = &mut self.processes[at];
        // Before its lists have arrived and while it stops nothing is reconciled.
        if !matches!(process.phase, Phase::Serving | Phase::Leaving) {
            return;
        }
        let known = &mut process.organisms[organism];
        if std::mem::replace(&mut known.busy, true) {
            known.again = true;
            return;
        }
        let runs = known.actor.is_some();
        let head = known.seen.as_ref().map(holder);
        let step = match step(&process.view, &self.uids[organism], runs, head) {
            Step::Take(_) | Step::Disown if !process.is_permitted(self.now) => Step::Wait,
            Step::Take(Why::Expired) if written => Step::Wait,
            step => step,
        };
        match step {
            Step::Take(why) => {
                let name = process.name.clone();
                self.note(|| format!("{name} ({at}) is to take {organism}: {}", why.as_str()));
                self.start_actor(at, organism);
                self.reconciled(at, organism, None);
            }
            Step::Lose => self.read_head(at, organism, Op::IsLost(organism)),
            Step::Disown => self.read_head(at, organism, Op::Disown(organism)),
            Step::Release => self.end_actor(at, organism, End::Released),
            Step::Wait => self.reconciled(at, organism, Some(LOOK_AGAIN)),
            Step::Keep | Step::Leave => self.reconciled(at, organism, None),
        }
    }

    fn read_head(&mut self, at: usize, organism: usize, op: Op) {
        let deadline = self.call_deadline(at);
        self.call(at, op, Request::GetHead(organism), deadline);
    }

    /// The end of a reconciliation, and when the next one is due of itself.
    pub fn reconciled(&mut self, at: usize, organism: usize, again: Option<Duration>) {
        let known = &mut self.processes[at].organisms[organism];
        known.busy = false;
        if let Some(after) = again {
            self.timer(at, after, Timer::Reconcile(organism));
        }
        let known = &mut self.processes[at].organisms[organism];
        if std::mem::take(&mut known.again) {
            self.reconcile(at, organism);
        }
    }

    /// The watch has shown another holder: the head itself decides.
    pub fn whether_lost(&mut self, at: usize, organism: usize, answer: Answer) {
        let Ok(Reply::Head(head)) = answer else {
            return self.reconciled(at, organism, Some(RETRY));
        };
        let process = &mut self.processes[at];
        if head.is_some_and(|head| is_held_elsewhere(&process.view, holder(&head))) {
            self.remove_actor(at, organism);
        }
        self.reconciled(at, organism, Some(LOOK_AGAIN));
    }

    /// Gives back what an earlier process of this name has held.
    pub fn disown(&mut self, at: usize, organism: usize, answer: Answer) {
        let Ok(Reply::Head(head)) = answer else {
            return self.reconciled(at, organism, Some(RETRY));
        };
        let name = self.processes[at].name.clone();
        let Some(head) = head.filter(|head| !head.released && head.holder == name) else {
            return self.reconciled(at, organism, None);
        };
        let bytes = self.number();
        let (epoch, life) = (head.epoch + 1, 0);
        let next = Head { epoch, life, bytes, released: true, ..head.clone() };
        let deadline = self.call_deadline(at);
        let put = Request::PutHead(organism, Some(head.version), next);
        self.call(at, Op::Disowned(organism), put, deadline);
    }

    pub fn disowned(&mut self, at: usize, organism: usize, answer: &Answer) {
        let again = match answer {
            Ok(_) | Err(Refusal::Conflict) => Some(LOOK_AGAIN),
            Err(_) => Some(RETRY),
        };
        self.reconciled(at, organism, again);
    }

    fn start_actor(&mut self, at: usize, organism: usize) {
        let id = self.number();
        let process = &mut self.processes[at];
        let confirmed = process.term;
        process.organisms[organism].actor = Some(Actor { id, confirmed, failures: 0, life: None });
        self.recover(at, organism, id);
    }

    /// Ends an actor in order, as far as it has begun.
    pub fn end_actor(&mut self, at: usize, organism: usize, end: End) {
        let Some(actor) = &mut self.processes[at].organisms[organism].actor else { return };
        let id = actor.id;
        let Some(life) = actor.life.as_mut() else {
            self.remove_actor(at, organism);
            if end == End::Released {
                self.reconciled(at, organism, Some(LOOK_AGAIN));
            }
            return;
        };
        if life.end.is_some() {
            return;
        }
        life.end = Some(end);
        let writes = life.next.is_some();
        let limit = match end {
            End::Released => Duration::from_secs(7),
            End::Stop | End::Last => Duration::from_secs(15),
        };
        self.timer(at, limit, Timer::EndLimit(organism, id));
        if !writes {
            self.write_next(at, organism);
        }
    }

    pub fn end_for_stop(&mut self, at: usize, organism: usize) {
        let end = if self.processes[at].view.has_others() { End::Stop } else { End::Last };
        self.end_actor(at, organism, end);
    }

    /// An actor has ended by itself because another replica has the organism: a moment later that is looked at again.
    pub fn lose(&mut self, at: usize, organism: usize) {
        self.remove_actor(at, organism);
        self.timer(at, RETRY, Timer::Reconcile(organism));
    }

    /// An actor is gone. A reconciliation that has waited for that goes on.
    pub fn remove_actor(&mut self, at: usize, organism: usize) {
        let process = &mut self.processes[at];
        let Some(actor) = process.organisms[organism].actor.take() else { return };
        let released = actor.life.is_some_and(|it| it.end == Some(End::Released));
        let name = process.name.clone();
        self.note(|| format!("{name} ({at}) no longer runs {organism}"));
        if released {
            self.reconciled(at, organism, Some(LOOK_AGAIN));
        }
        self.look_whether_stopped(at);
    }
}
