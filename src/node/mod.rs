//! A node: a peer of the mesh as a process, with its doors.
//!
//! [`Node::start`] opens the door for probes, gets a certificate, joins the mesh and opens the door for
//! injections; [`source`] sees to the next certificate, and names of peers are looked up again and again, so that
//! pods may come and go.
//! `venom run --mesh` is a node too, one that holds the ledger.

pub mod client;
pub mod door;
pub mod folder;
pub mod source;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::{TcpListener, lookup_host};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::door::Certificate;
use self::source::{NoCertificate, Source};
use crate::mesh::{
    CommittedInjection, DialPolicy, Identity, Injectable, InjectionReceiver, LinkLimits, Mesh, Metrics,
    Options as MeshOptions,
};
use crate::net::bind_dual_stack;

/// Names of peers are looked up this often.
const LOOK_UP: Duration = Duration::from_secs(5);
/// Addresses in all: an organism has 1,000 nodes at most.
const MOST_ADDRESSES: usize = 2_000;

/// What a node needs to know. A port 0 is any that is free.
#[derive(Clone, Debug)]
pub struct Options {
    /// Peers, each HOST:PORT; a host may stand for many addresses, its own among them.
    pub peers: Vec<String>,
    /// Where peers are let in, on all addresses.
    pub mesh_port: u16,
    /// Where metrics and probes are served, on all addresses.
    pub http_port: Option<u16>,
    /// Where injections are taken, on 127.0.0.1.
    pub inject_port: u16,
    /// Where the certificate comes from.
    pub source: Source,
    /// Weights that may be injected.
    pub injectable: Injectable,
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// No certificate.
    #[error(transparent)]
    Certificate(#[from] NoCertificate),
    /// Only the operator's certificate is for who holds the ledger.
    #[error("{0}: the certificate is for {1}; who holds the ledger needs the operator's")]
    NotTheOperator(Source, Identity),
    /// A port cannot be had.
    #[error("port {0}: {1}; choose another one")]
    Port(u16, io::Error),
    /// The system refused something else.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A counter's name is taken.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// A node that runs.
#[derive(Debug)]
pub struct Node {
    /// The peer.
    pub mesh: Mesh,
    /// Where peers are let in.
    pub mesh_address: SocketAddr,
    /// Where metrics and probes are served.
    pub http_address: Option<SocketAddr>,
    /// Where injections are taken.
    pub inject_address: SocketAddr,
    stop: CancellationToken,
}

impl Node {
    /// Starts a node; where there is a `ledger`, one that holds it and knows those injections of it. Needs a
    /// tokio runtime. An issuer that gives no certificate is waited for, and what is open by then closes when this
    /// is dropped.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn start(
        options: Options,
        ledger: Option<Vec<CommittedInjection>>,
    ) -> Result<(Self, Option<InjectionReceiver>), NodeError> {
        let stop = CancellationToken::new();
        let started = stop.clone().drop_guard();
        let metrics = Arc::new(Metrics::new()?);
        let (certificate, standing) = watch::channel(Certificate::Awaited("no certificate yet".into()));
        let mut http_address = None;
        if let Some(port) = options.http_port {
            let http = bind_dual_stack(port).await.map_err(|error| NodeError::Port(port, error))?;
            http_address = Some(http.local_addr()?);
            serve(&stop, http, door::public(metrics.clone(), standing));
        }
        let waiting = |error: &NoCertificate| {
            let why = format!("no certificate yet: {error}");
            tracing::warn!("{why}");
            certificate.send_replace(Certificate::Awaited(why));
        };
        let credentials = options.source.first(waiting).await?;
        if ledger.is_some() && !credentials.identity.is_operator() {
            return Err(NodeError::NotTheOperator(options.source, credentials.identity));
        }
        let listener = bind_dual_stack(options.mesh_port).await;
        let listener = listener.map_err(|error| NodeError::Port(options.mesh_port, error))?;
        let mesh_address = listener.local_addr()?;
        let inject = TcpListener::bind((Ipv4Addr::LOCALHOST, options.inject_port));
        let inject = inject.await.map_err(|error| NodeError::Port(options.inject_port, error))?;
        let inject_address = inject.local_addr()?;

        let (current, credentials) = watch::channel(credentials);
        let (found, addresses) = watch::channel(vec![]);
        let mesh = MeshOptions {
            credentials: credentials.clone(),
            addresses,
            dial: DialPolicy::AllPeers,
            listener: Some(listener),
            injectable: options.injectable,
            metrics,
            limits: LinkLimits::default(),
            paced: true,
        };
        let (mesh, collected) = match ledger {
            None => (Mesh::join(mesh)?, None),
            Some(known) => {
                let (mesh, collected) = Mesh::join_as_collector(mesh, known)?;
                (mesh, Some(collected))
            }
        };
        certificate.send_replace(Certificate::Had(credentials));
        spawn(&stop, options.source.renew(current));
        spawn(&stop, look_up(options.peers, found));
        serve(&stop, inject, door::inject(mesh.clone()));
        let stop = started.disarm();
        Ok((Self { mesh, mesh_address, http_address, inject_address, stop }, collected))
    }

    /// Takes no more injections in, delivers what waits, and ends.
    pub async fn stop(self) {
        self.stop.cancel();
        self.mesh.stop().await;
    }
}

fn spawn(stop: &CancellationToken, what: impl Future<Output = ()> + Send + 'static) {
    let stop = stop.clone();
    tokio::spawn(async move { stop.run_until_cancelled(what).await });
}

fn serve(stop: &CancellationToken, listener: TcpListener, door: Router) {
    let stop = stop.clone();
    tokio::spawn(async move {
        let serving = axum::serve(listener, door).with_graceful_shutdown(stop.cancelled_owned());
        // It ends when told to; single connections that fail are no error.
        let _ = serving.await;
    });
}

/// Looks names up, again and again. A name that cannot be looked up keeps the addresses it had.
async fn look_up(names: Vec<String>, found: watch::Sender<Vec<SocketAddr>>) {
    let mut known: BTreeMap<&String, Vec<SocketAddr>> = BTreeMap::new();
    loop {
        for name in &names {
            match timeout(LOOK_UP, lookup_host(name)).await {
                Ok(Ok(addresses)) => {
                    known.insert(name, addresses.collect());
                }
                Ok(Err(error)) => tracing::debug!("mesh: {name}: {error}"),
                Err(_) => tracing::debug!("mesh: {name}: no answer in time"),
            }
        }
        let mut all: Vec<SocketAddr> = known.values().flatten().copied().collect();
        all.sort_unstable();
        all.dedup();
        all.truncate(MOST_ADDRESSES);
        found.send_if_modified(|before| {
            let changed = *before != all;
            *before = all;
            changed
        });
        sleep(LOOK_UP).await;
    }
}
