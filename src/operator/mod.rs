//! The operator: Organisms and Genomes of a cluster, beating.
//!
//! Data flows one way: controllers → actor → beater → committer → publisher. Each row imports only rows above it
//! (`tests/house.rs` holds that), and nothing imports this module, which wires them together.
//!
//! | module | contents |
//! |---|---|
//! | [`key`], [`call`] | namespaced names; one API call under a timeout |
//! | [`metrics`], [`shares`], [`budget`] | counters; fair shares (pure); how much each organism may write, beat, keep |
//! | [`finalizer`] | adding a finalizer to an Organism, and removing it |
//! | [`failure_log`] | a failure that repeats is logged once, then counted |
//! | [`measures`] | what the response to a decision changes in a body (pure) |
//! | [`members`] | the replicas, and which of them is to hold an organism |
//! | [`ownership`] | which organisms this replica holds, takes over, gives back |
//! | [`hold`] | whether this process still holds an organism |
//! | [`codec`] | segments are opened and encoded off the async workers |
//! | [`publisher`] | one task an organism, the only writer of its status |
//! | [`committer`] | one task an organism, the only writer of its ledger's objects |
//! | [`beater`] | one thread that owns all engines |
//! | [`health`] | `/metrics`, `/healthz`, `/readyz` |
//! | [`certificates`] | the certificate authority of the installation |
//! | [`body`] | the node pods of an organism and the objects around them |
//! | [`peers`], [`collector`] | addresses of nodes; the link that brings their injections in |
//! | [`sensing`] | one task an organism: events of its pods and values of Prometheus, into the ledger |
//! | [`adoption`] | one task an organism that adopts a workload: whether that is its body |
//! | [`response`] | one task an organism, the only one that acts on decisions |
//! | [`recovery`] | from the objects in the cluster to a ledger that is ours |
//! | [`actor`] | one task an organism: owns and supervises all of the above |
//! | [`registry`] | keys to mailboxes of actors |
//! | [`issuer`] | serves certificates to node pods |
//! | [`watches`] | what is watched besides Organisms and Genomes |
//! | [`controllers`] | the reconcilers of Organisms and Genomes |
//! | [`replica`] | keeps the Lease, takes organisms once all is listed |
//!
//! Architecture Invariant: only the committer writes objects of a ledger that is held, only the body's reconciler
//! those of a body, only the publisher the status of an Organism that has an actor. Nothing is shown or acted on that is not committed.

pub mod actor;
pub mod adoption;
pub mod beater;
pub mod body;
pub mod budget;
pub mod call;
pub mod certificates;
pub mod codec;
pub mod collector;
pub mod committer;
pub mod controllers;
pub mod failure_log;
pub mod finalizer;
pub mod health;
pub mod hold;
pub mod issuer;
pub mod key;
pub mod measures;
pub mod members;
pub mod metrics;
#[cfg(test)]
mod mock;
pub mod ownership;
pub mod peers;
pub mod publisher;
pub mod recovery;
pub mod registry;
pub mod replica;
pub mod response;
pub mod sensing;
pub mod shares;
pub mod watches;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::runtime::events::{Recorder, Reporter};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use self::actor::STOP_TIMEOUT;
use self::beater::Beater;
use self::body::build::{INJECTABLE, Installation, Kind};
use self::budget::{Budget, Limits};
use self::certificates::{AuthorityError, Certificates};
use self::codec::Codec;
use self::controllers::quota::Quota;
use self::controllers::retries::Retries;
use self::health::{Health, List, Readiness};
use self::issuer::Issuer;
use self::issuer::url::Url;
use self::members::Members;
use self::members::lease::Leases;
use self::metrics::Metrics;
use self::ownership::Ownership;
use self::peers::Peers;
use self::publisher::blind::FailingWatches;
use self::publisher::genomes::Genomes;
use self::recovery::lists::SharedLists;
use self::registry::Registry;
use self::replica::{keep_lease, share_budget, take_organisms};
use self::response::limit::Limit;
use self::sensing::index::PodIndex;
use self::sensing::prometheus::Prometheus;
use self::watches::ledger_objects::{self, LedgerObjects};
use self::watches::{Scope, Watches, stopped};
use crate::net;
use crate::organism::cores::Cores;
use crate::store::CALL_TIMEOUT;

