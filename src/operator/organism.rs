//! The Organism's reconciler.
//!
//! 1. Being deleted? End the life, keep or delete its ledger, release the Genome, drop the finalizer.
//! 2. Put the finalizer on before anything is made that it has to undo.
//! 3. Show it, and hand its spec to the keeper of its body; P is what is ready of that.
//! 4. Dereference: find the Genome; make the one of the Organism's own name if it never had one.
//! 5. Claim the Genome: it lives in one Organism at most.
//! 6. Take the ledger over, once a process.
//! 7. Hand the specs to the beater.
//!
//! What is wrong becomes a [`Hold`] that the publisher shows; only calls worth repeating are errors.

use std::sync::Arc;
use std::time::Duration;

use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::core::{DeserializeGuard, Resource};
use kube::runtime::controller::Action as Requeue;
use kube::{Client, ResourceExt};
use serde_json::json;
use tokio::sync::{mpsc, watch};

use super::body::autoscaling::Autoscaling;
use super::call::{CallError, call};
use super::committer::{Committer, Held};
use super::context::{Context, Living};
use super::life::{Begin, Past, Pause, Wanted};
use super::nodes::collector;
use super::publisher::Publisher;
use super::report::{Hold, HoldReason, Report};
use super::takeover::{TakeOverError, take_over};
use super::{Key, body, claim, spec};
use crate::api::{self, OnDelete};
use crate::store::CALL_TIMEOUT;
use crate::store::configmap::{ConfigMaps, StoreError, StoreErrorKind};

/// Kept on an Organism for as long as there is something to undo.
pub const FINALIZER: &str = "genesis.venom.dev/ledger";
/// Look again after this while something is held that no watch would tell of.
const HELD: Duration = Duration::from_secs(15);
/// Look again after this when all is well.
const WELL: Duration = Duration::from_secs(600);
/// Why a reconciliation has to be tried again.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// A call failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The ledger could not be taken over.
    #[error(transparent)]
    TakeOver(#[from] TakeOverError),
    /// The ledger could not be deleted or kept.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ReconcileError {
    /// Whether the object was not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Call(error) if error.is_not_found())
    }

    /// Whether somebody else was first.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        match self {
            Self::Call(error) => error.is_conflict(),
            Self::TakeOver(TakeOverError::Store(error)) | Self::Store(error) => {
                matches!(error.kind, StoreErrorKind::Conflict)
            }
            Self::TakeOver(_) => false,
        }
    }
}

/// Brings one Organism to what its spec says. The steps are those at the head of this module.
///
/// # Errors
/// [`ReconcileError`] when it has to be tried again.
pub async fn reconcile(
    guarded: Arc<DeserializeGuard<api::Organism>>,
    context: Arc<Context>,
) -> Result<Requeue, ReconcileError> {
    let organism = match &guarded.0 {
        Ok(organism) => organism,
        Err(invalid) => {
            tracing::error!(organism = ?invalid.metadata.name, error = %invalid.error, "cannot be read");
            return Ok(Requeue::await_change());
        }
    };
    let key = Key::of(organism);
    if organism.metadata.deletion_timestamp.is_some() {
        finalize(organism, &key, &context).await?;
        return Ok(Requeue::await_change());
    }
    if !organism.finalizers().iter().any(|it| it == FINALIZER) {
        set_finalizer(organism, &context, true).await?;
    }
    let uid = organism.uid().unwrap_or_default();
    if context.living(&key).is_some_and(|living| living.uid != uid) {
        // Deleted and made again while nobody looked: the old one's finalizer was taken off by hand.
        context.forget(&key, false).await;
    }
    context.show(organism, &key);
    embody(organism, &key, &context).await?;

    let genome = match dereference(organism, &key, &context).await? {
        Ok(genome) => genome,
        Err(hold) => return hold_back(organism, &key, &context, hold).await,
    };
    if let Some(hold) = claim::claim(&context.client, organism, &genome).await? {
        return hold_back(organism, &key, &context, hold).await;
    }
    let left = context.set_genome(&key, Some(genome.name_any()));
    if let Some(left) = left {
        claim::release(&context.client, organism, &left).await?;
    }
    let wanted = spec::wanted(organism, &genome);
    if context.beats(&key) {
        context.report(&key, |report| report.hold = None);
        context.want(&key, wanted);
    } else {
        let there = context.first_lists.take(&uid).await;
        match take_over(context.ledger_client.clone(), organism, &context.identity, there).await {
            Ok((held, past)) => {
                context.report(&key, |report| report.hold = None);
                begin(&key, &context, held, past, wanted);
            }
            Err(error @ TakeOverError::NameTaken(_)) => {
                let hold = held_by(organism, HoldReason::NameTaken, error.to_string());
                return hold_back(organism, &key, &context, hold).await;
            }
            Err(error @ TakeOverError::Store(_)) => return Err(error.into()),
            Err(error) => {
                let hold = held_by(organism, HoldReason::Invalid, error.to_string());
                return hold_back(organism, &key, &context, hold).await;
            }
        }
    }
    Ok(Requeue::requeue(WELL))
}

