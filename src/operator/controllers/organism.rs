//! Reconciles an Organism.
//!
//! 1. Remove a finalizer of an earlier version: what an Organism owns is deleted by Kubernetes, and a ledger that stays
//!    needs nobody. (client)
//! 2. Is another replica to hold it? Give it back, or leave it alone. (client, where an earlier process of this replica
//!    held it)
//! 3. Is it being deleted? End its actor, undo what the response has changed of others' objects, and remove the finalizer
//!    that says there may be some. (client, where there is that finalizer)
//!    An Organism that is gone is seen by the watch ([`super::organism_events`]).
//!    (no client)
//! 4. Has its namespace too many? Say so, and look again later. One that has an actor goes on. (client)
//! 5. Find its actor, or start one. (no client; waits for an actor of an earlier UID to end)
//! 6. Hand the Organism to the actor, which shows it and reconciles its body. (no client)
//! 7. Find its Genome; create the one of the Organism's own name if it never had one. (client, where it is not observed)
//! 8. Claim the Genome: it is bound to at most one Organism. (client, where it is not bound to this one)
//! 9. Hand the desired state to the actor, which recovers the ledger and beats. (no client)
//!
//! What is wrong with the objects goes to the actor as [`NotReady`]; only failed calls are errors.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::ResourceExt;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::core::{DeserializeGuard, Resource};
use kube::runtime::controller::Action as Requeue;
use kube::runtime::reflector::{ObjectRef, Store};

use super::{Context, claim, quota};
use crate::api::{self, OnDelete};
use crate::operator::actor::Actor;
use crate::operator::actor::mailbox::{End, Mailbox, Message};
use crate::operator::body::index::FIELD_MANAGER;
use crate::operator::call::{CallError, call};
use crate::operator::finalizer;
use crate::operator::key::Key;
use crate::operator::members::transfer::Step;
use crate::operator::publisher::report::{NotReady, NotReadyReason};
use crate::operator::recovery::disown::disown;
use crate::operator::response::surroundings::{self, ChangeError, Changed, Surroundings};
use crate::runtime::Desired;

/// Set by earlier versions.
const FINALIZER: &str = "genesis.venom.dev/ledger";
/// Set by the API server with `--cascade=orphan`, until the garbage collector has taken off the ownerReferences that it knows.
const ORPHAN_FINALIZER: &str = "orphan";
/// Interval of the periodic check.
const RESYNC: Duration = Duration::from_secs(600);
/// When an organism that is given back, or has to be given back by another replica, is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// Retry interval after a conflict: the object has changed since it was read.
const CONFLICT_RETRY: Duration = Duration::from_millis(200);

/// What the watches of a scope show.
#[derive(Clone)]
pub struct Stores {
    /// The Organisms.
    pub organisms: Store<DeserializeGuard<api::Organism>>,
    /// The Genomes.
    pub genomes: Store<DeserializeGuard<api::Genome>>,
}

