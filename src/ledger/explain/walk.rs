//! Reads a ledger once, in order, and keeps what explains the decision that was asked for.

use std::collections::VecDeque;

use super::inputs::Inputs;
use super::{Asked, BeatFacts, Decision, EnforcementSeen, Explanation, Moment, Response, WhyNot, quote};
use crate::ledger::Entry;
use crate::ledger::entry::{Change, Data, Enforcement};
use crate::ledger::replay::{Mismatch, Replay};
use crate::organism::Action;

/// Which decision to explain.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// The decision in force after the last entry, at its first beat.
    Newest,
    /// The beat that contains the entry of this index, or the first beat for which the entry is in force. For an
    /// enforcement, the beat of the action that it follows from.
    Entry(u64),
    /// The decision in force at this time (seconds since 1970), at its first beat: that of the last beat that was not
    /// later.
    At(f64),
}

/// A decision cannot be explained.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ExplainError {
    /// The ledger does not replay.
    #[error("{0}; a ledger that does not replay explains nothing; see venom ledger replay")]
    Mismatch(#[from] Mismatch),
    /// There is nothing to replay from.
    #[error("no genesis and no snapshot to replay from, so no decision can be explained")]
    NoStart,
    /// There is no beat yet.
    #[error("no beat follows entry {0}, from which the replay starts, so there is no decision to explain")]
    NoBeat(u64),
    /// The entry precedes all that can be replayed.
    #[error(
        "entry {entry} cannot be explained: what precedes entry {first} cannot be replayed; try --entry {first}"
    )]
    TooOld {
        /// The entry.
        entry: u64,
        /// Index of the first entry that can be explained.
        first: u64,
    },
    /// There is no such entry.
    #[error("there is no entry {entry}: the last one is {last}")]
    NoEntry {
        /// The entry.
        entry: u64,
        /// Index of the last entry.
        last: u64,
    },
    /// The entry is not in force yet.
    #[error("entry {entry} is not in force yet: no beat follows it, the last entry is {last}")]
    NotInForce {
        /// The entry.
        entry: u64,
        /// Index of the last entry.
        last: u64,
    },
    /// All beats that can be replayed are later.
    #[error(
        "no decision up to that time can be explained: the first beat that can be replayed is that of entry {entry}"
    )]
    TooEarly {
        /// Index of the action entry of the first beat that can be explained.
        entry: u64,
        /// Time of that beat.
        timestamp: f64,
    },
    /// An enforcement follows from a beat that was not kept: read the ledger again, for the entry `follows`.
    #[error("entry {}, an enforcement, follows from entry {follows}; run again with --entry {follows}", .asked.entry)]
    ReadAgain {
        /// The enforcement.
        asked: Asked,
        /// Index of the action entry that it follows from.
        follows: u64,
    },
}

/// Number of decisions that are kept in case an enforcement is asked for that follows from one of them.
const KEPT: usize = 16;

/// A decision and its explained beat, as far as read.
#[derive(Clone, Debug)]
struct Told {
    decision: Decision,
    beat: BeatFacts,
    response: Response,
}

impl Told {
    fn enforced(&mut self, seen: &EnforcementSeen) {
        let response = &mut self.response;
        let is_done = seen.refused.is_none();
        if self.decision.since.entry <= seen.follows && seen.follows <= self.decision.last_beat_entry {
            if is_done && seen.change == Change::Apply {
                response.applied = true;
                // What was undone before that was of an earlier decision.
                response.released = None;
            }
            if response.enforcements.len() < Response::LISTED {
                response.enforcements.push(seen.clone());
            } else {
                response.more += 1;
            }
        }
        let is_there = response.applied || response.in_force.is_some();
        if is_done && seen.change == Change::Release && is_there && response.released.is_none() {
            response.released = Some(seen.clone());
        }
    }
}

