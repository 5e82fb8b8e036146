//! The operator's place in an Organism's mesh: a link to one of its nodes, another one where that fails. What
//! nodes have taken in comes to the beater here; what became of it goes back once it is committed.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::sleep;

use super::authority::Certificates;
use crate::mesh::identity::IdentityError;
use crate::mesh::{
    CommittedInjection, Credentials, DialPolicy, InjectionReceiver, LinkLimits, Mesh, Options, OutcomeSender,
};
use crate::operator::beater::Beater;
use crate::operator::body::build::INJECTABLE;
use crate::operator::{Key, body};

/// Try again after this where no certificate could be made.
const PAUSE: Duration = Duration::from_secs(60);

/// Why an Organism has no collector.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// No certificate.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// No thread or socket.
    #[error(transparent)]
    System(#[from] std::io::Error),
}

/// A place in a mesh. It ends when this is dropped.
pub struct Collector(AbortHandle);

impl Drop for Collector {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A place in a mesh that is taken; nothing is handed on yet.
pub struct Joined {
    mesh: Mesh,
    collected: InjectionReceiver,
    certificates: Arc<Certificates>,
    organism: String,
    current: watch::Sender<Credentials>,
}

/// Takes a place in the mesh of `key`, the Organism with the UID `organism`, whose ledger knows those
/// injections already.
///
/// # Errors
/// [`CollectError`].
pub fn join(
    shared: &body::Shared,
    key: &Key,
    organism: &str,
    known: Vec<CommittedInjection>,
) -> Result<Joined, CollectError> {
    let (current, credentials) = watch::channel(shared.certificates.operator_credentials(organism)?);
    let options = Options {
        credentials,
        addresses: shared.peers.of(key),
        dial: DialPolicy::OnePeer,
        listener: None,
        injectable: INJECTABLE,
        metrics: shared.mesh_metrics.clone(),
        limits: LinkLimits::default(),
        paced: false,
    };
    let (mesh, collected) = Mesh::join_as_collector(options, known)?;
    let certificates = shared.certificates.clone();
    Ok(Joined { mesh, collected, certificates, organism: organism.to_owned(), current })
}

impl Joined {
    /// Where the ledger says what became of injections.
    #[must_use]
    pub fn answers(&self) -> OutcomeSender {
        self.collected.outcomes()
    }

    /// Hands every injection to the life of `key` from now on.
    #[must_use]
    pub fn start(self, beater: Beater, key: Key) -> Collector {
        Collector(tokio::spawn(self.run(beater, key)).abort_handle())
    }

    async fn run(mut self, beater: Beater, key: Key) {
        let renew_at = self.current.borrow().renew_at();
        let mut renewal = Box::pin(sleep(until(renew_at)));
        loop {
            tokio::select! {
                event = self.collected.next() => match event {
                    Some(event) => beater.inject(&key, event),
                    None => break,
                },
                () = &mut renewal => {
                    let pause = match self.certificates.operator_credentials(&self.organism) {
                        Ok(credentials) => {
                            let pause = until(credentials.renew_at());
                            self.current.send_replace(credentials);
                            pause
                        }
                        Err(error) => {
                            tracing::error!(organism = %key, %error, "no new certificate for the mesh");
                            PAUSE
                        }
                    };
                    renewal = Box::pin(sleep(pause.max(PAUSE)));
                }
            }
        }
        drop(self.mesh);
    }
}

fn until(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::now()).unwrap_or_default()
}
