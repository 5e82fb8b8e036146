//! What the reconciler, the committer and the segment watch know of an organism, and the status made of it.
//!
//! Everything here is pure; the publisher writes what comes out.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

use super::body::autoscaling::{Autoscaling, Scaling};
use super::body::keeper::Fault;
use super::view::{Standing, View};
use crate::api;
use crate::ledger::hex;
use crate::ledger::sealed::ReplayStart;
use crate::organism::Action;
use crate::store::Head;

/// Why an organism does not get as far as beating.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Reason of the Ready condition.
    pub reason: HoldReason,
    /// What is wrong and what to do.
    pub message: String,
    /// metadata.generation that is held.
    pub generation: i64,
}

/// Reasons of Ready=False.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldReason {
    /// There is no such Genome.
    GenomeNotFound,
    /// Another Organism has it.
    GenomeInUse,
    /// An object of ours has a stranger's name.
    NameTaken,
    /// The object or its ledger cannot be read.
    Invalid,
}

impl HoldReason {
    fn as_str(self) -> &'static str {
        match self {
            Self::GenomeNotFound => "GenomeNotFound",
            Self::GenomeInUse => "GenomeInUse",
            Self::NameTaken => "NameTaken",
            Self::Invalid => "Invalid",
        }
    }
}

/// Whether all that was committed and not pruned is still there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Integrity {
    /// It is.
    #[default]
    Verified,
    /// Segments are gone: first and last index, and what to do.
    SegmentLost(u64, u64),
    /// The end of the ledger was lost; a new generation goes on.
    TailLost(u64, u64),
}

/// The committed ledger, as a head states it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LedgerView {
    /// Counts the ledgers of this name.
    pub generation: u64,
    /// Entries since genesis.
    pub size: u64,
    /// Root over all of them.
    pub root: String,
    /// Hash of the last.
    pub last_hash: String,
    /// Objects.
    pub segments: u64,
    /// Encoded bytes in them.
    pub bytes: u64,
    /// Where a replay can start.
    pub replayable_from: Option<ReplayStart>,
    /// Injections committed.
    pub injected_total: u64,
    /// The total of all ledgers leaves less than the spec asks for.
    pub retain_reduced: bool,
}

impl LedgerView {
    /// As `head` states it.
    #[must_use]
    pub fn of(head: &Head, retain_reduced: bool) -> Self {
        Self {
            generation: head.generation,
            size: head.size,
            root: head.root_hex(),
            last_hash: hex(&head.last_hash.0),
            segments: head.segments.len() as u64,
            bytes: head.bytes(),
            replayable_from: head.replayable_from(),
            injected_total: head.injected_total,
            retain_reduced,
        }
    }
}

/// All that is known of an organism.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Why it does not get as far as beating; goes before everything else.
    pub hold: Option<Hold>,
    /// As of the last commit.
    pub view: Option<View>,
    /// As of the last commit.
    pub ledger: Option<LedgerView>,
    /// As far as has been seen.
    pub integrity: Integrity,
    /// Name of a ConfigMap that is not ours and stands where the ledger has to be written.
    pub stranger: Option<String>,
    /// What is wrong with the body.
    pub body: Option<Fault>,
    /// Nodes that are ready; none without a body.
    pub ready: u64,
    /// Nodes that there are; without a body those that are asked for.
    pub replicas: u64,
    /// Who sets their number.
    pub autoscaling: Option<Autoscaling>,
    /// What the autoscaler says.
    pub scaling: Option<Scaling>,
}

/// Rounds to four digits behind the point: the ledger has the exact number.
fn rounded(number: f64) -> f64 {
    (number * 1e4).round() / 1e4
}

/// T_Λ is a few thousandths of a second: six digits behind the point.
fn seconds(number: f64) -> f64 {
    (number * 1e6).round() / 1e6
}

fn time(seconds: f64) -> Time {
    Time(Timestamp::from_microsecond((seconds * 1e6) as i64).unwrap_or_default())
}

/// The action as the API names it.
#[must_use]
pub fn action(action: Action) -> api::Action {
    match action {
        Action::Quarantine => api::Action::Quarantine,
        Action::Alert => api::Action::Alert,
        Action::ApplyBalance => api::Action::ApplyBalance,
        Action::ApplyOptimize => api::Action::ApplyOptimize,
        Action::Noop => api::Action::Noop,
    }
}

impl Report {
    /// The generation that is acted on or deliberately held.
    fn generation(&self) -> Option<i64> {
        match (&self.hold, &self.view) {
            (Some(hold), _) => Some(hold.generation),
            (None, view) => view.as_ref().map(|view| view.generation),
        }
    }

