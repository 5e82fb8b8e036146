//! The injections whose outcome is known, and when they are forgotten.

use super::{Gossip, MonotonicTime, Output, Settled};
use crate::mesh::event::{InjectionEvent, InjectionId, Outcome};
use crate::mesh::shares::settled_bytes;

/// Refused injections that a collector remembers, so that a copy of one is not handed to the ledger again. It may
/// forget them: a copy is then refused anew.
const MAX_REFUSED: usize = 1_000;

impl Gossip {
    pub(super) fn settle(&mut self, forget_at: MonotonicTime, event: InjectionEvent, outcome: Outcome) {
        if let Some(at) = self.arrivals.get(&event.id) {
            self.remove_pending(*at);
        }
        let is_collector = self.memory.is_some();
        if let Some(memory) = &mut self.memory {
            memory.take(settled_bytes(&event.id, &outcome));
        }
        let settled = Settled { payload: event.payload, outcome: outcome.clone() };
        let before = self.settled.insert(event.id.clone(), settled);
        if let (Some(memory), Some(before)) = (&mut self.memory, &before) {
            memory.give_back(settled_bytes(&event.id, &before.outcome));
        }
        let was_refused = matches!(before, Some(Settled { outcome: Outcome::Refused { .. }, .. }));
        if is_collector && matches!(outcome, Outcome::Refused { .. }) {
            self.refused.push_back(event.id.clone());
            self.forget_refused();
        } else if before.is_none() || (is_collector && was_refused) {
            self.expirations.push_back((forget_at, event.id.clone()));
        }
        if !is_collector && self.settled.len() > self.limits.settled {
            self.forget_oldest();
        }
        self.outputs.push_back(Output::Settled(event, outcome));
    }

    pub(super) fn forget_oldest(&mut self) {
        if let Some((_, id)) = self.expirations.pop_front() {
            self.forget(&id);
        }
    }

    /// Keeps the last [`MAX_REFUSED`].
    fn forget_refused(&mut self) {
        if self.refused.len() > MAX_REFUSED
            && let Some(id) = self.refused.pop_front()
            && matches!(self.settled.get(&id), Some(Settled { outcome: Outcome::Refused { .. }, .. }))
        {
            self.forget(&id);
        }
    }

    pub(super) fn forget(&mut self, id: &InjectionId) {
        if let (Some(settled), Some(memory)) = (self.settled.remove(id), &mut self.memory) {
            memory.give_back(settled_bytes(id, &settled.outcome));
        }
    }
}
