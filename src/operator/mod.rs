//! The operator: Organisms and Genomes of a cluster, beating.
//!
//! | module | what it is |
//! |---|---|
//! | [`context`] | what all reconciliations share: the organisms held here |
//! | [`organism`] | the Organism's reconciler: dereference, claim, take over, hand over |
//! | [`genome`] | the Genome's reconciler |
//! | [`build`] | a body as Kubernetes objects (pure) |
//! | [`body`] | the keeper of a body: the only writer of those objects |
//! | [`children`] | what the watches see of bodies |
//! | [`peers`] | where the nodes are |
//! | [`collector`] | the operator's place in a mesh: injections come in, answers go back |
//! | [`issuer`] | where nodes get their certificates |
//! | [`authority`] | who signs the certificates of nodes and of the operator |
//! | [`autoscaling`] | who sets the number of nodes (pure) |
//! | [`claim`] | which Organism a Genome lives in |
//! | [`spec`] | from specs to what the engine runs on (pure) |
//! | [`takeover`] | from what lies in the cluster to a ledger that is held |
//! | [`beater`] | the one thread that owns all lives |
//! | [`life`] | one organism in it (no I/O) |
//! | [`committer`] | the only writer of a ledger's objects |
//! | [`view`], [`report`] | what may be shown, and the status made of it (pure) |
//! | [`publisher`] | the only writer of a status |
//! | [`segments`] | notices segments that somebody removed |
//! | [`budget`] | how much may be written |
//! | [`metrics`] | counters, `/metrics`, `/healthz`, `/readyz` |
//!
//! Architecture Invariant: only the committer writes ledger objects, only the publisher writes a status, and
//! nothing is shown or acted on that is not committed. Data flows one way round:
//! reconciler → beater → committer → publisher.

pub mod authority;
pub mod autoscaling;
pub mod beater;
pub mod body;
pub mod budget;
pub mod build;
pub mod children;
pub mod claim;
pub mod collector;
pub mod committer;
pub mod context;
pub mod genome;
pub mod issuer;
pub mod life;
pub mod metrics;
pub mod organism;
pub mod peers;
pub mod publisher;
pub mod report;
pub mod segments;
pub mod spec;
pub mod takeover;
pub mod view;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, ListParams};
use kube::core::{DeserializeGuard, DynamicObject, PartialObjectMeta};
use kube::runtime::controller::{self, Controller};
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use tokio::sync::{Semaphore, mpsc, watch};

use crate::organism::cores::Cores;
use crate::store::configmap::{ORGANISM_LABEL, UID_LABEL};
use crate::{api, node};
use authority::Certificates;
use beater::Beater;
use budget::Budget;
use build::Kind;
use committer::Fenced;
use context::Context;
use issuer::Issuer;
use metrics::Metrics;

/// Calm commits under way at once. All these bounds are there for the start, when every organism wants
/// everything at once: each call under way takes a connection, and an API server that is asked a thousand
/// things together answers none of them in time.
const CALM_COMMITS: usize = 8;
/// Urgent commits under way at once.
const URGENT_COMMITS: usize = 32;
/// Status writes under way at once.
const STATUS_WRITES: usize = 8;
/// Reconciliations under way at once.
const RECONCILERS: u16 = 32;
/// How long a stop may take before what is pending is left to the next take-over, which has lost nothing
/// that was committed.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// How long to wait for CRDs to be served.
const CRD_LIMIT: Duration = Duration::from_secs(60);

