//! The statuses of an Organism and its Genome, made from a [`Report`]. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::adoption::Adoption;
use super::autoscaling::Autoscaling;
use super::blind::FailingWatches;
use super::body;
use super::conditions::Conditions;
use super::mesh::MeshLink;
use super::report::{FaultCause, Integrity, LedgerFault, Listed, Report};
use crate::api;
use crate::api::labels::ORGANISM_LABEL;
use crate::ledger::hex;
use crate::operator::key::Key;
use crate::organism::Action;
use crate::organism::decision::Rule;
use crate::runtime::{EngineStatus, Pace, Phase};
use crate::store::head::Forged;

const GENOME_GONE: &str = "The Genome was deleted or is bound to another Organism; apply it again to go on.";

/// The status of the Organism `key` that follows `before`. A condition that nobody can vouch for at present is Unknown.
#[must_use]
pub fn organism_status(
    report: &Report,
    key: &Key,
    failing: &FailingWatches,
    before: &api::OrganismStatus,
    now: Timestamp,
) -> api::OrganismStatus {
    let engine = report.engine.as_ref();
    let mut status = before.clone();
    status.observed_generation = observed_generation(report).or(before.observed_generation);
    status.nodes = Some(api::NodesStatus {
        ready: saturating(report.ready_nodes),
        replicas: saturating(report.nodes),
        selector: match report.adoption.as_ref().map(Adoption::adopted) {
            None => format!("{ORGANISM_LABEL}={}", key.name),
            Some(Some(adopted)) => adopted.selector(),
            Some(None) => before.nodes.as_ref().map(|it| it.selector.clone()).unwrap_or_default(),
        },
        applied_hash: match &report.body {
            Some(body) => body.applied.clone(),
            None => before.nodes.as_ref().and_then(|it| it.applied_hash.clone()),
        },
    });
    if let Some(engine) = engine {
        status.beats = Some(engine.beats);
        status.t_lambda = engine.t_lambda.map(to_six_digits).or(status.t_lambda);
        status.decision = engine.decision.map(|decision| api::Decision {
            action: action(decision.action),
            threat: to_four_digits(
                engine.threat.or(before.decision.as_ref().map(|it| it.threat)).unwrap_or_default(),
            ),
            since: time(decision.since),
            entry: decision.entry,
            rule: engine
                .rule
                .as_ref()
                .map(Rule::to_string)
                .or_else(|| before.decision.as_ref()?.rule.clone()),
            margin: engine
                .rule
                .as_ref()
                .and_then(Rule::tightest)
                .map(|it| to_four_digits(it.margin))
                .or_else(|| before.decision.as_ref()?.margin),
        });
    }
    if let Some(ledger) = &report.ledger {
        status.ledger = Some(api::LedgerStatus {
            generation: ledger.generation,
            size: ledger.size,
            merkle_root: ledger.root.clone(),
            last_hash: ledger.last_hash.clone(),
            segments: saturating(ledger.segments),
            bytes: ledger.bytes,
            holder: ledger.holder.clone(),
            on_delete: match report.listed {
                Listed::NotYet => before.ledger.as_ref().and_then(|it| it.on_delete),
                Listed::Failed(_) => None,
                Listed::Yes => report.on_delete,
            },
            replayable_from: ledger
                .replayable_from
                .map(|start| api::ReplayableFrom { index: start.index, time: time(start.time) }),
        });
    }
    let mut conditions = Conditions::new(&before.conditions, status.observed_generation, now);
    if let Some(failure) = &failing.lease {
        let message = no_lease(failure);
        ["Ready", "Beating"].iter().for_each(|kind| conditions.set(kind, "False", "NoLease", &message));
    } else {
        ready(report, &mut conditions);
        beating(report, &mut conditions);
    }
    match (engine, &report.not_ready) {
        (Some(engine), _) => {
            pulse_stable(engine, &mut conditions);
            cores_healthy(engine, &mut conditions);
        }
        (None, Some(_)) => {
            for kind in ["PulseStable", "CoresHealthy"] {
                conditions.set_if_known(
                    kind,
                    "NotBeating",
                    "The organism does not beat; see the condition Ready.",
                );
            }
        }
        (None, None) => {}
    }
    ledger_intact(report, &mut conditions);
    body_available(report, &mut conditions);
    match (&report.adoption, &report.workload_ref) {
        (Some(adoption), Some(workload)) => {
            if let Some((status, reason, message)) = adoption.condition(&key.name, workload) {
                conditions.set("Adopted", status, reason, &message);
            }
        }
        _ => conditions.remove("Adopted"),
    }
    // Without a ledger that is ours nobody tries: what was true of an earlier run says nothing.
    let untried =
        report.not_ready.as_ref().filter(|_| report.workload.is_some()).map(|_| &MeshLink::Connecting);
    if let Some(mesh) = report.mesh.as_ref().or(untried) {
        let (status, reason, message) = mesh.condition();
        conditions.set("MeshReachable", status, reason, &message);
    }
    if let Some(response) = &report.response {
        status.response = Some(response.status(before.response.as_ref()));
        let (status, reason, message) = response.quarantine.condition();
        conditions.set("Quarantined", status, reason, &message);
    }
    if let Some(sensing) = &report.sensing {
        let (status, reason, message) = sensing.condition();
        conditions.set("Sensing", status, reason, &message);
    }
    if let Some(autoscaling) = &report.autoscaling {
        let foreign = report.body.as_ref().and_then(|it| it.foreign_autoscaler.as_deref());
        let (status, reason, message) = autoscaling.condition(report.scaling.as_ref(), foreign);
        conditions.set("AutoscalingActive", status, &reason, &message);
    }
    if let Some(failure) = failing.ledgers_of(&key.namespace) {
        let message =
            format!("A deleted segment would not be noticed: the watch on ledger objects fails: {failure}");
        conditions.doubt("LedgerIntact", &message);
    }
    if let Some(failure) = failing.bodies_of(&key.namespace) {
        let message = format!("Changes are not seen: the watch on the objects of bodies fails: {failure}");
        conditions.doubt("BodyAvailable", &message);
        conditions.doubt("AutoscalingActive", &message);
    }
    if let Some(failure) = failing.pods_of(&key.namespace) {
        conditions
            .doubt("Sensing", &format!("Events of pods are not seen: the watch on pods fails: {failure}"));
    }
    status.conditions = conditions.finish();
    status
}

