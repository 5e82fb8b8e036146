//! The body's reconciler: one task an Organism, the only writer of the objects in [`build`].
//!
//! 1. Build the objects that the spec asks for.
//! 2. Compare each with what the watches have observed and with what was applied last ([`plan`](super::plan), pure).
//! 3. Create, apply, delete, or leave it. The first write is a POST, and every other one carries the UID of the
//!    object that was created: an object of someone else with that name is never touched.
//! 4. If the pods are not ready, look why; report what is wrong, for the condition BodyAvailable.
//! 5. Wait until the spec or one of the objects changes, or something is due.
//!
//! A body as it should be costs no call, also after a start of the operator if the status says that it was applied so
//! ([`recall`]); else each object is applied once. What isolates pods waits for no other body. What fails is retried after 5 s at first and 5 min at last; what
//! another client undoes again and again is left to it for as long ([`fight`](super::fight)).

mod looks;
mod recall;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::build::{self, ChildObject, Kind};
use super::fight::{Fight, foreign_change};
use super::foreign::ForeignAutoscalers;
use super::index::{ObjectId, ObservedObject};
use super::plan::{LastApplied, Owner, Step, step};
use super::pods::PodLooks;
use super::retry::Failure;
use super::rollout::{self, RolloutPlace};
use super::writer::ObjectWriter;
use super::{Enforcing, Resources, hash};
use crate::api;
use crate::api::labels::ORGANISM_LABEL;
use crate::operator::call::CallError;
use crate::operator::key::Key;
use crate::operator::measures::Measures;
use crate::operator::members::permit::Tenure;
use crate::operator::publisher::adoption::Adoption;
use crate::operator::publisher::body::{Body, BodyFault, Contest, ForeignChange, ObjectName, PodFault};
use crate::operator::publisher::report::Report;

/// Retry interval while a name is taken: the watches select our own objects only.
const NAME_TAKEN_RETRY: Duration = Duration::from_secs(15);
/// Interval of the periodic check.
const RESYNC: Duration = Duration::from_secs(600);
/// Upper bound on consecutive writes to one object in a pass, so that a contested object cannot starve the others.
const MAX_WRITES: usize = 4;

/// Wakes a body's reconciler and hands it the spec. Dropping this ends it.
pub struct Handle {
    organism: watch::Sender<Arc<api::Organism>>,
    wake: Arc<Notify>,
}

impl Handle {
    /// A handle, and the task of the reconciler for the actor to supervise.
    pub fn new(
        resources: Arc<Resources>,
        key: Key,
        organism: Arc<api::Organism>,
        report: watch::Sender<Report>,
        enforcing: watch::Receiver<Option<Enforcing>>,
        adoption: watch::Receiver<Option<Adoption>>,
        tenure: Arc<Tenure>,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (organism, organisms) = watch::channel(organism);
        let wake = Arc::new(Notify::new());
        let mut reconciler = BodyReconciler {
            place: RolloutPlace::new(resources.rollouts.clone()),
            foreign: ForeignAutoscalers::new(Instant::now()),
            looks: PodLooks::default(),
            looking: None,
            objects: BTreeMap::new(),
            started: Instant::now(),
            reported: Body::default(),
            wake: wake.clone(),
            enforcing,
            adoption,
            tenure,
            key,
            resources,
            report,
        };
        (Self { organism, wake }, async move { reconciler.run(organisms).await })
    }

    /// Hands over the spec, if its generation has changed.
    pub fn set_organism(&self, organism: &Arc<api::Organism>) {
        self.organism.send_if_modified(|before| {
            let changed = before.metadata.generation != organism.metadata.generation;
            if changed {
                *before = organism.clone();
            }
            changed
        });
    }

    /// Makes the reconciler look at the body again.
    pub fn wake(&self) {
        self.wake.notify_one();
    }
}

