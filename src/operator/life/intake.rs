//! Injections of an organism's mesh that wait for its next beat.

use std::collections::VecDeque;

use crate::mesh::{Injectable, InjectionEvent, Outcome, OutcomeSender};
use crate::organism::{Input, State};
use crate::store::injections;

/// An injection that was recorded.
#[derive(Debug)]
pub(super) struct Recorded {
    pub(super) event: InjectionEvent,
    /// Its index.
    pub(super) entry: u64,
    /// When, in seconds since 1970.
    pub(super) time: f64,
}

/// As many wait as the mesh keeps: it holds what was not answered.
#[derive(Default)]
pub(super) struct Intake {
    waiting: VecDeque<InjectionEvent>,
    /// Where to say what became of them.
    pub(super) answers: Option<OutcomeSender>,
    /// That there is no room was said.
    crowded: bool,
}

impl Intake {
    pub(super) fn new(answers: Option<OutcomeSender>) -> Self {
        Self { answers, ..Self::default() }
    }

    pub(super) fn push(&mut self, event: InjectionEvent) {
        self.waiting.push_back(event);
    }

    /// The next injection, taken into `state`, as it is to be recorded; nothing where none waits or there is no
    /// room for it. What may not be injected is refused for good.
    pub(super) fn next(
        &mut self,
        state: &mut State,
        injectable: Injectable,
    ) -> Option<(InjectionEvent, Input)> {
        while let Some(event) = self.waiting.front() {
            if let Err(reason) = event.payload.validate(injectable) {
                self.crowded = false;
                let event = self.waiting.pop_front()?;
                if let Some(answers) = &self.answers {
                    answers.send(event, Outcome::Refused { reason });
                }
                continue;
            }
            let input = injections::input(event);
            if let Err(full) = state.apply(&input) {
                if !std::mem::replace(&mut self.crowded, true) {
                    tracing::warn!("injections wait: {full}");
                }
                return None;
            }
            self.crowded = false;
            return Some((self.waiting.pop_front()?, input));
        }
        None
    }
}
