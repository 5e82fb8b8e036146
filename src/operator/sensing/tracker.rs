//! Which events of pods are new. Pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::pods::{Event, Kind, Pod};

/// What happened so long before the last pulse of an earlier process may not have been seen by it.
const OVERLAP: SignedDuration = SignedDuration::from_mins(1);
/// Nothing that is seen for the first time has happened later than this from now: the clock of its node is wrong.
const AHEAD: SignedDuration = SignedDuration::from_mins(10);
/// More missed terminations of one container than this are not counted one by one.
const MISSED: u32 = 100;

/// An event that is to be recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct New {
    /// What it is.
    pub kind: Kind,
    /// What identifies it.
    pub subject: String,
}

/// The events that are known, of the pods that exist.
#[derive(Debug, Default)]
pub struct Tracker {
    pods: BTreeMap<String, Known>,
    /// Subjects of the ledger, by pod, until the pod is seen.
    recorded: BTreeMap<String, BTreeSet<String>>,
    /// Nothing before this time is news in a pod that is seen for the first time: the organism did not exist, or an earlier
    /// process has judged it, and recorded it unless it was excluded.
    since: Option<Timestamp>,
}

#[derive(Debug, Default)]
struct Known {
    /// Subjects of the ledger.
    recorded: BTreeSet<String>,
    /// The last instance of each container whose end is known.
    instances: BTreeMap<String, u32>,
    /// The last subject of each kind of event of the whole pod.
    others: BTreeMap<&'static str, String>,
}

impl Tracker {
    /// For an organism that was `created` then, in whose ledger the last pulse and these subjects are.
    #[must_use]
    pub fn new(
        created: Option<Timestamp>,
        last_pulse: Option<Timestamp>,
        recorded: impl IntoIterator<Item = String>,
    ) -> Self {
        let since = created.max(last_pulse.map(|it| it - OVERLAP));
        let mut by_pod: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for subject in recorded {
            let pod = subject.split('/').next().unwrap_or_default().to_owned();
            by_pod.entry(pod).or_default().insert(subject);
        }
        Self { pods: BTreeMap::new(), recorded: by_pod, since }
    }

    /// Takes over what `pods`, all pods of the body, tell now. Returns what is new and counts; while a rollout is in
    /// progress nothing does. What does not count now never will.
    pub fn observe(&mut self, pods: &[Pod], rollout: bool, now: Timestamp) -> Vec<New> {
        let exists: BTreeSet<&str> = pods.iter().map(|it| it.uid.as_str()).collect();
        self.pods.retain(|uid, _| exists.contains(uid.as_str()));
        let mut news = vec![];
        for pod in pods {
            let first = !self.pods.contains_key(&pod.uid);
            let recorded = if first { self.recorded.remove(&pod.uid) } else { None };
            let known = self.pods.entry(pod.uid.clone()).or_default();
            known.recorded.extend(recorded.into_iter().flatten());
            if first {
                known.instances = pod.restarts.clone();
                for (container, event) in
                    pod.events.iter().filter_map(|it| Some((it.container.as_ref()?, it)))
                {
                    known.instances.insert(container.clone(), event.instance.saturating_sub(1));
                }
            }
            for event in &pod.events {
                // The clock of a node may be wrong. That matters only where it is not known what there was before: at
                // most what happened while nobody watched is lost, or counts again.
                let is_news = |at| Some(at) >= self.since && now.duration_since(at) >= -AHEAD;
                let counts = !pod.leaving && !rollout && (!first || event.at.is_some_and(is_news));
                known.take(event, &pod.uid, |new| {
                    if counts {
                        news.push(new);
                    }
                });
            }
        }
        // The others' pods are gone.
        self.recorded.clear();
        news
    }
}

impl Known {
    /// Notes an event, and calls `new` for it and for those before it that nobody has seen.
    fn take(&mut self, event: &Event, pod: &str, mut new: impl FnMut(New)) {
        let mut unless_recorded = |kind: Kind, subject: String| {
            if !self.recorded.contains(&subject) {
                new(New { kind, subject });
            }
        };
        let Some(container) = &event.container else {
            let subject = event.subject(pod);
            if self.others.insert(event.kind.as_str(), subject.clone()).as_ref() != Some(&subject) {
                unless_recorded(event.kind, subject);
            }
            return;
        };
        let known = self.instances.insert(container.clone(), event.instance).unwrap_or_default();
        if event.instance <= known {
            // A restart count that falls belongs to another pod.
            self.instances.insert(container.clone(), known);
            return;
        }
        for instance in (known + 1).max(event.instance.saturating_sub(MISSED))..event.instance {
            unless_recorded(Kind::Restart, Event { instance, ..event.clone() }.subject(pod));
        }
        unless_recorded(event.kind, event.subject(pod));
    }
}

#[cfg(test)]
mod tests;
