//! The collector of an Organism's mesh: a link to one of its nodes, and to another one when that fails. It passes
//! injections on to the engine; their outcomes go back once they are committed.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use super::beater::Injector;
use super::certificates::Certificates;
use super::key::Key;
use super::peers::Peers;
use crate::mesh::clock;
use crate::mesh::identity::IdentityError;
use crate::mesh::{
    self, CommittedInjection, Credentials, DialPolicy, Injectable, InjectionReceiver, LinkLimits, Mesh,
    Options, OutcomeSender,
};

/// Wait before the next attempt to issue a certificate, and shortest interval between two renewals.
const RENEWAL_SPACING: Duration = Duration::from_secs(30);

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
}

/// A mesh that is joined; nothing is passed on yet.
pub struct Collector {
    key: Key,
    mesh: Mesh,
    collected: InjectionReceiver,
    certificates: Arc<Certificates>,
    organism: String,
    current: watch::Sender<Credentials>,
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
        let (mesh, collected) = Mesh::join_as_collector(options, known)?;
        Ok(Self { key: key.clone(), mesh, collected, certificates, organism: organism.to_owned(), current })
    }

    /// Sends the outcomes of injections.
    #[must_use]
    pub fn outcomes(&self) -> OutcomeSender {
        self.collected.outcomes()
    }

    /// Passes every injection on, and renews the certificate, until the mesh ends.
    pub async fn run(mut self, injector: Injector) {
        let mut renewal = Box::pin(renewal(self.current.borrow().clone(), Duration::ZERO));
        loop {
            tokio::select! {
                event = self.collected.next() => match event {
                    Some(event) => injector.inject(event),
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
            }
        }
        drop(self.mesh);
    }
}

/// Returns when these credentials are to be renewed, but not before `spacing` has passed.
async fn renewal(credentials: Credentials, spacing: Duration) {
    sleep(spacing).await;
    clock::wait_until(|now| credentials.renewal_due(now)).await;
}