/// The status of the Genome that the organism is bound to, which follows `before`; none before the first commit.
#[must_use]
pub fn genome_status(
    report: &Report,
    before: &api::GenomeStatus,
    now: Timestamp,
) -> Option<api::GenomeStatus> {
    let engine = report.engine.as_ref()?;
    let mut status = before.clone();
    if let Some(weights) = engine.weights {
        status.weights = Some(api::Weights {
            regen: to_four_digits(weights.regen),
            balance: to_four_digits(weights.balance),
            entropy: to_four_digits(weights.entropy),
            optimize: to_four_digits(weights.optimize),
        });
    }
    status.threat = engine.threat.map(to_four_digits).or(status.threat);
    status.anoms = engine.anoms.or(status.anoms);
    status.action = engine.decision.map(|decision| action(decision.action)).or(status.action);
    status.injected_total = report.ledger.as_ref().map(|ledger| ledger.injected_total);
    status.observed_generation = Some(engine.genome_generation);
    let mut conditions = Conditions::new(&before.conditions, status.observed_generation, now);
    conditions.set("Bound", "True", "Claimed", "Bound to the Organism in status.boundTo.");
    status.conditions = conditions.finish();
    Some(status)
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

/// The generation that is acted on or deliberately held back.
fn observed_generation(report: &Report) -> Option<i64> {
    match (&report.not_ready, &report.engine) {
        (Some(not_ready), _) => Some(not_ready.generation),
        (None, engine) => engine.as_ref().map(|engine| engine.generation),
    }
}

fn ready(report: &Report, out: &mut Conditions<'_>) {
    if let Some(not_ready) = &report.not_ready {
        return out.set("Ready", "False", not_ready.reason.as_str(), &not_ready.message);
    }
    if let Some(fault) = report.ledger_fault.as_ref().filter(|it| it.shown) {
        let (reason, message) = describe(fault);
        return out.set("Ready", "False", reason, &message);
    }
    let Some(engine) = &report.engine else {
        return out.set("Ready", "False", "WaitingForFirstCommit", "The ledger is being taken over.");
    };
    match engine.phase {
        Phase::Suspended => out.set("Ready", "True", "Suspended", "spec.suspend is true."),
        Phase::Completed => {
            out.set("Ready", "True", "Completed", "spec.beats is reached; raise it to go on.");
        }
        Phase::GenomeNotFound => out.set("Ready", "False", "GenomeNotFound", GENOME_GONE),
        Phase::Beating if engine.beats == 0 => {
            out.set("Ready", "False", "WaitingForFirstCommit", "No beat has been committed yet.");
        }
        Phase::Beating => {
            out.set("Ready", "True", "Beating", "The organism beats and its ledger is committed.");
        }
    }
}

fn describe(fault: &LedgerFault) -> (&'static str, String) {
    let since = fault.since.strftime("%Y-%m-%dT%H:%M:%SZ");
    match &fault.cause {
        FaultCause::NameTaken(name) => (
            "NameTaken",
            format!(
                "ConfigMap {name} has the name of a ledger object but belongs to someone else; delete it to go on. \
                 Until then nothing is committed."
            ),
        ),
        FaultCause::HeadUnreadable(message) => ("HeadUnreadable", message.clone()),
        FaultCause::Refused(error, advice) => {
            ("CommitFailing", format!("Nothing has been committed since {since}: {error}. {advice}"))
        }
        FaultCause::Unanswered => (
            "CommitFailing",
            format!(
                "Nothing has been committed since {since}: the API server has not answered yet. Check its load and \
                 the webhooks for ConfigMaps."
            ),
        ),
    }
}

fn no_lease(failure: &str) -> String {
    format!(
        "The operator cannot renew its Lease: {failure}. Another replica may take over from one without a Lease, so it does \
         not beat. It goes on by itself."
    )
}

fn beating(report: &Report, out: &mut Conditions<'_>) {
    // An organism that has beaten before stops when its last beats are committed, and the engine's status says
    // so: whatever holds it back now comes second.
    let engine = match (&report.not_ready, &report.engine) {
        (Some(not_ready), None) => {
            return out.set("Beating", "False", not_ready.reason.as_str(), &not_ready.message);
        }
        (None, None) => return,
        (_, Some(engine)) => engine,
    };
    match engine.phase {
        Phase::Beating => keeps_pace(report, out),
        Phase::Suspended => out.set("Beating", "False", "Suspended", "spec.suspend is true."),
        Phase::Completed => out.set("Beating", "False", "Completed", "spec.beats is reached."),
        Phase::GenomeNotFound => out.set("Beating", "False", "GenomeNotFound", GENOME_GONE),
    }
}

fn keeps_pace(report: &Report, out: &mut Conditions<'_>) {
    match report.pace {
        Pace::OnTime => out.set("Beating", "True", "Beating", "Beats at the pace of its spec."),
        Pace::Throttled => out.set(
            "Beating",
            "True",
            "Throttled",
            "Beats more slowly than its spec asks: it has used up its share of the operator's --write-bytes, \
             --pending-bytes or processor time, or asks for a period below --min-period. Set spec.pulse.minPeriod.",
        ),
        Pace::Overrun { wanted, real } => {
            let message = format!(
                "Misses deadlines: {real} of {wanted} beats a second. Set spec.pulse.minPeriod to a period that it can \
                 keep, or give the operator more CPU."
            );
            out.set("Beating", "True", "Overrun", &message);
        }
        Pace::Blocked => {
            let why = report.ledger_fault.as_ref().map(|it| describe(it).1);
            let why = why.unwrap_or_else(|| "Its commits are slower than its beats.".into());
            let message = format!("Beats are skipped: too many entries wait to be committed. {why}");
            out.set("Beating", "False", "LedgerBlocked", &message);
        }
    }
}

fn pulse_stable(engine: &EngineStatus, out: &mut Conditions<'_>) {
    match engine.stable {
        Some(true) => out.set("PulseStable", "True", "Settled", "ΔV ≤ 0 in each of the last ten beats."),
        Some(false) => out.set("PulseStable", "False", "Unsettled", "ΔV > 0 in one of the last ten beats."),
        None => out.set("PulseStable", "Unknown", "TooEarly", "Fewer than ten beats so far."),
    }
}

fn cores_healthy(engine: &EngineStatus, out: &mut Conditions<'_>) {
    if engine.failed_cores.is_empty() {
        return out.set("CoresHealthy", "True", "Healthy", "All four cores returned a result.");
    }
    let failed: Vec<_> = engine.failed_cores.iter().map(|(core, why)| format!("{core}: {why}")).collect();
    let message = format!("Beats are held and the last decision stands. {}", failed.join("; "));
    out.set("CoresHealthy", "False", "CoreFailed", &message);
}

fn ledger_intact(report: &Report, out: &mut Conditions<'_>) {
    let Some(ledger) = &report.ledger else {
        if report.not_ready.is_some() {
            out.set_if_known(
                "LedgerIntact",
                "NotRecovered",
                "The ledger is not taken over; see the condition Ready.",
            );
        }
        return;
    };
    let (status, reason, message) = match &report.integrity {
        Integrity::SegmentLost(first, last) => (
            "False",
            "SegmentLost",
            format!(
                "Entries {first} to {last} were deleted from the cluster. The root still covers them; restore them \
                 from an export."
            ),
        ),
        Integrity::TailLost(first, last) => (
            "False",
            "TailLost",
            format!(
                "Entries {first} to {last} were published and are missing. A new generation of the ledger continues \
                 it and names the old root."
            ),
        ),
        Integrity::Forged(forged) => {
            let Forged { generation, found, published_generation, published_size, published_root } = &**forged;
            let root = hex(&published_root.0);
            (
                "False",
                "Forged",
                format!(
                    "This status had published generation {published_generation} with {published_size} entries and \
                     the root {root}; the ledger that was found contradicts it: {found}. Generation {} continues \
                     what was published; what was found is kept, listed in the ConfigMap <name>-ledger-g{generation}. \
                     Find out who can write ConfigMaps here.",
                    ledger.generation
                ),
            )
        }
        Integrity::Verified if report.listed == Listed::NotYet => return,
        Integrity::Verified if let Listed::Failed(why) = &report.listed => (
            "Unknown",
            "NotListed",
            format!("Whether all segments exist is not known: {why}. It is tried again."),
        ),
        Integrity::Verified if ledger.retain_reduced => (
            "True",
            "RetainReduced",
            "Fewer bytes are kept than spec.ledger.retain.bytes asks for: namespaces, and their ledgers, share \
             --ledger-total-bytes. Nothing that is kept is pruned for others."
                .into(),
        ),
        Integrity::Verified => ("True", "Verified", "All segments listed in the head exist.".into()),
    };
    out.set("LedgerIntact", status, reason, &message);
}

fn body_available(report: &Report, out: &mut Conditions<'_>) {
    if report.autoscaling == Some(Autoscaling::NoBody) {
        let message = "This operator creates no pods; start it with --node-image.";
        return out.set("BodyAvailable", "False", "NoBody", message);
    }
    let Some(body) = &report.body else { return };
    let adoption = report.adoption.as_ref();
    match adoption {
        Some(Adoption::Looking) => return,
        Some(adoption) if adoption.is_known() && adoption.adopted().is_none() => {
            return out.set(
                "BodyAvailable",
                "False",
                "NotAdopted",
                "There is no body; see the condition Adopted.",
            );
        }
        _ => {}
    }
    let (workload, ready) = (report.workload.as_ref(), report.ready_nodes);
    let (status, reason, message) = body::condition(body, workload, ready, adoption.is_some());
    out.set("BodyAvailable", status, reason, &message);
    if let Some(Adoption::Unreadable(..)) = adoption {
        out.doubt("BodyAvailable", "The workload cannot be seen; see the condition Adopted.");
    }
}

/// Four digits after the point; the ledger has the exact number.
fn to_four_digits(number: f64) -> f64 {
    (number * 1e4).round() / 1e4
}

/// Six digits after the point: T_Λ is a few thousandths of a second.
fn to_six_digits(number: f64) -> f64 {
    (number * 1e6).round() / 1e6
}

fn time(seconds: f64) -> Time {
    Time(Timestamp::from_microsecond((seconds * 1e6) as i64).unwrap_or_default())
}

fn saturating(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
