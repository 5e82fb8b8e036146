//! Injections of an organism's mesh that wait for its next beat.

use std::collections::VecDeque;

use crate::mesh::{Injectable, InjectionEvent, Outcome};
use crate::organism::{Input, State};
use crate::store::recent;

/// An injection that is recorded in the ledger.
#[derive(Debug)]
pub(super) struct RecordedInjection {
    pub(super) event: InjectionEvent,
    /// Index of its entry.
    pub(super) entry: u64,
    /// When it was recorded, in seconds since 1970.
    pub(super) time: f64,
}

/// Injections in order of arrival. Unbounded here: the mesh bounds how many are unanswered.
#[derive(Default)]
pub(super) struct InjectionQueue {
    waiting: VecDeque<InjectionEvent>,
    /// Whether the injection at the front has found no room in the risk window.
    blocked: bool,
}

/// What [`InjectionQueue::next`] found at the front.
pub(super) enum NextInjection {
    /// It is applied to the state and to be recorded as this input.
    Record(InjectionEvent, Box<Input>),
    /// It may never be recorded.
    Refuse(InjectionEvent, String),
    /// There is no room for it in the risk window; `first` when that was not so at the last look.
    Blocked { reason: String, first: bool },
    /// No injection waits.
    Empty,
}

impl InjectionQueue {
    pub(super) fn push(&mut self, event: InjectionEvent) {
        self.waiting.push_back(event);
    }

    /// Takes the injection at the front and applies it to `state`. An injection without room stays at the front.
    pub(super) fn next(&mut self, state: &mut State, injectable: Injectable) -> NextInjection {
        let Some(event) = self.waiting.front() else { return NextInjection::Empty };
        let checked = event.payload.validate(injectable).map(|()| recent::input(event));
        if let Ok(input) = &checked
            && let Err(full) = state.apply(input)
        {
            let first = !std::mem::replace(&mut self.blocked, true);
            return NextInjection::Blocked { reason: full.to_string(), first };
        }
        self.blocked = false;
        match (self.waiting.pop_front(), checked) {
            (Some(event), Ok(input)) => NextInjection::Record(event, Box::new(input)),
            (Some(event), Err(reason)) => NextInjection::Refuse(event, reason),
            (None, _) => NextInjection::Empty,
        }
    }
}

/// What became of an injection, for the node that took it in.
pub type InjectionOutcome = (InjectionEvent, Outcome);
