//! What a head remembers of the entries that it has committed.

use serde::{Deserialize, Serialize};

use super::bounded;
use crate::ledger::entry::Change;
use crate::organism::Action;

/// What a head says of the entries of a segment.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// Index and timestamp of the injections.
    pub injections: Vec<(u64, f64)>,
    /// Index and timestamp of the observations of sensors.
    pub senses: Vec<(u64, f64)>,
    /// The last enforcement entry.
    pub enforcement: Option<LastEnforcement>,
}

/// What the last enforcement entry recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LastEnforcement {
    /// What was decided.
    pub action: Action,
    /// Whether it was applied or undone.
    pub change: Change,
    /// Index of the action entry that it follows from.
    #[serde(deserialize_with = "bounded")]
    pub entry: u64,
    /// `Enforce` or `Observe`.
    pub mode: String,
    /// Why nothing was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// The target utilization that APPLY_OPTIMIZE has set, in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub utilization: Option<u32>,
}
