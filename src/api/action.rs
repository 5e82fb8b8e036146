//! The five actions as a status shows them.
//!
//! The engine has the same enum, without a schema: it does not depend on Kubernetes' crates. The names come from the
//! engine, because the ledger records them too.
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::organism;

/// The decided action.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Action {
    /// Isolate the pods: the threat is at or above the quarantine threshold.
    Quarantine,
    /// Alert the user: the threat is at or above the alert threshold.
    Alert,
    /// Keep the pods and do not scale down: the body is stable.
    ApplyBalance,
    /// Run fewer pods: there is gain in it.
    ApplyOptimize,
    /// No action.
    Noop,
}

impl Action {
    /// The name in statuses, printer columns, Events and the ledger, such as `APPLY_BALANCE`.
    pub fn as_str(self) -> &'static str {
        organism::Action::from(self).as_str()
    }
}

impl From<organism::Action> for Action {
    fn from(action: organism::Action) -> Self {
        match action {
            organism::Action::Quarantine => Self::Quarantine,
            organism::Action::Alert => Self::Alert,
            organism::Action::ApplyBalance => Self::ApplyBalance,
            organism::Action::ApplyOptimize => Self::ApplyOptimize,
            organism::Action::Noop => Self::Noop,
        }
    }
}

impl From<Action> for organism::Action {
    fn from(action: Action) -> Self {
        match action {
            Action::Quarantine => Self::Quarantine,
            Action::Alert => Self::Alert,
            Action::ApplyBalance => Self::ApplyBalance,
            Action::ApplyOptimize => Self::ApplyOptimize,
            Action::Noop => Self::Noop,
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_engine() {
        for action in organism::Action::ALL {
            let shown = Action::from(action);
            assert_eq!(organism::Action::from(shown), action);
            assert_eq!(serde_json::to_value(shown).unwrap(), action.as_str());
        }
    }
}
