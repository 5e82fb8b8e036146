//! The keeper of a body: one task an Organism, the only writer of the objects in [`build`].
//!
//! 1. Build what the spec asks for.
//! 2. For each object compare that with what the watches see and with what was written last ([`step`], pure).
//! 3. Create, apply, delete, or leave alone. The first write is a POST and every other one carries the UID of the
//!    object that was made: a stranger's object of that name is never touched.
//! 4. Wait until the spec or one of the objects changes.
//!
//! A body as it should be costs no call at all. After a start each object is applied once, whatever it looks
//! like, which changes nothing in one that is as it should be.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::{DynamicObject, ObjectMeta};
use serde_json::json;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

use super::Shared;
use super::build::{self, Child};
use super::children::{Id, MANAGER, Seen, Told, as_applied};
use crate::api;
use crate::operator::Key;
use crate::operator::call::{CallError, call};
use crate::operator::context::Context;

/// Look again after this while a name is taken: no watch tells of strangers.
const TAKEN: Duration = Duration::from_secs(15);
/// Try again after this what has failed.
const RETRY: Duration = Duration::from_secs(5);
/// Look again after this when all is well.
const WELL: Duration = Duration::from_secs(600);
/// So many writes to one object at a time; somebody who undoes each of them does not keep the rest waiting.
const ROUNDS: usize = 4;

/// The way to a keeper. It ends when this is dropped.
#[derive(Clone)]
pub struct Handle {
    organism: watch::Sender<Arc<api::Organism>>,
    wake: Arc<Notify>,
    task: AbortHandle,
}

impl Handle {
    /// Starts the keeper of this Organism's body.
    #[must_use]
    pub fn start(context: Arc<Context>, shared: Arc<Shared>, key: Key, organism: &api::Organism) -> Self {
        let (organism, organisms) = watch::channel(Arc::new(organism.clone()));
        let wake = Arc::new(Notify::new());
        let keeper = Keeper { key, context, shared, wake: wake.clone(), kept: BTreeMap::new() };
        let task = tokio::spawn(keeper.run(organisms)).abort_handle();
        Self { organism, wake, task }
    }

    /// Tells it of the present spec.
    pub fn show(&self, organism: &api::Organism) {
        self.organism.send_if_modified(|before| {
            let news = before.metadata.generation != organism.metadata.generation;
            if news {
                *before = Arc::new(organism.clone());
            }
            news
        });
    }

    /// Tells it that something of the body has changed.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Ends it at once.
    pub fn end(&self) {
        self.task.abort();
    }
}

/// What is wrong with a body, as the condition Ready shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// NameTaken or BodyRefused.
    pub reason: &'static str,
    /// What is wrong and what to do.
    pub message: String,
}

/// What an object was like after the last write.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kept {
    uid: String,
    ours: u64,
    wanted: u64,
}

/// What to do about one object.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// Nothing.
    Leave,
    /// It is not there.
    Create,
    /// It was created and not yet made into one that is applied.
    Adopt,
    /// It is not as it should be.
    Apply { uid: String },
    /// It is not to be there.
    Delete { uid: String },
    /// It is somebody else's.
    Taken,
}

/// Decides. Pure.
fn step(wanted: Option<u64>, seen: Option<&Seen>, kept: Option<&Kept>, organism: &str) -> Step {
    let Some(seen) = seen else { return if wanted.is_some() { Step::Create } else { Step::Leave } };
    // One that this process has written and whose owner somebody has taken off is no stranger's.
    let orphaned = seen.owner.is_none() && kept.is_some_and(|kept| kept.uid == seen.uid);
    let ours = orphaned || seen.owner.as_deref() == Some(organism);
    match wanted {
        None if ours && !seen.deleting => Step::Delete { uid: seen.uid.clone() },
        None => Step::Leave,
        Some(_) if !ours => Step::Taken,
        // Once it is gone a new one is made.
        Some(_) if seen.deleting => Step::Leave,
        Some(_) if seen.created => Step::Adopt,
        Some(wanted) => {
            let now = Kept { uid: seen.uid.clone(), ours: seen.ours, wanted };
            if kept == Some(&now) { Step::Leave } else { Step::Apply { uid: now.uid } }
        }
    }
}

struct Keeper {
    key: Key,
    context: Arc<Context>,
    shared: Arc<Shared>,
    wake: Arc<Notify>,
    kept: BTreeMap<Id, Kept>,
}

