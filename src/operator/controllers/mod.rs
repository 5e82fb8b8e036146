//! The controllers of both kinds.
//!
//! | module | contents |
//! |---|---|
//! | [`organism`] | reconciles an Organism: claims its Genome and hands the desired state to its actor |
//! | [`genome`] | reconciles a Genome: releases stale claims, and sets its condition while it is not bound |
//! | [`claim`] | which Organism a Genome is bound to |

pub mod claim;
pub mod genome;
pub mod organism;

use std::sync::Arc;

use futures::{FutureExt, StreamExt};
use kube::core::DeserializeGuard;
use kube::runtime::controller::{self, Controller};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::actor;
use super::call::CallError;
use super::metrics::Metrics;
use super::registry::Registry;
use super::watches::{Scope, Watches, stopped};
use crate::api;
use crate::store::configmap::StoreError;

/// Reconciliations in progress, of each kind.
const RECONCILERS: u16 = 32;

type Organism = DeserializeGuard<api::Organism>;
type Genome = DeserializeGuard<api::Genome>;

/// What all reconciliations share.
pub struct Context {
    /// Client for everything but ledgers.
    pub client: Client,
    /// The actors.
    pub registry: Arc<Registry>,
    /// What a new actor gets.
    pub actors: Arc<actor::Resources>,
    /// Counts failures.
    pub metrics: Arc<Metrics>,
    /// The watches, and which of their lists have arrived.
    pub watches: Watches,
}

/// Why a reconciliation has to be retried.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// A call failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The ledger of a deleted Organism could not be deleted or marked as retained.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ReconcileError {
    /// Whether the object does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Call(error) if error.is_not_found())
    }

    /// Whether the object has changed since it was read.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        match self {
            Self::Call(error) => error.is_conflict(),
            Self::Store(error) => matches!(error.kind, crate::store::configmap::StoreErrorKind::Conflict),
        }
    }
}

/// The name of the list of Organisms.
pub const ORGANISMS: &str = "Organisms";

/// Starts the controllers of one scope; they end when `stopping` becomes true. Organisms are listed after `ready`.
pub fn start(
    tasks: &mut JoinSet<()>,
    context: &Arc<Context>,
    scope: &Scope,
    stopping: &watch::Receiver<bool>,
    ready: impl Future<Output = ()> + Send + 'static,
) {
    let list = scope.list(ORGANISMS);
    context.watches.readiness.wait_for(&list);
    let organisms = || scope.api::<Organism>(&context.watches.client);
    let genomes = || scope.api::<Genome>(&context.watches.client);
    let config = watcher::Config::default;
    let (store, writer) = reflector::store();
    let events = context.watches.watch(list.clone(), organisms(), config());
    let events = ready.map(move |()| events).flatten_stream();
    let claimed = context.watches.watch(scope.list("Genomes of Organisms"), genomes(), config());
    let claiming = context.watches.watch(scope.list("Organisms of Genomes"), organisms(), config());
    let (bound, bound_writer) = reflector::store();
    let genomes = context.watches.watch(scope.list("Genomes"), genomes(), config());
    let organisms = Controller::for_stream(events.reflect(writer).applied_objects(), store.clone());
    let genomes = Controller::for_stream(genomes.reflect(bound_writer).applied_objects(), bound.clone());
    let users = store.clone();
    let config = || controller::Config::default().concurrency(RECONCILERS);
    tasks.spawn(
        organisms
            .with_config(config())
            .watches_stream(claimed.touched_objects(), move |genome| organisms_of(&users, &genome))
            .reconcile_all_on(changes(context.registry.panics()))
            .graceful_shutdown_on(stopped(stopping.clone()))
            .run(organism::reconcile, organism::error_policy, context.clone())
            .for_each(log_queue_error),
    );
    let context = Arc::new(genome::Context { shared: context.clone(), organisms: store, list });
    tasks.spawn(
        genomes
            .with_config(config())
            .watches_stream(claiming.touched_objects(), move |organism| genomes_of(&bound, &organism))
            .graceful_shutdown_on(stopped(stopping.clone()))
            .run(genome::reconcile, genome::error_policy, context)
            .for_each(log_queue_error),
    );
}

/// The Organisms that refer to a Genome or that it is bound to.
fn organisms_of(organisms: &Store<Organism>, genome: &Genome) -> Vec<ObjectRef<Organism>> {
    let (namespace, name) = (genome.namespace(), genome.name_any());
    let bound = genome.0.as_ref().ok().and_then(|genome| genome.status.as_ref()?.bound_to.as_ref());
    let concerned = |organism: &Arc<Organism>| {
        organism.namespace() == namespace
            && organism.0.as_ref().is_ok_and(|organism| {
                organism.genome_name() == name || bound.is_some_and(|bound| bound.name == organism.name_any())
            })
    };
    organisms.state().iter().filter(|it| concerned(it)).map(|it| ObjectRef::from_obj(&**it)).collect()
}

/// The Genomes bound to an Organism whose spec has not been acted on yet: it may refer to another one now.
fn genomes_of(genomes: &Store<Genome>, organism: &Organism) -> Vec<ObjectRef<Genome>> {
    let Ok(organism) = &organism.0 else { return vec![] };
    let observed = organism.status.as_ref().and_then(|status| status.observed_generation);
    if observed == organism.metadata.generation && organism.metadata.deletion_timestamp.is_none() {
        return vec![];
    }
    let (namespace, name) = (organism.namespace(), organism.name_any());
    let is_bound = |genome: &Arc<Genome>| {
        let bound = genome.0.as_ref().ok().and_then(|genome| genome.status.as_ref()?.bound_to.as_ref());
        genome.namespace() == namespace && bound.is_some_and(|bound| bound.name == name)
    };
    genomes.state().iter().filter(|it| is_bound(it)).map(|it| ObjectRef::from_obj(&**it)).collect()
}

/// An item for each change of the watched value.
fn changes(receiver: watch::Receiver<u64>) -> impl futures::Stream<Item = ()> + Send + Sync + 'static {
    futures::stream::unfold(receiver, |mut receiver| async move {
        receiver.changed().await.ok()?;
        Some(((), receiver))
    })
}

async fn log_queue_error<T, E: std::error::Error>(outcome: Result<T, controller::Error<E, watcher::Error>>) {
    if let Err(controller::Error::QueueError(error)) = outcome {
        tracing::warn!(%error, "a watch failed; retrying");
    }
}
