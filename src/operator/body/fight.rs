//! Another client that undoes what the operator writes to an object, again and again. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use serde_json::Value;
use tokio::time::Instant;

use super::index::is_ours;
use crate::operator::publisher::body::ForeignChange;

/// So many reverts of one object within [`WITHIN`] are a fight.
const REVERTS: usize = 3;
/// See [`REVERTS`]. A fight is over when the object has stayed as it should be for as long.
const WITHIN: Duration = Duration::from_secs(60);
/// First wait before the next revert of a contested object; doubled up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_secs(10);
/// Longest wait before the next revert of a contested object.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// The last reverts of one object.
#[derive(Debug, Default)]
pub(super) struct Fight {
    reverts: VecDeque<Instant>,
    /// Wait before the next revert, and what is known of the other client; none while nobody fights.
    contest: Option<(Duration, ForeignChange)>,
}

impl Fight {
    /// Whether the next revert makes this a fight, or it is one: the other client has to be found out then.
    pub(super) fn is_contested_by_another(&self, now: Instant) -> bool {
        self.contest.is_some() || self.recent(now) + 1 >= REVERTS
    }

    /// Notes a revert.
    pub(super) fn reverted(&mut self, now: Instant, change: ForeignChange) {
        let contested = self.is_contested_by_another(now);
        self.reverts.push_back(now);
        if self.reverts.len() > REVERTS {
            self.reverts.pop_front();
        }
        if contested {
            let wait = self.contest.take().map_or(FIRST_WAIT, |(wait, _)| (wait * 2).min(LONGEST_WAIT));
            self.contest = Some((wait, change));
        }
    }

    /// How long the next revert has to wait.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        let (wait, _) = self.contest.as_ref()?;
        self.left(now, *wait)
    }

    /// Notes that the object is as it should be. Returns after how long the fight is over, if it stays so.
    pub(super) fn holds(&mut self, now: Instant) -> Option<Duration> {
        let (wait, _) = self.contest.as_ref()?;
        let left = self.left(now, WITHIN.max(*wait));
        if left.is_none() {
            *self = Self::default();
        }
        left
    }

    /// Wait between two reverts, and what the other client does; none while nobody fights.
    pub(super) fn contest(&self) -> Option<(Duration, &ForeignChange)> {
        self.contest.as_ref().map(|(wait, change)| (*wait, change))
    }

    fn recent(&self, now: Instant) -> usize {
        self.reverts.iter().filter(|at| now.duration_since(**at) < WITHIN).count()
    }

    /// What is left of `wait` since the last revert.
    fn left(&self, now: Instant, wait: Duration) -> Option<Duration> {
        let last = self.reverts.back()?;
        wait.checked_sub(now.duration_since(*last)).filter(|left| !left.is_zero())
    }
}

/// What another client has done to an object with the managedFields `drifted`, which the operator's apply has turned
/// into `applied`: the first field that the operator had lost, and its manager.
pub(super) fn foreign_change(
    drifted: &[ManagedFieldsEntry],
    applied: &[ManagedFieldsEntry],
) -> ForeignChange {
    let kept = paths(drifted, |it| is_ours(it, "Apply"));
    let lost: Vec<_> =
        paths(applied, |it| is_ours(it, "Apply")).into_iter().filter(|it| !kept.contains(it)).collect();
    let theirs = |path: &Vec<String>| {
        let others = drifted.iter().filter(|it| !is_ours(it, "Apply"));
        let owners = others.filter(|it| fields(it).is_some_and(|fields| has(fields, path)));
        owners.max_by_key(|it| it.time.as_ref().map(|time| time.0)).and_then(|it| it.manager.clone())
    };
    let owned = lost.iter().find_map(|path| Some((path, theirs(path)?)));
    let (path, manager) = match owned {
        Some((path, manager)) => (Some(path), Some(manager)),
        // It was removed: then nobody owns it.
        None => (lost.first(), None),
    };
    ForeignChange::Changed { field: path.map(|path| display(path)), manager }
}

fn fields(entry: &ManagedFieldsEntry) -> Option<&Value> {
    entry.fields_v1.as_ref().map(|fields| &fields.0)
}

/// The paths of all leaves in the entries that `which` accepts.
fn paths(entries: &[ManagedFieldsEntry], which: impl Fn(&ManagedFieldsEntry) -> bool) -> Vec<Vec<String>> {
    fn walk(fields: &Value, path: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
        let children = fields.as_object().into_iter().flatten().filter(|(name, _)| *name != ".");
        let mut leaf = true;
        for (name, child) in children {
            leaf = false;
            path.push(name.clone());
            walk(child, path, found);
            path.pop();
        }
        if leaf {
            found.push(path.clone());
        }
    }
    let mut found = vec![];
    for entry in entries.iter().filter(|it| which(it)) {
        if let Some(fields) = fields(entry) {
            walk(fields, &mut vec![], &mut found);
        }
    }
    found
}

fn has(fields: &Value, path: &[String]) -> bool {
    path.iter().try_fold(fields, |at, name| at.get(name)).is_some()
}

/// The path as kubectl writes it: `spec.containers[name="node"].image`.
fn display(path: &[String]) -> String {
    let mut shown = String::new();
    for part in path {
        match part.split_once(':') {
            Some(("f", name)) if name.contains(['.', '/']) => shown += &format!("[{name:?}]"),
            Some(("f", name)) if shown.is_empty() => shown += name,
            Some(("f", name)) => shown += &format!(".{name}"),
            Some(("k", key)) => {
                let key: Value = serde_json::from_str(key).unwrap_or_default();
                let pairs = key.as_object().into_iter().flatten();
                let pairs: Vec<_> = pairs.map(|(name, value)| format!("{name}={value}")).collect();
                shown += &format!("[{}]", pairs.join(","));
            }
            Some((_, value)) => shown += &format!("[{value}]"),
            None => {}
        }
    }
    shown
}

#[cfg(test)]
mod tests;
