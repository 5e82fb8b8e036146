//! A second opinion: checks a ledger with nothing but its format page, a JSON reader and a hash function.
//!
//! Nothing here uses the engine, the replay or the canonical JSON of the crate: a mistake that is made there
//! must not be made here too. Formulas use `f64::exp` and `ln`, compared as the page's step 9 says.

mod beat;
mod state;
pub mod text;
mod tree;

use std::collections::BTreeMap;

use serde_json::Value;

use state::State;
use text::{canonical, hex, unhex};
use tree::Tree;

/// A snapshot stands at least every so many beats.
const SNAPSHOT_EVERY: u64 = 1000;

/// Where a run of lines begins: nothing before it, or the end of what was pruned.
#[derive(Clone, Debug, Default)]
pub struct Before {
    pub size: u64,
    /// Hex; empty stands for the zeros before entry 0.
    pub previous_hash: String,
    pub peaks: Vec<String>,
}

/// What a ledger that holds has shown.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Entries since genesis.
    pub size: u64,
    pub last_hash: String,
    pub root: String,
    /// Of the tree over all entries, hex, the largest first.
    pub peaks: Vec<String>,
    /// The genesis or snapshot from which beats were derived.
    pub from: Option<u64>,
    /// Beats that were derived.
    pub beats: u64,
    /// How many entries of each type.
    pub types: BTreeMap<String, u64>,
    /// Index and data of the inputs, genesis included.
    pub inputs: Vec<(u64, Value)>,
    /// Index and action, at the first beat and where it changed.
    pub decisions: Vec<(u64, String)>,
    /// Index of each pulse, and its data.
    pub pulses: Vec<(u64, Value)>,
    /// The state at the end, as a snapshot would hold it.
    pub state: Value,
}

impl Summary {
    /// The inputs of one type.
    pub fn inputs_of(&self, kind: &str) -> Vec<&Value> {
        self.inputs.iter().map(|(_, data)| data).filter(|data| data["type"] == kind).collect()
    }
}

struct Entry {
    index: u64,
    timestamp: f64,
    data: Value,
}

#[derive(Default)]
struct Run {
    state: Option<State>,
    /// Entries of a beat that is not complete.
    open: Vec<Entry>,
    beats_since_snapshot: u64,
    /// Beats since a resume after which no snapshot stands yet.
    beats_since_resume: Option<u64>,
    actions: BTreeMap<u64, String>,
    summary: Summary,
}

/// Checks the lines of an export that follow `before`: texts, hashes, links, root, and every number that
/// follows from a genesis or the first snapshot on.
pub fn rederive<'a>(before: &Before, lines: impl IntoIterator<Item = &'a str>) -> Result<Summary, String> {
    let peaks: Vec<_> = before.peaks.iter().map(|peak| unhex(peak)).collect::<Result<_, _>>()?;
    let mut tree = Tree::of_peaks(before.size, &peaks)?;
    let mut run = Run::default();
    run.summary.size = before.size;
    run.summary.last_hash =
        if before.previous_hash.is_empty() { "0".repeat(64) } else { before.previous_hash.clone() };
    for line in lines {
        let index = run.summary.size;
        run.line(line, &mut tree).map_err(|what| format!("entry {index}: {what}"))?;
    }
    if !run.open.is_empty() {
        return Err("the ledger ends inside a beat".into());
    }
    run.summary.root = hex(&tree.root());
    run.summary.peaks = tree.peaks().map(hex).collect();
    run.summary.state = run.state.as_ref().map_or(Value::Null, State::to_snapshot);
    Ok(run.summary)
}

impl Run {
    fn line(&mut self, line: &str, tree: &mut Tree) -> Result<(), String> {
        let whole: Value = serde_json::from_str(line).map_err(|error| error.to_string())?;
        let keys: Vec<&str> = whole.as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect();
        if keys.len() != 5
            || !["data", "hash", "index", "previous_hash", "timestamp"].iter().all(|it| keys.contains(it))
        {
            return Err(format!("its fields are {keys:?}"));
        }
        if canonical(&whole) != line {
            return Err(format!("not canonical: {line}"));
        }
        if whole["index"].as_u64() != Some(self.summary.size) {
            return Err(format!("its index is {}", whole["index"]));
        }
        if whole["previous_hash"] != self.summary.last_hash {
            return Err("it does not name the entry before".into());
        }
        let hash = text::line_hash(line);
        if whole["hash"] != hash {
            return Err(format!("its hash should be {hash}"));
        }
        tree.push(&unhex(&hash)?);
        let timestamp = whole["timestamp"].as_f64().filter(|_| whole["timestamp"].is_f64());
        let entry = Entry {
            index: self.summary.size,
            timestamp: timestamp.ok_or("its timestamp is no float")?,
            data: whole["data"].clone(),
        };
        self.summary.size += 1;
        self.summary.last_hash = hash;
        self.entry(entry)
    }

