//! Replay: re-derives every number of a ledger from its recorded inputs and compares.
//!
//! A replay proves that the decisions follow from the recorded inputs. That the inputs were not rewritten can only
//! be proven with the hash chain and a root that was kept elsewhere.

use serde_json::{Value, json};

use super::Entry;
use super::entry::{Change, Data, FlowData, Record};
use crate::organism::cores::{Cores, Failure, Flows};
use crate::organism::genome::Weights;
use crate::organism::pulse::PulseError;
use crate::organism::state::MAX_ITEMS;
use crate::organism::{Action, Beat, Input, State, VERSION, beat};

/// An entry differs from what the entries before it imply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("entry {index}: {what}")]
pub struct Mismatch {
    /// Index of the entry.
    pub index: u64,
    /// The difference.
    pub what: String,
}

/// A replay in progress. Feed it entries in order.
#[derive(Debug, Default)]
pub struct Replay {
    state: Option<State>,
    /// Entries of the current beat, which is incomplete.
    open_beat: Vec<Entry>,
    /// Beats since the last snapshot or genesis.
    since_snapshot: u64,
    beats_since_resume: Option<u64>,
    decided: Vec<Decided>,
    decision: Option<Decision>,
    last_beat: Option<RecordedBeat>,
    from: Option<u64>,
    beats: u64,
    injections: u64,
}

/// A decision, and the beat since which it is in force. If it was in force before the replay started, that is the
/// first beat of the replay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decision {
    /// The decided action.
    pub action: Action,
    /// Index of the action entry of that beat.
    pub entry: u64,
    /// Timestamp of that beat, in seconds since 1970.
    pub since: f64,
}

/// A complete beat, as the ledger records it.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordedBeat {
    /// Its seven entries, in order.
    pub entries: Vec<Entry>,
    /// The weights in force at its pulse, by which its decision vector was multiplied.
    pub weights: Weights,
}

/// Beats that stand side by side and decided the same. A ledger may have millions of beats, so they are not listed
/// one by one.
#[derive(Clone, Copy, Debug)]
struct Decided {
    action: Action,
    /// Index of the action entry of the first beat.
    first: u64,
    beats: u64,
}

/// Types of the seven entries of a beat, in order.
const BEAT: [&str; 7] =
    ["pulse", "flow_result", "flow_result", "flow_result", "flow_result", "action", "evolution"];
/// Number of entries of a beat.
const BEAT_ENTRIES: u64 = BEAT.len() as u64;
/// Maximum number of beats between two snapshots.
pub const SNAPSHOT_EVERY: u64 = 1000;

impl Replay {
    /// The state after the last entry; `None` before a genesis or snapshot.
    #[must_use]
    pub fn state(&self) -> Option<&State> {
        self.state.as_ref()
    }

    /// Index of the genesis or snapshot at which the replay started.
    #[must_use]
    pub fn from(&self) -> Option<u64> {
        self.from
    }

    /// Number of re-derived beats.
    #[must_use]
    pub fn beats(&self) -> u64 {
        self.beats
    }

    /// Number of injection entries.
    #[must_use]
    pub fn injections(&self) -> u64 {
        self.injections
    }

    /// The decision in force after the last entry.
    #[must_use]
    pub fn decision(&self) -> Option<Decision> {
        self.decision
    }

    /// Number of beats that decided each action, in the order of [`Action::ALL`].
    #[must_use]
    pub fn decided(&self) -> [u64; 5] {
        Action::ALL
            .map(|action| self.decided.iter().filter(|it| it.action == action).map(|it| it.beats).sum())
    }

    /// The last complete beat. [`state`](Self::state) is the state after it, as long as no input follows.
    #[must_use]
    pub fn last_beat(&self) -> Option<&RecordedBeat> {
        self.last_beat.as_ref()
    }

    /// Whether `entry`, if it is the next one, belongs to a beat.
    #[must_use]
    pub fn is_of_beat(&self, entry: &Entry) -> bool {
        !self.open_beat.is_empty() || (self.state.is_some() && entry.data.contains("\"type\":\"pulse\""))
    }

    /// The decision that entry `index` records; `None` if that is no action entry of this replay.
    fn decided_at(&self, index: u64) -> Option<Action> {
        let before = self.decided.partition_point(|it| it.first <= index);
        let it = self.decided.get(before.checked_sub(1)?)?;
        let (beats, rest) = ((index - it.first) / BEAT_ENTRIES, (index - it.first) % BEAT_ENTRIES);
        (rest == 0 && beats < it.beats).then_some(it.action)
    }

    fn record_decision(&mut self, entry: u64, action: Action) {
        match self.decided.last_mut() {
            Some(it) if it.action == action && it.first + it.beats * BEAT_ENTRIES == entry => it.beats += 1,
            _ => self.decided.push(Decided { action, first: entry, beats: 1 }),
        }
    }