/// Which Organism, by namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl Key {
    /// Of an Organism.
    #[must_use]
    pub fn of(organism: &api::Organism) -> Self {
        Self { namespace: organism.namespace().unwrap_or_default().into(), name: organism.name_any().into() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// How the operator is to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Namespaces to look at; empty is all.
    pub namespaces: Vec<String>,
    /// Name in `resume` entries and Events.
    pub identity: String,
    /// Where `/metrics`, `/healthz` and `/readyz` are served.
    pub metrics_address: SocketAddr,
    /// Periodic writes a second.
    pub writes_per_second: f64,
    /// Ledger bytes a second.
    pub bytes_per_second: u64,
    /// Bytes of all ledgers together.
    pub ledger_total_bytes: u64,
    /// What bodies are made of; without that none is made.
    pub bodies: Option<Bodies>,
}

/// What the bodies' pods are told.
#[derive(Clone, Debug)]
pub struct Bodies {
    /// Their image.
    pub node_image: String,
    /// Where they get their certificates: from this operator, which listens on that port.
    pub issuer_url: issuer::url::Url,
}

/// Why the operator ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// No cluster.
    #[error("no cluster: {0}; set KUBECONFIG or run inside one")]
    Config(#[from] kube::config::InferConfigError),
    /// No client for it.
    #[error("no client for the cluster: {0}")]
    Client(#[from] kube::Error),
    /// The resources are not installed or not allowed.
    #[error("cannot list {0}: {1}; install the CRDs (`venom crds | kubectl apply -f -`) and check the role")]
    Access(&'static str, kube::Error),
    /// Nobody could sign what nodes show one another.
    #[error(transparent)]
    Authority(#[from] authority::AuthorityError),
    /// The issuer's port cannot be had.
    #[error("port {0} of --issuer-url: {1}; choose another one")]
    Port(u16, std::io::Error),
    /// Threads, sockets.
    #[error("{0}: {1}")]
    System(&'static str, std::io::Error),
    /// A metric is registered twice.
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
    /// Another operator took over.
    #[error(transparent)]
    Fenced(Fenced),
}

/// Runs the operator until `stop` comes or another operator takes over.
///
/// # Errors
/// [`OperatorError`].
pub async fn run(options: Options, stop: impl Future<Output = ()>) -> Result<(), OperatorError> {
    let config = kube::Config::infer().await?;
    let namespace = config.default_namespace.clone();
    let client = Client::try_from(config.clone())?;
    let ledger_client = organism::ledger_client(config)?;
    let metrics = Arc::new(Metrics::new()?);
    let budget = Arc::new(Budget::new(
        options.writes_per_second,
        options.bytes_per_second,
        options.ledger_total_bytes,
    ));
    check_access(&client, &options.namespaces).await?;
    let mut bodies = None;
    let mut issuing = None;
    if let Some(Bodies { node_image, issuer_url }) = options.bodies {
        check_access_to_bodies(&client, &options.namespaces).await?;
        let certificates = Certificates::load(client.clone(), &namespace).await?;
        let installation = build::Installation {
            node_image,
            namespace,
            issuer_url: issuer_url.to_string(),
            ca_pem: certificates.ca_pem().to_owned(),
        };
        let mesh_metrics = metrics.mesh.clone();
        let shared =
            Arc::new(body::Shared::new(installation, certificates, mesh_metrics, &options.namespaces));
        let port = issuer_url.port;
        let listener = node::everywhere(port).await.map_err(|error| OperatorError::Port(port, error))?;
        issuing = Some((shared.clone(), issuer_url, listener));
        bodies = Some(shared);
    }
    let beater = Beater::start(Cores::default(), budget.clone(), metrics.clone())
        .map_err(|error| OperatorError::System("threads", error))?;
    let (stopping, stopped) = watch::channel(false);
    let (fenced, mut fenced_receiver) = mpsc::channel(1);
    let (gone, mut gone_receiver) = mpsc::unbounded_channel::<(Key, String)>();
    let reporter = Reporter { controller: "venom".into(), instance: Some(options.identity.clone()) };
    let context = Arc::new(Context {
        identity: options.identity.as_str().into(),
        beater: beater.clone(),
        committing: Arc::new(committer::Shared {
            beater,
            budget: budget.clone(),
            metrics: metrics.clone(),
            calm: Semaphore::new(CALM_COMMITS),
            urgent: Semaphore::new(URGENT_COMMITS),
            merging: Semaphore::new(1),
            fenced,
            stopping: stopped.clone(),
        }),
        publishing: Arc::new(publisher::Shared {
            recorder: Recorder::new(client.clone(), reporter),
            client: client.clone(),
            budget,
            metrics: metrics.clone(),
            turn: Semaphore::new(STATUS_WRITES),
            gone,
        }),
        client,
        ledger_client,
        metrics: metrics.clone(),
        started: std::time::Instant::now(),
        first_lists: segments::FirstLists::new(scopes(&options.namespaces).len()),
        bodies: bodies.clone(),
        living: Mutex::new(BTreeMap::new()),
    });

    let mut tasks = tokio::task::JoinSet::new();
    for namespace in scopes(&options.namespaces) {
        tasks.spawn(organisms(context.clone(), namespace.clone(), until(stopped.clone())));
        tasks.spawn(genomes(context.clone(), namespace.clone(), until(stopped.clone())));
        for (bodies, kind) in bodies.iter().flat_map(|bodies| Kind::ALL.map(|kind| (bodies.clone(), kind))) {
            let watching = children::watch(context.clone(), bodies, kind, namespace.clone());
            let stop = until(stopped.clone());
            tasks.spawn(async move {
                tokio::select! {
                    () = watching => {}
                    () = stop => {}
                }
            });
        }
        if let Some(bodies) = bodies.clone() {
            tasks.spawn(peer_watch(context.clone(), bodies, namespace.clone(), until(stopped.clone())));
        }
        tasks.spawn(segment_watch(context.clone(), namespace, until(stopped.clone())));
    }
    if let Some((bodies, url, listener)) = issuing {
        let issuer = Issuer::new(context.clone(), bodies, url);
        let stop = until(stopped.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = issuer.serve(listener) => {}
                () = stop => {}
            }
        });
    }
    let mut server =
        tokio::spawn(metrics::serve(options.metrics_address, metrics.clone(), until(stopped.clone())));
    let forgetting = context.clone();
    tokio::spawn(async move {
        while let Some((key, uid)) = gone_receiver.recv().await {
            if forgetting.living(&key).is_some_and(|living| living.uid == uid) {
                tracing::warn!(organism = %key, "gone without its finalizer; its ledger stays as it is");
                forgetting.forget(&key, false).await;
            }
        }
    });
    metrics.set_ready(true);
    tracing::info!(identity = options.identity, namespaces = ?options.namespaces, "operator started");

    tokio::select! {
        () = stop => {}
        Some(fenced) = fenced_receiver.recv() => {
            return Err(OperatorError::Fenced(fenced));
        }
        served = &mut server => {
            if let Ok(Err(error)) = served {
                return Err(OperatorError::System("serving metrics", error));
            }
        }
    }
    tracing::info!("stopping: commit what is pending");
    metrics.set_ready(false);
    let _ = stopping.send(true);
    let flushed = tokio::time::timeout(STOP_LIMIT, async {
        while tasks.join_next().await.is_some() {}
        context.beater.shutdown().await;
        let all = std::mem::take(&mut *context.table());
        for living in all.into_values() {
            let publisher = living.publisher.clone();
            drop(living);
            if let Some(publisher) = context::take(&publisher) {
                // It writes what was committed last, then ends: its report's senders are gone.
                let _ = publisher.await;
            }
        }
    });
    tokio::select! {
        outcome = flushed => if outcome.is_err() {
            tracing::warn!("not everything that was pending could be committed in time");
        },
        Some(fenced) = fenced_receiver.recv() => return Err(OperatorError::Fenced(fenced)),
    }
    Ok(())
}

/// One scope a namespace, or one for all.
fn scopes(namespaces: &[String]) -> Vec<Option<String>> {
    if namespaces.is_empty() { vec![None] } else { namespaces.iter().cloned().map(Some).collect() }
}

/// Ends when the flag is set.
async fn until(mut stopped: watch::Receiver<bool>) {
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
async fn check_access(client: &Client, namespaces: &[String]) -> Result<(), OperatorError> {
    for namespace in scopes(namespaces) {
        let organisms: Api<api::Organism> = scoped(client, namespace.as_ref());
        can_list("Organisms", &organisms).await?;
        let genomes: Api<api::Genome> = scoped(client, namespace.as_ref());
        can_list("Genomes", &genomes).await?;
    }
    Ok(())
}

/// The same for the kinds of bodies.
async fn check_access_to_bodies(client: &Client, namespaces: &[String]) -> Result<(), OperatorError> {
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

async fn peer_watch(
    context: Arc<Context>,
    bodies: Arc<body::Shared>,
    namespace: Option<String>,
    stop: impl Future<Output = ()> + Send,
) {
    let api: Api<EndpointSlice> = scoped(&context.client, namespace.as_ref());
    let events = watcher(api, peers::selector()).default_backoff();
    tokio::select! {
        () = peers::follow(&bodies.peers, namespace.as_deref(), events) => {}
        () = stop => {}
    }
}

async fn segment_watch(
    context: Arc<Context>,
    namespace: Option<String>,
    stop: impl Future<Output = ()> + Send,
) {
    // A body's ConfigMap carries no UID.
    let config = watcher::Config::default().labels(&format!("{ORGANISM_LABEL},{UID_LABEL}"));
    let api: Api<PartialObjectMeta<ConfigMap>> = scoped(&context.client, namespace.as_ref());
    let events = watcher(api, config).default_backoff();
    tokio::select! {
        () = segments::notice(context.clone(), events) => {}
        () = stop => {}
    }
}
