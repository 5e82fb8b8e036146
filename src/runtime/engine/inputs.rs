//! What reaches an engine from outside: injections, observations of sensors, what was done about decisions.

use std::time::Instant;

use super::{Engine, EngineError};
use crate::ledger::entry::{Enforcement, Record};
use crate::mesh::{InjectionEvent, Outcome};
use crate::organism::Input;
use crate::organism::input::Sense;
use crate::runtime::injections::{InjectionOutcome, NextInjection, RecordedInjection};
use crate::runtime::pending::MAX_PENDING;
use crate::store::head::LastEnforcement;

impl Engine {
    /// Queues an injection: the next beat, due at once, records it.
    pub fn inject(&mut self, event: InjectionEvent, now: Instant) {
        self.injections.push(event);
        self.make_due(now);
    }

    /// Queues an observation of a sensor: the next beat, due at once, records it. While the organism does not beat nothing
    /// is recorded, and nothing sensed.
    pub fn sense(&mut self, sense: Sense, now: Instant) {
        if self.running {
            self.senses.push_back(sense);
            self.make_due(now);
        }
    }

    /// Records what was done about a decision, unless that is what was recorded last. `what` are the changes.
    ///
    /// # Errors
    /// [`EngineError::NotCanonical`] never: an enforcement contains no floats.
    pub fn record_enforcement(
        &mut self,
        last: LastEnforcement,
        what: Vec<String>,
        wall: f64,
    ) -> Result<(), EngineError> {
        if self.state.is_some() && self.enforcement.as_ref() != Some(&last) {
            let LastEnforcement { change, entry, mode, refused, .. } = last.clone();
            let enforcement = Enforcement { change, entry, mode, refused, what };
            self.pending.append(Record::enforcement(wall, &enforcement)?)?;
            self.pending.track_enforcement(last.clone());
            self.pending.mark_status_changed();
            self.enforcement = Some(last);
        }
        Ok(())
    }

    /// What became of injections since the last call, to be sent to the nodes that took them in.
    #[must_use]
    pub fn take_outcomes(&mut self) -> Vec<InjectionOutcome> {
        std::mem::take(&mut self.outcomes)
    }

    /// Records the observations that wait, until `most` records are not committed.
    pub(super) fn record_senses(&mut self, wall: f64, most: usize) -> Result<(), EngineError> {
        while self.running
            && self.pending.held() < most.min(MAX_PENDING)
            && let Some(state) = &self.state
            && let Some(sense) = self.senses.pop_front()
        {
            let input = Input::Sense(state.suppress_excess(sense));
            self.record_input(wall, &input)?;
            self.pending.track_sense(wall);
            self.pending.mark_input();
        }
        Ok(())
    }

    /// Records the injections that wait, until `most` records are not committed. Returns why they still wait, when that is new.
    pub(super) fn record_injections(
        &mut self,
        wall: f64,
        most: usize,
    ) -> Result<Option<String>, EngineError> {
        while self.running
            && self.pending.held() < most.min(MAX_PENDING)
            && let Some(state) = &mut self.state
        {
            match self.injections.next(state, self.desired.injectable) {
                NextInjection::Record(event, input) => {
                    let entry = self.pending.size();
                    self.pending.append(Record::input(wall, &input)?)?;
                    self.pending.track_injection(RecordedInjection { event, entry, time: wall });
                    self.pending.mark_input();
                }
                NextInjection::Refuse(event, reason) => {
                    self.outcomes.push((event, Outcome::Refused { reason }));
                }
                NextInjection::Blocked { reason, first } => return Ok(first.then_some(reason)),
                NextInjection::Empty => break,
            }
        }
        Ok(None)
    }
}