struct BodyReconciler {
    key: Key,
    resources: Arc<Resources>,
    report: watch::Sender<Report>,
    wake: Arc<Notify>,
    /// What the response asks for; none before the ledger is held, when the last one is not known.
    enforcing: watch::Receiver<Option<Enforcing>>,
    /// Whether the workload in spec.workloadRef is the body; none without that.
    adoption: watch::Receiver<Option<Adoption>>,
    /// Outside of it nothing is written: the body may be another replica's.
    tenure: Arc<Tenure>,
    objects: BTreeMap<ObjectId, Tracked>,
    started: Instant,
    place: RolloutPlace,
    foreign: ForeignAutoscalers,
    looks: PodLooks,
    /// The look at pods that is under way, which ends when it is dropped.
    looking: Option<(JoinSet<()>, oneshot::Receiver<Option<PodFault>>)>,
    /// What was reported last.
    reported: Body,
}

/// What this process knows of its own writes to one object.
#[derive(Default)]
struct Tracked {
    applied: Option<LastApplied>,
    fight: Fight,
    failure: Option<Failure>,
}

/// How the reconciliation of one object ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// It is as it should be, or was left for a reason that [`Tracked`] holds.
    Done,
    /// Its name is taken.
    NameTaken,
    /// Its name is still that of a deleted Organism's object.
    Uncollected,
    /// It follows decisions, and this process does not hold the ledger.
    NotHeld,
    /// Its new pod template waits for the rollouts of other bodies.
    WaitsForRollout,
}

impl BodyReconciler {
    async fn run(&mut self, mut organisms: watch::Receiver<Arc<api::Organism>>) {
        // What the index lacks until then may exist.
        self.resources.index.wait_until_listed().await;
        self.take_place_of_running_rollout(&organisms.borrow().clone());
        loop {
            self.tenure.until_valid().await;
            let organism = organisms.borrow_and_update().clone();
            let (body, wait) = Box::pin(self.reconcile(&organism)).await;
            self.log_changes(&body);
            self.report.send_if_modified(|report| {
                let changed = report.body.as_ref() != Some(&body);
                report.body = Some(body.clone());
                changed
            });
            self.reported = body;
            tokio::select! {
                changed = organisms.changed() => if changed.is_err() {
                    return;
                },
                () = self.wake.notified() => {}
                // An error means that the actor ends.
                Ok(()) = self.enforcing.changed() => {}
                Ok(()) = self.adoption.changed() => {}
                () = tokio::time::sleep(wait) => {}
                () = self.place.take(), if self.reported.waits_for_rollout => {}
            }
        }
    }

    /// A rollout that runs already, when the operator starts, takes its place before those that it leads to.
    fn take_place_of_running_rollout(&mut self, organism: &api::Organism) {
        let uid = organism.metadata.uid.as_deref().unwrap_or_default();
        let workload = self.resources.index.status(&self.key, uid).workload;
        if workload.is_some_and(|it| it.rolling && !it.stalled) {
            self.place.try_take(Instant::now());
        }
    }

    /// Logs what is new among the faults: each one once.
    fn log_changes(&self, body: &Body) {
        for fault in body.faults.iter().filter(|it| !self.reported.faults.contains(it)) {
            tracing::warn!(organism = %self.key, reason = fault.reason(), "{}", fault.message());
        }
        if body.faults.is_empty() && !self.reported.faults.is_empty() {
            tracing::info!(organism = %self.key, "the objects of the body are as they should be again");
        }
    }

