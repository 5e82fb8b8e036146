//! A list of `metav1.Condition`s under construction.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

use crate::printable::{MESSAGE, line};

/// Conditions that replace those of an earlier status. `lastTransitionTime` moves only when a status changes.
pub struct Conditions<'a> {
    before: &'a [Condition],
    observed_generation: Option<i64>,
    now: Timestamp,
    list: Vec<Condition>,
    removed: Vec<&'static str>,
}

impl<'a> Conditions<'a> {
    /// An empty list that follows `before`; each condition set gets this observedGeneration.
    #[must_use]
    pub fn new(before: &'a [Condition], observed_generation: Option<i64>, now: Timestamp) -> Self {
        Self { before, observed_generation, now, list: vec![], removed: vec![] }
    }

    /// Sets a condition. Reason and message are made such that the API server accepts them: one that it refuses would
    /// keep the whole status from being written.
    pub fn set(&mut self, kind: &str, status: &str, reason: &str, message: &str) {
        let before = self.before.iter().find(|it| it.type_ == kind && it.status == status);
        self.list.push(Condition {
            type_: kind.into(),
            status: status.into(),
            reason: acceptable(reason),
            message: line(message, MESSAGE),
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

    /// Leaves a condition out that no longer applies.
    pub fn remove(&mut self, kind: &'static str) {
        self.removed.push(kind);
    }

    /// The list. Other conditions of the earlier status that were not set again stay as they were.
    #[must_use]
    pub fn finish(mut self) -> Vec<Condition> {
        for before in self.before {
            let removed = self.removed.iter().any(|it| *it == before.type_);
            if !removed && !self.list.iter().any(|it| it.type_ == before.type_) {
                self.list.push(before.clone());
            }
        }
        self.list
    }
}

/// A reason that is not of the form of `metav1.Condition` comes from an object of somebody else.
fn acceptable(reason: &str) -> String {
    let word = |it: char| it.is_ascii_alphanumeric() || it == '_';
    let valid = reason.len() <= 128
        && reason.starts_with(|it: char| it.is_ascii_alphabetic())
        && reason.ends_with(word)
        && reason.chars().all(|it| word(it) || it == ',' || it == ':');
    if valid { reason.to_owned() } else { "Other".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_api_server_would_refuse_is_made_acceptable() {
        let mut conditions = Conditions::new(&[], None, Timestamp::now());
        for reason in ["FailedGetScale", "a:b,C_1"] {
            conditions.set("Kept", "False", reason, "");
            assert_eq!(conditions.list.pop().unwrap().reason, reason);
        }
        for reason in ["", "two words", "1st", "a\x1b[2J", "ends:", &"x".repeat(2000)] {
            conditions.set("Changed", "False", reason, "");
            assert_eq!(conditions.list.pop().unwrap().reason, "Other", "{reason}");
        }
        conditions.set("Long", "False", "Long", &"\u{9b}Λ".repeat(MESSAGE));
        let message = conditions.list.pop().unwrap().message;
        assert!(message.len() <= MESSAGE && message.starts_with(r"\u{9b}Λ"), "{}", message.len());
    }
}