    /// The status of the Organism, given the one before.
    #[must_use]
    pub fn organism_status(
        &self,
        name: &str,
        before: &api::OrganismStatus,
        now: Timestamp,
    ) -> api::OrganismStatus {
        let view = self.view.as_ref();
        let mut status = before.clone();
        status.observed_generation = self.generation().or(before.observed_generation);
        status.nodes = Some(api::NodesStatus {
            ready: u32::try_from(self.ready).unwrap_or(u32::MAX),
            replicas: u32::try_from(self.replicas).unwrap_or(u32::MAX),
            selector: format!("{}={name}", crate::store::configmap::ORGANISM_LABEL),
        });
        if let Some(view) = view {
            status.beats = Some(view.beats);
            status.t_lambda = view.t_lambda.map(seconds).or(status.t_lambda);
            status.decision = view.decided.map(|decided| api::Decision {
                action: action(decided.action),
                threat: rounded(
                    view.threat.or(before.decision.as_ref().map(|it| it.threat)).unwrap_or_default(),
                ),
                since: time(decided.since),
                entry: decided.entry,
            });
        }
        if let Some(ledger) = &self.ledger {
            status.ledger = Some(api::LedgerStatus {
                generation: ledger.generation,
                size: ledger.size,
                merkle_root: ledger.root.clone(),
                last_hash: ledger.last_hash.clone(),
                segments: u32::try_from(ledger.segments).unwrap_or(u32::MAX),
                bytes: ledger.bytes,
                replayable_from: ledger
                    .replayable_from
                    .map(|start| api::ReplayableFrom { index: start.index, time: time(start.time) }),
            });
        }
        let generation = status.observed_generation;
        let mut conditions = Conditions { before: &before.conditions, generation, now, list: vec![] };
        self.say_ready(&mut conditions);
        self.beating(&mut conditions);
        if let Some(view) = view {
            pulse_stable(view, &mut conditions);
            cores_healthy(view, &mut conditions);
        }
        if self.ledger.is_some() {
            self.ledger_intact(&mut conditions);
        }
        if let Some(autoscaling) = &self.autoscaling {
            let (status, reason, message) = autoscaling.condition(self.scaling.as_ref());
            conditions.set("AutoscalingActive", status, &reason, &message);
        }
        status.conditions = conditions.finish();
        status
    }

    fn say_ready(&self, out: &mut Conditions<'_>) {
        if let Some(hold) = &self.hold {
            return out.set("Ready", "False", hold.reason.as_str(), &hold.message);
        }
        if let Some(name) = &self.stranger {
            let message = format!(
                "ConfigMap {name} stands where the ledger is to be written and is not ours; delete it to go on. \
                 Until then nothing is committed."
            );
            return out.set("Ready", "False", "NameTaken", &message);
        }
        if let Some(fault) = &self.body {
            return out.set("Ready", "False", fault.reason, &fault.message);
        }
        let Some(view) = &self.view else {
            return out.set("Ready", "False", "WaitingForFirstCommit", "The ledger is being taken over.");
        };
        match view.standing {
            Standing::Suspended => out.set("Ready", "True", "Suspended", "Held by spec.suspend."),
            Standing::Completed => {
                out.set("Ready", "True", "Completed", "spec.beats is reached; raise it to go on.")
            }
            Standing::GenomeNotFound => {
                out.set("Ready", "False", "GenomeNotFound", "The Genome is gone; apply it again to go on.");
            }
            Standing::Beating | Standing::Throttled if view.beats == 0 => {
                out.set("Ready", "False", "WaitingForFirstCommit", "No beat is committed yet.");
            }
            Standing::Beating | Standing::Throttled => {
                out.set("Ready", "True", "Beating", "The organism beats and its ledger is committed.");
            }
        }
    }

    fn beating(&self, out: &mut Conditions<'_>) {
        // Where it has beaten, the ledger says whether it still does: what is held stops when its last beats are
        // committed.
        match (&self.hold, &self.view) {
            (Some(hold), None) => out.set("Beating", "False", hold.reason.as_str(), &hold.message),
            (None, None) => {}
            (_, Some(view)) => match view.standing {
                Standing::Beating => out.set("Beating", "True", "Beating", "At its own pace."),
                Standing::Throttled => out.set(
                    "Beating",
                    "True",
                    "Throttled",
                    "Slower than its own pace: the operator's write budget is used up.",
                ),
                Standing::Suspended => out.set("Beating", "False", "Suspended", "Held by spec.suspend."),
                Standing::Completed => out.set("Beating", "False", "Completed", "spec.beats is reached."),
                Standing::GenomeNotFound => {
                    out.set(
                        "Beating",
                        "False",
                        "GenomeNotFound",
                        "The Genome is gone; apply it again to go on.",
                    );
                }
            },
        }
    }