    /// One pass over all objects. Returns what is wrong, and the wait until the next pass.
    async fn reconcile(&mut self, organism: &api::Organism) -> (Body, Duration) {
        let enforcing = self.enforcing.borrow_and_update().clone();
        let measures = enforcing.as_ref().map(|it| it.measures);
        let of_spec = measures.unwrap_or_default();
        let adoption = self.adoption.borrow_and_update().clone();
        let adopts = organism.spec.workload_ref.is_some();
        if adopts && !adoption.as_ref().is_some_and(Adoption::is_known) {
            // What an earlier process has made of a quarantine stays until it is known whose pods they are.
            return (self.reported.clone(), RESYNC);
        }
        let adopted = adoption.as_ref().and_then(Adoption::adopted).filter(|_| adopts);
        let installation = &self.resources.installation;
        let children = build::children(organism, installation, &of_spec, adopted.map(|it| &**it));
        let mut children = match children {
            Ok(children) => children,
            Err(error) => {
                tracing::error!(organism = %self.key, %error, "cannot build the body");
                return (self.reported.clone(), RESYNC);
            }
        };
        rollout::annotate(&mut children);
        let uid = organism.metadata.uid.as_deref().unwrap_or_default();
        let mut wait = RESYNC;
        wait = wait.min(self.leave_replicas_to_others(&mut children, organism, uid).await);
        recall::annotate(&mut children);
        if let Some(wait) = self.recall(organism, &children, enforcing.is_some()) {
            return (self.reported.clone(), wait);
        }
        let (mut body, mut taken) = (Body { measures, ..Body::default() }, vec![]);
        for child in &children {
            // A failure of one object must not keep the others from being reconciled.
            let outcome = self.reconcile_object(child, uid, enforcing.as_ref()).await;
            if child.kind.is_enforced() && (outcome != Outcome::Done || self.is_held_back(child)) {
                body.measures = None;
            }
            match outcome {
                Outcome::Done | Outcome::NotHeld => {}
                Outcome::WaitsForRollout => body.waits_for_rollout = true,
                Outcome::Uncollected => body.uncollected.push(object_name(child)),
                Outcome::NameTaken => {
                    taken.push(object_name(child));
                    wait = wait.min(NAME_TAKEN_RETRY);
                }
            }
            wait = wait.min(self.report_object(child, &mut body));
        }
        if !taken.is_empty() {
            let namespace = self.key.namespace.to_string();
            body.faults.push(BodyFault::NameTaken { namespace, objects: taken });
        }
        let status = self.resources.index.status(&self.key, uid);
        let now = Instant::now();
        let rollout = self.place.release_if_done(status.workload.as_ref(), now);
        let look = self.look_at_pods(uid, adopted.map(|it| &**it));
        wait = [rollout, look].into_iter().flatten().fold(wait, Duration::min);
        body.faults.extend(self.looks.found().cloned().map(BodyFault::Pods));
        body.faults.sort();
        let deployment =
            self.resources.index.object(&self.key, &(Kind::Deployment, self.key.name.to_string()));
        body.workload = deployment.filter(|it| it.owner.as_deref() == Some(uid)).map(|it| it.uid);
        body.foreign_autoscaler = self.foreign.found().map(str::to_owned);
        body.applied = self.applied(&children);
        (body, wait)
    }

    /// Adds what keeps one object from being as it should be. Returns the wait until that is due again.
    fn report_object(&mut self, child: &ChildObject, body: &mut Body) -> Duration {
        let now = Instant::now();
        let Some(tracked) = self.objects.get_mut(&(child.kind, child.name.clone())) else { return RESYNC };
        let mut wait = RESYNC;
        if let Some(failure) = &tracked.failure {
            if let Some(words) = failure.words() {
                let words = words.to_owned();
                body.faults.push(BodyFault::ObjectRefused { object: object_name(child), words });
            }
            wait = wait.min(failure.wait(now));
        }
        if let Some(left) = tracked.fight.wait(now) {
            wait = wait.min(left);
        } else if let Some(left) = tracked.fight.holds(now) {
            wait = wait.min(left);
        }
        if let Some((wait, change)) = tracked.fight.contest() {
            let (object, change) = (object_name(child), change.clone());
            body.faults.push(BodyFault::Contested(Contest { object, change, wait }));
        }
        wait
    }

