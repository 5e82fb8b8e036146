//! Links: one to each peer, over TLS 1.3, both ends proven.
//!
//! Both peers of a pair may dial. Where two links come up in opposite directions, the one stays that the peer
//! with the smaller name dialled; a new one in the same direction replaces the old one, which delivers what it
//! has and ends. That is how a link goes over to a new certificate without a gap. A process is told from its
//! predecessor of the same name by a number drawn at its start. A peer that dials says where it would be dialled,
//! which saves most second links: half of what it takes to bring a mesh up. That is its word for a port only; the
//! address is the one it is seen at.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use rustls::CertificateError;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsStream;
use tokio_util::codec::length_delimited::LengthDelimitedCodecError;
use tokio_util::codec::{Framed, LengthDelimitedCodec};
use tokio_util::sync::CancellationToken;

use super::gossip::LinkId;
use super::identity::{Credentials, NotOfThisMesh, Told};
use super::metrics::{Metrics, Refused};
use super::name::Identity;
use super::queue::{Next, Outbox, Outboxes};
use super::wire::{self, Hello, Message};

/// Bounds of links.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// From the connection to the end of the greeting.
    pub handshake: Duration,
    /// Connections in their handshake.
    pub half_open: usize,
    /// Of these, from one address.
    pub half_open_a_source: usize,
    /// Links in all.
    pub links: usize,
    /// Links to one name: processes that went before may still linger.
    pub links_a_name: usize,
    /// After this without a word each side says that it is still here.
    pub ping: Duration,
    /// After this without a word from the other side a link ends.
    pub idle: Duration,
    /// A peer that takes nothing for so long loses its link.
    pub stalled: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(5),
            half_open: 128,
            half_open_a_source: 32,
            links: 1_200,
            links_a_name: 4,
            ping: Duration::from_secs(10),
            idle: Duration::from_secs(30),
            stalled: Duration::from_secs(60),
        }
    }
}

/// What links tell the peer that they belong to.
#[derive(Debug)]
pub(super) enum LinkEvent {
    /// A link came up.
    Up(LinkId, Identity),
    /// A message came in.
    Message(LinkId, IpAddr, Message),
    /// A peer that had been behind has read on.
    Whole(LinkId),
    /// A link is gone.
    Down(LinkId),
}

/// A process of a peer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Process {
    pub(super) identity: Identity,
    instance: u64,
}

/// Why there is no link.
#[derive(Debug)]
pub(super) enum NoLink {
    /// This is the other end itself.
    Myself,
    /// There is a link already that goes before.
    Linked(Process),
    /// Refused, and counted where the other side came to us.
    Refused(Refused, String),
    /// The other side is not there, or refused.
    Failed(String),
}

#[derive(Debug)]
struct Entry {
    process: Process,
    /// This side dialled.
    ours: bool,
    /// Where the other side, which dialled, says that it lets peers in.
    at: Option<SocketAddr>,
    outbox: Arc<Outbox>,
    end: CancellationToken,
}

#[derive(Debug, Default)]
struct Table {
    links: BTreeMap<LinkId, Entry>,
    next: u64,
}

/// All links of one peer.
#[derive(Debug)]
pub(super) struct Links {
    pub(super) credentials: watch::Receiver<Credentials>,
    pub(super) bounds: Bounds,
    pub(super) metrics: Arc<Metrics>,
    pub(super) stop: CancellationToken,
    me: Process,
    /// Where this side lets peers in.
    port: Option<u16>,
    outboxes: Arc<Outboxes>,
    events: mpsc::Sender<LinkEvent>,
    table: Mutex<Table>,
    changed: watch::Sender<()>,
}

pub(super) type Wire = Framed<TlsStream<TcpStream>, LengthDelimitedCodec>;

/// A link that is up.
#[derive(Debug)]
pub(super) struct Link {
    id: LinkId,
    pub(super) process: Process,
    pub(super) expires: SystemTime,
    source: SocketAddr,
    outbox: Arc<Outbox>,
    end: CancellationToken,
    wire: Wire,
}