/// An explanation in progress. Feed it all entries in order; it keeps few of them.
#[derive(Debug)]
pub struct Explainer {
    target: Target,
    why_not: Option<Action>,
    replay: Replay,
    inputs: Inputs,
    /// The last decisions, oldest first.
    decisions: VecDeque<Told>,
    first_beat: Option<Moment>,
    /// The action of the snapshot at which the replay started.
    action_before: Option<Action>,
    chosen: Option<Told>,
    asked: Option<Asked>,
    /// Index of the last entry.
    last: Option<u64>,
    /// The last response that was applied and not undone.
    in_force: Option<EnforcementSeen>,
    enforcements: u64,
}

impl Explainer {
    /// An explanation of `target`, and of why `why_not` was not decided.
    #[must_use]
    pub fn new(target: Target, why_not: Option<Action>) -> Self {
        Self {
            target,
            why_not,
            replay: Replay::default(),
            inputs: Inputs::default(),
            decisions: VecDeque::new(),
            first_beat: None,
            action_before: None,
            chosen: None,
            asked: None,
            last: None,
            in_force: None,
            enforcements: 0,
        }
    }

    /// Takes in the next entry. Its hash must be verified.
    ///
    /// # Errors
    /// [`ExplainError`] that no later entry can change.
    pub fn feed(&mut self, entry: Entry) -> Result<(), ExplainError> {
        let (index, timestamp, beats) = (entry.index, entry.timestamp, self.replay.beats());
        let started = self.replay.from().is_some();
        self.last = Some(index);
        let outside = (!self.replay.is_of_beat(&entry)).then(|| (entry.data().ok(), entry.kind()));
        self.replay.feed(entry)?;
        match (outside, self.replay.from()) {
            (_, None) => {}
            (Some((_, kind)), Some(from)) if !started => {
                if let Target::Entry(wanted) = self.target
                    && wanted < from
                {
                    return Err(ExplainError::TooOld { entry: wanted, first: from });
                }
                if let Some(state) = self.replay.state() {
                    self.inputs = Inputs::start(from, state);
                    self.action_before = (kind == "snapshot").then_some(state.action);
                }
                self.ask(index, &kind, None);
            }
            (Some((data, kind)), Some(_)) => {
                let counts = data.as_ref().and_then(|data| self.inputs.take(index, timestamp, data));
                self.ask(index, &kind, counts);
                if let Some(Data::Enforcement(it)) = &data {
                    self.enforcement(index, timestamp, it)?;
                }
            }
            (None, Some(_)) if self.replay.beats() > beats => self.beat(),
            (None, Some(_)) => {}
        }
        Ok(())
    }