    /// Reconciles one object.
    async fn reconcile_object(
        &mut self,
        child: &ChildObject,
        uid: &str,
        enforcing: Option<&Enforcing>,
    ) -> Outcome {
        let id = (child.kind, child.name.clone());
        let desired = child.object.as_ref().map(hash);
        let (resources, key) = (self.resources.clone(), self.key.clone());
        let writer = ObjectWriter::new(&resources, &key, child);
        let organism = Owner { name: &key.name, uid };
        let mut permit = None;
        for _ in 0..MAX_WRITES {
            let now = Instant::now();
            let observed = resources.index.object(&key, &id);
            let version = resources.index.version(&key, &id).filter(|_| child.kind.is_enforced());
            if child.kind.is_enforced() && observed.is_some() && enforcing.is_none() {
                // What the last decision has made of it stays until the ledger tells what that is.
                return Outcome::NotHeld;
            }
            let tracked = self.objects.entry(id.clone()).or_default();
            let step = step(desired, observed.as_ref(), tracked.applied.as_ref(), organism);
            let settled = match step {
                Step::NameTaken => Some(Outcome::NameTaken),
                Step::AwaitCollection => Some(Outcome::Uncollected),
                Step::Leave => Some(Outcome::Done),
                _ => None,
            };
            if let Some(outcome) = settled {
                tracked.failure = None;
                return outcome;
            }
            if tracked.failure.as_ref().is_some_and(|it| it.holds_back(desired, &step, now)) {
                return Outcome::Done;
            }
            let reverts = desired.is_some_and(|it| step.reverts(it, tracked.applied.as_ref()));
            if reverts && tracked.fight.wait(now).is_some() {
                return Outcome::Done;
            }
            if permit.is_none() && !self.is_urgent(child, enforcing) {
                // Infallible: the semaphore is never closed.
                permit = resources.writers.acquire().await.ok();
            }
            // After the version was read: a write that comes after the answer would meet another one.
            if version.is_some() && !self.is_held(enforcing).await {
                return Outcome::NotHeld;
            }
            match self.is_being_orphaned(observed.as_ref(), uid).await {
                Ok(false) => {}
                Ok(true) => return Outcome::Done,
                Err(error) => {
                    self.failed(&id, desired, step, &error);
                    return Outcome::Done;
                }
            }
            let template = rollout::template(child);
            let new_template =
                template.is_some() && template != observed.as_ref().and_then(|it| it.template.as_ref());
            let rolls = new_template && matches!(step, Step::Apply { .. } | Step::Adopt { .. });
            let waits = rolls && !self.place.try_take(now);
            let done = if waits {
                self.scale_while_waiting(&writer, child, observed.as_ref(), uid).await
            } else {
                self.write(&writer, child, &step, version, desired, reverts).await
            };
            match done {
                Ok(()) if waits => return Outcome::WaitsForRollout,
                Ok(()) => self.objects.entry(id.clone()).or_default().failure = None,
                // It has changed since it was observed: read it, and decide again.
                Err(error) if error.is_conflict() || error.is_not_found() => {
                    match self.read_again(&writer, &id, observed.as_ref(), organism).await {
                        Ok(None) => {}
                        Ok(Some(outcome)) => return outcome,
                        Err(error) => {
                            self.failed(&id, desired, step, &error);
                            return Outcome::Done;
                        }
                    }
                }
                Err(error) => {
                    self.failed(&id, desired, step, &error);
                    return Outcome::Done;
                }
            }
        }
        // Every write was undone: go on with the other objects, and come back.
        self.wake.notify_one();
        Outcome::Done
    }

    /// Whether the object is to be changed by a decision, and is not yet. There are few of these at a time, unlike bodies
    /// that are made or looked at again after a start.
    fn is_urgent(&self, child: &ChildObject, enforcing: Option<&Enforcing>) -> bool {
        let asked = enforcing.map(|it| it.measures).filter(|it| *it != Measures::default());
        child.kind.is_enforced() && asked.is_some() && self.reported.measures != asked
    }

    /// Whether writes that another client undoes, or that fail, keep an object from being as it should be.
    fn is_held_back(&self, child: &ChildObject) -> bool {
        let tracked = self.objects.get(&(child.kind, child.name.clone()));
        tracked.is_some_and(|it| it.failure.is_some() || it.fight.wait(Instant::now()).is_some())
    }

    /// Whether this process still holds the ledger. Where that cannot be told nothing is written, and it is asked again.
    async fn is_held(&self, enforcing: Option<&Enforcing>) -> bool {
        let Some(Enforcing { hold, .. }) = enforcing else { return true };
        match hold.is_ours().await {
            Ok(held) => held,
            Err(error) => {
                self.resources.metrics.api_error("body");
                tracing::debug!(organism = %self.key, %error, "cannot tell who holds the ledger");
                false
            }
        }
    }