    fn entry(&mut self, entry: Entry) -> Result<(), String> {
        const BEAT: [(&str, &str); 7] = [
            ("pulse", ""),
            ("flow_result", "R"),
            ("flow_result", "B"),
            ("flow_result", "E"),
            ("flow_result", "O"),
            ("action", ""),
            ("evolution", ""),
        ];
        let Entry { index, timestamp, ref data } = entry;
        let kind = data["type"].as_str().ok_or("data without a type")?.to_owned();
        types(&kind, &[], data)?;
        *self.summary.types.entry(kind.clone()).or_default() += 1;
        if kind == "genesis" && index != 0 {
            return Err("a genesis that is not the first entry".into());
        }
        let Some(state) = &mut self.state else {
            // What was pruned is missing before the first snapshot: nothing can be derived there.
            self.state = match kind.as_str() {
                "genesis" => Some(State::genesis(timestamp, data)?),
                "snapshot" => Some(State::snapshot(data)?),
                _ if index == 0 => return Err("the first entry is no genesis".into()),
                _ => None,
            };
            self.summary.from = self.state.is_some().then_some(index);
            if kind == "genesis" {
                self.summary.inputs.push((index, entry.data));
            }
            return Ok(());
        };
        if kind == "pulse" || !self.open.is_empty() {
            let (want, flow) = BEAT[self.open.len()];
            if kind != want || (!flow.is_empty() && data["flow"] != flow) {
                return Err(format!("{kind} where the {want} {flow} of a beat has to stand"));
            }
            self.open.push(entry);
            return if self.open.len() == BEAT.len() { self.beat() } else { Ok(()) };
        }
        match kind.as_str() {
            "config" => state.configure(data)?,
            "injection" => state.inject(data)?,
            "sense" => state.sense(data)?,
            "scale" => state.scale(data)?,
            "resume" => {
                state.resume(data)?;
                self.beats_since_resume = Some(0);
            }
            "snapshot" => {
                if state.waits() {
                    return Err("a snapshot where an input waits for its pulse".into());
                }
                // "as in genesis": what a genesis left out may be left out here too.
                let recorded = State::snapshot(data)?.to_snapshot();
                same("snapshot", &state.to_snapshot(), &recorded, 0.0)?;
                (self.beats_since_snapshot, self.beats_since_resume) = (0, None);
            }
            "enforcement" => {
                let of = state::integer(data, "entry")?;
                let found = self.actions.get(&of);
                if found.is_none() && self.summary.from.is_none_or(|from| of >= from) {
                    return Err(format!("entry {of} is no action before it"));
                }
                if found.is_some_and(|action| action == "NOOP") && data["change"] == "apply" {
                    return Err("it applies a NOOP".into());
                }
            }
            "flow_result" | "action" | "evolution" => return Err(format!("{kind} outside a beat")),
            _ => {}
        }
        if ["config", "injection", "sense", "scale", "resume"].contains(&kind.as_str()) {
            self.summary.inputs.push((index, entry.data));
        }
        Ok(())
    }

    fn beat(&mut self) -> Result<(), String> {
        let seven = std::mem::take(&mut self.open);
        let Some(state) = &mut self.state else { return Err("a beat without a state".into()) };
        let (first, timestamp) = (seven[0].index, seven[0].timestamp);
        let failed: [Option<Value>; 4] =
            std::array::from_fn(|core| seven[core + 1].data.get("failed").cloned());
        if failed.iter().flatten().any(|why| !why.is_string()) {
            return Err("a core failed without a reason".into());
        }
        let derived = state.beat(timestamp, &failed)?;
        for (recorded, want) in seven.iter().zip(&derived.data) {
            let at = |what: String| format!("({}, beat {}) {what}", recorded.index, state.beat);
            if recorded.timestamp != timestamp {
                return Err(at("not the one clock reading of its beat".into()));
            }
            let kind = want["type"].as_str().unwrap_or_default();
            same(kind, want, &recorded.data, derived.dt).map_err(at)?;
            for absent in ["failed", "result", "held", "pid"] {
                if want.get(absent).is_none() && recorded.data.get(absent).is_some() {
                    return Err(at(format!("{kind} has {absent}")));
                }
            }
            if want["held"] == true && recorded.data["details"].as_object().is_some_and(|it| !it.is_empty()) {
                return Err(at("a held beat has details".into()));
            }
        }
        let action = state.action.clone();
        if self.summary.decisions.last().is_none_or(|(_, before)| *before != action) {
            self.summary.decisions.push((first + 5, action.clone()));
        }
        self.actions.insert(first + 5, action);
        self.summary.beats += 1;
        self.summary.pulses.extend(seven.into_iter().next().map(|pulse| (pulse.index, pulse.data)));
        self.beats_since_snapshot += 1;
        if self.beats_since_snapshot > SNAPSHOT_EVERY {
            return Err(format!("more than {SNAPSHOT_EVERY} beats without a snapshot"));
        }
        self.beats_since_resume = self.beats_since_resume.map(|beats| beats + 1);
        if self.beats_since_resume > Some(1) {
            return Err("a second pulse after a resume without a snapshot between".into());
        }
        Ok(())
    }
}

