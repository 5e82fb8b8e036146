//! How links come up: the accept loop, and dialling with backoff.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use backon::{BackoffBuilder, ExponentialBuilder};
use rustls::pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::link::{Link, LinkError, Links, tls_refusal};
use super::metrics::RefusalReason;
use crate::net::{self, Connections, share_of_descriptors};

/// Delays between dials to the same address. Jitter at most doubles them.
const BACKOFF: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(100))
    .with_max_delay(MAX_DELAY)
    .without_max_times()
    .with_jitter();
const MAX_DELAY: Duration = Duration::from_secs(4);
/// Connections in their handshake take at most this part of the process's descriptors.
const PART_OF_DESCRIPTORS: usize = 8;
/// A link lasts at least this long before its replacement is dialled.
const MIN_REDIAL_DELAY: Duration = Duration::from_millis(500);
/// Concurrent outbound handshakes. If hundreds of peers start together on shared processors, more of them would
/// slow each other down until all time out.
const MAX_CONCURRENT_DIALS: usize = 8;
/// A dial that takes longer than this is waiting for the other side, not for a processor, and gives its slot up.
const DIAL_SLOT_TIMEOUT: Duration = Duration::from_secs(1);

/// Which of the known addresses a peer dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialPolicy {
    /// All addresses.
    AllPeers,
    /// One address at a time; another one when its link goes down.
    OnePeer,
}

/// Accepts connections until the mesh stops.
pub(super) async fn accept_loop(links: Arc<Links>, listener: TcpListener) {
    let half_open = Connections::new(share_of_descriptors(PART_OF_DESCRIPTORS, links.limits.half_open));
    loop {
        let admitted = async {
            let (stream, source) = net::accept(&listener).await;
            (stream, source, half_open.admit(source.ip()).await.0)
        };
        let (stream, source, handshake) = tokio::select! {
            admitted = admitted => admitted,
            () = links.stop.cancelled() => return,
        };
        let links = links.clone();
        tokio::spawn(async move {
            let accepting = timeout(links.limits.handshake_timeout, accept(&links, stream, source));
            let accepted = handshake.run(accepting).await;
            drop(handshake);
            let (reason, detail) = match accepted {
                Some(Ok(Ok(link))) => return links.run(link).await,
                Some(Ok(Err(LinkError::Refused(reason, detail)))) => (reason, detail),
                Some(Ok(Err(
                    LinkError::SelfConnection | LinkError::AlreadyLinked(_) | LinkError::Failed(_),
                ))) => return,
                Some(Err(_)) => (RefusalReason::HandshakeTimeout, "the handshake timed out".into()),
                None => (RefusalReason::TooManyHandshakes, "too many connections in their handshake".into()),
            };
            links.metrics.connection_refused(source.ip(), reason, &detail);
        });
    }
}

async fn accept(links: &Links, stream: TcpStream, source: SocketAddr) -> Result<Link, LinkError> {
    let credentials = links.credentials.borrow().clone();
    let _ = stream.set_nodelay(true);
    let stream =
        TlsAcceptor::from(credentials.server).accept(stream).await.map_err(|error| tls_error(&error))?;
    links.greet(stream.into(), source, false, credentials.not_after).await
}

async fn connect(links: &Links, address: SocketAddr) -> Result<Link, LinkError> {
    let dial = async {
        let credentials = links.credentials.borrow().clone();
        let stream =
            TcpStream::connect(address).await.map_err(|error| LinkError::Failed(error.to_string()))?;
        let _ = stream.set_nodelay(true);
        let name = ServerName::from(address.ip());
        let stream = TlsConnector::from(credentials.client).connect(name, stream).await;
        let stream = stream.map_err(|error| tls_error(&error))?;
        links.greet(stream.into(), address, true, credentials.not_after).await
    };
    let dialled = timeout(links.limits.handshake_timeout, dial).await;
    let dialled = dialled.unwrap_or_else(|_| Err(LinkError::Failed("the handshake timed out".into())));
    if let Err(LinkError::Refused(reason, detail)) = &dialled {
        links.metrics.connection_refused(address.ip(), *reason, detail);
    }
    dialled
}

fn tls_error(error: &std::io::Error) -> LinkError {
    match tls_refusal(error) {
        Some(reason) => LinkError::Refused(reason, error.to_string()),
        None => LinkError::Failed(error.to_string()),
    }
}

/// Dials the current `addresses` according to `policy` until the mesh stops. With one peer at a time, `failure` is why
/// the last dial failed.
pub(super) async fn dial_loop(
    links: Arc<Links>,
    policy: DialPolicy,
    addresses: watch::Receiver<Vec<SocketAddr>>,
    failure: watch::Sender<String>,
) {
    let dial = async {
        match policy {
            DialPolicy::AllPeers => dial_all(&links, addresses).await,
            DialPolicy::OnePeer => dial_one(&links, addresses, &failure).await,
        }
    };
    tokio::select! {
        () = dial => {}
        () = links.stop.cancelled() => {}
    }
}

