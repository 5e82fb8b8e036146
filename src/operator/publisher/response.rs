//! What is done about decisions, and the condition Quarantined. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::status::action;
use crate::api::{AppliedResponse, ResponseMode, ResponseStatus};
use crate::organism::Action;

/// What has been done about the decisions of an organism.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Whether decisions are acted on.
    pub mode: ResponseMode,
    /// What is in force; with [`ResponseMode::Observe`] what would be.
    pub in_force: Option<InForce>,
    /// Whether the pods are isolated.
    pub quarantine: Quarantine,
}

/// The response to one decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InForce {
    /// What was decided.
    pub action: Action,
    /// Index of the action entry.
    pub entry: u64,
    /// When it was applied.
    pub since: Time,
    /// The changes, one for each object.
    pub what: Vec<String>,
}

/// Whether the pods of an organism are isolated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Quarantine {
    /// No QUARANTINE is in force.
    Clear,
    /// The policy selects the pods, and nothing else that was looked at lets traffic through.
    Isolated,
    /// The policy selects the pods, and these let traffic through.
    PartiallyIsolated(Vec<String>),
    /// Not all writes have succeeded, for this reason; they are tried again.
    Incomplete(String),
    /// The quarantine is over, and for this reason not all of it is undone yet.
    Releasing(String),
    /// The pods were isolated, and for this reason it cannot be told whether they still are.
    Unverified(String),
    /// The mode is Observe: the pods would be isolated.
    Observed,
    /// This number of organisms, the limit, are isolated.
    LimitReached(usize),
    /// The policy would select these pods, which are not of the body.
    SelectorOverlap(Vec<String>),
    /// The Organism has the annotation `genesis.venom.dev/hands-off`.
    HandsOff,
    /// The workload in spec.workloadRef is not the body.
    NotAdopted,
}

impl Quarantine {
    /// Whether the pods are isolated, at least partially.
    #[must_use]
    pub fn isolates(&self) -> bool {
        matches!(self, Self::Isolated | Self::PartiallyIsolated(_) | Self::Releasing(_) | Self::Unverified(_))
    }

    /// Status, reason and message of the condition.
    #[must_use]
    pub fn condition(&self) -> (&'static str, &'static str, String) {
        const OPEN: &str = "What becomes of connections that were open before is up to the network plugin.";
        match self {
            Self::Clear => ("False", "Clear", "No QUARANTINE is in force.".into()),
            Self::Isolated => (
                "True",
                "Isolated",
                format!(
                    "The pods exchange traffic with DNS only, nodes with the mesh and the operator too. {OPEN}"
                ),
            ),
            Self::PartiallyIsolated(what) => (
                "True",
                "PartiallyIsolated",
                format!("The pods are isolated, except for: {}. {OPEN}", what.join("; ")),
            ),
            Self::Incomplete(why) => {
                ("False", "Incomplete", format!("QUARANTINE is not in force yet: {why}. It is tried again."))
            }
            Self::Releasing(why) => (
                "True",
                "Releasing",
                format!("The quarantine is over, and not all of it is undone yet: {why}. It is tried again."),
            ),
            Self::Unverified(why) => (
                "Unknown",
                "Unverified",
                format!("The pods were isolated; whether they still are cannot be told: {why}."),
            ),
            Self::Observed => (
                "False",
                "Observed",
                "QUARANTINE is decided, and nothing is done: response.mode is Observe.".into(),
            ),
            Self::LimitReached(limit) => (
                "False",
                "LimitReached",
                format!(
                    "QUARANTINE is decided, and nothing is done: {limit} organisms are isolated, as many as the \
                     operator's --quarantine-limit allows. It follows when one of them is released."
                ),
            ),
            Self::SelectorOverlap(pods) => (
                "False",
                "SelectorOverlap",
                format!(
                    "QUARANTINE is decided, and nothing is done: the policy would also cut off pods that are not of \
                     this body: {}. Change their labels.",
                    pods.join(", ")
                ),
            ),
            Self::NotAdopted => (
                "False",
                "NotAdopted",
                "QUARANTINE is decided, and nothing is done: there is no body; see the condition Adopted."
                    .into(),
            ),
            Self::HandsOff => (
                "False",
                "HandsOff",
                "QUARANTINE is decided, and nothing is done: the Organism has the annotation \
                 genesis.venom.dev/hands-off."
                    .into(),
            ),
        }
    }
}

impl Response {
    /// The part of the status. The time of what was in force `before` stays: it is older than this process.
    #[must_use]
    pub fn status(&self, before: Option<&ResponseStatus>) -> ResponseStatus {
        let known = before.and_then(|it| it.applied.as_ref().or(it.would_apply.as_ref()));
        let in_force = self.in_force.as_ref().map(|it| AppliedResponse {
            action: action(it.action),
            entry: it.entry,
            since: known
                .filter(|known| known.entry == it.entry && known.action == action(it.action))
                .map_or_else(|| it.since.clone(), |known| known.since.clone()),
            what: it.what.clone(),
        });
        let (applied, would_apply) = match self.mode {
            ResponseMode::Enforce => (in_force, None),
            ResponseMode::Observe => (None, in_force),
        };
        ResponseStatus { mode: self.mode, applied, would_apply }
    }
}
