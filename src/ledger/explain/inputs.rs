//! Which entries the anomalies of a beat come from, and which entries set the parameters in force.

use std::collections::VecDeque;

use serde::Serialize;

use super::quote;
use crate::ledger::entry::Data;
use crate::organism::State;
use crate::organism::state::{Item, MAX_ITEMS};

/// Anomalies of one injection or sense entry.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Anomaly {
    /// `injection` or `sense`.
    pub r#type: &'static str,
    /// Number of anomalies.
    pub anoms: u64,
    /// Index of the entry. `None` if the anomalies come from a snapshot that lists them: their entry precedes the
    /// replay, and the other fields are unknown.
    pub entry: Option<u64>,
    /// Since when it counts, in seconds of the ledger's time before the beat: time during which nothing beats is not
    /// counted.
    pub age: f64,
    /// Time of the entry, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<f64>,
    /// Id of an injection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The node or endpoint that received an injection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Identity of the client of an injection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// The sensor of a sense.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Kind of a sense.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The observed object and event of a sense, or the name of a query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
}

/// What counted at a beat, and what did not.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counted {
    /// All anomalies: the input of the threat model.
    pub total: u64,
    /// The Genome's own: `risk.anoms`.
    pub genome: u64,
    /// Index of the entry that set `risk.anoms`; the genesis or snapshot of the replay if none did since.
    pub genome_set_by: u64,
    /// Injected ones in the risk window.
    pub injected: u64,
    /// Sensed ones in the risk window.
    pub sensed: u64,
    /// The risk window in seconds of the ledger's time; 0.0 means without end.
    pub window: f64,
    /// The injections and senses in the window: most anomalies first, then the newest. At most [`Counted::LISTED`].
    pub listed: Vec<Anomaly>,
    /// Number of those that are not listed.
    pub more: u64,
    /// Their anomalies.
    pub more_anoms: u64,
    /// Senses of the window that are suppressed, newest first: recorded, but they count 0. At most [`Counted::LISTED`].
    pub suppressed: Vec<Anomaly>,
    /// Number of suppressed ones that are not listed.
    pub more_suppressed: u64,
}

impl Counted {
    /// Number of listed entries of each kind.
    pub const LISTED: usize = 100;
}

/// An entry and the time of the ledger at which it joined.
type Joined = (f64, Anomaly);

/// Follows the entries that may count.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    /// Since the last pulse, in entry order.
    waiting: Vec<Anomaly>,
    waiting_suppressed: Vec<Anomaly>,
    injected: VecDeque<Joined>,
    sensed: VecDeque<Joined>,
    /// The newest ones, at most [`MAX_ITEMS`].
    suppressed: VecDeque<Joined>,
    pub(super) set_by: SetBy,
}

/// Indices of the entries that set the parameters in force.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SetBy {
    pub(super) risk: u64,
    pub(super) model: u64,
    pub(super) thresholds: u64,
    pub(super) weights: u64,
}

