//! What is done about decisions: one task an organism that holds its ledger, the only one that acts on them.
//!
//! | module | contents |
//! |---|---|
//! | [`plan`] | what is to be done about the decision in force (pure) |
//! | [`limit`] | how many organisms may be isolated at a time |
//! | [`target`] | the pods that it concerns (pure) |
//! | [`services`], [`autoscalers`] | how objects of others are changed and restored (pure) |
//! | [`surroundings`] | the calls for what is somebody else's |
//! | [`lists`] | all objects of a namespace, for all who look at them |
//! | `others` | keeping objects of others changed, and looking whether pods are isolated |
//! | `record` | enforcement entries, and the report |
//!
//! 1. A decision is committed: the report has it only then.
//! 2. The plan: what is to be in force, from the decision, the mode, and what the ledger says is in force.
//! 3. The writes. Those to the body's own objects are the body's reconciler's, which is handed [`Measures`]; those to
//!    objects of others are made here. Every one carries the resourceVersion that was read before the head was asked
//!    whether this process still holds the ledger.
//! 4. An enforcement entry, once for each change.
//! 5. The report, for the status.
//!
//! A process that is killed in between finds the same decision in the ledger, makes the same plan and writes what is
//! missing. What is in force is looked at again and again: what the status says was true a few seconds ago.

pub mod autoscalers;
pub mod limit;
pub mod lists;
mod others;
pub mod plan;
mod record;
pub mod services;
pub mod surroundings;
pub mod target;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use tokio::sync::watch;
use tokio::time::Instant;

use self::limit::{Counted, Limit};
use self::lists::Lists;
use self::others::Others;
use self::plan::Refusal;
use self::surroundings::{FINALIZER, Surroundings};
use self::target::Target;
use super::beater::Inputs;
use super::body::Enforcing;
use super::hold::Hold;
use super::key::Key;
use super::measures::Measures;
use super::metrics::Metrics;
use super::publisher::adoption::Adoption;
use super::publisher::body::BodyFault;
use super::publisher::report::{Report, ReportSender};
use super::publisher::response::Quarantine;
use crate::api::{Organism, ResponseMode};
use crate::organism::Action;
use crate::runtime::CurrentDecision;
use crate::store::head::LastEnforcement;

/// Annotation of an Organism: nothing is done about its decisions, and what was done is undone.
pub const HANDS_OFF: &str = "genesis.venom.dev/hands-off";

/// Two changes of what is in force are at least this far apart.
const SPACING: Duration = Duration::from_secs(1);
/// Wait before a failed write is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// The policies get this head start before objects of others are looked at.
const POLICIES_FIRST: Duration = Duration::from_secs(1);
/// Writes that have not succeeded for this long are shown.
const SHOWN_AFTER: Duration = Duration::from_secs(2);
/// What is refused is looked at again after this wait.
const REFUSED_RETRY: Duration = Duration::from_secs(5);
/// Interval of the periodic check while nothing is in force.
const IDLE: Duration = Duration::from_secs(600);

/// What all responses share.
pub struct Resources {
    /// Client for objects of others.
    pub client: kube::Client,
    /// Lists objects of others.
    pub lists: Arc<Lists>,
    /// How many organisms may be isolated.
    pub limit: Arc<Limit>,
    /// Counts enforcements and failures.
    pub metrics: Arc<Metrics>,
}

/// What a response of one run is connected to.
pub struct Connections {
    /// The Organism, with its annotations.
    pub organism: watch::Receiver<Arc<Organism>>,
    /// Asks the body's reconciler for measures.
    pub enforcing: watch::Sender<Option<Enforcing>>,
    /// Takes the enforcement entries.
    pub inputs: Inputs,
    /// The ledger that this run holds.
    pub hold: Arc<Hold>,
    /// The committed decision, what the body's reconciler has done, and what is done about decisions.
    pub report: ReportSender,
}