    fn ledger_intact(&self, out: &mut Conditions<'_>) {
        match self.integrity {
            Integrity::SegmentLost(first, last) => out.set(
                "LedgerIntact",
                "False",
                "SegmentLost",
                &format!(
                    "Entries {first} to {last} were removed from the cluster by somebody else. The root still \
                     covers them; restore them from an export."
                ),
            ),
            Integrity::TailLost(first, last) => out.set(
                "LedgerIntact",
                "False",
                "TailLost",
                &format!(
                    "Entries {first} to {last} were published but are gone. A new generation of the ledger goes on \
                     and names the old root."
                ),
            ),
            Integrity::Verified if self.ledger.as_ref().is_some_and(|ledger| ledger.retain_reduced) => out.set(
                "LedgerIntact",
                "True",
                "RetainReduced",
                "Less is kept than spec.ledger.retain.bytes asks for: all ledgers share --ledger-total-bytes.",
            ),
            Integrity::Verified => out.set("LedgerIntact", "True", "Verified", "All that is listed is there."),
        }
    }

    /// The status of the Genome that the organism lives by, given the one before.
    #[must_use]
    pub fn genome_status(&self, before: &api::GenomeStatus, now: Timestamp) -> Option<api::GenomeStatus> {
        let view = self.view.as_ref()?;
        let mut status = before.clone();
        if let Some(weights) = view.weights {
            status.weights = Some(api::Weights {
                regen: rounded(weights.regen),
                balance: rounded(weights.balance),
                entropy: rounded(weights.entropy),
                optimize: rounded(weights.optimize),
            });
        }
        status.threat = view.threat.map(rounded).or(status.threat);
        status.anoms = view.anoms.or(status.anoms);
        status.action = view.decided.map(|decided| action(decided.action)).or(status.action);
        status.injected_total = self.ledger.as_ref().map(|ledger| ledger.injected_total);
        status.observed_generation = Some(view.genome_generation);
        let mut conditions = Conditions {
            before: &before.conditions,
            generation: status.observed_generation,
            now,
            list: vec![],
        };
        conditions.set("Bound", "True", "Claimed", "An Organism lives by this Genome.");
        status.conditions = conditions.finish();
        Some(status)
    }
}

fn pulse_stable(view: &View, out: &mut Conditions<'_>) {
    match view.settled {
        Some(true) => out.set("PulseStable", "True", "Settled", "ΔV ≤ 0 in each of the last ten beats."),
        Some(false) => out.set("PulseStable", "False", "Unsettled", "ΔV > 0 in one of the last ten beats."),
        None => out.set("PulseStable", "Unknown", "TooEarly", "There are no ten beats yet."),
    }
}

fn cores_healthy(view: &View, out: &mut Conditions<'_>) {
    if view.failed.is_empty() {
        return out.set("CoresHealthy", "True", "Healthy", "All four cores gave a result.");
    }
    let failed: Vec<_> = view.failed.iter().map(|(core, why)| format!("{core}: {why}")).collect();
    let message = format!("Beats are held, the last decision stands. {}", failed.join("; "));
    out.set("CoresHealthy", "False", "CoreFailed", &message);
}

/// A list of conditions in the making; lastTransitionTime moves only when a status changes.
pub struct Conditions<'a> {
    /// The ones before.
    pub before: &'a [Condition],
    /// observedGeneration of each.
    pub generation: Option<i64>,
    /// When a change happens.
    pub now: Timestamp,
    /// The ones set so far.
    pub list: Vec<Condition>,
}

impl Conditions<'_> {
    /// Sets one.
    pub fn set(&mut self, kind: &str, status: &str, reason: &str, message: &str) {
        let before = self.before.iter().find(|it| it.type_ == kind && it.status == status);
        self.list.push(Condition {
            type_: kind.into(),
            status: status.into(),
            reason: reason.into(),
            message: message.into(),
            observed_generation: self.generation,
            last_transition_time: before
                .map_or_else(|| Time(self.now), |before| before.last_transition_time.clone()),
        });
    }

    /// All of them; those that were there before and are not set now stay as they were.
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

#[cfg(test)]
mod tests;