    /// Ends the replay and returns the final state, or `None` if there was no genesis and no snapshot.
    ///
    /// # Errors
    /// Returns [`Mismatch`] if the last beat is incomplete.
    pub fn finish(self) -> Result<Option<State>, Mismatch> {
        match self.open_beat.last() {
            Some(last) => Err(mismatch(last.index, "the ledger ends in the middle of a beat")),
            None => Ok(self.state),
        }
    }

    /// Replays the next entry. Entries before the first genesis or snapshot are skipped.
    ///
    /// # Errors
    /// Returns [`Mismatch`] if the entry differs from what the entries before it imply. The replay cannot be
    /// continued after that.
    pub fn feed(&mut self, entry: Entry) -> Result<(), Mismatch> {
        if self.is_of_beat(&entry) {
            return self.feed_beat(entry);
        }
        let index = entry.index;
        let data = entry.data().map_err(|error| mismatch(index, &error.to_string()))?;
        let Some(state) = &mut self.state else {
            match data {
                Data::Genesis(genesis) => {
                    let state =
                        State::genesis(&genesis.version, entry.timestamp, genesis.genome, genesis.config);
                    self.start(index, state);
                }
                Data::Snapshot(state) => self.start(index, *state),
                _ => {}
            }
            return Ok(());
        };
        match data {
            Data::Genesis(_) => return Err(mismatch(index, "a second genesis")),
            Data::Config(it) => apply(state, index, &Input::Config(it))?,
            Data::Injection(it) => {
                self.injections += 1;
                apply(state, index, &Input::Injection(it))?;
            }
            Data::Sense(it) => {
                if it.anoms > 0 && state.suppress_excess(it.clone()).suppressed != it.suppressed {
                    let what = format!("{MAX_ITEMS} senses count already: this one must be suppressed");
                    return Err(mismatch(index, &what));
                }
                apply(state, index, &Input::Sense(it))?;
            }
            Data::Scale(it) => {
                if it.from != state.config.pulse.p {
                    return Err(mismatch(
                        index,
                        &format!("scale from P = {}, but P is {}", it.from, state.config.pulse.p),
                    ));
                }
                apply(state, index, &Input::Scale(it))?;
            }
            Data::Resume(it) => {
                self.beats_since_resume = Some(0);
                apply(state, index, &Input::Resume(it))?;
            }
            Data::Snapshot(recorded) => {
                if state.has_pending_anomalies() {
                    return Err(mismatch(
                        index,
                        "snapshot while an injection or sense waits for the next pulse",
                    ));
                }
                compare("snapshot", &json!(*state), &json!(*recorded), 0.0)
                    .map_err(|what| mismatch(index, &what))?;
                self.since_snapshot = 0;
                self.beats_since_resume = None;
            }
            Data::Enforcement(it) => match self.decided_at(it.entry) {
                Some(Action::Noop) if it.change == Change::Apply => {
                    return Err(mismatch(index, "enforcement applies a NOOP"));
                }
                Some(_) => {}
                // The action may precede the snapshot at which this replay started.
                None if self.from.is_some_and(|from| it.entry < from) => {}
                None => {
                    let what =
                        format!("enforcement refers to entry {}, which is not an earlier action", it.entry);
                    return Err(mismatch(index, &what));
                }
            },
            Data::Unknown => {}
            Data::Pulse(_) | Data::FlowResult(_) | Data::Action(_) | Data::Evolution(_) => {
                return Err(mismatch(index, "entry of a beat outside a beat: its pulse is missing"));
            }
        }
        Ok(())
    }

    fn start(&mut self, index: u64, state: State) {
        self.state = Some(state);
        self.from = Some(index);
    }

    fn feed_beat(&mut self, entry: Entry) -> Result<(), Mismatch> {
        let (kind, expected) = (entry.kind(), BEAT[self.open_beat.len()]);
        if kind != expected {
            return Err(mismatch(entry.index, &format!("{kind} inside a beat, expected {expected}")));
        }
        self.open_beat.push(entry);
        if self.open_beat.len() == BEAT.len() {
            let seven = std::mem::take(&mut self.open_beat);
            let first = seven[0].index;
            // Always present: without a state, `feed` does not start a beat.
            if let Some(state) = &mut self.state {
                let weights = state.weights;
                let derived = derive(state, &seven)?;
                let (entry, action) = (first + 5, derived.action);
                self.record_decision(entry, action);
                self.last_beat = Some(RecordedBeat { entries: seven, weights });
                if self.decision.is_none_or(|decision| decision.action != action) {
                    self.decision = Some(Decision { action, entry, since: derived.pulse.timestamp });
                }
            }
            self.beats += 1;
            self.since_snapshot += 1;
            if self.since_snapshot > SNAPSHOT_EVERY {
                return Err(mismatch(first, "more than 1,000 beats since the last snapshot"));
            }
            if let Some(beats) = &mut self.beats_since_resume {
                *beats += 1;
                if *beats > 1 {
                    return Err(mismatch(
                        first,
                        "no snapshot between a resume and the second pulse after it",
                    ));
                }
            }
        }
        Ok(())
    }
}

