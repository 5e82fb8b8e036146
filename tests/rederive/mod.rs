//! An independent verifier for ledgers, written from `docs/ledger-format.md` with only a JSON parser and a hash function.
//!
//! It uses neither the engine nor the replay nor the canonical JSON of the crate, so that it does not share their
//! mistakes. Formulas use `f64::exp` and `ln`; numbers are compared with the tolerances of step 9 of the format.

mod beat;
mod state;
pub mod text;
mod tree;

use std::collections::BTreeMap;

use serde_json::Value;

use state::State;
use text::{canonical, hex, parse_hash};
use tree::Tree;

/// Maximum number of beats between two snapshots.
const SNAPSHOT_EVERY: u64 = 1000;

/// The state before the first line: an empty ledger, or the end of the pruned part.
#[derive(Clone, Debug, Default)]
pub struct Before {
    pub size: u64,
    /// In hexadecimal digits; empty stands for the zeros before entry 0.
    pub previous_hash: String,
    pub peaks: Vec<String>,
}

/// What a verified ledger contains.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Entries since genesis.
    pub size: u64,
    pub last_hash: String,
    pub root: String,
    /// Peaks of the Merkle tree in hexadecimal digits, largest subtree first.
    pub peaks: Vec<String>,
    /// Index of the genesis or snapshot from which beats were derived.
    pub from: Option<u64>,
    /// Number of derived beats.
    pub beats: u64,
    /// Number of entries of each type.
    pub types: BTreeMap<String, u64>,
    /// Index and data of each input, genesis included.
    pub inputs: Vec<(u64, Value)>,
    /// Index and action of the first decision and of each change.
    pub decisions: Vec<(u64, String)>,
    /// Index and data of each pulse.
    pub pulses: Vec<(u64, Value)>,
    /// The final state, as a snapshot would record it.
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
    /// Entries of the current beat, which is incomplete.
    open_beat: Vec<Entry>,
    beats_since_snapshot: u64,
    /// Beats since a resume that no snapshot has followed yet.
    beats_since_resume: Option<u64>,
    actions: BTreeMap<u64, String>,
    summary: Summary,
}

