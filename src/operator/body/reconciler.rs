//! The body's reconciler: one task an Organism, the only writer of the objects in [`build`].
//!
//! 1. Build the objects that the spec asks for.
//! 2. Compare each with what the watches have observed and with what was applied last ([`plan`](super::plan), pure).
//! 3. Create, apply, delete, or leave it. The first write is a POST, and every other one carries the UID of the
//!    object that was created: an object of someone else with that name is never touched.
//! 4. Wait until the spec or one of the objects changes.
//!
//! A body as it should be costs no call. After a start of the operator each object is applied once, which
//! changes nothing in an object as it should be.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::{DynamicObject, ObjectMeta};
use serde_json::json;
use tokio::sync::{Notify, watch};

use super::Resources;
use super::build::{self, ChildObject};
use super::index::{FIELD_MANAGER, ObjectId, ObservedObject, ObservedStatus, as_applied};
use super::plan::{LastApplied, Step, step};
use crate::api;
use crate::operator::call::{CallError, call};
use crate::operator::key::Key;
use crate::operator::publisher::report::{BodyFault, Report};

/// Retry interval while a name is taken: the watches select our own objects only.
const NAME_TAKEN_RETRY: Duration = Duration::from_secs(15);
/// Retry interval after a failed call.
const RETRY: Duration = Duration::from_secs(5);
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
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (organism, organisms) = watch::channel(organism);
        let wake = Arc::new(Notify::new());
        let reconciler =
            BodyReconciler { key, resources, report, wake: wake.clone(), applied: BTreeMap::new() };
        (Self { organism, wake }, reconciler.run(organisms))
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
    applied: BTreeMap<ObjectId, LastApplied>,
}

