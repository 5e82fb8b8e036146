//! The five actions, as a status shows them.
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What an organism decided: one of the five actions.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Action {
    /// The threat is so high that the body is to be cut off.
    Quarantine,
    /// The threat is high enough to tell somebody.
    Alert,
    /// Keep what is there: no scaling down.
    ApplyBalance,
    /// There is gain in running the body denser.
    ApplyOptimize,
    /// Nothing to do.
    Noop,
}

impl Action {
    /// The word that a status, a column, an event and the ledger show.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Quarantine => "QUARANTINE",
            Self::Alert => "ALERT",
            Self::ApplyBalance => "APPLY_BALANCE",
            Self::ApplyOptimize => "APPLY_OPTIMIZE",
            Self::Noop => "NOOP",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