fn mismatch(index: u64, what: &str) -> Mismatch {
    Mismatch { index, what: what.to_owned() }
}

fn apply(state: &mut State, index: u64, input: &Input) -> Result<(), Mismatch> {
    state.apply(input).map_err(|error| mismatch(index, &error.to_string()))
}

/// Re-derives the beat that the seven entries record, and compares.
fn derive(state: &mut State, seven: &[Entry]) -> Result<Beat, Mismatch> {
    let first = seven[0].index;
    let parse = |entry: &Entry| entry.data().map_err(|error| mismatch(entry.index, &error.to_string()));
    let Data::Pulse(pulse) = parse(&seven[0])? else {
        return Err(mismatch(first, "beat without a pulse"));
    };
    for entry in seven {
        if entry.timestamp != pulse.pulse.timestamp {
            return Err(mismatch(entry.index, "timestamp differs from that of its beat"));
        }
    }
    let opened = beat::open(state, pulse.pulse.timestamp)
        .map_err(|error: PulseError| mismatch(first, &error.to_string()))?;
    let mut flows = Cores::default().run(&opened.input);
    for entry in &seven[1..5] {
        // Canonical JSON sorts "failed" first.
        if entry.data.starts_with("{\"failed\":")
            && let Data::FlowResult(flow) = parse(entry)?
        {
            record_failure(&mut flows, &flow);
        }
    }
    let beat = beat::close(state, opened, flows);
    let mut entries = seven.iter();
    let mut difference = None;
    let written = Record::Beat(Box::new(beat.clone())).write(&mut Vec::new(), &mut |_, text| {
        // Entries written by this version are usually identical and need no parsing.
        if let Some(entry) = entries.next()
            && *entry.data != *text
            && difference.is_none()
        {
            let (derived, recorded) = (serde_json::from_str(text), serde_json::from_str(&entry.data));
            if let (Ok(derived), Ok(recorded)) = (derived, recorded) {
                let dt = beat.evolved.pid.map_or(0.0, |pid| pid.dt);
                difference = compare(&entry.kind(), &derived, &recorded, dt)
                    .err()
                    .map(|what| mismatch(entry.index, &what));
            }
        }
    });
    if written.is_err() {
        return Err(mismatch(first, "the beat derives a number that is not finite"));
    }
    match difference {
        None => Ok(beat),
        Some(mut mismatch) => {
            if *state.version != *VERSION {
                mismatch.what += &format!(
                    " (recorded by engine version {}, replayed by {VERSION}; replay with that version)",
                    state.version
                );
            }
            Err(mismatch)
        }
    }
}

/// Replaces the result of a core that is recorded as failed: failures are inputs, they cannot be derived.
fn record_failure(flows: &mut Flows, flow: &FlowData) {
    use crate::organism::cores::Flow;
    let reason: Failure = flow.failed.clone().unwrap_or_default().into();
    match flow.flow {
        Flow::R => flows.regen = Err(reason),
        Flow::B => flows.balance = Err(reason),
        Flow::E => flows.entropy = Err(reason),
        Flow::O => flows.optimize = Err(reason),
    }
}

/// Compares a derived value with the recorded one, with the tolerances of step 9 of the ledger
/// format: floats to 1e-9 relative or 1e-15 absolute (1e-15/dt in the terms of the PID), times and everything
/// else exactly. Recorded fields that are not derived belong to a later version and are ignored, and so are
/// explanations, which are free text.
fn compare(at: &str, derived: &Value, recorded: &Value, dt: f64) -> Result<(), String> {
    const EXACT: [&str; 6] = ["timestamp", "elapsed", "dt", "tau", "started", "last"];
    match (derived, recorded) {
        (Value::Object(derived), Value::Object(recorded)) => {
            for (key, derived) in derived.iter().filter(|(key, _)| *key != "explanation") {
                let recorded = recorded.get(key).ok_or_else(|| format!("{at}.{key} is missing"))?;
                compare(&format!("{at}.{key}"), derived, recorded, dt)?;
            }
            Ok(())
        }
        (Value::Array(derived), Value::Array(recorded)) if derived.len() == recorded.len() => derived
            .iter()
            .zip(recorded)
            .try_for_each(|(derived, recorded)| compare(at, derived, recorded, dt)),
        (Value::Number(a), Value::Number(b)) if a.is_f64() && b.is_f64() => {
            let (a, b) = (a.as_f64().unwrap_or(f64::NAN), b.as_f64().unwrap_or(f64::NAN));
            let last = at.rsplit('.').next().unwrap_or_default();
            let absolute = if at.contains(".pid.") && dt > 0.0 { 1e-15_f64.max(1e-15 / dt) } else { 1e-15 };
            let tolerance = if EXACT.contains(&last) { 0.0 } else { (1e-9 * b.abs()).max(absolute) };
            if (a - b).abs() <= tolerance { Ok(()) } else { Err(format!("{at} is {b}, expected {a}")) }
        }
        _ if derived == recorded => Ok(()),
        _ => Err(format!("{at} is {recorded}, expected {derived}")),
    }
}
