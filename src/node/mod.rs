//! A node: a peer of the mesh as a process, with its HTTP servers.
//!
//! | module | contents |
//! |---|---|
//! | [`http`] | metrics, probes and the injection API |
//! | [`certificate_source`] | where the certificate comes from, and its renewal |
//! | [`directory`] | `venom mesh init`: CA and certificates without a cluster |
//! | [`client`] | the HTTP client for the issuer and for `venom inject` |
//!
//! [`Node::start`] serves the probes, gets a certificate, joins the mesh, and serves the injection API. In the
//! background it renews the certificate and resolves the peers' names again and again, because pods come and go.
//! `venom run --mesh` starts a node as well, as the collector.

pub mod certificate_source;
pub mod client;
pub mod directory;
pub mod http;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, lookup_host};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::certificate_source::{CertificateSource, CertificateUnavailable};
use self::http::CertificateState;
use crate::mesh::{
    CommittedInjection, DialPolicy, Identity, Injectable, InjectionReceiver, LinkLimits, Mesh, Metrics,
    Options as MeshOptions,
};
use crate::net::{HttpServer, bind_dual_stack, bind_loopback};

/// Interval at which the peers' names are resolved; also the time limit of one lookup.
const LOOKUP_INTERVAL: Duration = Duration::from_secs(5);
/// Maximum number of addresses to dial. An organism has at most 1,000 nodes.
const MAX_ADDRESSES: usize = 2_000;

/// Configuration of a node. Port 0 binds a free port.
#[derive(Clone, Debug)]
pub struct Options {
    /// Peers as HOST:PORT. A host may have many addresses, the node's own among them.
    pub peers: Vec<String>,
    /// Port for inbound links, on all addresses.
    pub mesh_port: u16,
    /// Port of metrics and probes, on all addresses; `None` to serve neither.
    pub http_port: Option<u16>,
    /// Port of the injection API, on 127.0.0.1 and ::1.
    pub inject_port: u16,
    /// Where the certificate comes from.
    pub certificate_source: CertificateSource,
    /// Weights that clients may inject here.
    pub injectable: Injectable,
}

/// A node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// There is no usable certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateUnavailable),
    /// A collector needs the operator's certificate, because peers accept outcomes from no one else.
    #[error("{0}: the certificate is for {1}; use the operator's certificate to hold the ledger")]
    NotTheOperator(CertificateSource, Identity),
    /// A port cannot be bound.
    #[error("port {0}: {1}; use another port")]
    Port(u16, io::Error),
    /// Another system call failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A metric cannot be registered.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// A running node.
#[derive(Debug)]
pub struct Node {
    /// Handle of the node's peer.
    pub mesh: Mesh,
    /// Listening address for links.
    pub mesh_address: SocketAddr,
    /// Listening address of metrics and probes.
    pub http_address: Option<SocketAddr>,
    /// Listening addresses of the injection API: 127.0.0.1 and ::1 with the same port, or the one that the system has.
    pub inject_addresses: Vec<SocketAddr>,
    stop: CancellationToken,
}

