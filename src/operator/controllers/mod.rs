//! The controllers of both kinds.
//!
//! | module | contents |
//! |---|---|
//! | [`organism`] | reconciles an Organism: claims its Genome and hands the desired state to its actor |
//! | [`genome`] | reconciles a Genome: releases stale claims, and sets its condition while it is not bound |
//! | [`claim`] | which Organism a Genome is bound to |
//! | [`retries`] | when a failed reconciliation is tried again |
//! | [`organism_events`] | what else the watch on Organisms tells: which are gone, which Genomes are free |

pub mod claim;
pub mod genome;
pub mod organism;
pub mod organism_events;
pub mod retries;

use std::sync::Arc;

use futures::{FutureExt, StreamExt};
use kube::core::DeserializeGuard;
use kube::runtime::controller::{self, Controller};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::organism_events::OrganismEvents;
use self::retries::Retries;
use super::actor;
use super::metrics::Metrics;
use super::registry::Registry;
use super::watches::{Scope, Watches, stopped};
use crate::api;

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
    /// Organisms whose reconciliation has failed.
    pub organisms: Retries,
    /// Genomes whose reconciliation has failed.
    pub genomes: Retries,
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
    let (mut observer, released) =
        OrganismEvents::new(context.registry.clone(), store.clone(), scope.clone());
    let events = context.watches.watch(list.clone(), organisms(), config());
    let events = ready.map(move |()| events).flatten_stream().reflect(writer).inspect(move |event| {
        if let Ok(event) = event {
            observer.observe(event);
        }
    });
    let claimed = context.watches.watch(scope.list("Genomes of Organisms"), genomes(), config());
    let (bound, bound_writer) = reflector::store();
    let genomes = context.watches.watch(scope.list("Genomes"), genomes(), config());
    let organisms = Controller::for_stream(events.applied_objects(), store.clone());
    let genomes = Controller::for_stream(genomes.reflect(bound_writer).applied_objects(), bound);
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
            .reconcile_on(released)
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
