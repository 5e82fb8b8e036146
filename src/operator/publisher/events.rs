//! Which Event a change of status is worth. Pure.

use kube::runtime::events::{Event, EventType};

use super::autoscaling::Scaling;
use crate::api;
use crate::printable::{NOTE, line};

/// Reasons that are no news.
const WAITING: [&str; 6] =
    ["WaitingForFirstCommit", "Progressing", "WaitingForRollout", "NoBody", "NoNodes", "Connecting"];

/// Kubernetes' bound of an Event's reason.
const REASON: usize = 128;

/// The Events that the change from `before` to `next` is worth; none for most changes.
#[must_use]
pub fn events(
    before: &api::OrganismStatus,
    next: &api::OrganismStatus,
    scaling: Option<&Scaling>,
) -> Vec<Event> {
    let mut events = condition_events(before, next);
    events.extend(autoscaling_event(before, next, scaling));
    events.extend(decision_event(before, next));
    events
}

fn new_event(type_: EventType, reason: &str, note: String) -> Event {
    let (reason, note) = (line(reason, REASON), line(&note, NOTE));
    Event { type_, reason, note: Some(note), action: "Beat".into(), secondary: None }
}

fn condition_events(before: &api::OrganismStatus, next: &api::OrganismStatus) -> Vec<Event> {
    let mut events: Vec<Event> = vec![];
    let state = |status: &api::OrganismStatus, kind: &str| {
        status.conditions.iter().find(|it| it.type_ == kind).map(|it| (it.status.clone(), it.reason.clone()))
    };
    for kind in [
        "LedgerIntact",
        "CoresHealthy",
        "Ready",
        "Beating",
        "BodyAvailable",
        "Adopted",
        "MeshReachable",
        "Sensing",
        "Quarantined",
    ] {
        let now = state(next, kind);
        // Every organism starts with a take-over, and every change of its pods takes a while: that is no news.
        let waits = now.as_ref().is_some_and(|(_, reason)| WAITING.contains(&reason.as_str()));
        let bad = now.as_ref().is_some_and(|(status, reason)| match kind {
            "Quarantined" => !["Clear", "Observed"].contains(&reason.as_str()),
            _ => status == "False",
        });
        let condition = next.conditions.iter().find(|it| it.type_ == kind);
        if now != state(before, kind)
            && !waits
            && (bad || state(before, kind).is_some())
            && let Some(condition) = condition
            // Ready and Beating often say the same.
            && events.iter().all(|it| it.reason != condition.reason)
        {
            let type_ = if bad { EventType::Warning } else { EventType::Normal };
            let note = format!("{kind}={}: {}", condition.status, condition.message);
            events.push(new_event(type_, &condition.reason, note));
        }
    }
    events
}

/// A new number of nodes, or the loss of what the autoscaler computes it from. An autoscaler that has just
/// been created cannot compute it yet: that is no news.
fn autoscaling_event(
    before: &api::OrganismStatus,
    next: &api::OrganismStatus,
    scaling: Option<&Scaling>,
) -> Option<Event> {
    let state = |status: &api::OrganismStatus| {
        let found = status.conditions.iter().find(|it| it.type_ == "AutoscalingActive");
        found.map(|it| (it.status == "True", it.message.clone()))
    };
    let (Some((true, was)), Some((active, message))) = (state(before), state(next)) else { return None };
    if was == message {
        return None;
    }
    let type_ = if active { EventType::Normal } else { EventType::Warning };
    // Events of one action are counted together under the note of the first.
    let action = scaling.map_or_else(|| "Scale".into(), |it| format!("ScaleTo{}", it.desired));
    Some(Event { action, ..new_event(type_, "Autoscaling", message) })
}

fn decision_event(before: &api::OrganismStatus, next: &api::OrganismStatus) -> Option<Event> {
    let decision = next.decision.as_ref()?;
    if before.decision.as_ref().map(|it| it.action) == Some(decision.action) {
        return None;
    }
    let (type_, reason) = match decision.action {
        api::Action::Quarantine => (EventType::Warning, "Quarantine"),
        api::Action::Alert => (EventType::Warning, "Alert"),
        api::Action::ApplyBalance => (EventType::Normal, "ApplyBalance"),
        api::Action::ApplyOptimize => (EventType::Normal, "ApplyOptimize"),
        api::Action::Noop => (EventType::Normal, "Noop"),
    };
    let api::Decision { action, threat, entry, .. } = decision;
    let note = format!("{} decided at threat {threat}; ledger entry {entry}", action.as_str());
    Some(new_event(type_, reason, note))
}