impl Keeper {
    async fn run(mut self, mut organisms: watch::Receiver<Arc<api::Organism>>) {
        loop {
            let organism = organisms.borrow_and_update().clone();
            let (fault, wait) = self.look(&organism).await;
            self.context.report(&self.key, |report| report.body = fault);
            tokio::select! {
                changed = organisms.changed() => if changed.is_err() {
                    return;
                },
                () = self.wake.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Brings every object to what it should be. Returns what is wrong, and when to look again.
    async fn look(&mut self, organism: &api::Organism) -> (Option<Fault>, Duration) {
        let children = match build::body(organism, &self.shared.installation) {
            Ok(children) => children,
            Err(error) => {
                tracing::error!(organism = %self.key, %error, "the body cannot be built");
                return (None, WELL);
            }
        };
        let uid = organism.metadata.uid.as_deref().unwrap_or_default();
        let (mut fault, mut wait) = (None, WELL);
        for child in &children {
            // One that cannot be had does not keep the others waiting.
            match self.keep(child, uid).await {
                Ok(true) => {}
                Ok(false) => {
                    let object = self.object(child);
                    let message = format!(
                        "{object} exists and is not this Organism's; delete it to go on. It is left as it is."
                    );
                    fault = fault.or(Some(Fault { reason: "NameTaken", message }));
                    wait = wait.min(TAKEN);
                }
                Err(error) => {
                    self.context.metrics.api_error("body");
                    tracing::warn!(organism = %self.key, %error, "to be tried again");
                    if let Some(told) = error.refusal() {
                        let message = format!(
                            "{} was refused: {}. Change that, or the spec, to go on.",
                            self.object(child),
                            told.trim_end_matches('.')
                        );
                        fault = fault.or(Some(Fault { reason: "BodyRefused", message }));
                    }
                    wait = wait.min(RETRY);
                }
            }
        }
        (fault, wait)
    }

    fn object(&self, child: &Child) -> String {
        format!("{} {}/{}", child.kind.resource().kind, self.key.namespace, child.name)
    }

    /// Brings one object to what it should be; false if it is a stranger's.
    async fn keep(&mut self, child: &Child, organism: &str) -> Result<bool, CallError> {
        let id = (child.kind, child.name.clone());
        let wanted = child.object.as_ref().map(hash);
        let api = child.kind.api(self.context.client.clone(), &self.key.namespace);
        let object = self.object(child);
        let shared = self.shared.clone();
        let mut permit = None;
        for _ in 0..ROUNDS {
            let seen = shared.children.seen(&self.key, &id);
            let step = step(wanted, seen.as_ref(), self.kept.get(&id), organism);
            if !matches!(step, Step::Leave | Step::Taken) && permit.is_none() {
                // It is never closed.
                permit = shared.writers.acquire().await.ok();
            }
            let done = match (&step, &child.object) {
                (Step::Leave, _) => return Ok(true),
                (Step::Taken, _) => return Ok(false),
                (Step::Delete { uid }, _) => {
                    let preconditions =
                        Some(Preconditions { uid: Some(uid.clone()), resource_version: None });
                    let params = DeleteParams { preconditions, ..DeleteParams::default() };
                    let done = call("delete", &object, api.delete(&child.name, &params)).await;
                    done.map(|_| shared.children.remove(&self.key, &id, uid))
                }
                (Step::Create, Some(wanted)) => self.create(&api, &object, &id, wanted).await,
                (Step::Apply { uid }, Some(wanted)) => self.apply(&api, &object, &id, wanted, uid).await,
                (Step::Adopt, Some(_)) => {
                    let metadata = call("get", &object, api.get_metadata(&child.name)).await;
                    match metadata {
                        Ok(metadata) => self.adopt(&api, &object, &id, &metadata.metadata).await,
                        Err(error) => Err(error),
                    }
                }
                (Step::Create | Step::Apply { .. } | Step::Adopt, None) => return Ok(true),
            };
            match done {
                Ok(()) => {}
                // It is not what the watch last told: look at it, and decide anew.
                Err(error) if error.is_conflict() || error.is_not_found() => {
                    let found = call("get", &object, api.get_metadata_opt(&child.name)).await?;
                    match found.map(|found| found.metadata) {
                        Some(metadata) if Seen::of(&metadata).owner.as_deref() != Some(organism) => {
                            return Ok(false);
                        }
                        Some(metadata) => {
                            shared.children.put(&self.key, id.clone(), &metadata, None);
                        }
                        None => {
                            let uid = seen.map(|seen| seen.uid).unwrap_or_default();
                            shared.children.remove(&self.key, &id, &uid);
                        }
                    }
                }
                Err(error) => return Err(error),
            }
        }
        // Somebody undoes every write: the others' turn comes first.
        self.wake.notify_one();
        Ok(true)
    }

    async fn create(
        &self,
        api: &Api<DynamicObject>,
        object: &str,
        id: &Id,
        wanted: &DynamicObject,
    ) -> Result<(), CallError> {
        let params = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
        let made = call("create", object, api.create(&params, wanted)).await?;
        self.shared.children.put(&self.key, id.clone(), &made.metadata, Some(Told::by(&made)));
        tracing::info!(object, "created");
        self.adopt(api, object, id, &made.metadata).await
    }

    /// Makes what was created into what is applied; the apply that follows takes just what is wanted.
    async fn adopt(
        &self,
        api: &Api<DynamicObject>,
        object: &str,
        id: &Id,
        metadata: &ObjectMeta,
    ) -> Result<(), CallError> {
        let entries = as_applied(metadata.managed_fields.as_deref().unwrap_or_default());
        let patch = json!({"metadata": {
            "uid": metadata.uid,
            "resourceVersion": metadata.resource_version,
            "managedFields": entries,
        }});
        let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
        let made = call("patch", object, api.patch(&id.1, &params, &Patch::Merge(&patch))).await?;
        self.shared.children.put(&self.key, id.clone(), &made.metadata, Some(Told::by(&made)));
        Ok(())
    }

    async fn apply(
        &mut self,
        api: &Api<DynamicObject>,
        object: &str,
        id: &Id,
        wanted: &DynamicObject,
        uid: &str,
    ) -> Result<(), CallError> {
        let mut patch = wanted.clone();
        patch.metadata.uid = Some(uid.to_owned());
        let params = PatchParams::apply(MANAGER).force();
        let made = call("apply", object, api.patch(&id.1, &params, &Patch::Apply(&patch))).await?;
        let seen = Seen::of(&made.metadata);
        self.kept.insert(id.clone(), Kept { uid: seen.uid, ours: seen.ours, wanted: hash(wanted) });
        self.shared.children.put(&self.key, id.clone(), &made.metadata, Some(Told::by(&made)));
        Ok(())
    }
}

fn hash(object: &DynamicObject) -> u64 {
    let mut hasher = DefaultHasher::new();
    // Objects of Kubernetes' types are JSON; keys are in order.
    serde_json::to_string(object).unwrap_or_default().hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
