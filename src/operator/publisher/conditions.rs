//! A list of `metav1.Condition`s under construction.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

/// Conditions that replace those of an earlier status. `lastTransitionTime` moves only when a status changes.
pub struct Conditions<'a> {
    before: &'a [Condition],
    observed_generation: Option<i64>,
    now: Timestamp,
    list: Vec<Condition>,
}

impl<'a> Conditions<'a> {
    /// An empty list that follows `before`; each condition set gets this observedGeneration.
    #[must_use]
    pub fn new(before: &'a [Condition], observed_generation: Option<i64>, now: Timestamp) -> Self {
        Self { before, observed_generation, now, list: vec![] }
    }

    /// Sets a condition.
    pub fn set(&mut self, kind: &str, status: &str, reason: &str, message: &str) {
        let before = self.before.iter().find(|it| it.type_ == kind && it.status == status);
        self.list.push(Condition {
            type_: kind.into(),
            status: status.into(),
            reason: reason.into(),
            message: message.into(),
            observed_generation: self.observed_generation,
            last_transition_time: before
                .map_or_else(|| Time(self.now), |before| before.last_transition_time.clone()),
        });
    }

    /// Sets a condition to Unknown, if the earlier status has it.
    pub fn set_if_known(&mut self, kind: &str, reason: &str, message: &str) {
        if self.before.iter().any(|it| it.type_ == kind) {
            self.set(kind, "Unknown", reason, message);
        }
    }

    /// Makes a condition that was set to True Unknown: what it is made from is not seen.
    pub fn doubt(&mut self, kind: &str, message: &str) {
        if let Some(at) = self.list.iter().position(|it| it.type_ == kind && it.status == "True") {
            self.list.remove(at);
            self.set(kind, "Unknown", "WatchFailing", message);
        }
    }

    /// The list. Conditions of the earlier status that were not set again stay as they were.
    #[must_use]
    pub fn finish(mut self) -> Vec<Condition> {
        for before in self.before {
            if !self.list.iter().any(|it| it.type_ == before.type_) {
                self.list.push(before.clone());
            }
        }
        self.list
    }
}