/// Recoveries in progress. Like the other bounds it is for a start, when every organism wants everything at once.
const RECOVERIES: usize = 32;
/// Organisms that are being given back. More at a time would each be without a beat for longer.
const HAND_OVERS: usize = 8;
/// Status writes in flight.
const STATUS_WRITES: usize = 8;
/// How long Organisms wait for the lists of bodies. One that fails must not keep ledgers from being taken over.
const BODY_LISTS: Duration = Duration::from_secs(30);
/// A watch that fails for this long leaves conditions that rest on it Unknown.
const BLIND_AFTER: Duration = Duration::from_secs(10);
/// How often that is looked at.
const BLIND_PERIOD: Duration = Duration::from_secs(2);
/// How long a replica that stops goes on, so that the others see it: two of their rounds.
const LEAVING: Duration = Duration::from_secs(2);

/// Settings of the operator.
#[derive(Clone, Debug)]
pub struct Options {
    /// Namespaces to watch; all if there is none.
    pub namespaces: Vec<String>,
    /// Name of this operator in heads, `resume` entries and Events.
    pub identity: String,
    /// Address of `/metrics`, `/healthz` and `/readyz`.
    pub metrics_address: SocketAddr,
    /// How much may be written and held in memory.
    pub limits: Limits,
    /// Organisms of a namespace that are taken up; 0 is no limit.
    pub max_organisms: usize,
    /// What bodies are built from; without it no pods are created.
    pub bodies: Option<BodyOptions>,
}

/// Settings of node pods.
#[derive(Clone, Debug)]
pub struct BodyOptions {
    /// Image of the pods.
    pub node_image: String,
    /// URL at which the pods request certificates; this operator listens on its port.
    pub issuer_url: Url,
    /// Bodies that may replace their pods at a time.
    pub rollouts: usize,
    /// The Prometheus server that queries are sent to.
    pub prometheus: Option<Prometheus>,
    /// Organisms whose pods may be isolated at a time; a tenth of all, and at least three, if none is given.
    pub quarantine_limit: Option<usize>,
}

