//! What the operator watches: one set of watches for each namespace, or one for all.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, ListParams};
use kube::core::{DeserializeGuard, DynamicObject, PartialObjectMeta};
use kube::runtime::controller::{self, Controller};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::body::build::Kind;
use super::body::children;
use super::context::Context;
use super::nodes::peers;
use super::{OperatorError, body, genome, organism, segments};
use crate::api;
use crate::api::labels::{ORGANISM_LABEL, UID_LABEL};

/// Reconciliations under way at once.
const RECONCILERS: u16 = 32;
/// How long to wait for CRDs to be served.
const CRD_LIMIT: Duration = Duration::from_secs(60);

/// Starts them all; they end when `stopped` says so.
pub(super) fn start(
    context: &Arc<Context>,
    namespaces: &[String],
    stopped: &watch::Receiver<bool>,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for namespace in scopes(namespaces) {
        let stop = || until(stopped.clone());
        tasks.spawn(organisms(context.clone(), namespace.clone(), stop()));
        tasks.spawn(genomes(context.clone(), namespace.clone(), stop()));
        tasks.spawn(unless(stop(), segment_watch(context.clone(), namespace.clone())));
        let Some(bodies) = &context.bodies else { continue };
        for kind in Kind::ALL {
            let watching = children::watch(context.clone(), bodies.clone(), kind, namespace.clone());
            tasks.spawn(unless(stop(), watching));
        }
        tasks.spawn(unless(stop(), peer_watch(context.clone(), bodies.clone(), namespace)));
    }
    tasks
}

async fn unless(stop: impl Future<Output = ()>, task: impl Future<Output = ()>) {
    tokio::select! {
        () = task => {}
        () = stop => {}
    }
}

/// One scope a namespace, or one for all.
pub(super) fn scopes(namespaces: &[String]) -> Vec<Option<String>> {
    if namespaces.is_empty() { vec![None] } else { namespaces.iter().cloned().map(Some).collect() }
}

/// Ends when the flag is set.
pub(super) async fn until(mut stopped: watch::Receiver<bool>) {
    // An error means that the sender is gone: stop as well.
    let _ = stopped.wait_for(|&stop| stop).await;
}

fn scoped<K>(client: &Client, namespace: Option<&String>) -> Api<K>
where
    K: kube::Resource<Scope = kube::core::NamespaceResourceScope>,
    K::DynamicType: Default,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// A watch that fails for ever would stall every trigger: say at the start what cannot be listed. CRDs that
/// were applied a moment ago are not served yet, so wait for them a while.
pub(super) async fn check_access(client: &Client, namespaces: &[String]) -> Result<(), OperatorError> {
    for namespace in scopes(namespaces) {
        let organisms: Api<api::Organism> = scoped(client, namespace.as_ref());
        can_list("Organisms", &organisms).await?;
        let genomes: Api<api::Genome> = scoped(client, namespace.as_ref());
        can_list("Genomes", &genomes).await?;
    }
    Ok(())
}

/// The same for the kinds of bodies.
pub(super) async fn check_access_to_bodies(
    client: &Client,
    namespaces: &[String],
) -> Result<(), OperatorError> {
    for (namespace, kind) in
        scopes(namespaces).into_iter().flat_map(|it| Kind::ALL.map(|kind| (it.clone(), kind)))
    {
        let resource = kind.resource();
        let api: Api<DynamicObject> = match &namespace {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
            None => Api::all_with(client.clone(), &resource),
        };
        can_list(kind.plural(), &api).await?;
    }
    Ok(())
}

async fn can_list<K>(what: &'static str, api: &Api<K>) -> Result<(), OperatorError>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let one = ListParams::default().limit(1);
    let patience = tokio::time::Instant::now() + CRD_LIMIT;
    loop {
        match api.list_metadata(&one).await {
            Ok(_) => return Ok(()),
            Err(kube::Error::Api(error)) if error.code == 404 && tokio::time::Instant::now() < patience => {
                tracing::info!(what, "not served yet; waiting");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Err(error) => return Err(OperatorError::Access(what, error)),
        }
    }
}

async fn organisms(
    context: Arc<Context>,
    namespace: Option<String>,
    stop: impl Future<Output = ()> + Send + Sync + 'static,
) {
    let organisms: Api<DeserializeGuard<api::Organism>> = scoped(&context.client, namespace.as_ref());
    let genomes: Api<DeserializeGuard<api::Genome>> = scoped(&context.client, namespace.as_ref());
    let controller = Controller::new(organisms, watcher::Config::default());
    let store = controller.store();
    controller
        .with_config(controller::Config::default().concurrency(RECONCILERS))
        .watches(genomes, watcher::Config::default(), move |genome| {
            // Whoever lives by it, and whoever would like to.
            let namespace = genome.namespace();
            let name = genome.name_any();
            let bound = genome.0.as_ref().ok().and_then(|genome| genome.status.as_ref()?.bound_to.clone());
            store
                .state()
                .into_iter()
                .filter(|organism| organism.namespace() == namespace)
                .filter(|organism| {
                    organism.0.as_ref().is_ok_and(|organism| {
                        organism.genome_name() == name
                            || bound.as_ref().is_some_and(|bound| bound.name == organism.name_any())
                    })
                })
                .map(|organism| ObjectRef::from_obj(&*organism))
                .collect::<Vec<_>>()
        })
        .graceful_shutdown_on(stop)
        .run(organism::reconcile, organism::on_error, context)
        .for_each(|outcome| async move {
            if let Err(controller::Error::QueueError(error)) = outcome {
                tracing::warn!(%error, "a watch failed; it starts again");
            }
        })
        .await;
}

async fn genomes(
    context: Arc<Context>,
    namespace: Option<String>,
    stop: impl Future<Output = ()> + Send + Sync + 'static,
) {
    let genomes: Api<DeserializeGuard<api::Genome>> = scoped(&context.client, namespace.as_ref());
    Controller::new(genomes, watcher::Config::default())
        .with_config(controller::Config::default().concurrency(RECONCILERS))
        .graceful_shutdown_on(stop)
        .run(genome::reconcile, genome::on_error, context)
        .for_each(|_| std::future::ready(()))
        .await;
}

async fn peer_watch(context: Arc<Context>, bodies: Arc<body::Shared>, namespace: Option<String>) {
    let api: Api<EndpointSlice> = scoped(&context.client, namespace.as_ref());
    let events = watcher(api, peers::selector()).default_backoff();
    peers::follow(&bodies.peers, namespace.as_deref(), events).await;
}

async fn segment_watch(context: Arc<Context>, namespace: Option<String>) {
    // A body's ConfigMap carries no UID.
    let config = watcher::Config::default().labels(&format!("{ORGANISM_LABEL},{UID_LABEL}"));
    let api: Api<PartialObjectMeta<ConfigMap>> = scoped(&context.client, namespace.as_ref());
    let events = watcher(api, config).default_backoff();
    segments::notice(context.clone(), events).await;
}
