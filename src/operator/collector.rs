//! The collector of an Organism's mesh: a link to one of its nodes, and to another one when that fails. It passes
//! injections on to the engine; their outcomes go back once they are committed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::beater::Inputs;
use super::certificates::Certificates;
use super::key::Key;
use super::peers::Peers;
use super::publisher::mesh::MeshLink;
use super::publisher::report::Report;
use crate::mesh::clock;
use crate::mesh::identity::IdentityError;
use crate::mesh::{
    self, CollectorMemory, CommittedInjection, Credentials, DialPolicy, Injectable, InjectionReceiver,
    LinkLimits, Mesh, Options, OutcomeSender,
};

/// Wait before the next attempt to issue a certificate, and shortest interval between two renewals.
const RENEWAL_SPACING: Duration = Duration::from_secs(30);

/// A link that is down for less is not worth mentioning: the next one is being dialled.
const REDIAL: Duration = Duration::from_secs(5);
/// A mesh without a link for longer is unreachable.
const UNREACHABLE_AFTER: Duration = Duration::from_secs(60);

/// Why the mesh of an Organism could not be joined.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// No certificate could be issued.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The system provides no thread or socket.
    #[error(transparent)]
    System(#[from] std::io::Error),
}

/// What all collectors share.
pub struct Resources {
    /// Issues their certificates.
    pub certificates: Arc<Certificates>,
    /// Addresses of the nodes.
    pub peers: Peers,
    /// Metrics of the links.
    pub metrics: Arc<mesh::Metrics>,
    /// Range of model weights that any Genome may allow. The engine applies the range of its own Genome.
    pub injectable: Injectable,
    /// What they may hold together.
    pub memory: Arc<CollectorMemory>,
}

/// A mesh that is joined; nothing is passed on yet.
pub struct Collector {
    key: Key,
    mesh: Mesh,
    collected: InjectionReceiver,
    certificates: Arc<Certificates>,
    organism: String,
    current: watch::Sender<Credentials>,
    addresses: watch::Receiver<Vec<SocketAddr>>,
}

impl Collector {
    /// Joins the mesh of `key`, the Organism with the UID `organism`, whose ledger holds the injections `known`.
    ///
    /// # Errors
    /// [`CollectError`].
    pub fn join(
        resources: &Resources,
        key: &Key,
        organism: &str,
        known: Vec<CommittedInjection>,
    ) -> Result<Self, CollectError> {
        let certificates = resources.certificates.clone();
        let (current, credentials) = watch::channel(certificates.operator_credentials(organism)?);
        let options = Options {
            credentials,
            addresses: resources.peers.subscribe(key),
            dial: DialPolicy::OnePeer,
            listener: None,
            injectable: resources.injectable,
            metrics: resources.metrics.clone(),
            limits: LinkLimits::default(),
            paced: false,
        };
        let (mesh, collected) = Mesh::join_as_collector(options, known, resources.memory.clone())?;
        let (key, organism) = (key.clone(), organism.to_owned());
        let addresses = resources.peers.subscribe(&key);
        Ok(Self { key, mesh, collected, certificates, organism, current, addresses })
    }

    /// Sends the outcomes of injections.
    #[must_use]
    pub fn outcomes(&self) -> OutcomeSender {
        self.collected.outcomes()
    }

    /// Passes every injection on, renews the certificate and reports whether there is a link, until the mesh ends.
    pub async fn run(mut self, inputs: Inputs, report: watch::Sender<Report>) {
        let mut links = Box::pin(report_link(self.mesh.clone(), self.addresses.clone(), report));
        let mut renewal = Box::pin(renewal(self.current.borrow().clone(), Duration::ZERO));
        loop {
            tokio::select! {
                event = self.collected.next() => match event {
                    Some(event) => inputs.inject(event),
                    None => break,
                },
                () = &mut renewal => {
                    match self.certificates.operator_credentials(&self.organism) {
                        Ok(credentials) => {
                            self.current.send_replace(credentials);
                        }
                        Err(error) => {
                            tracing::error!(organism = %self.key, %error, "cannot renew the certificate for the mesh; retrying");
                        }
                    }
                    renewal = Box::pin(self::renewal(self.current.borrow().clone(), RENEWAL_SPACING));
                }
                () = &mut links => break,
            }
        }
        drop(self.mesh);
    }
}

/// Reports whether there is a link, until the mesh ends.
async fn report_link(
    mesh: Mesh,
    mut addresses: watch::Receiver<Vec<SocketAddr>>,
    report: watch::Sender<Report>,
) {
    let mut links = mesh.links();
    // Since when there are nodes and no link to one.
    let mut unlinked: Option<Instant> = None;
    loop {
        let linked = *links.borrow_and_update() > 0;
        let no_nodes = addresses.borrow_and_update().is_empty();
        unlinked = unlinked.filter(|_| !linked && !no_nodes);
        let (link, next) = if linked {
            (Some(MeshLink::Up), None)
        } else if no_nodes {
            (Some(MeshLink::NoNodes), None)
        } else {
            let since = *unlinked.get_or_insert_with(Instant::now);
            match since.elapsed() {
                elapsed if elapsed < REDIAL => (None, Some(since + REDIAL)),
                elapsed if elapsed < UNREACHABLE_AFTER => {
                    (Some(MeshLink::Connecting), Some(since + UNREACHABLE_AFTER))
                }
                _ => (Some(MeshLink::Unreachable(mesh.dial_failure())), None),
            }
        };
        report.send_if_modified(|report| {
            let changed = link.is_some() && report.mesh != link;
            if changed {
                report.mesh = link;
            }
            changed
        });
        tokio::select! {
            changed = links.changed() => if changed.is_err() {
                return;
            },
            // The table of addresses outlives every mesh.
            Ok(()) = addresses.changed() => {}
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
        }
    }
}

/// Returns when these credentials are to be renewed, but not before `spacing` has passed.
async fn renewal(credentials: Credentials, spacing: Duration) {
    sleep(spacing).await;
    clock::wait_until(|now| credentials.renewal_due(now)).await;
}