    async fn write(
        &mut self,
        writer: &ObjectWriter<'_>,
        child: &ChildObject,
        step: &Step,
        version: Option<String>,
        hash: Option<u64>,
        reverts: bool,
    ) -> Result<(), CallError> {
        if let Step::Delete { uid } = step {
            return writer.delete(uid).await;
        }
        let (Some(desired), Some(hash)) = (&child.object, hash) else { return Ok(()) };
        let id = (child.kind, child.name.clone());
        let tracked = self.objects.entry(id).or_default();
        let now = Instant::now();
        match step {
            Step::Create => {
                // It is as it should be: nothing remains to be applied.
                tracked.applied = Some(LastApplied::of(&writer.create(desired).await?, hash));
                if reverts {
                    tracked.fight.reverted(now, ForeignChange::Deleted);
                }
            }
            Step::ConvertToApply => {
                if let Some(metadata) = writer.metadata().await? {
                    writer.convert_to_apply(&metadata).await?;
                }
            }
            Step::Apply { uid } => {
                let contested = reverts && tracked.fight.is_contested_by_another(now);
                let drifted = if contested { writer.metadata().await? } else { None };
                let made = writer.apply(desired, uid, version).await?;
                tracked.applied = Some(LastApplied::of(&made, hash));
                if reverts {
                    let entries = |it: Option<_>| it.unwrap_or_default();
                    let drifted = entries(drifted.and_then(|it| it.managed_fields));
                    let change = foreign_change(&drifted, &entries(made.managed_fields));
                    tracked.fight.reverted(now, change);
                }
            }
            Step::Adopt { uid } => {
                let Some(metadata) = writer.metadata().await? else { return Ok(()) };
                // With the resourceVersion: nobody else has adopted it since.
                if metadata.uid.as_ref() == Some(uid) && ObservedObject::of(&metadata).orphan {
                    let made = writer.apply(desired, uid, metadata.resource_version).await?;
                    tracked.applied = Some(LastApplied::of(&made, hash));
                    tracing::info!(organism = %self.key, object = %object_name(child), "adopted");
                }
            }
            Step::Delete { .. } | Step::Leave | Step::AwaitCollection | Step::NameTaken => {}
        }
        Ok(())
    }

    /// While its new template waits, the Deployment still gets the number of replicas.
    async fn scale_while_waiting(
        &self,
        writer: &ObjectWriter<'_>,
        child: &ChildObject,
        observed: Option<&ObservedObject>,
        uid: &str,
    ) -> Result<(), CallError> {
        let now = self.resources.index.status(&self.key, uid).workload.map(|it| it.wanted);
        match (observed, rollout::replicas(child)) {
            (Some(observed), Some(replicas)) if now.is_some_and(|now| now != replicas) => {
                writer.scale(&observed.uid, replicas).await
            }
            _ => Ok(()),
        }
    }

    /// Reads the metadata of an object into the index. Returns an outcome where that shows it to be someone else's.
    async fn read_again(
        &self,
        writer: &ObjectWriter<'_>,
        id: &ObjectId,
        observed: Option<&ObservedObject>,
        organism: Owner<'_>,
    ) -> Result<Option<Outcome>, CallError> {
        match writer.metadata().await? {
            Some(metadata) => {
                let found = ObservedObject::of(&metadata);
                let labelled = metadata.labels.as_ref().and_then(|it| it.get(ORGANISM_LABEL));
                let is_orphan = found.orphan && labelled.is_some_and(|it| it == organism.name);
                let last = self.objects.get(id).and_then(|it| it.applied.as_ref());
                let applied = found.owner.is_none() && last.is_some_and(|it| it.uid == found.uid);
                if found.owner.as_deref() == Some(organism.uid) || is_orphan || applied {
                    self.resources.index.put(&self.key, id.clone(), &metadata, None);
                    return Ok(None);
                }
                // The watches select our own objects only, so this one is not in the index.
                let former = found.organism.as_deref() == Some(organism.name);
                Ok(Some(if former { Outcome::Uncollected } else { Outcome::NameTaken }))
            }
            None => {
                let uid = observed.map(|it| it.uid.as_str()).unwrap_or_default();
                self.resources.index.remove(&self.key, id, uid);
                Ok(None)
            }
        }
    }

    fn failed(&mut self, id: &ObjectId, desired: Option<u64>, step: Step, error: &CallError) {
        self.resources.metrics.api_error("body");
        let failure = &mut self.objects.entry(id.clone()).or_default().failure;
        *failure = Some(Failure::after(failure.take(), desired, step, error, Instant::now()));
    }
}

fn object_name(child: &ChildObject) -> ObjectName {
    ObjectName { kind: child.kind.resource().kind, name: child.name.clone() }
}