impl BodyReconciler {
    async fn run(mut self, mut organisms: watch::Receiver<Arc<api::Organism>>) {
        // What the index lacks until then may exist.
        self.resources.index.wait_until_listed().await;
        loop {
            let organism = organisms.borrow_and_update().clone();
            let (fault, wait) = self.reconcile(&organism).await;
            self.report.send_if_modified(|report| {
                let changed = report.body_fault != fault;
                report.body_fault = fault;
                changed
            });
            tokio::select! {
                changed = organisms.changed() => if changed.is_err() {
                    return;
                },
                () = self.wake.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// One pass over all objects. Returns what is wrong, and the wait until the next pass.
    async fn reconcile(&mut self, organism: &api::Organism) -> (Option<BodyFault>, Duration) {
        let children = match build::children(organism, &self.resources.installation) {
            Ok(children) => children,
            Err(error) => {
                tracing::error!(organism = %self.key, %error, "cannot build the body");
                return (None, RESYNC);
            }
        };
        let uid = organism.metadata.uid.as_deref().unwrap_or_default();
        let (mut fault, mut wait) = (None, RESYNC);
        for child in &children {
            // A failure of one object must not keep the others from being reconciled.
            match self.reconcile_object(child, uid).await {
                Ok(true) => {}
                Ok(false) => {
                    let object = self.object(child);
                    let message = format!(
                        "{object} exists and does not belong to this Organism; delete it to go on. It is left unchanged."
                    );
                    fault = fault.or(Some(BodyFault { reason: "NameTaken", message }));
                    wait = wait.min(NAME_TAKEN_RETRY);
                }
                Err(error) => {
                    self.resources.metrics.api_error("body");
                    tracing::warn!(organism = %self.key, %error, "cannot reconcile an object of the body; retrying");
                    if let Some(refusal) = error.refusal() {
                        let message = format!(
                            "{} was refused: {}. Change that, or the spec, to go on.",
                            self.object(child),
                            refusal.trim_end_matches('.')
                        );
                        fault = fault.or(Some(BodyFault { reason: "BodyRefused", message }));
                    }
                    wait = wait.min(RETRY);
                }
            }
        }
        (fault, wait)
    }

    fn object(&self, child: &ChildObject) -> String {
        format!("{} {}/{}", child.kind.resource().kind, self.key.namespace, child.name)
    }

    /// Reconciles one object. Returns false if its name is taken.
    async fn reconcile_object(&mut self, child: &ChildObject, organism: &str) -> Result<bool, CallError> {
        let id = (child.kind, child.name.clone());
        let desired = child.object.as_ref().map(hash);
        let api = child.kind.api(self.resources.client.clone(), &self.key.namespace);
        let object = self.object(child);
        let resources = self.resources.clone();
        let mut permit = None;
        for _ in 0..MAX_WRITES {
            let observed = resources.index.object(&self.key, &id);
            let step = step(desired, observed.as_ref(), self.applied.get(&id), organism);
            if !matches!(step, Step::Leave | Step::NameTaken) && permit.is_none() {
                // Infallible: the semaphore is never closed.
                permit = resources.writers.acquire().await.ok();
            }
            let done = match (&step, &child.object) {
                (Step::Leave, _) => return Ok(true),
                (Step::NameTaken, _) => return Ok(false),
                (Step::Delete { uid }, _) => {
                    let preconditions =
                        Some(Preconditions { uid: Some(uid.clone()), resource_version: None });
                    let params = DeleteParams { preconditions, ..DeleteParams::default() };
                    let done = call("delete", &object, api.delete(&child.name, &params)).await;
                    done.map(|_| resources.index.remove(&self.key, &id, uid))
                }
                (Step::Create, Some(desired)) => self.create(&api, &object, &id, desired).await,
                (Step::Apply { uid }, Some(desired)) => self.apply(&api, &object, &id, desired, uid).await,
                (Step::ConvertToApply, Some(_)) => {
                    let metadata = call("get", &object, api.get_metadata(&child.name)).await;
                    match metadata {
                        Ok(metadata) => self.convert_to_apply(&api, &object, &id, &metadata.metadata).await,
                        Err(error) => Err(error),
                    }
                }
                (Step::Create | Step::Apply { .. } | Step::ConvertToApply, None) => return Ok(true),
            };
            match done {
                Ok(()) => {}
                // It has changed since it was observed: read it, and decide again.
                Err(error) if error.is_conflict() || error.is_not_found() => {
                    let found = call("get", &object, api.get_metadata_opt(&child.name)).await?;
                    match found.map(|found| found.metadata) {
                        Some(metadata)
                            if ObservedObject::of(&metadata).owner.as_deref() != Some(organism) =>
                        {
                            return Ok(false);
                        }
                        Some(metadata) => {
                            resources.index.put(&self.key, id.clone(), &metadata, None);
                        }
                        None => {
                            let uid = observed.map(|it| it.uid).unwrap_or_default();
                            resources.index.remove(&self.key, &id, &uid);
                        }
                    }
                }
                Err(error) => return Err(error),
            }
        }
        // Every write was undone: go on with the other objects, and come back.
        self.wake.notify_one();
        Ok(true)
    }

    async fn create(
        &self,
        api: &Api<DynamicObject>,
        object: &str,
        id: &ObjectId,
        desired: &DynamicObject,
    ) -> Result<(), CallError> {
        let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
        let made = call("create", object, api.create(&params, desired)).await?;
        self.resources.index.put(&self.key, id.clone(), &made.metadata, Some(ObservedStatus::of(&made)));
        tracing::info!(object, "created");
        self.convert_to_apply(api, object, id, &made.metadata).await
    }

    /// Turns the fields owned by the creation into applied ones, so that the apply that follows can remove some.
    async fn convert_to_apply(
        &self,
        api: &Api<DynamicObject>,
        object: &str,
        id: &ObjectId,
        metadata: &ObjectMeta,
    ) -> Result<(), CallError> {
        let entries = as_applied(metadata.managed_fields.as_deref().unwrap_or_default());
        let patch = json!({"metadata": {
            "uid": metadata.uid,
            "resourceVersion": metadata.resource_version,
            "managedFields": entries,
        }});
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        let made = call("patch", object, api.patch(&id.1, &params, &Patch::Merge(&patch))).await?;
        self.resources.index.put(&self.key, id.clone(), &made.metadata, Some(ObservedStatus::of(&made)));
        Ok(())
    }

    async fn apply(
        &mut self,
        api: &Api<DynamicObject>,
        object: &str,
        id: &ObjectId,
        desired: &DynamicObject,
        uid: &str,
    ) -> Result<(), CallError> {
        let mut patch = desired.clone();
        patch.metadata.uid = Some(uid.to_owned());
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let made = call("apply", object, api.patch(&id.1, &params, &Patch::Apply(&patch))).await?;
        let ObservedObject { uid, owned, .. } = ObservedObject::of(&made.metadata);
        self.applied.insert(id.clone(), LastApplied { uid, owned, desired: hash(desired) });
        self.resources.index.put(&self.key, id.clone(), &made.metadata, Some(ObservedStatus::of(&made)));
        Ok(())
    }
}

fn hash(object: &DynamicObject) -> u64 {
    let mut hasher = DefaultHasher::new();
    // Infallible for Kubernetes objects; keys are sorted.
    serde_json::to_string(object).unwrap_or_default().hash(&mut hasher);
    hasher.finish()
}