    /// Notes that the entry that was asked for is this one, outside of beats.
    fn ask(&mut self, entry: u64, kind: &str, counts: Option<bool>) {
        if self.target == Target::Entry(entry) {
            self.asked = Some(Asked { entry, r#type: quote(kind), counts });
        }
    }

    fn enforcement(&mut self, entry: u64, timestamp: f64, it: &Enforcement) -> Result<(), ExplainError> {
        self.enforcements += 1;
        let what: Vec<String> = it.what.iter().take(Response::LISTED).map(|it| quote(it)).collect();
        let seen = EnforcementSeen {
            entry,
            timestamp,
            follows: it.entry,
            mode: quote(&it.mode),
            change: it.change,
            more: (it.what.len() - what.len()) as u64,
            what,
            refused: it.refused.as_deref().map(quote),
        };
        self.decisions.iter_mut().chain(&mut self.chosen).for_each(|told| told.enforced(&seen));
        if seen.refused.is_none() {
            self.in_force = (seen.change == Change::Apply).then_some(seen);
        }
        if let Some(asked) = self.asked.clone().filter(|asked| asked.entry == entry) {
            let told = self.decisions.iter().find(|told| told.beat.action_entry == it.entry);
            self.chosen = told.cloned();
            match self.replay.from() {
                Some(first) if it.entry < first => {
                    return Err(ExplainError::TooOld { entry: it.entry, first });
                }
                _ if self.chosen.is_none() => {
                    return Err(ExplainError::ReadAgain { asked, follows: it.entry });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Follows a complete beat.
    fn beat(&mut self) {
        let (Some(recorded), Some(state)) = (self.replay.last_beat(), self.replay.state()) else { return };
        let Some(entry) = recorded.entries.get(5) else { return };
        self.inputs.beat(state);
        let (action, action_entry, timestamp) = (state.action, entry.index, entry.timestamp);
        let held = entry.data.contains("\"held\":true");
        let moment = Moment { action, entry: action_entry, beat: state.beat, timestamp };
        let goes_on = self.decisions.back().is_some_and(|told| told.decision.action == action);
        if goes_on {
            // Also where it was chosen.
            for told in self.decisions.back_mut().into_iter().chain(&mut self.chosen) {
                let decision = &mut told.decision;
                if decision.action == action && decision.until.is_none() {
                    decision.last_beat_entry = action_entry;
                    decision.beats += 1;
                    decision.held_beats += u64::from(held);
                }
            }
        } else if let Some(beat) = BeatFacts::read(recorded, state, &self.inputs) {
            for told in self.decisions.back_mut().into_iter().chain(&mut self.chosen) {
                told.decision.until.get_or_insert(moment);
            }
            let before = self.decisions.back().map(|told| told.decision.action).or(self.action_before);
            let taken_earlier = before == Some(action);
            let decision = Decision {
                action,
                since: moment,
                taken_earlier,
                before: before.filter(|_| !taken_earlier),
                until: None,
                last_beat_entry: action_entry,
                beats: 1,
                held_beats: held.into(),
            };
            let response = Response { in_force: self.in_force.clone(), ..Response::default() };
            self.decisions.push_back(Told { decision, beat, response });
            if self.decisions.len() > KEPT {
                self.decisions.pop_front();
            }
        }
        self.choose(action_entry, timestamp);
        self.first_beat.get_or_insert(moment);
    }

    /// Chooses the beat just read, if it is what was asked for.
    fn choose(&mut self, action_entry: u64, timestamp: f64) {
        let Some(current) = self.decisions.back() else { return };
        let is_chosen = self.chosen.as_ref().is_some_and(|it| it.decision.since == current.decision.since);
        match self.target {
            Target::At(time) if timestamp <= time && !is_chosen => self.chosen = Some(current.clone()),
            // The evolution entry follows the action.
            Target::Entry(entry) if self.chosen.is_none() && entry <= action_entry + 1 => {
                let mut told = current.clone();
                if let (Some(recorded), Some(state)) = (self.replay.last_beat(), self.replay.state())
                    && let Some(beat) = BeatFacts::read(recorded, state, &self.inputs)
                {
                    told.beat = beat;
                }
                self.chosen = Some(told);
            }
            _ => {}
        }
    }

    /// The explanation, after the last entry.
    ///
    /// # Errors
    /// [`ExplainError`] if the ledger does not replay, or does not have what was asked for.
    pub fn finish(mut self) -> Result<Explanation, ExplainError> {
        let last = self.last.unwrap_or_default();
        let Some(from) = self.replay.from() else { return Err(ExplainError::NoStart) };
        self.replay.finish()?;
        let Some(first_beat) = self.first_beat else {
            return Err(match self.target {
                Target::Entry(entry) if entry > last => ExplainError::NoEntry { entry, last },
                _ => ExplainError::NoBeat(from),
            });
        };
        if self.target == Target::Newest {
            self.chosen = self.decisions.pop_back();
        }
        let Some(told) = self.chosen else {
            return Err(match self.target {
                Target::Entry(entry) if entry > last => ExplainError::NoEntry { entry, last },
                Target::Entry(entry) => ExplainError::NotInForce { entry, last },
                _ => ExplainError::TooEarly { entry: first_beat.entry, timestamp: first_beat.timestamp },
            });
        };
        let Told { decision, beat, mut response } = told;
        response.in_ledger = self.enforcements;
        Ok(Explanation {
            asked: self.asked,
            why_not: self.why_not.map(|action| WhyNot::of(action, &beat)),
            decision,
            beat,
            response,
            replayed_from: from,
            last_entry: last,
        })
    }
}
