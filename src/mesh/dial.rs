//! How links come up: a listener, and diallers that try again with a growing, jittered pause.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::link::{Bounds, Link, Links, NoLink, canonical, refusal};
use super::metrics::Refused;
use crate::net::ConnectionLimiter;

/// First and longest pause between two tries.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A link is dialled anew not sooner than this.
const LEAST_LIFE: Duration = Duration::from_millis(500);
/// So many handshakes at once: where hundreds of peers come up together and share processors, more of them
/// would make each slower, until none is done in time.
const DIALS: usize = 8;
/// A dial that takes longer waits for the other side, and is in nobody's way.
const LONG_DIAL: Duration = Duration::from_secs(1);

/// Whom to dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialPolicy {
    /// Every address.
    AllPeers,
    /// One of the addresses, another one when that link is gone.
    OnePeer,
}

/// Takes connections in until the mesh stops.
pub(super) async fn listen(links: Arc<Links>, listener: TcpListener) {
    let half_open = Arc::new(ConnectionLimiter::default());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = links.stop.cancelled() => return,
        };
        let (stream, source) = match accepted {
            Ok((stream, source)) => (stream, canonical(source)),
            // Out of file descriptors, or the connection is gone again.
            Err(_) => {
                sleep(FIRST_PAUSE).await;
                continue;
            }
        };
        let Bounds { half_open: most, half_open_a_source: most_a_source, .. } = links.bounds;
        let Some(opening) = half_open.try_acquire(source.ip(), most, most_a_source) else {
            links.metrics.refuse(source.ip(), Refused::HalfOpen, "too many connections in their handshake");
            continue;
        };
        let links = links.clone();
        tokio::spawn(async move {
            let accepted = timeout(links.bounds.handshake, accept(&links, stream, source)).await;
            drop(opening);
            let refused = match accepted {
                Ok(Ok(link)) => return links.keep(link).await,
                Ok(Err(NoLink::Refused(reason, what))) => (reason, what),
                Ok(Err(NoLink::Myself | NoLink::Linked(_) | NoLink::Failed(_))) => return,
                Err(_) => (Refused::Timeout, "the handshake took too long".into()),
            };
            links.metrics.refuse(source.ip(), refused.0, &refused.1);
        });
    }
}

async fn accept(links: &Links, stream: TcpStream, source: SocketAddr) -> Result<Link, NoLink> {
    let credentials = links.credentials.borrow().clone();
    let _ = stream.set_nodelay(true);
    let stream =
        TlsAcceptor::from(credentials.server).accept(stream).await.map_err(|error| no_link(&error))?;
    links.greet(stream.into(), source, false, credentials.not_after).await
}

async fn connect(links: &Links, address: SocketAddr) -> Result<Link, NoLink> {
    let dial = async {
        let credentials = links.credentials.borrow().clone();
        let stream = TcpStream::connect(address).await.map_err(|error| NoLink::Failed(error.to_string()))?;
        let _ = stream.set_nodelay(true);
        let name = ServerName::from(address.ip());
        let stream = TlsConnector::from(credentials.client).connect(name, stream).await;
        let stream = stream.map_err(|error| no_link(&error))?;
        links.greet(stream.into(), address, true, credentials.not_after).await
    };
    let dialled = timeout(links.bounds.handshake, dial).await;
    let dialled = dialled.unwrap_or_else(|_| Err(NoLink::Failed("the handshake took too long".into())));
    if let Err(NoLink::Refused(reason, what)) = &dialled {
        links.metrics.refuse(address.ip(), *reason, what);
    }
    dialled
}

fn no_link(error: &std::io::Error) -> NoLink {
    match refusal(error) {
        Some(reason) => NoLink::Refused(reason, error.to_string()),
        None => NoLink::Failed(error.to_string()),
    }
}