/// Runs one task per address.
async fn dial_all(links: &Arc<Links>, mut addresses: watch::Receiver<Vec<SocketAddr>>) {
    let mut tasks: BTreeMap<SocketAddr, AbortOnDrop> = BTreeMap::new();
    let slots = Arc::new(Semaphore::new(MAX_CONCURRENT_DIALS));
    loop {
        let current: BTreeSet<SocketAddr> = addresses.borrow_and_update().iter().copied().collect();
        tasks.retain(|address, _| current.contains(address));
        let mut new: Vec<SocketAddr> =
            current.into_iter().filter(|address| !tasks.contains_key(address)).collect();
        // Otherwise all peers that start together would dial the same one first.
        fastrand::shuffle(&mut new);
        for address in new {
            let (links, slots) = (links.clone(), slots.clone());
            let task = tokio::spawn(async move { keep_linked(&links, &slots, address).await });
            tasks.insert(address, AbortOnDrop(task));
        }
        // Without a source of addresses the last known ones stay.
        if addresses.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// A task that is aborted when this is dropped.
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs `dial` in one of the `slots`, and without one after [`DIAL_SLOT_TIMEOUT`].
async fn dial_in_slot<T>(slots: &Semaphore, dial: impl Future<Output = T>) -> T {
    // Cannot fail: the semaphore is never closed.
    let slot = slots.acquire().await;
    let mut dial = std::pin::pin!(dial);
    match timeout(DIAL_SLOT_TIMEOUT, &mut dial).await {
        Ok(dialled) => dialled,
        Err(_) => {
            drop(slot);
            dial.await
        }
    }
}

/// Keeps one link to the peer at `address`.
async fn keep_linked(links: &Arc<Links>, slots: &Semaphore, address: SocketAddr) {
    let mut backoff = BACKOFF.build();
    loop {
        let dial = async {
            match links.inbound_peer(address) {
                Some(process) => Err(LinkError::AlreadyLinked(process)),
                None => connect(links, address).await,
            }
        };
        match dial_in_slot(slots, dial).await {
            Ok(link) => {
                backoff = BACKOFF.build();
                run_until_redial(links, link).await;
            }
            // This is our own address. The task ends when the address leaves the list.
            Err(LinkError::SelfConnection) => return std::future::pending().await,
            Err(LinkError::AlreadyLinked(process)) => {
                backoff = BACKOFF.build();
                links.wait_unlinked(&process).await;
            }
            Err(error) => log_failure(&address, &error),
        }
        sleep(backoff.next().unwrap_or(MAX_DELAY)).await;
    }
}

/// Keeps one link to any of the addresses.
async fn dial_one(
    links: &Arc<Links>,
    mut addresses: watch::Receiver<Vec<SocketAddr>>,
    failure: &watch::Sender<String>,
) {
    let mut backoff = BACKOFF.build();
    let mut last = None;
    loop {
        let mut candidates = addresses.borrow_and_update().clone();
        fastrand::shuffle(&mut candidates);
        // The peer whose link just went down is the least likely to answer.
        candidates.sort_by_key(|address| Some(*address) == last);
        for address in candidates {
            match connect(links, address).await {
                Ok(link) => {
                    backoff = BACKOFF.build();
                    last = Some(address);
                    run_until_redial(links, link).await;
                    break;
                }
                Err(error) => {
                    log_failure(&address, &error);
                    if let LinkError::Failed(why) | LinkError::Refused(_, why) = error {
                        failure.send_replace(format!("{address}: {why}"));
                    }
                }
            }
        }
        let delay = backoff.next().unwrap_or(MAX_DELAY);
        tokio::select! {
            () = sleep(delay) => {}
            changed = addresses.changed() => if changed.is_err() { sleep(delay).await },
        }
    }
}

/// Runs a link in the background. Returns when it goes down, or when it is time to dial its replacement: at a
/// random moment between 60 % and 90 % of the time left until it expires. The link stays up until then.
async fn run_until_redial(links: &Arc<Links>, link: Link) {
    let left = link.expires.duration_since(SystemTime::now()).unwrap_or_default();
    let process = link.process.clone();
    let redial_after = left.mul_f64(0.6 + 0.3 * fastrand::f64()).max(MIN_REDIAL_DELAY);
    tokio::spawn(links.clone().run(link));
    tokio::select! {
        () = links.wait_unlinked(&process) => {}
        () = sleep(redial_after) => {}
    }
}

fn log_failure(address: &SocketAddr, error: &LinkError) {
    if let LinkError::Failed(detail) = error {
        tracing::debug!(%address, "cannot link to a mesh peer: {detail}");
    }
}