/// Brings an Organism to what its spec asks for. The steps are those at the head of this module.
///
/// # Errors
/// [`CallError`] when it has to be retried.
pub async fn reconcile(
    guarded: Arc<DeserializeGuard<api::Organism>>,
    stores: Stores,
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
        let uid = organism.metadata.uid.as_deref().unwrap_or_default();
        finalizer::set(&context.client, &key, uid, FINALIZER, false).await?;
    }
    let uid = organism.metadata.uid.clone().unwrap_or_default();
    let actor = context.registry.get(&key).filter(|actor| actor.uid() == uid);
    let step = context.ownership.step(&key, &uid, actor.is_some());
    if organism.metadata.deletion_timestamp.is_some() {
        match (actor, step) {
            (Some(actor), _) => {
                if organism.finalizers().iter().any(|it| it == ORPHAN_FINALIZER) {
                    actor.send(Message::Organism(Arc::new(kept(organism))));
                }
                actor.end(End::Deleted).await;
            }
            // Nobody else holds it.
            (None, Step::Take(_) | Step::Disown) => {}
            (None, _) => return Ok(Requeue::await_change()),
        }
        if organism.finalizers().iter().any(|it| it == surroundings::FINALIZER) {
            return undo_response(organism, &key, &context).await;
        }
        return Ok(Requeue::await_change());
    }
    let why = match step {
        Step::Keep => None,
        Step::Take(why) => Some(why),
        Step::Lose if !context.ownership.is_lost(context.client.clone(), &key, &uid, None).await? => None,
        step => return give_up(step, actor, &key, &uid, &context).await,
    };
    let organism = Arc::new(organism.clone());
    let quota = &context.quota;
    if context.registry.get(&key).is_none() && quota.is_beyond(&organism, &stores.organisms) {
        return quota::refuse(&context.client, &organism, quota).await;
    }
    if let Some(why) = why {
        context.metrics.took_over(why.as_str());
    }
    let actor = find_or_start_actor(&organism, &key, &context).await;
    actor.send(Message::Organism(organism.clone()));

    let genome = match find_genome(&organism, &key, &stores.genomes, &context).await? {
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

/// What a deletion that leaves the objects asks for. The garbage collector does not know the objects that are only now being
/// written; it would delete those that named an owner.
fn kept(organism: &api::Organism) -> api::Organism {
    let mut kept = organism.clone();
    kept.spec.ledger.on_delete = OnDelete::Retain;
    kept
}

/// Leaves an organism to another replica. It is looked at again, because a write that gives it back may fail.
async fn give_up(
    step: Step,
    actor: Option<Mailbox>,
    key: &Key,
    uid: &str,
    context: &Context,
) -> Result<Requeue, CallError> {
    match (step, actor) {
        (Step::Release, Some(actor)) => actor.end(End::Released).await,
        (_, Some(actor)) => actor.end(End::Lost).await,
        (Step::Disown, None) => {
            let identity = context.ownership.members.identity();
            disown(context.client.clone(), identity, key, uid).await?;
        }
        // What it waits for may be a time that passes.
        (Step::Wait, None) => {}
        (_, None) => return Ok(Requeue::await_change()),
    }
    Ok(Requeue::requeue(LOOK_AGAIN))
}

/// The actor for this UID. One for an earlier Organism of that name, deleted while nobody watched, ends first.
async fn find_or_start_actor(organism: &Arc<api::Organism>, key: &Key, context: &Context) -> Mailbox {
    let uid = organism.uid().unwrap_or_default();
    loop {
        let found = context.registry.get_or_start(key, &uid, |mailbox| {
            let mut actor = Actor::new(organism.clone(), context.actors.clone());
            async move { actor.run(mailbox).await }
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
async fn find_genome(
    organism: &api::Organism,
    key: &Key,
    observed: &Store<DeserializeGuard<api::Genome>>,
    context: &Context,
) -> Result<Result<api::Genome, NotReady>, CallError> {
    let genomes: Api<api::Genome> = Api::namespaced(context.client.clone(), &key.namespace);
    let name = organism.genome_name();
    let object = format!("Genome {}/{name}", key.namespace);
    let found = observed.get(&ObjectRef::new(name).within(&key.namespace));
    if let Some(genome) = found.as_ref().and_then(|it| it.0.as_ref().ok())
        && claim::is_bound_to(genome, organism)
    {
        // Its changes are told by the watch that has brought it.
        return Ok(Ok(genome.clone()));
    }
    let had_one = organism.status.as_ref().is_some_and(|status| status.ledger.is_some());
    let may_be_created = organism.spec.genome_ref.is_none() && !had_one;
    if may_be_created && found.is_none() {
        match create_genome(organism, &genomes, &object).await {
            // The watch has not shown it yet.
            Err(error) if error.is_conflict() => {}
            created => return created.map(Ok),
        }
    }
    match call("get", &object, genomes.get_opt(name)).await? {
        Some(genome) => Ok(Ok(match claim::lost_owner(organism, &genome) {
            Some(patch) => {
                let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
                call("patch", &object, genomes.patch(name, &params, &patch)).await?
            }
            None => genome,
        })),
        // A conflict means that somebody else has created it meanwhile: it is looked at again.
        None if may_be_created => create_genome(organism, &genomes, &object).await.map(Ok),
        None => Ok(Err(NotReady {
            reason: NotReadyReason::GenomeNotFound,
            message: format!("{object} does not exist; apply it to go on."),
            generation: organism.metadata.generation.unwrap_or_default(),
        })),
    }
}

async fn create_genome(
    organism: &api::Organism,
    genomes: &Api<api::Genome>,
    object: &str,
) -> Result<api::Genome, CallError> {
    let genome = api::Genome {
        metadata: ObjectMeta {
            name: Some(organism.genome_name().to_owned()),
            labels: Some(claim::genome_labels(organism)),
            owner_references: organism.controller_owner_ref(&()).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: api::GenomeSpec::default(),
        status: None,
    };
    let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
    call("create", object, genomes.create(&params, &genome)).await
}

/// Restores what the response has changed of others' objects, and lets the Organism go.
async fn undo_response(organism: &api::Organism, key: &Key, context: &Context) -> Result<Requeue, CallError> {
    let uid = organism.metadata.uid.as_deref().unwrap_or_default();
    let lists = context.actors.bodies.as_ref().map(|it| it.responses.lists.clone()).unwrap_or_default();
    let surroundings = Surroundings::new(context.client.clone(), lists, key.clone(), uid);
    let kinds = [Changed::Service, Changed::HorizontalPodAutoscaler];
    match surroundings.restore_all(&kinds, None).await {
        Err(ChangeError::Call(error)) => return Err(error),
        // Without a hold nobody is asked.
        Err(ChangeError::NotHeld(_)) => {}
        Ok(restored) if restored.is_empty() => {}
        Ok(restored) => tracing::info!(organism = %key, ?restored, "restored before the deletion"),
    }
    surroundings.delete_policy().await?;
    surroundings.set_finalizer(false).await?;
    Ok(Requeue::await_change())
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
