//! Reconciles an Organism.
//!
//! 1. Is it being deleted? End its actor, delete or retain its ledger, release the Genome, remove the finalizer.
//!    (client)
//! 2. Add the finalizer before anything is created that it has to undo. (client)
//! 3. Find its actor, or start one. (no client; waits for an actor of an earlier UID to end)
//! 4. Hand the Organism to the actor, which shows it and reconciles its body. (no client)
//! 5. Get its Genome; create the one of the Organism's own name if it never had one. (client)
//! 6. Claim the Genome: it is bound to at most one Organism. (client)
//! 7. Hand the desired state to the actor, which recovers the ledger and beats. (no client)
//!
//! What is wrong with the objects goes to the actor as [`NotReady`]; only failed calls are errors.

use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::core::{DeserializeGuard, Resource};
use kube::runtime::controller::Action as Requeue;
use serde_json::json;

use super::{Context, ReconcileError, claim};
use crate::api::{self, OnDelete};
use crate::operator::actor::Actor;
use crate::operator::actor::mailbox::{End, Mailbox, Message};
use crate::operator::body::index::FIELD_MANAGER;
use crate::operator::call::{CallError, call};
use crate::operator::key::Key;
use crate::operator::publisher::report::{NotReady, NotReadyReason};
use crate::runtime::Desired;
use crate::store::configmap::ConfigMaps;

/// On every Organism, as long as there is a ledger to delete or to retain.
pub const FINALIZER: &str = "genesis.venom.dev/ledger";
/// Interval of the check while something is wrong that no watch reports.
const BLOCKED: Duration = Duration::from_secs(15);
/// Interval of the periodic check.
const RESYNC: Duration = Duration::from_secs(600);
/// Retry interval after a failure.
const RETRY: Duration = Duration::from_secs(5);
/// Retry interval after a conflict: the object has changed since it was read.
const CONFLICT_RETRY: Duration = Duration::from_millis(200);

/// Brings one Organism to what its spec asks for. The steps are those at the head of this module.
///
/// # Errors
/// [`ReconcileError`] when it has to be retried.
pub async fn reconcile(
    guarded: Arc<DeserializeGuard<api::Organism>>,
    context: Arc<Context>,
) -> Result<Requeue, ReconcileError> {
    let organism = match &guarded.0 {
        Ok(organism) => organism,
        Err(invalid) => {
            tracing::error!(organism = ?invalid.metadata.name, error = %invalid.error, "cannot decode an Organism");
            return Ok(Requeue::await_change());
        }
    };
    let key = Key::of(organism);
    if organism.metadata.deletion_timestamp.is_some() {
        finalize(organism, &key, &context).await?;
        return Ok(Requeue::await_change());
    }
    if !has_finalizer(organism) {
        set_finalizer(organism, &context, true).await?;
    }
    let organism = Arc::new(organism.clone());
    let actor = find_or_start_actor(&organism, &key, &context).await;
    actor.send(Message::Organism(organism.clone()));

    let genome = match get_genome(&organism, &key, &context).await? {
        Ok(genome) => genome,
        Err(not_ready) => return Ok(block(&actor, &key, not_ready)),
    };
    if let Some(not_ready) = claim::claim(&context.client, &organism, &genome).await? {
        return Ok(block(&actor, &key, not_ready));
    }
    let desired = Desired::from_specs(&organism, &genome);
    actor.send(Message::Desired(Box::new(desired), genome.name_any()));
    Ok(Requeue::requeue(RESYNC))
}

/// The actor for this UID. One for an earlier Organism of that name, deleted while nobody watched, ends first.
async fn find_or_start_actor(organism: &Arc<api::Organism>, key: &Key, context: &Context) -> Mailbox {
    let uid = organism.uid().unwrap_or_default();
    loop {
        let found = context.registry.get_or_start(key, &uid, |mailbox| {
            Actor::new(organism.clone(), context.actors.clone()).run(mailbox)
        });
        match found {
            Ok(mailbox) => return mailbox,
            Err(earlier) => {
                earlier.end(End::Deleted).await;
                // The registry removes it a moment after it has ended.
                tokio::task::yield_now().await;
            }
        }
    }
}

fn block(actor: &Mailbox, key: &Key, not_ready: NotReady) -> Requeue {
    tracing::warn!(organism = %key, reason = ?not_ready.reason, message = not_ready.message, "cannot beat");
    actor.send(Message::NotReady(not_ready));
    Requeue::requeue(BLOCKED)
}

