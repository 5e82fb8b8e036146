//! The operator: Organisms and Genomes of a cluster, beating.
//!
//! | module | what it is |
//! |---|---|
//! | [`context`] | what all reconciliations share: the organisms held here |
//! | [`watches`] | all that is watched |
//! | [`organism`] | the Organism's reconciler: dereference, claim, take over, hand over |
//! | [`genome`] | the Genome's reconciler |
//! | [`body`] | the pods and what belongs to them: built, kept, watched |
//! | [`nodes`] | what nodes get from the operator: certificates, and somebody who hears them |
//! | [`call`] | one call of the API server |
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
//! Architecture Invariant: only the committer writes ledger objects, only a body's keeper its objects, only the
//! publisher a status, and nothing is shown or acted on that is not committed. Data flows one way round:
//! reconciler → beater → committer → publisher.

pub mod beater;
pub mod body;
pub mod budget;
pub mod call;
pub mod claim;
pub mod committer;
pub mod context;
pub mod genome;
pub mod life;
pub mod metrics;
pub mod nodes;
pub mod organism;
pub mod publisher;
pub mod report;
pub mod segments;
pub mod spec;
pub mod takeover;
pub mod view;
pub mod watches;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kube::runtime::events::{Recorder, Reporter};
use kube::{Client, ResourceExt};
use tokio::sync::{Semaphore, mpsc, watch};

use crate::organism::cores::Cores;
use crate::{api, net};
use beater::Beater;
use body::build::Installation;
use budget::Budget;
use committer::Fenced;
use context::Context;
use metrics::Metrics;
use nodes::authority::{AuthorityError, Certificates};
use nodes::issuer::Issuer;
use nodes::issuer::url::Url;

/// Calm commits under way at once. All these bounds are there for the start, when every organism wants
/// everything at once: each call under way takes a connection, and an API server that is asked a thousand
/// things together answers none of them in time.
const CALM_COMMITS: usize = 8;
/// Urgent commits under way at once.
const URGENT_COMMITS: usize = 32;
/// Status writes under way at once.
const STATUS_WRITES: usize = 8;
/// How long a stop may take before what is pending is left to the next take-over, which has lost nothing
/// that was committed.
const STOP_LIMIT: Duration = Duration::from_secs(20);

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
    pub issuer_url: Url,
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
    Authority(#[from] AuthorityError),
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
    watches::check_access(&client, &options.namespaces).await?;
    let mut bodies = None;
    let mut issuing = None;
    if let Some(Bodies { node_image, issuer_url }) = options.bodies {
        watches::check_access_to_bodies(&client, &options.namespaces).await?;
        let certificates = Certificates::load(client.clone(), &namespace).await?;
        let installation = Installation {
            node_image,
            namespace,
            issuer_url: issuer_url.to_string(),
            ca_pem: certificates.ca_pem().to_owned(),
        };
        let mesh_metrics = metrics.mesh.clone();
        let scopes = watches::scopes(&options.namespaces).len();
        let shared = Arc::new(body::Shared::new(installation, certificates, mesh_metrics, scopes));
        let port = issuer_url.port;
        let listener = net::bind_dual_stack(port).await.map_err(|error| OperatorError::Port(port, error))?;
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
        first_lists: segments::FirstLists::new(watches::scopes(&options.namespaces).len()),
        bodies: bodies.clone(),
        living: Mutex::new(BTreeMap::new()),
    });

    let mut tasks = watches::start(&context, &options.namespaces, &stopped);
    if let Some((bodies, url, listener)) = issuing {
        let issuer = Issuer::new(context.clone(), bodies, url);
        let stop = watches::until(stopped.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = issuer.serve(listener) => {}
                () = stop => {}
            }
        });
    }
    let mut server = tokio::spawn(metrics::serve(
        options.metrics_address,
        metrics.clone(),
        watches::until(stopped.clone()),
    ));
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
