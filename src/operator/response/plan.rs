//! What is to be done about the decision in force. Pure.

use crate::api::{Organism, ResponseMode};
use crate::ledger::entry::Change;
use crate::operator::body::build::{BODY_SUFFIX, QUARANTINE_SUFFIX};
use crate::operator::measures::{Measures, ScalingLimit};
use crate::organism::Action;
use crate::store::head::LastEnforcement;

/// Highest target utilization, in percent, that APPLY_OPTIMIZE sets.
const MAX_UTILIZATION: u32 = 90;

/// Why nothing is done about a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// As many organisms as allowed are isolated: this number.
    LimitReached(usize),
    /// The policy would select these pods, which are not of the body.
    SelectorOverlap(Vec<String>),
    /// The Organism has the annotation for it.
    HandsOff,
    /// The workload in spec.workloadRef is not the body: there is nothing that anything could be done to, and no entry.
    NotAdopted,
}

impl Refusal {
    /// The name in the ledger.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::LimitReached(_) => "LimitReached",
            Self::SelectorOverlap(_) => "SelectorOverlap",
            Self::HandsOff => "HandsOff",
            Self::NotAdopted => "NotAdopted",
        }
    }
}

/// What the ledger's last enforcement entry left in force.
#[must_use]
pub fn in_force(recorded: Option<&LastEnforcement>) -> Option<&LastEnforcement> {
    recorded.filter(|it| it.change == Change::Apply && it.refused.is_none())
}

/// The decision that is to be in force. A quarantine outlasts the decision until the organism is `calm`. ALERT and NOOP
/// change nothing in the cluster.
#[must_use]
pub fn demanded(decided: Action, calm: bool, in_force: Option<Action>) -> Option<Action> {
    match decided {
        Action::Quarantine => Some(decided),
        _ if in_force == Some(Action::Quarantine) && !calm => in_force,
        Action::ApplyBalance | Action::ApplyOptimize => Some(decided),
        Action::Alert | Action::Noop => None,
    }
}

/// What changes in the objects of the body while `action` is in force. `utilization` is what was set for APPLY_OPTIMIZE.
#[must_use]
pub fn measures(action: Option<Action>, utilization: Option<u32>) -> Measures {
    match action {
        Some(Action::Quarantine) => {
            Measures { isolated: true, scaling: ScalingLimit::Frozen, ..Measures::default() }
        }
        Some(Action::ApplyBalance) => Measures { scaling: ScalingLimit::NoScaleDown, ..Measures::default() },
        Some(Action::ApplyOptimize) => Measures { utilization, ..Measures::default() },
        Some(Action::Alert | Action::Noop) | None => Measures::default(),
    }
}

/// The target utilization in percent, raised by the expected gain (a fraction of it), at most to [`MAX_UTILIZATION`].
#[must_use]
pub fn raised(target: u32, gain: f64) -> u32 {
    // NaN is no gain: max() takes the other operand.
    let raised = (f64::from(target) * (1.0 + gain.max(0.0))).round() as u32;
    raised.min(MAX_UTILIZATION).max(target)
}

/// What a change from `before` to `after` does to the objects of the body of `organism`, one text an object.
#[must_use]
pub fn changes(organism: &Organism, before: &Measures, after: &Measures) -> Vec<String> {
    let name = organism.metadata.name.as_deref().unwrap_or_default();
    let mut changes = vec![];
    if before.isolated != after.isolated {
        let (selects, metrics) = if after.isolated { ("the pods", "closes") } else { ("no pod", "opens") };
        changes.push(format!("NetworkPolicy {name}{QUARANTINE_SUFFIX} selects {selects}"));
        if organism.spec.workload_ref.is_none() {
            changes.push(format!("NetworkPolicy {name}{BODY_SUFFIX} {metrics} the metrics port"));
        }
    }
    if organism.spec.autoscaling_enabled() {
        let autoscaler = format!("HorizontalPodAutoscaler {name}");
        if before.scaling != after.scaling {
            changes.push(format!("{autoscaler} {}", scaling(after.scaling)));
        }
        let target = organism.spec.autoscaling.target_cpu_utilization;
        let of = |measures: &Measures| measures.utilization.unwrap_or(target);
        if of(before) != of(after) {
            changes.push(format!("{autoscaler} aims at {} % CPU instead of {} %", of(after), of(before)));
        }
    }
    changes
}

/// What an autoscaler may do, as the ledger says it.
#[must_use]
pub fn scaling(limit: ScalingLimit) -> &'static str {
    match limit {
        ScalingLimit::Free => "may add and remove pods",
        ScalingLimit::NoScaleDown => "may not remove pods",
        ScalingLimit::Frozen => "may neither add nor remove pods",
    }
}

/// Parses the mode that an enforcement entry records.
#[must_use]
pub fn mode(recorded: &LastEnforcement) -> ResponseMode {
    if recorded.mode == ResponseMode::Observe.as_str() {
        ResponseMode::Observe
    } else {
        ResponseMode::Enforce
    }
}

#[cfg(test)]
mod tests;