impl Inputs {
    /// Starts at the genesis or snapshot `entry`, whose state is `state`.
    pub(super) fn start(entry: u64, state: &State) -> Self {
        let known = |r#type, items: &[Item]| -> VecDeque<Joined> {
            items.iter().map(|&(tau, anoms)| (tau, Anomaly { r#type, anoms, ..Anomaly::default() })).collect()
        };
        Self {
            injected: known("injection", &state.injected),
            sensed: known("sense", &state.sensed),
            set_by: SetBy { risk: entry, model: entry, thresholds: entry, weights: entry },
            ..Self::default()
        }
    }

    /// Takes in entry `index` between two beats. Returns whether it adds anomalies, if it is an injection or sense.
    pub(super) fn take(&mut self, index: u64, timestamp: f64, data: &Data) -> Option<bool> {
        let (entry, timestamp) = (Some(index), Some(timestamp));
        match data {
            Data::Config(it) => {
                let set = |by: &mut u64, is_set: bool| *by = if is_set { index } else { *by };
                set(&mut self.set_by.risk, it.risk.as_ref().is_some_and(|risk| risk.anoms.is_some()));
                set(&mut self.set_by.model, it.ml.is_some());
                set(&mut self.set_by.thresholds, it.thresholds.is_some());
                set(&mut self.set_by.weights, it.weights.is_some());
                None
            }
            Data::Injection(it) => {
                if it.ml_weight.is_some() || it.ml_bias.is_some() {
                    self.set_by.model = index;
                }
                let text = |text: &Option<String>| text.as_deref().map(quote);
                let anoms = it.anoms.unwrap_or_default();
                if anoms > 0 {
                    self.waiting.push(Anomaly {
                        r#type: "injection",
                        anoms,
                        entry,
                        timestamp,
                        id: Some(quote(&it.id)),
                        from: text(&it.from),
                        by: text(&it.by),
                        ..Anomaly::default()
                    });
                }
                Some(anoms > 0)
            }
            Data::Sense(it) => {
                let sensed = || Anomaly {
                    r#type: "sense",
                    anoms: it.anoms,
                    entry,
                    timestamp,
                    source: Some(quote(&it.source)),
                    kind: Some(quote(&it.kind)),
                    subject: Some(quote(&it.subject)),
                    ..Anomaly::default()
                };
                match (it.suppressed, it.anoms) {
                    (true, _) => {
                        if self.waiting_suppressed.len() == MAX_ITEMS {
                            self.waiting_suppressed.remove(0);
                        }
                        self.waiting_suppressed.push(sensed());
                        Some(false)
                    }
                    (false, 0) => Some(false),
                    (false, _) => {
                        self.waiting.push(sensed());
                        Some(true)
                    }
                }
            }
            _ => None,
        }
    }

    /// Follows a beat, after which the state is `state`.
    pub(super) fn beat(&mut self, state: &State) {
        let tau = state.tau;
        let waiting = std::mem::take(&mut self.waiting);
        let changed = !waiting.is_empty();
        for it in waiting {
            let list = if it.r#type == "sense" { &mut self.sensed } else { &mut self.injected };
            list.push_back((tau, it));
        }
        for (list, counted) in [(&mut self.injected, &state.injected), (&mut self.sensed, &state.sensed)] {
            if changed || list.len() != counted.len() {
                keep_counted(list, counted);
            }
        }
        let window = state.genome.risk.window;
        if window > 0.0 {
            self.suppressed.retain(|(joined, _)| tau - joined < window);
        }
        self.suppressed.extend(self.waiting_suppressed.drain(..).map(|it| (tau, it)));
        let excess = self.suppressed.len().saturating_sub(MAX_ITEMS);
        self.suppressed.drain(..excess);
    }

    /// What counted at the last beat, after which the state is `state`.
    pub(super) fn counted(&self, state: &State) -> Counted {
        let aged = |(joined, it): &Joined| Anomaly { age: state.tau - joined, ..it.clone() };
        let mut all: Vec<&Joined> = self.injected.iter().chain(&self.sensed).collect();
        all.sort_by_key(|(_, it)| std::cmp::Reverse((it.anoms, it.entry)));
        let rest = all.split_off(all.len().min(Counted::LISTED));
        let sum = |list: &VecDeque<Joined>| list.iter().fold(0_u64, |sum, it| sum.saturating_add(it.1.anoms));
        Counted {
            total: state.genome_anoms().saturating_add(state.features_anoms()),
            genome: state.genome.risk.anoms,
            genome_set_by: self.set_by.risk,
            injected: sum(&self.injected),
            sensed: sum(&self.sensed),
            window: state.genome.risk.window,
            listed: all.into_iter().map(aged).collect(),
            more: rest.len() as u64,
            more_anoms: rest.iter().fold(0, |sum, (_, it)| sum.saturating_add(it.anoms)),
            suppressed: self.suppressed.iter().rev().take(Counted::LISTED).map(aged).collect(),
            more_suppressed: self.suppressed.len().saturating_sub(Counted::LISTED) as u64,
        }
    }
}

/// Keeps those of `list` that the engine has kept: `counted` is what is left of the same list, in the same order. The
/// rule by which they leave stands in the engine alone.
fn keep_counted(list: &mut VecDeque<Joined>, counted: &[Item]) {
    let mut counted = counted.iter();
    let mut next = counted.next();
    list.retain(|(tau, it)| {
        let kept = next.is_some_and(|&(joined, anoms)| joined == *tau && anoms == it.anoms);
        if kept {
            next = counted.next();
        }
        kept
    });
}
