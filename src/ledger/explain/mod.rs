//! Explanation: why a decision was taken, from a ledger's entries alone.
//!
//! | module | content |
//! |---|---|
//! | [`walk`] | reads the entries in order, replays them, and finds the decision that was asked for |
//! | [`beat`] | the numbers of one beat |
//! | [`inputs`] | which entries the anomalies of a beat come from |
//! | [`why_not`] | what another action would have needed |
//!
//! All numbers are the recorded ones, after a [replay](super::replay) of the whole ledger has derived the same:
//! nothing is explained of a ledger that does not replay. Memory is bounded: lists are cut, and say how much is
//! missing.

pub mod beat;
pub mod inputs;
#[cfg(test)]
mod tests;
pub mod walk;
pub mod why_not;

use serde::Serialize;

use super::entry::Change;
use crate::organism::Action;
pub use beat::BeatFacts;
pub use inputs::{Anomaly, Counted};
pub use walk::{ExplainError, Explainer, Target};
pub use why_not::WhyNot;

/// Longest text of others that an explanation quotes, in bytes. The entry has the whole.
pub const QUOTED: usize = 256;

/// Why a decision was taken. Serialized, it is the JSON that `venom explain -o json` prints (beside what it says of the
/// source); times are seconds since 1970, other numbers as in the ledger.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The entry that was asked for, if it is none of the beat.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asked: Option<Asked>,
    /// The decision to which the beat belongs.
    pub decision: Decision,
    /// The explained beat: the first of the decision, unless another was asked for.
    pub beat: BeatFacts,
    /// What was done about the decision.
    pub response: Response,
    /// Why another action was not decided, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why_not: Option<WhyNot>,
    /// Index of the genesis or snapshot from which all numbers were derived again.
    pub replayed_from: u64,
    /// Index of the last entry that was read.
    pub last_entry: u64,
}

/// An entry outside of beats that was asked for. What is explained is the beat from which it is in force, or, for an
/// enforcement, the decision that it follows from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Asked {
    /// Its index.
    pub entry: u64,
    /// Its type, such as `sense`.
    pub r#type: String,
    /// For an injection or sense, whether it adds anomalies: not if it is suppressed, or has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counts: Option<bool>,
}

/// Consecutive beats that decided the same.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    /// What was decided.
    pub action: Action,
    /// The first of the beats. If [`taken_earlier`](Self::taken_earlier), only the first that was replayed.
    pub since: Moment,
    /// Whether the decision was in force before the snapshot at which the replay started: the beat that took it is no
    /// longer stored.
    pub taken_earlier: bool,
    /// What was decided before; `None` if nothing was, or if the decision was taken earlier.
    pub before: Option<Action>,
    /// The first beat that decided something else; `None` if none did up to the last entry.
    pub until: Option<Moment>,
    /// Index of the action entry of the last of the beats.
    pub last_beat_entry: u64,
    /// Number of beats.
    pub beats: u64,
    /// How many of them were held: a core failed, so the decision of the beat before stood.
    pub held_beats: u64,
}

/// A beat at which a decision began.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Moment {
    /// What it decided.
    pub action: Action,
    /// Index of its action entry.
    pub entry: u64,
    /// Its number, from 1.
    pub beat: u64,
    /// Its time.
    pub timestamp: f64,
}

/// The enforcement entries that follow from a decision.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Response {
    /// What an earlier decision had applied and was still in force when this one was taken. A quarantine outlasts its
    /// decision, so a new one may find it there and add nothing.
    pub in_force: Option<EnforcementSeen>,
    /// The first of them, at most [`Response::LISTED`].
    pub enforcements: Vec<EnforcementSeen>,
    /// Number of those that are not listed.
    pub more: u64,
    /// Whether one of all of them applied something, or with `Observe` would have.
    pub applied: bool,
    /// The first entry that undid what was applied, or in force if nothing was. It may follow from a later decision.
    pub released: Option<EnforcementSeen>,
    /// Number of all enforcement entries that were read, whatever they follow from.
    pub in_ledger: u64,
}

impl Response {
    /// Number of listed enforcements.
    pub const LISTED: usize = 10;
}

/// An enforcement entry.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EnforcementSeen {
    /// Its index.
    pub entry: u64,
    /// Its time.
    pub timestamp: f64,
    /// Index of the action entry that it follows from.
    pub follows: u64,
    /// `Enforce`, or `Observe`: nothing was touched.
    pub mode: String,
    /// `apply` or `release`.
    pub change: Change,
    /// What was done, at most [`Response::LISTED`]; if refused or with `Observe`, what would have been done.
    pub what: Vec<String>,
    /// Number of changes that are not listed.
    pub more: u64,
    /// Why nothing was done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// `text`, cut after at most [`QUOTED`] bytes.
fn quote(text: &str) -> String {
    match text.char_indices().map(|(at, char)| at + char.len_utf8()).take_while(|&end| end <= QUOTED).last() {
        Some(end) if end < text.len() => format!("{}…", &text[..end]),
        _ => text.to_owned(),
    }
}