/// The response of one organism, for as long as its ledger is held.
pub struct Responder {
    key: Key,
    connections: Connections,
    resources: Arc<Resources>,
    reports: watch::Receiver<Report>,
    surroundings: Surroundings,
    place: Counted,
    /// What the last enforcement entry records.
    recorded: Option<LastEnforcement>,
    /// When it was recorded, and what it says was done.
    since: Time,
    what: Vec<String>,
    /// Whether something of others is changed, or may be: the Organism has the finalizer.
    finalizer: bool,
    /// Whether this process has seen to it that it has. What a watch shows may be older than the finalizer's removal.
    finalizer_set: bool,
    /// What was done to objects of others to restore them, and is not recorded yet.
    restored: Vec<String>,
    /// Writes to each object of others since the decision.
    tries: BTreeMap<String, u32>,
    /// Objects of others that are not as what is in force asks for.
    left: Vec<String>,
    /// What the last look at a quarantine found, and when that was.
    looked: Option<(Instant, Quarantine)>,
    /// The decision that was seen last, by its entry, and when.
    noticed: (Option<u64>, Instant),
    last_change: Option<Instant>,
    /// Whether something of a quarantine may be in force, recorded or not; none while that is not known.
    begun: Option<bool>,
    /// Since when the writes of a change have not succeeded.
    unfinished: Option<Instant>,
}

/// What a pass reads from the report.
struct Seen {
    decision: CurrentDecision,
    calm: bool,
    gain: f64,
    /// The pods; none while there are none that the organism has or may act on.
    target: Option<Target>,
    /// Why it is not known whether the workload in spec.workloadRef is the body; none where it is known.
    unknown: Option<String>,
}

impl Seen {
    /// Whether what is in force changes objects of others even where no pod is isolated.
    fn changes_others(&self) -> bool {
        self.target.as_ref().is_some_and(|it| it.adopted)
    }
}

impl Responder {
    /// The response to the decisions of the Organism `key`; `recorded` is what its ledger says is in force.
    #[must_use]
    pub fn new(
        key: Key,
        connections: Connections,
        recorded: Option<LastEnforcement>,
        resources: Arc<Resources>,
    ) -> Self {
        let organism = connections.organism.borrow().clone();
        let uid = organism.metadata.uid.clone().unwrap_or_default();
        let shown = organism.status.as_ref().and_then(|it| it.response.as_ref());
        let shown = shown.and_then(|it| it.applied.as_ref().or(it.would_apply.as_ref()));
        let known = shown.filter(|shown| recorded.as_ref().is_some_and(|it| it.entry == shown.entry));
        Self {
            surroundings: Surroundings::new(
                resources.client.clone(),
                resources.lists.clone(),
                key.clone(),
                &uid,
            ),
            place: resources.limit.count(key.clone()),
            since: known.map_or_else(|| Time(Timestamp::now()), |it| it.since.clone()),
            what: known.map(|it| it.what.clone()).unwrap_or_default(),
            finalizer: has_finalizer(&organism),
            finalizer_set: false,
            reports: connections.report.subscribe(),
            recorded,
            key,
            connections,
            resources,
            restored: vec![],
            tries: BTreeMap::new(),
            left: vec![],
            looked: None,
            noticed: (None, Instant::now()),
            last_change: None,
            begun: None,
            unfinished: None,
        }
    }

