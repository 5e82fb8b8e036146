//! Replay: every number of a ledger derived anew from its recorded inputs.
//!
//! It proves that the decisions follow from the recorded inputs. That the inputs were not rewritten is what
//! the chain and a root kept elsewhere prove.

use serde_json::{Value, json};

use super::Entry;
use super::entry::{Change, Data, FlowData, Record};
use crate::organism::cores::{Cores, Failure, Flows};
use crate::organism::pulse::PulseError;
use crate::organism::{Action, Beat, Input, State, VERSION, beat};

/// Why an entry is not what follows from those before it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("entry {index}: {what}")]
pub struct Mismatch {
    /// The entry.
    pub index: u64,
    /// What is wrong with it.
    pub what: String,
}

/// A replay in progress: feed it entries in order.
#[derive(Debug, Default)]
pub struct Replay {
    state: Option<State>,
    /// Entries of a beat that is not complete.
    open: Vec<Entry>,
    /// Beats since the last snapshot or genesis.
    since_snapshot: u64,
    beats_since_resume: Option<u64>,
    decisions: Vec<(u64, Action)>,
    standing: Option<Decision>,
    from: Option<u64>,
    beats: u64,
    injections: u64,
}

/// A decision, and the beat that first made it as far as the replay has seen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decision {
    /// Which.
    pub action: Action,
    /// Index of the action entry.
    pub entry: u64,
    /// Timestamp of the beat, seconds since 1970.
    pub since: f64,
}

const BEAT: [&str; 7] =
    ["pulse", "flow_result", "flow_result", "flow_result", "flow_result", "action", "evolution"];
/// A snapshot stands at least every so many beats.
pub const SNAPSHOT_EVERY: u64 = 1000;

impl Replay {
    /// The state after the last entry that was fed; nothing before a genesis or snapshot.
    #[must_use]
    pub fn state(&self) -> Option<&State> {
        self.state.as_ref()
    }

    /// Index of the genesis or snapshot at which it began.
    #[must_use]
    pub fn from(&self) -> Option<u64> {
        self.from
    }

    /// Beats derived anew.
    #[must_use]
    pub fn beats(&self) -> u64 {
        self.beats
    }

    /// Injection entries met.
    #[must_use]
    pub fn injections(&self) -> u64 {
        self.injections
    }

    /// The decision in force.
    #[must_use]
    pub fn decision(&self) -> Option<Decision> {
        self.standing
    }

    /// Every decision met, with the index of its action entry.
    #[must_use]
    pub fn decisions(&self) -> &[(u64, Action)] {
        &self.decisions
    }

    /// Ends the replay.
    ///
    /// # Errors
    /// [`Mismatch`] when the last beat is not whole or there was nothing to begin at.
    pub fn finish(self) -> Result<Option<State>, Mismatch> {
        match self.open.last() {
            Some(last) => Err(mismatch(last.index, "the ledger ends in the middle of a beat")),
            None => Ok(self.state),
        }
    }

