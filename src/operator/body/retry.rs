//! A failed write of one object: when it is tried again, and what is shown of it. Pure.

use std::time::Duration;

use tokio::time::Instant;

use super::plan::Step;
use crate::operator::call::CallError;

/// First wait after a failed call; doubled up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_secs(5);
/// Longest wait after a failed call.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// A call without an answer is shown from this failure in a row on: the next one often gets through.
const SHOWN_FROM: u32 = 3;

/// The last of the failures in a row.
#[derive(Debug)]
pub(super) struct Failure {
    desired: Option<u64>,
    step: Step,
    until: Instant,
    wait: Duration,
    count: u32,
    /// What to show; none where that would not help anyone.
    words: Option<String>,
}

impl Failure {
    /// The failure of `step`, towards the object of this hash, that follows `before`.
    pub(super) fn after(
        before: Option<Self>,
        desired: Option<u64>,
        step: Step,
        error: &CallError,
        now: Instant,
    ) -> Self {
        let same = before.filter(|it| it.desired == desired && it.step == step);
        let (count, wait) =
            same.map_or((1, FIRST_WAIT), |it| (it.count.saturating_add(1), (it.wait * 2).min(LONGEST_WAIT)));
        let words = match error.answer() {
            // Its objects are about to go with it.
            _ if error.is_namespace_terminating() => None,
            Some(words) => Some(words.to_owned()),
            None => (count >= SHOWN_FROM).then(|| error.to_string()),
        };
        Self { desired, step, until: now + wait, wait, count, words }
    }

    /// Whether this step towards the object of this hash has to wait. Another one has not failed yet.
    pub(super) fn holds_back(&self, desired: Option<u64>, step: &Step, now: Instant) -> bool {
        self.desired == desired && self.step == *step && now < self.until
    }

    /// How long the next attempt has to wait.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        self.until.saturating_duration_since(now)
    }

    /// What to show.
    pub(super) fn words(&self) -> Option<&str> {
        self.words.as_deref()
    }
}

#[cfg(test)]
mod tests;