fn held_by(organism: &api::Organism, reason: HoldReason, message: String) -> Hold {
    Hold { reason, message, generation: organism.metadata.generation.unwrap_or_default() }
}

/// Shows why the organism does not beat. One that did stops; its ledger stays held, the Genome that it lived
/// by does not.
async fn hold_back(
    organism: &api::Organism,
    key: &Key,
    context: &Context,
    hold: Hold,
) -> Result<Requeue, ReconcileError> {
    tracing::warn!(organism = %key, reason = ?hold.reason, message = hold.message, "held");
    if context.beats(key) && matches!(hold.reason, HoldReason::GenomeNotFound | HoldReason::GenomeInUse) {
        let left = context.set_genome(key, None);
        if let Some(mut wanted) = context.wanted(key) {
            wanted.pause = Some(Pause::GenomeNotFound);
            wanted.generation = organism.metadata.generation.unwrap_or_default();
            context.want(key, wanted);
        }
        context.report(key, |report| report.hold = Some(hold));
        if let Some(left) = left.filter(|left| left != organism.genome_name()) {
            claim::release(&context.client, organism, &left).await?;
        }
    } else {
        context.report(key, |report| report.hold = Some(hold));
    }
    Ok(Requeue::requeue(HELD))
}

/// Hands the spec to the keeper of the body, where this operator makes any. At the first sight that starts, and
/// P is known from what is there before the organism beats: a restart changes nothing.
async fn embody(organism: &api::Organism, key: &Key, context: &Arc<Context>) -> Result<(), CallError> {
    let autoscaling = Autoscaling::of(organism, context.bodies.is_some());
    context.report(key, |report| report.autoscaling = Some(autoscaling));
    let Some(shared) = &context.bodies else { return Ok(()) };
    if tokio::time::timeout(CALL_TIMEOUT, shared.children.listed()).await.is_err() {
        return Err(CallError::TimeOut { verb: "list the body of", object: format!("Organism {key}") });
    }
    let started = context.table().get_mut(key).is_some_and(|living| match &living.body {
        Some(body) => {
            body.show(organism);
            false
        }
        None => {
            let (context, shared) = (context.clone(), shared.clone());
            living.body = Some(body::keeper::Handle::start(context, shared, key.clone(), organism));
            true
        }
    });
    if started {
        context.body_changed(shared, key);
    }
    Ok(())
}

/// The Genome, or why there is none. It is made only for an Organism that never had one: a Genome deleted
/// later was deleted on purpose.
async fn dereference(
    organism: &api::Organism,
    key: &Key,
    context: &Context,
) -> Result<Result<api::Genome, Hold>, CallError> {
    let genomes: Api<api::Genome> = Api::namespaced(context.client.clone(), &key.namespace);
    let name = organism.genome_name();
    let object = format!("Genome {}/{name}", key.namespace);
    if let Some(genome) = call("get", &object, genomes.get_opt(name)).await? {
        return Ok(Ok(genome));
    }
    let had_one = organism.status.as_ref().is_some_and(|status| status.ledger.is_some());
    if organism.spec.genome_ref.is_some() || had_one {
        let message = format!("{object} does not exist; apply it to go on.");
        return Ok(Err(held_by(organism, HoldReason::GenomeNotFound, message)));
    }
    let genome = api::Genome {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            owner_references: organism.controller_owner_ref(&()).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: api::GenomeSpec::default(),
        status: None,
    };
    match call("create", &object, genomes.create(&PostParams::default(), &genome)).await {
        Ok(made) => Ok(Ok(made)),
        // Somebody was faster: theirs is used, and never owned.
        Err(error) if error.is_conflict() => Ok(Ok(call("get", &object, genomes.get(name)).await?)),
        Err(error) => Err(error),
    }
}

