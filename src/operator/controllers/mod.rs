//! The controllers of both kinds.
//!
//! | module | contents |
//! |---|---|
//! | [`organism`] | reconciles an Organism: claims its Genome and hands the desired state to its actor |
//! | [`genome`] | reconciles a Genome: releases stale claims, and sets its condition while it is not bound |
//! | [`claim`] | which Organism a Genome is bound to |
//! | [`quota`] | how many Organisms of a namespace are taken up |
//! | [`changes`] | which changes of objects are worth a reconciliation (pure) |
//! | [`retries`] | when a failed reconciliation is tried again |
//! | [`organism_events`] | what else the watch on Organisms tells: which are gone, which Genomes are free |

pub mod changes;
pub mod claim;
pub mod genome;
pub mod organism;
pub mod organism_events;
pub mod quota;
pub mod retries;

use std::hash::Hash;
use std::sync::Arc;

use futures::channel::mpsc;
use futures::{FutureExt, Stream, StreamExt, stream};
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt;
use kube::runtime::controller::{self, Controller};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::watcher::{self, Event};
use kube::{Client, Resource, ResourceExt};
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::changes::Changes;
use self::organism_events::OrganismEvents;
use self::quota::Quota;
use self::retries::Retries;
use super::actor;
use super::metrics::Metrics;
use super::ownership::Ownership;
use super::registry::Registry;
use super::watches::{Scope, Watches, stopped, trim_managers};
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
    /// Which organisms this replica holds.
    pub ownership: Arc<Ownership>,
    /// How many Organisms of a namespace are taken up.
    pub quota: Quota,
    /// Organisms whose reconciliation has failed.
    pub organisms: Retries,
    /// Genomes whose reconciliation has failed.
    pub genomes: Retries,
}

/// Objects in a page of a list.
const PAGE_SIZE: u32 = 50;
/// The name of the list of Organisms.
pub const ORGANISMS: &str = "Organisms";

/// Starts the controllers of one scope; they end when `stopping` becomes true. Organisms are listed after `ready`; those
/// in `moved` may have changed hands.
pub fn start(
    tasks: &mut JoinSet<()>,
    context: &Arc<Context>,
    scope: &Scope,
    stopping: &watch::Receiver<bool>,
    moved: mpsc::UnboundedReceiver<ObjectRef<Organism>>,
    ready: impl Future<Output = ()> + Send + 'static,
) {
    let list = scope.list(ORGANISMS);
    context.watches.readiness.wait_for(&list);
    // A page is in memory as a whole, and an object may have more than a megabyte.
    let config = || watcher::Config::default().page_size(PAGE_SIZE);
    let (store, writer) = reflector::store();
    let (mut observer, released) = OrganismEvents::new(
        context.registry.clone(),
        context.ownership.clone(),
        store.clone(),
        scope.clone(),
    );
    let organisms = scope.api::<Organism>(&context.watches.client);
    let organisms = without_managers(context.watches.watch(list.clone(), organisms, config()));
    let organisms = ready.map(move |()| organisms).flatten_stream().reflect(writer).inspect(move |event| {
        if let Ok(event) = event {
            observer.observe(event);
        }
    });
    let (genomes, genome_writer) = reflector::store();
    let watched = scope.api::<Genome>(&context.watches.client);
    let watched = context.watches.watch(scope.list("Genomes"), watched, config());
    let watched = without_managers(watched).reflect(genome_writer);
    let (changed, changed_genomes) = mpsc::unbounded();
    let (users, all_genomes) = (store.clone(), genomes.clone());
    let claimed = changed_in(watched, changes::of_genome).flat_map(move |genome| {
        let organisms = organisms_of(&users, &genome, &all_genomes);
        // An error means that the operator stops.
        let _ = changed.unbounded_send(genome);
        stream::iter(organisms)
    });
    context.actors.publishers.genomes.add(genomes.clone());
    let stores = organism::Stores { organisms: store.clone(), genomes: genomes.clone() };
    let reconcile = move |organism, context| organism::reconcile(organism, stores.clone(), context);
    let config = || controller::Config::default().concurrency(RECONCILERS);
    tasks.spawn(
        Controller::for_stream(stream::pending(), store.clone())
            .with_config(config())
            .reconcile_on(changed_in(organisms, changes::of_organism))
            .reconcile_on(claimed)
            .reconcile_on(moved)
            .reconcile_all_on(items(context.registry.losses()))
            .reconcile_all_on(items(context.ownership.members.changes()))
            .graceful_shutdown_on(stopped(stopping.clone()))
            .run(reconcile, organism::error_policy, context.clone())
            .for_each(log_queue_error),
    );
    let context = Arc::new(genome::Context { shared: context.clone(), organisms: store, list });
    tasks.spawn(
        Controller::for_stream(stream::pending(), genomes)
            .with_config(config())
            .reconcile_on(changed_genomes)
            .reconcile_on(released)
            .reconcile_all_on(items(context.shared.ownership.members.changes()))
            .graceful_shutdown_on(stopped(stopping.clone()))
            .run(genome::reconcile, genome::error_policy, context)
            .for_each(log_queue_error),
    );
}

/// Events without what is not read of the managers of Organisms and Genomes.
fn without_managers<K: Resource>(
    events: impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static,
) -> impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static {
    events.map(|event| event.map(|event| event.modify(|object| trim_managers(object.meta_mut()))))
}

/// The objects that change in a watch.
fn changed_in<K>(
    events: impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static,
    hash: fn(&K) -> u64,
) -> impl Stream<Item = ObjectRef<K>> + Send + 'static
where
    K: Resource<DynamicType: Default + Eq + Hash + Clone + Send> + Send + 'static,
{
    let mut changes = Changes::new(hash);
    // A watch of ours never yields an error.
    events.flat_map(move |event| stream::iter(event.map(|event| changes.after(&event)).unwrap_or_default()))
}

/// The Organisms that refer to a Genome or that it is bound to.
fn organisms_of(
    organisms: &Store<Organism>,
    genome: &ObjectRef<Genome>,
    genomes: &Store<Genome>,
) -> Vec<ObjectRef<Organism>> {
    let found = genomes.get(genome);
    let bound = found.as_ref().and_then(|it| it.0.as_ref().ok()?.status.as_ref()?.bound_to.as_ref());
    let concerned = |organism: &Arc<Organism>| {
        organism.namespace() == genome.namespace
            && organism.0.as_ref().is_ok_and(|organism| {
                organism.genome_name() == genome.name
                    || bound.is_some_and(|bound| bound.name == organism.name_any())
            })
    };
    organisms.state().iter().filter(|it| concerned(it)).map(|it| ObjectRef::from_obj(&**it)).collect()
}

/// An item for each change of the watched value.
fn items<T: Send + Sync + 'static>(
    receiver: watch::Receiver<T>,
) -> impl Stream<Item = ()> + Send + Sync + 'static {
    stream::unfold(receiver, |mut receiver| async move {
        receiver.changed().await.ok()?;
        Some(((), receiver))
    })
}

async fn log_queue_error<T, E: std::error::Error>(outcome: Result<T, controller::Error<E, watcher::Error>>) {
    if let Err(controller::Error::QueueError(error)) = outcome {
        tracing::warn!(%error, "a watch failed; retrying");
    }
}
