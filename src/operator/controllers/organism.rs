//! Reconciles an Organism.
//!
//! 1. Remove a finalizer of ours. This version needs none: what an Organism owns is deleted by Kubernetes, and a
//!    ledger that stays needs nobody. (client)
//! 2. Is it being deleted? End its actor. An Organism that is gone is seen by the watch ([`super::organism_events`]).
//!    (no client)
//! 3. Find its actor, or start one. (no client; waits for an actor of an earlier UID to end)
//! 4. Hand the Organism to the actor, which shows it and reconciles its body. (no client)
//! 5. Get its Genome; create the one of the Organism's own name if it never had one. (client)
//! 6. Claim the Genome: it is bound to at most one Organism. (client)
//! 7. Hand the desired state to the actor, which recovers the ledger and beats. (no client)
//!
//! What is wrong with the objects goes to the actor as [`NotReady`]; only failed calls are errors.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::ResourceExt;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::core::{DeserializeGuard, Resource};
use kube::runtime::controller::Action as Requeue;
use serde_json::json;

use super::{Context, claim};
use crate::api;
use crate::operator::actor::Actor;
use crate::operator::actor::mailbox::{End, Mailbox, Message};
use crate::operator::body::index::FIELD_MANAGER;
use crate::operator::call::{CallError, call};
use crate::operator::key::Key;
use crate::operator::publisher::report::{NotReady, NotReadyReason};
use crate::runtime::Desired;

/// Set by earlier versions.
const FINALIZER: &str = "genesis.venom.dev/ledger";
/// Interval of the periodic check.
const RESYNC: Duration = Duration::from_secs(600);
/// Retry interval after a conflict: the object has changed since it was read.
const CONFLICT_RETRY: Duration = Duration::from_millis(200);

/// Brings one Organism to what its spec asks for. The steps are those at the head of this module.
///
/// # Errors
/// [`CallError`] when it has to be retried.
pub async fn reconcile(
    guarded: Arc<DeserializeGuard<api::Organism>>,
    context: Arc<Context>,
) -> Result<Requeue, CallError> {
    let organism = match &guarded.0 {
        Ok(organism) => organism,
        Err(invalid) => {
            tracing::error!(organism = ?invalid.metadata.name, error = %invalid.error, "cannot decode an Organism");
            return Ok(Requeue::await_change());
        }
    };
    let key = Key::of(organism);
    if organism.finalizers().iter().any(|it| it == FINALIZER) {
        remove_finalizer(organism, &key, &context).await?;
    }
    if organism.metadata.deletion_timestamp.is_some() {
        if let Some(actor) = context.registry.get(&key) {
            actor.end(End::Deleted).await;
        }
        return Ok(Requeue::await_change());
    }
    let organism = Arc::new(organism.clone());
    let actor = find_or_start_actor(&organism, &key, &context).await;
    actor.send(Message::Organism(organism.clone()));

    let genome = match get_genome(&organism, &key, &context).await? {
        Ok(genome) => genome,
        Err(not_ready) => return Ok(block(&actor, key, not_ready, &context)),
    };
    if let Some(not_ready) = claim::claim(&context.client, &organism, &genome).await? {
        return Ok(block(&actor, key, not_ready, &context));
    }
    let desired = Desired::from_specs(&organism, &genome);
    actor.send(Message::Desired(Box::new(desired), genome.name_any()));
    context.organisms.succeeded(&key);
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

/// Shows what is wrong. A change of the Genome comes by the watch; the wait is for what no watch reports.
fn block(actor: &Mailbox, key: Key, not_ready: NotReady, context: &Context) -> Requeue {
    let generation = Some(not_ready.generation);
    let (wait, line) = context.organisms.failed(key.clone(), generation, &not_ready.message, Instant::now());
    if let Some(times) = line {
        let (reason, message) = (not_ready.reason, &not_ready.message);
        tracing::warn!(organism = %key, ?reason, message, times, "cannot beat");
    }
    actor.send(Message::NotReady(not_ready));
    Requeue::requeue(wait)
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

/// Removes our finalizer and leaves others as they are.
async fn remove_finalizer(organism: &api::Organism, key: &Key, context: &Context) -> Result<(), CallError> {
    let finalizers: Vec<_> = organism.finalizers().iter().filter(|it| *it != FINALIZER).collect();
    let organisms: Api<api::Organism> = Api::namespaced(context.client.clone(), &key.namespace);
    // With the resourceVersion, so that a finalizer added meanwhile is never overwritten.
    let patch = json!({
        "metadata": {"finalizers": finalizers, "resourceVersion": organism.metadata.resource_version},
    });
    let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
    let object = format!("Organism {key}");
    match call("patch", &object, organisms.patch_metadata(&key.name, &params, &patch)).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

/// The wait before a failed reconciliation is retried.
pub fn error_policy(
    guarded: Arc<DeserializeGuard<api::Organism>>,
    error: &CallError,
    context: Arc<Context>,
) -> Requeue {
    if error.is_conflict() {
        return Requeue::requeue(CONFLICT_RETRY);
    }
    context.metrics.api_error("reconcile");
    let metadata = guarded.meta();
    let key = Key::of_metadata(metadata);
    let (wait, line) =
        context.organisms.failed(key.clone(), metadata.generation, &error.to_string(), Instant::now());
    if let Some(times) = line {
        tracing::warn!(organism = %key, %error, times, "reconcile failed; retrying");
    }
    Requeue::requeue(wait)
}