/// Starts the life: the committer with the ledger that is held, the beater with its state.
fn begin(key: &Key, context: &Arc<Context>, held: Held, past: Past, wanted: Wanted) {
    let Some(Living { report, uid, .. }) = context.living(key) else { return };
    let joined = context.bodies.as_ref().and_then(|shared| {
        let joined = collector::join(shared, key, &uid, held.known.clone());
        // It beats without: injections wait at its nodes.
        joined.inspect_err(|error| tracing::error!(organism = %key, %error, "not in its mesh")).ok()
    });
    let (jobs, job_receiver) = mpsc::channel(1);
    let (notices, notice_receiver) = mpsc::unbounded_channel();
    let epoch = held.head.epoch;
    let committer = Committer::new(key.clone(), held, context.committing.clone(), report);
    let task = tokio::spawn(committer.run(job_receiver, notice_receiver));
    let answers = joined.as_ref().map(collector::Joined::answers);
    context.beater.begin(Begin {
        key: key.clone(),
        jobs,
        wanted: context.with_nodes(key, wanted.clone()),
        epoch,
        operator: context.identity.clone(),
        past,
        answers,
    });
    let collector = joined.map(|joined| joined.start(context.beater.clone(), key.clone()));
    context.set_life(key, notices, task, collector);
    // Nodes may have come or gone meanwhile.
    context.want(key, wanted);
}

/// Undoes what the Organism had made: its life, its ledger unless that is to stay, its claim.
async fn finalize(organism: &api::Organism, key: &Key, context: &Arc<Context>) -> Result<(), ReconcileError> {
    if !organism.finalizers().iter().any(|it| it == FINALIZER) {
        return Ok(());
    }
    let uid = organism.uid().unwrap_or_default();
    let keep = organism.spec.ledger.on_delete == OnDelete::Retain;
    context.forget(key, keep).await;
    let store = ConfigMaps::new(context.ledger_client.clone(), &key.namespace, &key.name, &uid);
    if keep {
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

/// Puts our finalizer on or takes it off, leaving others as they are.
async fn set_finalizer(organism: &api::Organism, context: &Context, on: bool) -> Result<(), CallError> {
    let mut finalizers = organism.finalizers().to_vec();
    finalizers.retain(|it| it != FINALIZER);
    if on {
        finalizers.push(FINALIZER.into());
    }
    let name = organism.name_any();
    let namespace = organism.namespace().unwrap_or_default();
    let organisms: Api<api::Organism> = Api::namespaced(context.client.clone(), &namespace);
    // With the resourceVersion, so that a finalizer of somebody else is never overwritten.
    let patch = json!({
        "metadata": {"finalizers": finalizers, "resourceVersion": organism.metadata.resource_version},
    });
    let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
    let object = format!("Organism {namespace}/{name}");
    call("patch", &object, organisms.patch_metadata(&name, &params, &patch)).await?;
    Ok(())
}

/// How long to wait after a failure.
pub fn on_error(
    guarded: Arc<DeserializeGuard<api::Organism>>,
    error: &ReconcileError,
    context: Arc<Context>,
) -> Requeue {
    if error.is_conflict() {
        // The object changed since it was read: look again at once.
        return Requeue::requeue(Duration::from_millis(200));
    }
    context.metrics.api_error("reconcile");
    tracing::warn!(organism = ?guarded.meta().name, %error, "to be tried again");
    Requeue::requeue(Duration::from_secs(5))
}

/// Starts showing an organism: its publisher runs from the first sight on.
pub fn show(context: &Context, organism: &api::Organism, key: &Key) -> Living {
    let (ready, replicas) = match &context.bodies {
        // Until the watches tell, what was shown last stands.
        Some(_) => {
            let nodes = organism.status.as_ref().and_then(|status| status.nodes.as_ref());
            nodes.map_or((0, 0), |nodes| (nodes.ready.into(), nodes.replicas.into()))
        }
        None => (0, organism.spec.nodes.replicas.into()),
    };
    let report = Report { ready, replicas, ..Report::default() };
    let (report, reports) = watch::channel(report);
    let (genome, genome_name) = watch::channel(None);
    let publisher = Publisher::new(key.clone(), organism, genome_name, context.publishing.clone());
    let publisher = Arc::new(std::sync::Mutex::new(Some(tokio::spawn(publisher.run(reports)))));
    Living {
        uid: organism.uid().unwrap_or_default(),
        report,
        genome,
        publisher,
        life: None,
        wanted: None,
        body: None,
        nodes: None,
    }
}

/// The client that writes ledgers: it never retries by itself.
///
/// # Errors
/// When the configuration gives no client.
pub fn ledger_client(mut config: kube::Config) -> Result<Client, kube::Error> {
    config.default_retry = false;
    Client::try_from(config)
}