/// Why the operator ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// No configuration for a cluster was found.
    #[error("no cluster: {0}; set KUBECONFIG or run inside one")]
    Config(#[from] kube::config::InferConfigError),
    /// The configuration gives no client.
    #[error("no client for the cluster: {0}")]
    Client(#[from] kube::Error),
    /// There is no certificate authority.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The issuer's port cannot be bound.
    #[error("port {0} of --issuer-url: {1}; choose another one")]
    Port(u16, std::io::Error),
    /// The system provides no thread or socket.
    #[error("{0}: {1}")]
    System(&'static str, std::io::Error),
    /// A metric is registered twice.
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
}

/// Runs the operator until `stop` completes.
///
/// # Errors
/// [`OperatorError`].
pub async fn run(options: Options, stop: impl Future<Output = ()>) -> Result<(), OperatorError> {
    let mut stop = std::pin::pin!(stop);
    let mut operator = tokio::select! {
        started = Operator::start(&options) => started?,
        // Nothing is held yet.
        () = &mut stop => return Ok(()),
    };
    tracing::info!(identity = options.identity, namespaces = ?options.namespaces, "operator started");
    tokio::select! {
        () = &mut stop => {}
        served = operator.tasks.join_next() => {
            // The HTTP server is the only task that ends by itself, and only if it fails.
            if let Some(Ok(Err(error))) = served {
                return Err(OperatorError::System("serving metrics", error));
            }
        }
    }
    operator.stop().await;
    Ok(())
}

/// A running operator.
struct Operator {
    registry: Arc<Registry>,
    readiness: Arc<Readiness>,
    members: Arc<Members>,
    leases: Leases,
    /// The task that renews the Lease: it goes on until nothing is held any more.
    replicas: JoinSet<()>,
    stopping: watch::Sender<bool>,
    controllers: JoinSet<()>,
    tasks: JoinSet<std::io::Result<()>>,
}

impl Operator {
    /// 1. Clients. 2. The HTTP server, which says what is waited for. 3. What actors share. 4. Watches and controllers.
    /// 5. The issuer.
    async fn start(options: &Options) -> Result<Self, OperatorError> {
        let mut config = kube::Config::infer().await?;
        config.connect_timeout = Some(CALL_TIMEOUT);
        let namespace = config.default_namespace.clone();
        let client = Client::try_from(config.clone())?;
        let ledger_client = client_without_retries(config.clone())?;
        // Its own: a renewal does not wait behind a thousand commits.
        let lease_client = client_without_retries(config)?;
        let scopes = Scope::of(&options.namespaces);

        let metrics = Arc::new(Metrics::new()?);
        let budget = Arc::new(Budget::new(&options.limits));
        let (stopping, stopping_receiver) = watch::channel(false);
        let system = |error| OperatorError::System("threads", error);
        let beater = Beater::start(Cores::default(), budget.clone(), metrics.clone()).map_err(system)?;
        let beater = Arc::new(beater);
        let readiness = Arc::new(Readiness::default());
        let replicas_list = List { kind: "Leases", namespace: Some(namespace.clone()) };
        readiness.wait_for(&replicas_list);
        let until_stopped = || stopped(stopping_receiver.clone());
        let mut tasks = JoinSet::new();
        let health =
            Health { metrics: metrics.clone(), beater: beater.clone(), readiness: readiness.clone() };
        tasks.spawn(health::serve(options.metrics_address, health, until_stopped()));

        let reporter = Reporter { controller: "venom".into(), instance: Some(options.identity.clone()) };
        let recorder = Recorder::new(client.clone(), reporter);
        let members = Arc::new(Members::new(&options.identity));
        let leases = Leases::new(lease_client, &namespace, &options.namespaces);
        let ownership = Arc::new(Ownership::new(members.clone()));
        let bodies = match &options.bodies {
            Some(bodies) => {
                let certificates = certificates::watch::load(&client, &namespace, &readiness).await?;
                let (certificates, scopes) = (Arc::new(certificates), scopes.len());
                Some(self::bodies(bodies, &client, &namespace, certificates, &metrics, &members, scopes))
            }
            None => None,
        };
        let (failing, failing_receiver) = watch::channel(FailingWatches::default());
        let codec = Arc::new(Codec::default());
        let actors = Arc::new(actor::Resources {
            ledger_client: ledger_client.clone(),
            ownership: ownership.clone(),
            beater: beater.clone(),
            committers: Arc::new(committer::Resources::new(
                budget.clone(),
                metrics.clone(),
                stopping_receiver.clone(),
                codec.clone(),
            )),
            codec,
            publishers: Arc::new(publisher::Resources {
                recorder: recorder.clone(),
                client: client.clone(),
                metrics: metrics.clone(),
                writes: Semaphore::new(STATUS_WRITES),
                genomes: Genomes::default(),
                failing: failing_receiver,
            }),
            bodies: bodies.clone(),
            lists: SharedLists::new(ledger_client.clone()),
            recoveries: Semaphore::new(RECOVERIES),
            hand_overs: Semaphore::new(HAND_OVERS),
            metrics: metrics.clone(),
        });

        let registry = Arc::new(Registry::default());
        let watches =
            Watches { client: ledger_client.clone(), readiness: readiness.clone(), metrics: metrics.clone() };
        let context = Arc::new(controllers::Context {
            client: client.clone(),
            registry: registry.clone(),
            actors,
            metrics: metrics.clone(),
            watches: watches.clone(),
            ownership: ownership.clone(),
            quota: Quota::new(options.max_organisms),
            organisms: Retries::default(),
            genomes: Retries::default(),
        });
        let mut controllers = JoinSet::new();
        if let Some(bodies) = &bodies {
            let certificates = bodies.collectors.certificates.clone();
            let (client, namespace) = (client.clone(), bodies.reconcilers.installation.namespace.clone());
            let keep = certificates::watch::keep(client, namespace, certificates, recorder, metrics.clone());
            controllers.spawn(unless(until_stopped(), keep));
        }
        controllers.spawn(unless(until_stopped(), tell_failing(readiness.clone(), members.clone(), failing)));
        controllers.spawn(unless(until_stopped(), share_budget(members.clone(), budget)));
        let mut replicas = JoinSet::new();
        let own = leases.own(&options.identity);
        replicas.spawn(keep_lease(members.clone(), leases.clone(), own, replicas_list, readiness.clone()));
        controllers.spawn(unless(
            until_stopped(),
            take_organisms(members.clone(), readiness.clone(), scopes.clone()),
        ));
        for scope in scopes {
            let ledgers = scope.list(ledger_objects::LIST);
            readiness.wait_for(&ledgers);
            let of_bodies = bodies.iter().flat_map(|_| Kind::ALL).map(|kind| scope.list(kind.plural()));
            let ready = listed(readiness.clone(), ledgers, of_bodies.clone().collect());
            let (moved, moves) = futures::channel::mpsc::unbounded();
            controllers::start(&mut controllers, &context, &scope, &stopping_receiver, moves, ready);
            let ledger_objects =
                LedgerObjects { registry: registry.clone(), ownership: ownership.clone(), moved };
            let follow = ledger_objects.follow(watches.clone(), scope.clone());
            controllers.spawn(unless(until_stopped(), follow));
            let Some(actor::Bodies { reconcilers, collectors, sensors, .. }) = &bodies else { continue };
            controllers.spawn(unless(
                until_stopped(),
                watches::pods::follow(registry.clone(), sensors.clone(), watches.clone(), scope.clone()),
            ));
            for list in of_bodies {
                let (tried, reconcilers) = (readiness.clone(), reconcilers.clone());
                controllers.spawn(unless(until_stopped(), async move {
                    tried.until_tried(&list).await;
                    reconcilers.index.first_list_arrived();
                }));
            }
            for kind in Kind::ALL {
                let (registry, reconcilers) = (registry.clone(), reconcilers.clone());
                let follow =
                    watches::bodies::follow(registry, reconcilers, watches.clone(), kind, scope.clone());
                controllers.spawn(unless(until_stopped(), follow));
            }
            let slices = scope.api::<EndpointSlice>(&watches.client);
            let slices = watches.watch(scope.list("EndpointSlices"), slices, peers::selector());
            let (collectors, scope) = (collectors.clone(), scope.clone());
            controllers.spawn(unless(until_stopped(), async move {
                peers::follow(&collectors.peers, scope.namespace(), slices).await;
            }));
        }

        if let (Some(BodyOptions { issuer_url: url, .. }), Some(bodies)) = (&options.bodies, bodies) {
            let port = url.port;
            let listener =
                net::bind_dual_stack(port).await.map_err(|error| OperatorError::Port(port, error))?;
            let certificates = bodies.collectors.certificates.clone();
            let issuer = Issuer::new(client, bodies.reconcilers, certificates, url.clone());
            controllers.spawn(unless(until_stopped(), issuer.serve(listener)));
        }
        Ok(Self { registry, readiness, members, leases, replicas, stopping, controllers, tasks })
    }

    /// 1. Take no more organisms; where there are other replicas, let them see it while everything goes on.
    /// 2. Stop reconciling, then commit what is pending of each organism and give it back, or write its last status.
    /// 3. Delete the Lease.
    async fn stop(mut self) {
        tracing::info!("stopping: committing what is pending");
        self.readiness.stop();
        self.members.set_accepts(false);
        if self.members.view().has_others() {
            tokio::time::sleep(LEAVING).await;
        }
        let _ = self.stopping.send(true);
        let stop = async {
            while self.controllers.join_next().await.is_some() {}
            self.registry.end_all(STOP_TIMEOUT).await
        };
        if !matches!(tokio::time::timeout(STOP_TIMEOUT, stop).await, Ok(true)) {
            tracing::warn!("not everything that was pending could be committed in time");
        }
        self.replicas.shutdown().await;
        if let Err(error) = self.members.leave(&self.leases).await {
            tracing::warn!(%error, "others wait until the Lease of this replica has expired");
        }
    }
}

/// Returns when the ledger objects are listed, and the objects of bodies too unless that takes long: an Organism that is
/// taken up before would be read object by object.
async fn listed(readiness: Arc<Readiness>, ledgers: List, of_bodies: Vec<List>) {
    readiness.until_arrived(&ledgers).await;
    let bodies = of_bodies.iter().map(|list| readiness.until_arrived(list));
    let _ = tokio::time::timeout(BODY_LISTS, futures::future::join_all(bodies)).await;
}

/// Tells the publishers which watches fail, and why, and whether this replica may beat.
async fn tell_failing(
    readiness: Arc<Readiness>,
    members: Arc<Members>,
    failing: watch::Sender<FailingWatches>,
) {
    loop {
        tokio::time::sleep(BLIND_PERIOD).await;
        let mut now = FailingWatches { lease: members.lapsed(), ..FailingWatches::default() };
        for (list, failure) in readiness.failing_for(BLIND_AFTER) {
            if list.kind == ledger_objects::LIST {
                now.ledgers.insert(list.namespace, failure);
            } else if list.kind == watches::pods::LIST {
                now.pods.insert(list.namespace, failure);
            } else if Kind::ALL.iter().any(|kind| kind.plural() == list.kind) {
                now.bodies.insert(list.namespace, failure);
            }
        }
        failing.send_if_modified(|before| std::mem::replace(before, now.clone()) != now);
    }
}

/// What bodies and their meshes need.
fn bodies(
    options: &BodyOptions,
    client: &Client,
    namespace: &str,
    certificates: Arc<Certificates>,
    metrics: &Arc<Metrics>,
    members: &Arc<Members>,
    scopes: usize,
) -> actor::Bodies {
    let installation = Installation {
        node_image: options.node_image.clone(),
        namespace: namespace.to_owned(),
        issuer_url: options.issuer_url.to_string(),
        issuer_port: options.issuer_url.port,
        issuer_address: options.issuer_url.host.parse().ok(),
        ca_pem: certificates.ca_pem(),
    };
    let reconcilers =
        body::Resources::new(client.clone(), metrics.clone(), installation, scopes, options.rollouts);
    let collectors = collector::Resources {
        certificates,
        peers: Peers::default(),
        metrics: metrics.mesh.clone(),
        injectable: INJECTABLE,
        memory: Arc::default(),
    };
    let responses = response::Resources {
        client: client.clone(),
        lists: Arc::default(),
        limit: Arc::new(Limit::new(options.quarantine_limit, members.clone(), metrics.clone())),
        metrics: metrics.clone(),
    };
    let sensors = Arc::new(sensing::Resources {
        pods: PodIndex::new(scopes),
        adopted: PodIndex::new(0),
        prometheus: options.prometheus.clone(),
        metrics: metrics.clone(),
    });
    let adoptions =
        adoption::Resources { client: client.clone(), sensors: sensors.clone(), metrics: metrics.clone() };
    actor::Bodies {
        sensors,
        adoptions: Arc::new(adoptions),
        reconcilers: Arc::new(reconcilers),
        collectors: Arc::new(collectors),
        responses: Arc::new(responses),
    }
}

/// A client that never retries by itself: a hidden retry could commit behind the back of a writer that gave up.
fn client_without_retries(mut config: kube::Config) -> Result<Client, kube::Error> {
    config.default_retry = false;
    Client::try_from(config)
}

async fn unless(stop: impl Future<Output = ()>, task: impl Future<Output = ()>) {
    tokio::select! {
        () = task => {}
        () = stop => {}
    }
}