impl Links {
    pub(super) fn new(
        credentials: watch::Receiver<Credentials>,
        bounds: Bounds,
        metrics: Arc<Metrics>,
        port: Option<u16>,
        outboxes: Arc<Outboxes>,
        events: mpsc::Sender<LinkEvent>,
    ) -> Self {
        let me = Process { identity: credentials.borrow().identity.clone(), instance: fastrand::u64(..) };
        Self {
            credentials,
            bounds,
            metrics,
            stop: CancellationToken::new(),
            me,
            port,
            outboxes,
            events,
            table: Mutex::default(),
            changed: watch::Sender::new(()),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count(&self) -> usize {
        self.table().links.len()
    }

    fn is_linked(&self, process: &Process) -> bool {
        self.table().links.values().any(|it| it.process == *process)
    }

    /// Who is at `address`, where that one dialled: then there is no need to.
    pub(super) fn dialled_from(&self, address: SocketAddr) -> Option<Process> {
        let address = Some(canonical(address));
        let table = self.table();
        table.links.values().find(|it| it.at == address).map(|it| it.process.clone())
    }

    /// Waits until no link to `process` is left.
    pub(super) async fn gone(&self, process: &Process) {
        let mut changed = self.changed.subscribe();
        while self.is_linked(process) {
            // The sender lives as long as this.
            let _ = changed.changed().await;
        }
    }

    /// Each link delivers what it has, and ends.
    pub(super) fn close_all(&self) {
        self.table().links.values().for_each(|it| it.outbox.close());
    }

    /// A link is to end at once: its peer does not keep to the rules.
    pub(super) fn break_off(&self, id: LinkId, source: IpAddr, what: &str) {
        self.metrics.refuse(source, Refused::Protocol, what);
        if let Some(entry) = self.table().links.get(&id) {
            entry.end.cancel();
        }
    }

    /// The greeting over TLS that is up: who that is, and whether there is to be a link.
    pub(super) async fn greet(
        &self,
        stream: TlsStream<TcpStream>,
        source: SocketAddr,
        ours: bool,
        own_expiry: SystemTime,
    ) -> Result<Link, NoLink> {
        let certificate = stream.get_ref().1.peer_certificates().and_then(|it| it.first());
        let told = certificate.and_then(Told::by);
        let told = told.ok_or_else(|| NoLink::Refused(Refused::Identity, "names nobody".into()))?;
        let mut wire = Framed::new(stream, wire::codec());
        let hello = Message::Hello(Hello {
            version: wire::PROTOCOL_VERSION,
            instance: self.me.instance,
            port: self.port,
        });
        wire.send(hello.encode()).await.map_err(|error| NoLink::Failed(error.to_string()))?;
        let first = match wire.next().await {
            // A client learns that its certificate is refused only by its first read.
            None => return Err(NoLink::Failed("closed the connection".into())),
            Some(Err(error)) if is_protocol(&error) => {
                return Err(NoLink::Refused(Refused::Protocol, error.to_string()));
            }
            Some(Err(error)) => return Err(NoLink::Failed(error.to_string())),
            Some(Ok(first)) => first,
        };
        let hello = match Message::decode(&first) {
            Ok(Message::Hello(hello)) if hello.version == wire::PROTOCOL_VERSION => hello,
            Ok(Message::Hello(hello)) => {
                let what = format!("speaks version {}, not {}", hello.version, wire::PROTOCOL_VERSION);
                return Err(NoLink::Refused(Refused::Protocol, what));
            }
            _ => return Err(NoLink::Refused(Refused::Protocol, "did not say hello".into())),
        };
        let process = Process { identity: told.identity, instance: hello.instance };
        let at = hello.port.filter(|_| !ours).map(|port| SocketAddr::new(source.ip(), port));
        let (id, outbox, end) = self.register(&process, ours, at)?;
        let expires = told.not_after.min(own_expiry);
        Ok(Link { id, process, expires, source, outbox, end, wire })
    }

    /// Decides whether there is to be a link to `process`, and which other one ends for it.
    fn register(
        &self,
        process: &Process,
        ours: bool,
        at: Option<SocketAddr>,
    ) -> Result<(LinkId, Arc<Outbox>, CancellationToken), NoLink> {
        if *process == self.me {
            return Err(NoLink::Myself);
        }
        let mut table = self.table();
        let same: Vec<(LinkId, bool)> =
            table.links.iter().filter(|it| it.1.process == *process).map(|it| (*it.0, it.1.ours)).collect();
        let wins = ours == (self.me < *process);
        if !wins && same.iter().any(|it| it.1 != ours) {
            return Err(NoLink::Linked(process.clone()));
        }
        let named: Vec<LinkId> = table
            .links
            .iter()
            .filter(|it| it.1.process.identity == process.identity && it.1.process != *process)
            .map(|it| *it.0)
            .collect();
        let surplus = (named.len() + 1).saturating_sub(self.bounds.links_a_name);
        let full = table.links.len() >= self.bounds.links && same.is_empty() && surplus == 0;
        if full {
            return Err(NoLink::Refused(Refused::TooMany, format!("{} links are up", table.links.len())));
        }
        for old in same.iter().map(|it| it.0).chain(named.into_iter().take(surplus)) {
            self.outboxes.remove(old);
            if let Some(entry) = table.links.get(&old) {
                entry.outbox.close();
            }
        }
        table.next += 1;
        let id = LinkId(table.next);
        let (outbox, end) = (Arc::new(Outbox::default()), CancellationToken::new());
        let entry = Entry { process: process.clone(), ours, at, outbox: outbox.clone(), end: end.clone() };
        table.links.insert(id, entry);
        self.outboxes.add(id, outbox.clone());
        self.metrics.links.inc();
        Ok((id, outbox, end))
    }

    fn unregister(&self, id: LinkId) {
        self.outboxes.remove(id);
        if self.table().links.remove(&id).is_some() {
            self.metrics.links.dec();
        }
        self.changed.send_replace(());
    }

    /// Keeps a link until one side ends it.
    pub(super) async fn keep(self: Arc<Self>, link: Link) {
        let Link { id, process, expires, source, outbox, end, wire } = link;
        tracing::debug!(peer = %process.identity, "mesh: linked");
        let (sink, stream) = wire.split();
        let up = self.events.send(LinkEvent::Up(id, process.identity.clone())).await;
        if up.is_ok() {
            let write = async {
                self.write(sink, id, &outbox).await;
                // What the peer still has to say, it may say.
                sleep(Duration::from_secs(1)).await;
            };
            tokio::select! {
                () = self.read(stream, id, source.ip()) => {}
                () = write => {}
                () = until(expires) => {
                    tracing::info!(peer = %process.identity, "mesh: link ended, its certificate is no longer good");
                }
                () = end.cancelled() => {}
            }
        }
        self.unregister(id);
        let _ = self.events.send(LinkEvent::Down(id)).await;
        tracing::debug!(peer = %process.identity, "mesh: link gone");
    }

    async fn write(&self, mut sink: futures::stream::SplitSink<Wire, Bytes>, id: LinkId, outbox: &Outbox) {
        loop {
            let frames = match timeout(self.bounds.ping, outbox.next()).await {
                Err(_) => [Message::Ping.encode()].into(),
                Ok(Next::Frames(frames)) => frames,
                Ok(Next::Whole) => {
                    if self.events.send(LinkEvent::Whole(id)).await.is_err() {
                        return;
                    }
                    continue;
                }
                Ok(Next::Closed) => {
                    let _ = timeout(self.bounds.stalled, sink.close()).await;
                    return;
                }
            };
            let all = async {
                for frame in frames {
                    sink.feed(frame).await?;
                }
                sink.flush().await
            };
            match timeout(self.bounds.stalled, all).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return,
            }
        }
    }

    async fn read(&self, mut stream: futures::stream::SplitStream<Wire>, id: LinkId, source: IpAddr) {
        loop {
            let refused = match timeout(self.bounds.idle, stream.next()).await {
                Ok(Some(Ok(body))) => match Message::decode(&body) {
                    Ok(Message::Ping) => continue,
                    Ok(message) => {
                        if self.events.send(LinkEvent::Message(id, source, message)).await.is_err() {
                            return;
                        }
                        continue;
                    }
                    Err(error) => error.to_string(),
                },
                Ok(Some(Err(error))) if is_protocol(&error) => error.to_string(),
                // Silent, broken or ended.
                Err(_) | Ok(Some(Err(_)) | None) => return,
            };
            self.metrics.refuse(source, Refused::Protocol, &refused);
            return;
        }
    }
}

/// A listener on all addresses sees those of version 4 as ones of version 6.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Whether the other side sent what is no frame; else the connection broke, or the other side refused us.
fn is_protocol(error: &std::io::Error) -> bool {
    let inner = error.get_ref();
    inner.is_some_and(|error| error.is::<LengthDelimitedCodecError>()) || refusal(error).is_some()
}

/// Waits for a moment by the wall's clock, also where that is set in between.
async fn until(time: SystemTime) {
    while let Some(left) = time.duration_since(SystemTime::now()).ok().filter(|left| !left.is_zero()) {
        sleep(left.min(Duration::from_secs(10))).await;
    }
}

/// Why a handshake failed; `None` where the other side is to blame for nothing, or refused us.
pub(super) fn refusal(error: &std::io::Error) -> Option<Refused> {
    let error = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>())?;
    match error {
        rustls::Error::InvalidCertificate(why) => Some(match why {
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => Refused::Expired,
            CertificateError::Other(other) if other.0.downcast_ref::<NotOfThisMesh>().is_some() => {
                Refused::Identity
            }
            _ => Refused::Stranger,
        }),
        rustls::Error::NoCertificatesPresented => Some(Refused::Stranger),
        rustls::Error::AlertReceived(_) => None,
        _ => Some(Refused::Garbage),
    }
}