/// Dials `addresses`, as they come and go, until the mesh stops.
pub(super) async fn dial(
    links: Arc<Links>,
    policy: DialPolicy,
    mut addresses: watch::Receiver<Vec<SocketAddr>>,
) {
    let dialling = async {
        match policy {
            DialPolicy::OnePeer => one(&links, addresses).await,
            DialPolicy::AllPeers => {
                let mut each: BTreeMap<SocketAddr, Ended> = BTreeMap::new();
                let dials = Arc::new(Semaphore::new(DIALS));
                loop {
                    let wanted: BTreeSet<SocketAddr> =
                        addresses.borrow_and_update().iter().copied().collect();
                    each.retain(|address, _| wanted.contains(address));
                    let mut new: Vec<SocketAddr> =
                        wanted.into_iter().filter(|address| !each.contains_key(address)).collect();
                    // Else everybody would begin with the same one.
                    fastrand::shuffle(&mut new);
                    for address in new {
                        let (links, dials) = (links.clone(), dials.clone());
                        let task = tokio::spawn(async move { all(&links, &dials, address).await });
                        each.insert(address, Ended(task));
                    }
                    // Where nobody says any more who the peers are, they stay as they are.
                    if addresses.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
            }
        }
    };
    tokio::select! {
        () = dialling => {}
        () = links.stop.cancelled() => {}
    }
}

/// A task that ends when this is dropped.
struct Ended(JoinHandle<()>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Dials when it is its turn; a long dial lets the next one begin.
async fn in_turn<T>(dials: &Semaphore, dial: impl Future<Output = T>) -> T {
    // It is never closed.
    let turn = dials.acquire().await;
    let mut dial = std::pin::pin!(dial);
    match timeout(LONG_DIAL, &mut dial).await {
        Ok(dialled) => dialled,
        Err(_) => {
            drop(turn);
            dial.await
        }
    }
}

/// Keeps a link to whoever is at `address`.
async fn all(links: &Arc<Links>, dials: &Semaphore, address: SocketAddr) {
    let mut pause = FIRST_PAUSE;
    loop {
        let dial = async {
            match links.dialled_from(address) {
                Some(process) => Err(NoLink::Linked(process)),
                None => connect(links, address).await,
            }
        };
        match in_turn(dials, dial).await {
            Ok(link) => {
                pause = FIRST_PAUSE;
                hold(links, link).await;
            }
            // This address is our own, for as long as it is in the list.
            Err(NoLink::Myself) => return std::future::pending().await,
            Err(NoLink::Linked(process)) => {
                pause = FIRST_PAUSE;
                links.gone(&process).await;
            }
            Err(why) => {
                complain(&address, &why);
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
        sleep(jittered(pause)).await;
    }
}

/// Keeps a link to one of the addresses.
async fn one(links: &Arc<Links>, mut addresses: watch::Receiver<Vec<SocketAddr>>) {
    let mut pause = FIRST_PAUSE;
    let mut last = None;
    loop {
        let mut tries = addresses.borrow_and_update().clone();
        fastrand::shuffle(&mut tries);
        // The one whose link just ended is likely gone.
        tries.sort_by_key(|address| Some(*address) == last);
        for address in tries {
            match connect(links, address).await {
                Ok(link) => {
                    pause = FIRST_PAUSE;
                    last = Some(address);
                    hold(links, link).await;
                    break;
                }
                Err(why) => complain(&address, &why),
            }
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
        tokio::select! {
            () = sleep(jittered(pause)) => {}
            changed = addresses.changed() => if changed.is_err() { sleep(jittered(pause)).await },
        }
    }
}

/// Until the link is gone, or is to be dialled anew: then it lasts until the new one is up.
async fn hold(links: &Arc<Links>, link: Link) {
    let left = link.expires.duration_since(SystemTime::now()).unwrap_or_default();
    let process = link.process.clone();
    let anew = left.mul_f64(0.6 + 0.3 * fastrand::f64()).max(LEAST_LIFE);
    tokio::spawn(links.clone().keep(link));
    tokio::select! {
        () = links.gone(&process) => {}
        () = sleep(anew) => {}
    }
}

fn complain(address: &SocketAddr, why: &NoLink) {
    if let NoLink::Failed(what) = why {
        tracing::debug!(%address, "mesh: no link: {what}");
    }
}

fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + fastrand::f64())
}