/// Every field of `want` has to be in `got` with that value; what only `got` has is a later version's.
fn same(at: &str, want: &Value, got: &Value, dt: f64) -> Result<(), String> {
    let absolute = if dt > 0.0 { 1e-15 / dt.min(1.0) } else { 1e-15 };
    alike(want, got, Allowed { exact: false, absolute: 1e-15, pid: absolute })
        .map_err(|(path, what)| format!("{at}{path} {what}"))
}

#[derive(Clone, Copy)]
struct Allowed {
    exact: bool,
    absolute: f64,
    /// Absolute in an evolution's `pid`.
    pid: f64,
}

impl Allowed {
    /// What is allowed under `key`: nothing in times and echoed inputs.
    fn under(mut self, key: &str) -> Self {
        self.exact |= matches!(
            key,
            "timestamp"
                | "elapsed"
                | "dt"
                | "tau"
                | "started"
                | "last"
                | "ml_weight"
                | "ml_bias"
                | "kp"
                | "ki"
                | "kd"
                | "injected"
                | "sensed"
                | "genome"
                | "config"
        );
        if key == "pid" {
            self.absolute = self.pid;
        }
        self
    }
}

/// The error is a path and what is wrong there; it is put together on the way back, for it is rare.
fn alike(want: &Value, got: &Value, allowed: Allowed) -> Result<(), (String, String)> {
    match (want, got) {
        (Value::Object(want), Value::Object(got)) => want.iter().try_for_each(|(key, want)| {
            let got = got.get(key).ok_or_else(|| (format!(".{key}"), "is missing".into()))?;
            alike(want, got, allowed.under(key)).map_err(|(path, what)| (format!(".{key}{path}"), what))
        }),
        (Value::Array(want), Value::Array(got)) if want.len() == got.len() => {
            want.iter().zip(got).try_for_each(|(want, got)| alike(want, got, allowed))
        }
        (Value::Number(a), Value::Number(b)) if a.is_f64() && b.is_f64() => {
            let (want, got) = (a.as_f64().unwrap_or(f64::NAN), b.as_f64().unwrap_or(f64::NAN));
            let most = if allowed.exact { 0.0 } else { f64::max(1e-9 * got.abs(), allowed.absolute) };
            let same = (want - got).abs() <= most;
            if same { Ok(()) } else { Err((String::new(), format!("is {got:?}, {want:?} follows"))) }
        }
        _ if want == got => Ok(()),
        _ => Err((String::new(), format!("is {got}, {want} follows"))),
    }
}

/// "Numbers": which are integers and which are floats. `path` are the keys that lead to `value`. (Handing a key
/// on as the parent of the next one instead is miscompiled with optimisation by rustc 1.95, LLVM 22.1.2.)
fn types(kind: &str, path: &[&str], value: &Value) -> Result<(), String> {
    let number = match value {
        Value::Object(fields) => {
            return fields.iter().try_for_each(|(name, value)| types(kind, &[path, &[name]].concat(), value));
        }
        Value::Array(items) => {
            return items.iter().try_for_each(|item| match item.as_array() {
                Some(pair) if pair.len() == 2 && pair[0].is_f64() && pair[1].is_u64() => Ok(()),
                _ => types(kind, path, item),
            });
        }
        Value::Number(number) => number,
        _ => return Ok(()),
    };
    let whole = match path {
        [.., "pulse", "kp"] => true,
        [
            ..,
            "index" | "pulse_id" | "beat" | "k" | "p" | "anoms" | "total_anoms" | "size" | "entry"
            | "generation" | "epoch",
        ] => true,
        [.., "from"] => kind == "scale",
        _ => false,
    };
    let right = if whole { number.is_u64() } else { number.is_f64() };
    let wanted = if whole { "a whole number" } else { "a float" };
    if right { Ok(()) } else { Err(format!("{kind}: {} is {number}, not {wanted}", path.join("."))) }
}