/// Verifies the lines of an export after `before`: canonical texts, hashes and links, and every number that can be
/// derived from a genesis or from the first snapshot on.
pub fn rederive<'a>(before: &Before, lines: impl IntoIterator<Item = &'a str>) -> Result<Summary, String> {
    let peaks: Vec<_> = before.peaks.iter().map(|peak| parse_hash(peak)).collect::<Result<_, _>>()?;
    let mut tree = Tree::from_peaks(before.size, &peaks)?;
    let mut run = Run::default();
    run.summary.size = before.size;
    run.summary.last_hash =
        if before.previous_hash.is_empty() { "0".repeat(64) } else { before.previous_hash.clone() };
    for line in lines {
        let index = run.summary.size;
        run.line(line, &mut tree).map_err(|what| format!("entry {index}: {what}"))?;
    }
    if !run.open_beat.is_empty() {
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
            return Err(format!("unexpected fields: {keys:?}"));
        }
        if canonical(&whole) != line {
            return Err(format!("not canonical: {line}"));
        }
        if whole["index"].as_u64() != Some(self.summary.size) {
            return Err(format!("unexpected index {}", whole["index"]));
        }
        if whole["previous_hash"] != self.summary.last_hash {
            return Err("previous_hash does not match the previous entry".into());
        }
        let hash = text::line_hash(line);
        if whole["hash"] != hash {
            return Err(format!("hash does not match, expected {hash}"));
        }
        tree.push(&parse_hash(&hash)?);
        let timestamp = whole["timestamp"].as_f64().filter(|_| whole["timestamp"].is_f64());
        let entry = Entry {
            index: self.summary.size,
            timestamp: timestamp.ok_or("the timestamp is not a float")?,
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
        check_number_types(&kind, &[], data)?;
        *self.summary.types.entry(kind.clone()).or_default() += 1;
        if kind == "genesis" && index != 0 {
            return Err("genesis is not the first entry".into());
        }
        let Some(state) = &mut self.state else {
            // After pruning, nothing can be derived before the first snapshot.
            self.state = match kind.as_str() {
                "genesis" => Some(State::genesis(timestamp, data)?),
                "snapshot" => Some(State::snapshot(data)?),
                _ if index == 0 => return Err("the first entry is not a genesis".into()),
                _ => None,
            };
            self.summary.from = self.state.is_some().then_some(index);
            if kind == "genesis" {
                self.summary.inputs.push((index, entry.data));
            }
            return Ok(());
        };
        if kind == "pulse" || !self.open_beat.is_empty() {
            let (want, flow) = BEAT[self.open_beat.len()];
            if kind != want || (!flow.is_empty() && data["flow"] != flow) {
                return Err(format!("{kind} inside a beat, expected {want} {flow}"));
            }
            self.open_beat.push(entry);
            return if self.open_beat.len() == BEAT.len() { self.beat() } else { Ok(()) };
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
                if state.has_pending_anomalies() {
                    return Err("snapshot while an input waits for the next pulse".into());
                }
                // The format says "as in genesis": the same fields may be missing.
                let recorded = State::snapshot(data)?.to_snapshot();
                check_equal("snapshot", &state.to_snapshot(), &recorded, 0.0)?;
                (self.beats_since_snapshot, self.beats_since_resume) = (0, None);
            }
            "enforcement" => {
                let of = state::integer(data, "entry")?;
                let found = self.actions.get(&of);
                if found.is_none() && self.summary.from.is_none_or(|from| of >= from) {
                    return Err(format!("entry {of} is not an earlier action"));
                }
                if found.is_some_and(|action| action == "NOOP") && data["change"] == "apply" {
                    return Err("enforcement applies a NOOP".into());
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
        let seven = std::mem::take(&mut self.open_beat);
        let Some(state) = &mut self.state else { return Err("a beat without a state".into()) };
        let (first, timestamp) = (seven[0].index, seven[0].timestamp);
        let failures: [Option<Value>; 4] =
            std::array::from_fn(|core| seven[core + 1].data.get("failed").cloned());
        if failures.iter().flatten().any(|reason| !reason.is_string()) {
            return Err("a core failed without a reason".into());
        }
        let derived = state.beat(timestamp, &failures)?;
        for (recorded, want) in seven.iter().zip(&derived.data) {
            let at = |what: String| format!("({}, beat {}) {what}", recorded.index, state.beat);
            if recorded.timestamp != timestamp {
                return Err(at("timestamp differs from that of its beat".into()));
            }
            let kind = want["type"].as_str().unwrap_or_default();
            check_equal(kind, want, &recorded.data, derived.dt).map_err(at)?;
            for absent in ["failed", "result", "held", "pid"] {
                if want.get(absent).is_none() && recorded.data.get(absent).is_some() {
                    return Err(at(format!("{kind} has an unexpected {absent}")));
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
            return Err("no snapshot between a resume and the second pulse after it".into());
        }
        Ok(())
    }
}

/// Checks that `got`, as recorded, has every field of `want`, as derived, with the same value. Further fields in
/// `got` belong to later versions.
fn check_equal(at: &str, want: &Value, got: &Value, dt: f64) -> Result<(), String> {
    let absolute = if dt > 0.0 { 1e-15 / dt.min(1.0) } else { 1e-15 };
    compare(want, got, Tolerance { exact: false, absolute: 1e-15, pid: absolute })
        .map_err(|(path, what)| format!("{at}{path} {what}"))
}

#[derive(Clone, Copy)]
struct Tolerance {
    exact: bool,
    absolute: f64,
    /// Absolute tolerance under `pid`.
    pid: f64,
}

impl Tolerance {
    /// The tolerance under `key`: none for times and for inputs that are repeated.
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

/// The error consists of a path and the difference. The path is built on return, because errors are rare.
fn compare(want: &Value, got: &Value, tolerance: Tolerance) -> Result<(), (String, String)> {
    match (want, got) {
        (Value::Object(want), Value::Object(got)) => want.iter().try_for_each(|(key, want)| {
            let got = got.get(key).ok_or_else(|| (format!(".{key}"), "is missing".into()))?;
            compare(want, got, tolerance.under(key)).map_err(|(path, what)| (format!(".{key}{path}"), what))
        }),
        (Value::Array(want), Value::Array(got)) if want.len() == got.len() => {
            want.iter().zip(got).try_for_each(|(want, got)| compare(want, got, tolerance))
        }
        (Value::Number(a), Value::Number(b)) if a.is_f64() && b.is_f64() => {
            let (want, got) = (a.as_f64().unwrap_or(f64::NAN), b.as_f64().unwrap_or(f64::NAN));
            let most = if tolerance.exact { 0.0 } else { f64::max(1e-9 * got.abs(), tolerance.absolute) };
            let same = (want - got).abs() <= most;
            if same { Ok(()) } else { Err((String::new(), format!("is {got:?}, expected {want:?}"))) }
        }
        _ if want == got => Ok(()),
        _ => Err((String::new(), format!("is {got}, expected {want}"))),
    }
}

/// Checks which numbers are integers and which are floats. `path` consists of the keys that lead to `value`. (Passing
/// a key on as the parent of the next one instead is miscompiled with optimization by rustc 1.95, LLVM 22.1.2.)
fn check_number_types(kind: &str, path: &[&str], value: &Value) -> Result<(), String> {
    let number = match value {
        Value::Object(fields) => {
            return fields
                .iter()
                .try_for_each(|(name, value)| check_number_types(kind, &[path, &[name]].concat(), value));
        }
        Value::Array(items) => {
            return items.iter().try_for_each(|item| match item.as_array() {
                Some(pair) if pair.len() == 2 && pair[0].is_f64() && pair[1].is_u64() => Ok(()),
                _ => check_number_types(kind, path, item),
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
    let expected = if whole { "an integer" } else { "a float" };
    if right { Ok(()) } else { Err(format!("{kind}: {} is {number}, not {expected}", path.join("."))) }
}