/// The Genome, or why there is none. It is created only for an Organism that never had one: a Genome deleted
/// later was deleted on purpose.
async fn get_genome(
    organism: &api::Organism,
    key: &Key,
    context: &Context,
) -> Result<Result<api::Genome, NotReady>, CallError> {
    let genomes: Api<api::Genome> = Api::namespaced(context.client.clone(), &key.namespace);
    let name = organism.genome_name();
    let object = format!("Genome {}/{name}", key.namespace);
    if let Some(genome) = call("get", &object, genomes.get_opt(name)).await? {
        return Ok(Ok(match claim::lost_owner(organism, &genome) {
            Some(patch) => {
                let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
                call("patch", &object, genomes.patch(name, &params, &patch)).await?
            }
            None => genome,
        }));
    }
    let had_one = organism.status.as_ref().is_some_and(|status| status.ledger.is_some());
    if organism.spec.genome_ref.is_some() || had_one {
        return Ok(Err(NotReady {
            reason: NotReadyReason::GenomeNotFound,
            message: format!("{object} does not exist; apply it to go on."),
            generation: organism.metadata.generation.unwrap_or_default(),
        }));
    }
    let genome = api::Genome {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(claim::genome_labels(organism)),
            owner_references: organism.controller_owner_ref(&()).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: api::GenomeSpec::default(),
        status: None,
    };
    let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
    match call("create", &object, genomes.create(&params, &genome)).await {
        Ok(created) => Ok(Ok(created)),
        // It was created by someone else meanwhile: used, but never owned.
        Err(error) if error.is_conflict() => Ok(Ok(call("get", &object, genomes.get(name)).await?)),
        Err(error) => Err(error),
    }
}

/// Undoes what exists for a deleted Organism: its actor, its ledger unless that is retained, its claim.
async fn finalize(organism: &api::Organism, key: &Key, context: &Context) -> Result<(), ReconcileError> {
    if !has_finalizer(organism) {
        return Ok(());
    }
    let uid = organism.uid().unwrap_or_default();
    let retain = organism.spec.ledger.on_delete == OnDelete::Retain;
    if let Some(actor) = context.registry.get(key) {
        actor.end(if retain { End::DeletedRetain } else { End::Deleted }).await;
    }
    let store = ConfigMaps::new(context.actors.ledger_client.clone(), &key.namespace, &key.name, &uid);
    if retain {
        if let Some(found) = store.head().await?
            && let Some(mut head) = found.head
            && head.uid == uid
            && !head.retained
        {
            head.retained = true;
            head.epoch += 1;
            store.put_head(&head, &found.resource_version).await?;
        }
    } else {
        store.delete_all(&uid).await?;
    }
    claim::release(&context.client, organism, organism.genome_name()).await?;
    match set_finalizer(organism, context, false).await {
        Err(error) if !error.is_not_found() => Err(error.into()),
        _ => Ok(()),
    }
}

fn has_finalizer(organism: &api::Organism) -> bool {
    organism.finalizers().iter().any(|it| it == FINALIZER)
}

/// Adds or removes our finalizer and leaves others as they are.
async fn set_finalizer(organism: &api::Organism, context: &Context, on: bool) -> Result<(), CallError> {
    let mut finalizers = organism.finalizers().to_vec();
    finalizers.retain(|it| it != FINALIZER);
    if on {
        finalizers.push(FINALIZER.into());
    }
    let name = organism.name_any();
    let namespace = organism.namespace().unwrap_or_default();
    let organisms: Api<api::Organism> = Api::namespaced(context.client.clone(), &namespace);
    // With the resourceVersion, so that a finalizer added meanwhile is never overwritten.
    let patch = json!({
        "metadata": {"finalizers": finalizers, "resourceVersion": organism.metadata.resource_version},
    });
    let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
    let object = format!("Organism {namespace}/{name}");
    call("patch", &object, organisms.patch_metadata(&name, &params, &patch)).await?;
    Ok(())
}

/// The wait before a failed reconciliation is retried.
pub fn error_policy(
    guarded: Arc<DeserializeGuard<api::Organism>>,
    error: &ReconcileError,
    context: Arc<Context>,
) -> Requeue {
    if error.is_conflict() {
        return Requeue::requeue(CONFLICT_RETRY);
    }
    context.metrics.api_error("reconcile");
    tracing::warn!(organism = ?guarded.meta().name, %error, "reconcile failed; retrying");
    Requeue::requeue(RETRY)
}