impl Node {
    /// Starts a node, or a collector if `committed` is given: then see [`Mesh::join_as_collector`]. Needs a tokio
    /// runtime.
    ///
    /// Waits for the first certificate as long as the issuer does not give one. Dropping the future closes what is
    /// already listening.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn start(
        options: Options,
        committed: Option<Vec<CommittedInjection>>,
    ) -> Result<(Self, Option<InjectionReceiver>), NodeError> {
        let stop = CancellationToken::new();
        let stop_on_error = stop.clone().drop_guard();
        let metrics = Arc::new(Metrics::new()?);
        let pending = CertificateState::Pending("no certificate yet".into());
        let (state, state_receiver) = watch::channel(pending);
        let mut http_address = None;
        if let Some(port) = options.http_port {
            let listener = bind_dual_stack(port).await.map_err(|error| NodeError::Port(port, error))?;
            http_address = Some(listener.local_addr()?);
            let probes = HttpServer::new(stop.clone());
            tokio::spawn(probes.serve(listener, http::probe_routes(metrics.clone(), state_receiver)));
        }
        let on_failure = |error: &CertificateUnavailable| {
            let reason = format!("no certificate yet: {error}");
            tracing::warn!("{reason}");
            state.send_replace(CertificateState::Pending(reason));
        };
        let credentials = options.certificate_source.obtain_first(on_failure).await?;
        if committed.is_some() && !credentials.identity.is_operator() {
            return Err(NodeError::NotTheOperator(options.certificate_source, credentials.identity));
        }
        let listener = bind_dual_stack(options.mesh_port).await;
        let listener = listener.map_err(|error| NodeError::Port(options.mesh_port, error))?;
        let mesh_address = listener.local_addr()?;
        let inject_listeners = bind_loopback(options.inject_port).await;
        let inject_listeners =
            inject_listeners.map_err(|error| NodeError::Port(options.inject_port, error))?;
        let inject_addresses: io::Result<_> = inject_listeners.iter().map(TcpListener::local_addr).collect();
        let inject_addresses = inject_addresses?;

        let (credentials_sender, credentials) = watch::channel(credentials);
        let (addresses_sender, addresses) = watch::channel(vec![]);
        let mesh_options = MeshOptions {
            credentials: credentials.clone(),
            addresses,
            dial: DialPolicy::AllPeers,
            listener: Some(listener),
            injectable: options.injectable,
            metrics,
            limits: LinkLimits::default(),
            paced: true,
        };
        let (mesh, injections) = match committed {
            None => (Mesh::join(mesh_options)?, None),
            Some(committed) => {
                let (mesh, injections) = Mesh::join_as_collector(mesh_options, committed, Arc::default())?;
                (mesh, Some(injections))
            }
        };
        state.send_replace(CertificateState::Obtained(credentials));
        spawn(&stop, options.certificate_source.keep_renewed(credentials_sender));
        spawn(&stop, resolve_peers(options.peers, addresses_sender));
        let injections_server = HttpServer::new(stop.clone());
        for listener in inject_listeners {
            tokio::spawn(injections_server.clone().serve(listener, http::injection_routes(mesh.clone())));
        }
        let stop = stop_on_error.disarm();
        Ok((Self { mesh, mesh_address, http_address, inject_addresses, stop }, injections))
    }

    /// Closes the HTTP servers, delivers what is queued, and leaves the mesh.
    pub async fn stop(self) {
        self.stop.cancel();
        self.mesh.stop().await;
    }
}

fn spawn(stop: &CancellationToken, task: impl Future<Output = ()> + Send + 'static) {
    let stop = stop.clone();
    tokio::spawn(async move { stop.run_until_cancelled(task).await });
}

/// Resolves `names` every few seconds. A name whose lookup fails keeps its last addresses.
async fn resolve_peers(names: Vec<String>, sender: watch::Sender<Vec<SocketAddr>>) {
    let mut resolved: BTreeMap<&String, Vec<SocketAddr>> = BTreeMap::new();
    loop {
        for name in &names {
            match timeout(LOOKUP_INTERVAL, lookup_host(name)).await {
                Ok(Ok(addresses)) => {
                    resolved.insert(name, addresses.collect());
                }
                Ok(Err(error)) => tracing::debug!("cannot resolve mesh peer {name}: {error}"),
                Err(_) => tracing::debug!("cannot resolve mesh peer {name}: the lookup timed out"),
            }
        }
        let mut addresses: Vec<SocketAddr> = resolved.values().flatten().copied().collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses.truncate(MAX_ADDRESSES);
        sender.send_if_modified(|current| {
            let changed = *current != addresses;
            *current = addresses;
            changed
        });
        sleep(LOOKUP_INTERVAL).await;
    }
}