    /// Runs until the report's other senders are gone, or until it is aborted.
    pub async fn run(&mut self) {
        loop {
            // Boxed: the task waits most of the time, and need not have room for a pass.
            let wait = Box::pin(self.pass()).await;
            let limit = self.resources.limit.clone();
            let refused = self.recorded.as_ref().is_some_and(|it| it.refused.is_some());
            tokio::select! {
                changed = self.reports.changed() => if changed.is_err() {
                    return;
                },
                changed = self.connections.organism.changed() => if changed.is_err() {
                    return;
                },
                () = limit.freed(), if refused => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    fn see(&mut self, organism: &Organism) -> Option<Seen> {
        let report = self.reports.borrow_and_update();
        let engine = report.engine.as_ref()?;
        let decision = engine.decision?;
        let unknown = match (&organism.spec.workload_ref, &report.adoption) {
            (None, _) => None,
            (Some(_), Some(Adoption::Unreadable(why, None))) => Some(why.clone()),
            (Some(_), Some(adoption)) if adoption.is_known() => None,
            (Some(workload), _) => Some(format!("{workload} has not been looked at yet")),
        };
        let seen = Seen {
            decision,
            calm: engine.calm,
            gain: engine.gain.unwrap_or_default(),
            target: Target::of(organism, &report),
            unknown,
        };
        drop(report);
        if self.noticed.0 != Some(decision.entry) {
            self.noticed = (Some(decision.entry), Instant::now());
            self.tries.clear();
        }
        Some(seen)
    }

    /// One pass of the steps at the head of this module. Returns the wait until the next.
    async fn pass(&mut self) -> Duration {
        let organism = self.connections.organism.borrow_and_update().clone();
        self.finalizer |= has_finalizer(&organism);
        let Some(seen) = self.see(&organism) else { return IDLE };
        let mode = organism.spec.response_mode();
        let enforces = mode == ResponseMode::Enforce;
        let hands_off = enforces && organism.annotations().get(HANDS_OFF).is_some_and(|it| it == "true");
        let in_force = plan::in_force(self.recorded.as_ref()).cloned();
        let action = in_force.as_ref().map(|it| it.action);
        let demanded = plan::demanded(seen.decision.action, seen.calm, action);
        if let Some(why) =
            seen.unknown.clone().filter(|_| enforces && (demanded.is_some() || action.is_some()))
        {
            if action == Some(Action::Quarantine) {
                self.report(mode, Quarantine::Unverified(why));
                return RETRY;
            }
            let quarantine = demanded == Some(Action::Quarantine);
            return self.incomplete(&seen, mode, quarantine, Quarantine::Clear, why).await;
        }
        let no_body = enforces && organism.spec.workload_ref.is_some() && seen.target.is_none();
        let stays = !hands_off
            && !no_body
            && demanded == action
            && in_force.as_ref().is_none_or(|it| plan::mode(it) == mode);
        if stays && let Some(in_force) = &in_force {
            return self.keep(&organism, &seen, in_force).await;
        }
        if (demanded.is_some() || in_force.is_some())
            && let Some(left) = self.last_change.and_then(|last| SPACING.checked_sub(last.elapsed()))
        {
            return left.max(Duration::from_millis(1));
        }
        let refusal = match demanded.filter(|_| enforces) {
            Some(_) if no_body && !hands_off => Ok(Some(Refusal::NotAdopted)),
            Some(action) => self.refusal(action, hands_off, &seen).await,
            None => Ok(None),
        };
        let refusal = match refusal {
            Ok(refusal) => refusal,
            Err(why) => {
                let quarantine = demanded == Some(Action::Quarantine);
                return self.incomplete(&seen, mode, quarantine, Quarantine::Clear, why).await;
            }
        };
        let next = demanded.filter(|_| refusal.is_none());
        let applied = next.filter(|_| enforces);
        let target = organism.spec.autoscaling.target_cpu_utilization;
        let utilization = (applied == Some(Action::ApplyOptimize)).then(|| plan::raised(target, seen.gain));
        let measures = plan::measures(applied, utilization);
        let others = match self.bring_about(&organism, &seen, &measures).await {
            Ok(others) => others,
            Err(why) => {
                let otherwise = match (demanded, &refusal) {
                    (Some(Action::Quarantine), Some(refusal)) => refused(refusal),
                    (Some(Action::Quarantine), None) => Quarantine::Observed,
                    _ => Quarantine::Clear,
                };
                let quarantine = applied == Some(Action::Quarantine);
                return self.incomplete(&seen, mode, quarantine, otherwise, why).await;
            }
        };
        let mut others = if enforces || demanded.is_none() {
            others
        } else {
            let would = plan::measures(demanded, Some(plan::raised(target, seen.gain)));
            self.foretell(&organism, &seen, &would).await
        };
        self.unfinished = None;
        if applied != Some(Action::Quarantine) {
            self.place.give_back();
        }
        let release = in_force.filter(|_| !stays);
        let open = std::mem::take(&mut others.open);
        self.record(&organism, &seen, mode, release, demanded, refusal.as_ref(), &measures, others);
        let quarantine = match (demanded, &refusal) {
            (Some(Action::Quarantine), Some(refusal)) => refused(refusal),
            (Some(Action::Quarantine), None) if !enforces => Quarantine::Observed,
            (Some(Action::Quarantine), None) if open.is_empty() => self.found(open),
            // What was open a moment ago may be closed by now.
            (Some(Action::Quarantine), None) => self.look(&organism, &seen, &measures).await,
            _ => Quarantine::Clear,
        };
        let isolated = quarantine.isolates();
        self.report(mode, quarantine);
        match () {
            () if isolated || (applied.is_some() && seen.changes_others()) => others::LOOK,
            () if refusal.is_some() => REFUSED_RETRY,
            () => IDLE,
        }
    }

    /// Keeps what is in force as it is.
    async fn keep(&mut self, organism: &Organism, seen: &Seen, in_force: &LastEnforcement) -> Duration {
        let mode = plan::mode(in_force);
        let enforced = (mode == ResponseMode::Enforce).then_some(in_force.action);
        let measures = plan::measures(enforced, in_force.utilization);
        if !measures.isolated {
            let observed = in_force.action == Action::Quarantine;
            let found = if observed { Quarantine::Observed } else { Quarantine::Clear };
            // An earlier process may have isolated the pods, and ended before it had undone or recorded that.
            if let Err(why) = self.bring_about(organism, seen, &measures).await {
                return self.incomplete(seen, mode, false, found, why).await;
            }
            self.unfinished = None;
            self.report(mode, found);
            return if enforced.is_some() && seen.changes_others() { others::LOOK } else { IDLE };
        }
        self.ask(&measures);
        let _ = self.place.take(true);
        let due = self.looked.as_ref().map(|(at, _)| others::LOOK.saturating_sub(at.elapsed()));
        if let Some(left) = due.filter(|it| !it.is_zero()) {
            return left;
        }
        let found = self.look(organism, seen, &measures).await;
        self.report(mode, found);
        others::LOOK
    }

    /// Why nothing may be done about the decision `action`.
    async fn refusal(
        &mut self,
        action: Action,
        hands_off: bool,
        seen: &Seen,
    ) -> Result<Option<Refusal>, String> {
        if hands_off {
            return Ok(Some(Refusal::HandsOff));
        }
        if action != Action::Quarantine {
            return Ok(None);
        }
        if let Err(limit) = self.place.take(false) {
            return Ok(Some(Refusal::LimitReached(limit)));
        }
        let foreign = match &seen.target {
            Some(target) => self.surroundings.foreign_pods(target).await,
            None => return Err("the body has no workload yet".into()),
        };
        match foreign {
            Ok(pods) if pods.is_empty() => Ok(None),
            Ok(pods) => {
                self.place.give_back();
                Ok(Some(Refusal::SelectorOverlap(pods)))
            }
            Err(error) => Err(error.to_string()),
        }
    }

    /// Asks the body's reconciler for these measures.
    fn ask(&self, measures: &Measures) {
        let hold = &self.connections.hold;
        self.connections.enforcing.send_if_modified(|before| {
            let same =
                before.as_ref().is_some_and(|it| it.measures == *measures && Arc::ptr_eq(&it.hold, hold));
            if !same {
                *before = Some(Enforcing { measures: *measures, hold: hold.clone() });
            }
            !same
        });
    }

    /// Makes everything as these measures ask for. Returns what was done to objects of others, or why that is not all
    /// done yet.
    async fn bring_about(
        &mut self,
        organism: &Organism,
        seen: &Seen,
        measures: &Measures,
    ) -> Result<Others, String> {
        if measures.isolated && seen.changes_others() {
            // The policy outlives the Organism where its objects are orphaned, and then isolates pods that stay.
            self.set_finalizer(true).await?;
        }
        if measures.isolated {
            self.begun = Some(true);
        }
        self.ask(measures);
        if measures.isolated {
            self.wait_for_policies(measures).await;
        }
        let mut others = self.change_others(organism, seen, measures).await?;
        let body = self.reports.borrow().body.clone();
        if body.as_ref().and_then(|it| it.measures) != Some(*measures) {
            let faults = body.iter().flat_map(|it| &it.faults).map(BodyFault::message).collect::<Vec<_>>();
            let unwritten = || "the objects of the body are not all written yet".to_owned();
            return Err(faults.first().cloned().unwrap_or_else(unwritten));
        }
        // One that others have changed back keeps the annotation that says what it was like.
        if self.finalizer && others.changed.is_empty() && self.left.is_empty() && !measures.isolated {
            self.set_finalizer(false).await?;
        }
        self.begun = Some(measures.isolated);
        others.restored = std::mem::take(&mut self.restored);
        Ok(others)
    }

    /// Waits for the body's reconciler, and not for long: looking for what else lets traffic through lists a namespace,
    /// which must not slow down what cuts the pods off.
    async fn wait_for_policies(&self, measures: &Measures) {
        let mut reports = self.reports.clone();
        let written = |report: &Report| report.body.as_ref().and_then(|it| it.measures) == Some(*measures);
        let _ = tokio::time::timeout(POLICIES_FIRST, reports.wait_for(written)).await;
    }

    /// Adds the finalizer, or removes it.
    async fn set_finalizer(&mut self, wanted: bool) -> Result<(), String> {
        let done = if wanted { self.finalizer_set } else { !self.finalizer };
        if done {
            return Ok(());
        }
        self.surroundings.set_finalizer(wanted).await.map_err(|error| error.to_string())?;
        (self.finalizer, self.finalizer_set) = (wanted, wanted);
        Ok(())
    }

    /// Says that a change is not complete, once that has taken a while: a `quarantine`, or what undoes one; `otherwise`
    /// if there is nothing of a quarantine. Returns the wait until the next attempt.
    async fn incomplete(
        &mut self,
        seen: &Seen,
        mode: ResponseMode,
        quarantine: bool,
        otherwise: Quarantine,
        why: String,
    ) -> Duration {
        let since = *self.unfinished.get_or_insert_with(Instant::now);
        if since.elapsed() < SHOWN_AFTER {
            return RETRY;
        }
        let in_force = plan::in_force(self.recorded.as_ref());
        let isolated = in_force
            .is_some_and(|it| it.action == Action::Quarantine && plan::mode(it) == ResponseMode::Enforce);
        let found = match () {
            () if isolated => Quarantine::Releasing(why),
            () if quarantine => Quarantine::Incomplete(why),
            () if self.begun == Some(false) => otherwise,
            // One that was never complete is not recorded. No Service is detached without the finalizer.
            () => match self.surroundings.is_isolated(seen.target.as_ref(), self.finalizer).await {
                Ok(true) => Quarantine::Releasing(why),
                Ok(false) => {
                    // So a new body, of which not all is written yet, is looked at once.
                    self.begun = self.begun.or(seen.target.as_ref().map(|_| false));
                    otherwise
                }
                Err(_) => return RETRY,
            },
        };
        if matches!(found, Quarantine::Releasing(_) | Quarantine::Incomplete(_)) {
            self.resources.metrics.api_error("response");
        }
        self.report(mode, found);
        RETRY
    }
}

fn refused(refusal: &Refusal) -> Quarantine {
    match refusal {
        Refusal::LimitReached(limit) => Quarantine::LimitReached(*limit),
        Refusal::SelectorOverlap(pods) => Quarantine::SelectorOverlap(pods.clone()),
        Refusal::HandsOff => Quarantine::HandsOff,
        Refusal::NotAdopted => Quarantine::NotAdopted,
    }
}

fn has_finalizer(organism: &Organism) -> bool {
    organism.finalizers().iter().any(|it| it == FINALIZER)
}