    /// Takes the next entry in. Entries before the first genesis or snapshot are passed over.
    ///
    /// # Errors
    /// [`Mismatch`] when the entry does not follow; the replay is then of no further use.
    pub fn feed(&mut self, entry: Entry) -> Result<(), Mismatch> {
        if !self.open.is_empty() || (self.state.is_some() && entry.data.contains("\"type\":\"pulse\"")) {
            return self.in_beat(entry);
        }
        let index = entry.index;
        let data = entry.data().map_err(|error| mismatch(index, &error.to_string()))?;
        let Some(state) = &mut self.state else {
            match data {
                Data::Genesis(genesis) => {
                    let state =
                        State::genesis(&genesis.version, entry.timestamp, genesis.genome, genesis.config);
                    self.begin(index, state);
                }
                Data::Snapshot(state) => self.begin(index, *state),
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
            Data::Sense(it) => apply(state, index, &Input::Sense(it))?,
            Data::Scale(it) => {
                if it.from != state.config.pulse.p {
                    return Err(mismatch(
                        index,
                        &format!("scale from {}, P is {}", it.from, state.config.pulse.p),
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
                    return Err(mismatch(index, "a snapshot stands where an input waits for its pulse"));
                }
                alike("snapshot", &json!(*state), &json!(*recorded))
                    .map_err(|what| mismatch(index, &what))?;
                self.since_snapshot = 0;
                self.beats_since_resume = None;
            }
            Data::Enforcement(it) => {
                let found = self.decisions.binary_search_by_key(&it.entry, |&(index, _)| index);
                match found.map(|at| self.decisions[at].1) {
                    Ok(Action::Noop) if it.change == Change::Apply => {
                        return Err(mismatch(index, "an enforcement applies a NOOP"));
                    }
                    Ok(_) => {}
                    // The action may stand before the snapshot at which this replay began.
                    Err(_) if self.from.is_some_and(|from| it.entry < from) => {}
                    Err(_) => {
                        return Err(mismatch(index, &format!("entry {} is no earlier action", it.entry)));
                    }
                }
            }
            Data::Unknown => {}
            Data::Pulse(_) | Data::FlowResult(_) | Data::Action(_) | Data::Evolution(_) => {
                return Err(mismatch(index, "part of a beat without its pulse"));
            }
        }
        Ok(())
    }

    fn begin(&mut self, index: u64, state: State) {
        self.state = Some(state);
        self.from = Some(index);
    }

    fn in_beat(&mut self, entry: Entry) -> Result<(), Mismatch> {
        let (kind, want) = (entry.kind(), BEAT[self.open.len()]);
        if kind != want {
            return Err(mismatch(entry.index, &format!("{kind} inside a beat, where {want} has to stand")));
        }
        self.open.push(entry);
        if self.open.len() == BEAT.len() {
            let seven = std::mem::take(&mut self.open);
            let first = seven[0].index;
            // Cannot be missing: a beat is only opened where there is a state.
            if let Some(state) = &mut self.state {
                let derived = derive(state, &seven)?;
                let (entry, action) = (first + 5, derived.action);
                self.decisions.push((entry, action));
                if self.standing.is_none_or(|standing| standing.action != action) {
                    self.standing = Some(Decision { action, entry, since: derived.pulse.timestamp });
                }
            }
            self.beats += 1;
            self.since_snapshot += 1;
            if self.since_snapshot > SNAPSHOT_EVERY {
                return Err(mismatch(first, "more than 1,000 beats without a snapshot"));
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
    state.apply(input).map_err(|refused| mismatch(index, &refused.to_string()))
}

/// Runs the beat that the seven entries record and compares.
fn derive(state: &mut State, seven: &[Entry]) -> Result<Beat, Mismatch> {
    let first = seven[0].index;
    let understood = |entry: &Entry| entry.data().map_err(|error| mismatch(entry.index, &error.to_string()));
    let Data::Pulse(pulse) = understood(&seven[0])? else {
        return Err(mismatch(first, "no pulse"));
    };
    for entry in seven {
        if entry.timestamp != pulse.pulse.timestamp {
            return Err(mismatch(entry.index, "not the one clock reading of its beat"));
        }
    }
    let opened = beat::open(state, pulse.pulse.timestamp)
        .map_err(|error: PulseError| mismatch(first, &error.to_string()))?;
    let mut flows = Cores::default().run(&opened.input);
    for entry in &seven[1..5] {
        // Canonical JSON sorts "failed" first.
        if entry.data.starts_with("{\"failed\":")
            && let Data::FlowResult(flow) = understood(entry)?
        {
            fail(&mut flows, &flow);
        }
    }
    let beat = beat::close(state, opened, flows);
    let mut entries = seven.iter();
    let mut differs = None;
    let written = Record::Beat(Box::new(beat.clone())).write(&mut Vec::new(), &mut |_, text| {
        // Equal text, as from our own hand, needs no understanding.
        if let Some(entry) = entries.next()
            && *entry.data != *text
            && differs.is_none()
        {
            let (got, want) = (serde_json::from_str(text), serde_json::from_str(&entry.data));
            if let (Ok(got), Ok(want)) = (got, want) {
                let dt = beat.evolved.pid.map_or(0.0, |pid| pid.dt);
                differs =
                    alike_in(&entry.kind(), &got, &want, dt).err().map(|what| mismatch(entry.index, &what));
            }
        }
    });
    if written.is_err() {
        return Err(mismatch(first, "derives a number that is not finite"));
    }
    match differs {
        None => Ok(beat),
        Some(mut differs) => {
            if *state.version != *VERSION {
                differs.what +=
                    &format!(" (recorded by engine {}, this is {VERSION}: use that version)", state.version);
            }
            Err(differs)
        }
    }
}

fn fail(flows: &mut Flows, flow: &FlowData) {
    use crate::organism::cores::Flow;
    let reason: Failure = flow.failed.clone().unwrap_or_default().into();
    match flow.flow {
        Flow::R => flows.regen = Err(reason),
        Flow::B => flows.balance = Err(reason),
        Flow::E => flows.entropy = Err(reason),
        Flow::O => flows.optimize = Err(reason),
    }
}

fn alike(at: &str, got: &Value, want: &Value) -> Result<(), String> {
    alike_in(at, got, want, 0.0)
}

/// Compares derived with recorded as the format's step 9 has it: times and everything that is no float
/// exactly, floats to 1e-9 relative or 1e-15 absolute (1e-15/dt in a PID's terms). Fields that only the
/// record has are a later version's and passed over; explanations are free text.
fn alike_in(at: &str, got: &Value, want: &Value, dt: f64) -> Result<(), String> {
    const EXACT: [&str; 6] = ["timestamp", "elapsed", "dt", "tau", "started", "last"];
    match (got, want) {
        (Value::Object(got), Value::Object(want)) => {
            for (key, got) in got.iter().filter(|(key, _)| *key != "explanation") {
                let want = want.get(key).ok_or_else(|| format!("{at}.{key} is missing"))?;
                alike_in(&format!("{at}.{key}"), got, want, dt)?;
            }
            Ok(())
        }
        (Value::Array(got), Value::Array(want)) if got.len() == want.len() => {
            got.iter().zip(want).try_for_each(|(got, want)| alike_in(at, got, want, dt))
        }
        (Value::Number(a), Value::Number(b)) if a.is_f64() && b.is_f64() => {
            let (a, b) = (a.as_f64().unwrap_or(f64::NAN), b.as_f64().unwrap_or(f64::NAN));
            let last = at.rsplit('.').next().unwrap_or_default();
            let absolute = if at.contains(".pid.") && dt > 0.0 { 1e-15_f64.max(1e-15 / dt) } else { 1e-15 };
            let tolerance = if EXACT.contains(&last) { 0.0 } else { (1e-9 * b.abs()).max(absolute) };
            if (a - b).abs() <= tolerance { Ok(()) } else { Err(format!("{at} is {b}, {a} follows")) }
        }
        _ if got == want => Ok(()),
        _ => Err(format!("{at} is {want}, {got} follows")),
    }
}
