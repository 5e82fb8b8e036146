//! Links: one per peer, over TLS 1.3 with mutual authentication.
//!
//! Both peers of a pair may dial. If two links in opposite directions come up, the one dialled by the peer with
//! the smaller identity stays. A new link in the same direction replaces the old one, which delivers its queued
//! frames and ends: so a link moves to a renewed certificate without a gap. The peer that was dialled registers the
//! new link before it greets, and the one that dialled closes the old link after that: at any moment each of them has one.
//! A random instance number distinguishes a process from its predecessor with the same identity.
//!
//! A peer that dials states its own listening port. The other side then does not dial that address, which saves
//! most of the redundant handshakes when a mesh comes up. Only the port is taken from the peer; the address is the
//! one it connects from.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use rustls::CertificateError;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsStream;
use tokio_util::codec::length_delimited::LengthDelimitedCodecError;
use tokio_util::codec::{Framed, LengthDelimitedCodec};
use tokio_util::sync::CancellationToken;

use super::clock;
use super::gossip::LinkId;
use super::identity::{CertificateInfo, Credentials, IdentityNotAllowed};
use super::metrics::{Metrics, RefusalReason};
use super::queue::{Outbox, OutboxItem, Outboxes};
use super::spiffe::Identity;
use super::wire::{self, Hello, Message};

/// After its own last frame a link stays open this long for frames of the peer.
const LINGER: Duration = Duration::from_secs(1);

/// Limits and timeouts of links.
#[derive(Clone, Copy, Debug)]
pub struct LinkLimits {
    /// From the TCP connection to the end of the greeting.
    pub handshake_timeout: Duration,
    /// Inbound connections in their handshake. Beyond it, the source that has the most loses its oldest.
    pub half_open: usize,
    /// Links in total.
    pub max_links: usize,
    /// Links to one identity. More than one, because connections of crashed predecessors can linger.
    pub links_per_identity: usize,
    /// A side that has sent nothing for this long sends a ping.
    pub ping_interval: Duration,
    /// A link on which nothing was received for this long ends.
    pub idle_timeout: Duration,
    /// A link on which a write takes this long ends.
    pub write_timeout: Duration,
}

impl Default for LinkLimits {
    fn default() -> Self {
        Self {
            handshake_timeout: Duration::from_secs(5),
            half_open: 128,
            max_links: 1_200,
            links_per_identity: 4,
            ping_interval: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(60),
        }
    }
}

/// Events that links report to their peer's task.
#[derive(Debug)]
pub(super) enum LinkEvent {
    /// A link came up.
    Up(LinkId, Identity),
    /// A message was received.
    Message(LinkId, IpAddr, Message),
    /// A link delivers again after it had dropped frames.
    CaughtUp(LinkId),
    /// A link went down.
    Down(LinkId),
}

/// One process of a peer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PeerProcess {
    pub(super) identity: Identity,
    instance: u64,
}

/// Why a connection did not become a link.
#[derive(Debug)]
pub(super) enum LinkError {
    /// The address is this process's own.
    SelfConnection,
    /// A link to that process exists and takes precedence.
    AlreadyLinked(PeerProcess),
    /// This side refused the connection.
    Refused(RefusalReason, String),
    /// The other side is unreachable, or refused the connection.
    Failed(String),
}

#[derive(Debug)]
struct LinkEntry {
    process: PeerProcess,
    /// This side dialled.
    outbound: bool,
    /// The listening address of the peer of an inbound link, if it stated a port.
    listen_address: Option<SocketAddr>,
    outbox: Arc<Outbox>,
    cancel: CancellationToken,
}

#[derive(Debug, Default)]
struct LinkTable {
    links: BTreeMap<LinkId, LinkEntry>,
    last_id: u64,
}

/// All links of one peer.
#[derive(Debug)]
pub(super) struct Links {
    pub(super) credentials: watch::Receiver<Credentials>,
    pub(super) limits: LinkLimits,
    pub(super) metrics: Arc<Metrics>,
    pub(super) stop: CancellationToken,
    local: PeerProcess,
    listen_port: Option<u16>,
    outboxes: Arc<Outboxes>,
    events: mpsc::Sender<LinkEvent>,
    table: Mutex<LinkTable>,
    /// Notified when a link is removed from the table.
    removed: watch::Sender<()>,
}

pub(super) type FramedTls = Framed<TlsStream<TcpStream>, LengthDelimitedCodec>;

/// A registered link, ready to [run](Links::run).
#[derive(Debug)]
pub(super) struct Link {
    id: LinkId,
    pub(super) process: PeerProcess,
    /// When the first of the two certificates expires.
    pub(super) expires: SystemTime,
    source: SocketAddr,
    outbox: Arc<Outbox>,
    cancel: CancellationToken,
    stream: FramedTls,
}

impl Links {
    pub(super) fn new(
        credentials: watch::Receiver<Credentials>,
        limits: LinkLimits,
        metrics: Arc<Metrics>,
        listen_port: Option<u16>,
        outboxes: Arc<Outboxes>,
        events: mpsc::Sender<LinkEvent>,
    ) -> Self {
        let identity = credentials.borrow().identity.clone();
        Self {
            credentials,
            limits,
            metrics,
            stop: CancellationToken::new(),
            local: PeerProcess { identity, instance: fastrand::u64(..) },
            listen_port,
            outboxes,
            events,
            table: Mutex::default(),
            removed: watch::Sender::new(()),
        }
    }

    fn table(&self) -> MutexGuard<'_, LinkTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count(&self) -> usize {
        self.table().links.len()
    }

    fn is_linked(&self, process: &PeerProcess) -> bool {
        self.table().links.values().any(|it| it.process == *process)
    }

    /// Returns the peer that listens on `address` and has an inbound link: it need not be dialled.
    pub(super) fn inbound_peer(&self, address: SocketAddr) -> Option<PeerProcess> {
        let address = Some(canonical(address));
        let table = self.table();
        table.links.values().find(|it| it.listen_address == address).map(|it| it.process.clone())
    }

    /// Waits until no link to `process` is left.
    pub(super) async fn wait_unlinked(&self, process: &PeerProcess) {
        let mut removed = self.removed.subscribe();
        while self.is_linked(process) {
            // Cannot fail: `self` holds the sender.
            let _ = removed.changed().await;
        }
    }

    /// Ends all links after they have delivered their queued frames.
    pub(super) fn close_all(&self) {
        self.table().links.values().for_each(|it| it.outbox.close());
    }

    /// Ends a link at once, because its peer misbehaves.
    pub(super) fn abort(&self, id: LinkId, source: IpAddr, reason: RefusalReason, detail: &str) {
        self.metrics.connection_refused(source, reason, detail);
        if let Some(entry) = self.table().links.get(&id) {
            entry.cancel.cancel();
        }
    }

    /// Exchanges greetings over an established TLS connection and registers the link.
    pub(super) async fn greet(
        &self,
        stream: TlsStream<TcpStream>,
        source: SocketAddr,
        outbound: bool,
        own_expiry: SystemTime,
    ) -> Result<Link, LinkError> {
        let certificate = stream.get_ref().1.peer_certificates().and_then(|it| it.first());
        let info = certificate.and_then(CertificateInfo::parse).ok_or_else(|| {
            LinkError::Refused(RefusalReason::WrongIdentity, "the certificate has no mesh identity".into())
        })?;
        let mut stream = Framed::new(stream, wire::codec());
        let own_hello = Message::Hello(Hello {
            version: wire::PROTOCOL_VERSION,
            instance: self.local.instance,
            port: self.listen_port,
        })
        .encode();
        if outbound {
            let sent = stream.send(own_hello.clone()).await;
            sent.map_err(|error| LinkError::Failed(error.to_string()))?;
        }
        let violation = |detail| LinkError::Refused(RefusalReason::ProtocolViolation, detail);
        let first = match stream.next().await {
            // In TLS 1.3 a client learns only from its first read that the server refused its certificate.
            None => return Err(LinkError::Failed("the peer closed the connection".into())),
            Some(Err(error)) if is_protocol_error(&error) => return Err(violation(error.to_string())),
            Some(Err(error)) => return Err(LinkError::Failed(error.to_string())),
            Some(Ok(first)) => first,
        };
        let hello = match Message::decode(&first) {
            Ok(Message::Hello(hello)) if hello.version == wire::PROTOCOL_VERSION => hello,
            Ok(Message::Hello(hello)) => {
                let (theirs, ours) = (hello.version, wire::PROTOCOL_VERSION);
                return Err(violation(format!("protocol version {theirs} instead of {ours}")));
            }
            _ => return Err(violation("the first message is not a hello".into())),
        };
        let process = PeerProcess { identity: info.identity, instance: hello.instance };
        let listen_port = hello.port.filter(|_| !outbound);
        let listen_address = listen_port.map(|port| SocketAddr::new(source.ip(), port));
        let greeting = (!outbound).then_some(own_hello);
        let (id, outbox, cancel) = self.register(&process, greeting, listen_address)?;
        let expires = info.not_after.min(own_expiry);
        Ok(Link { id, process, expires, source, outbox, cancel, stream })
    }

    /// Decides whether there is to be a link to `process`, and closes the links that it replaces. The first frame of a
    /// link that was accepted is its `greeting`.
    fn register(
        &self,
        process: &PeerProcess,
        greeting: Option<Bytes>,
        listen_address: Option<SocketAddr>,
    ) -> Result<(LinkId, Arc<Outbox>, CancellationToken), LinkError> {
        let outbound = greeting.is_none();
        if *process == self.local {
            return Err(LinkError::SelfConnection);
        }
        let mut table = self.table();
        let same_process: Vec<(LinkId, bool)> = table
            .links
            .iter()
            .filter(|it| it.1.process == *process)
            .map(|it| (*it.0, it.1.outbound))
            .collect();
        let preferred_direction = outbound == (self.local < *process);
        if !preferred_direction && same_process.iter().any(|it| it.1 != outbound) {
            return Err(LinkError::AlreadyLinked(process.clone()));
        }
        let predecessors: Vec<LinkId> = table
            .links
            .iter()
            .filter(|it| it.1.process.identity == process.identity && it.1.process != *process)
            .map(|it| *it.0)
            .collect();
        let surplus = (predecessors.len() + 1).saturating_sub(self.limits.links_per_identity);
        let replaces_none = same_process.is_empty() && surplus == 0;
        if table.links.len() >= self.limits.max_links && replaces_none {
            let detail = format!("{} links are up", table.links.len());
            return Err(LinkError::Refused(RefusalReason::TooManyLinks, detail));
        }
        let taken_off = |old: &LinkId| {
            self.outboxes.remove(*old);
            table.links.get(old).map(|entry| entry.outbox.clone())
        };
        predecessors.iter().take(surplus).filter_map(taken_off).for_each(|it| it.close());
        for old in same_process.iter().filter_map(|(old, _)| taken_off(old)) {
            if outbound {
                old.close();
            } else {
                // The peer closes it once it has the greeting; until then it is the only link that the peer has.
                tokio::spawn(async move {
                    sleep(LINGER).await;
                    old.close();
                });
            }
        }
        table.last_id += 1;
        let id = LinkId(table.last_id);
        let (outbox, cancel) = (Arc::new(Outbox::default()), CancellationToken::new());
        if let Some(greeting) = greeting {
            outbox.push(greeting);
        }
        let entry = LinkEntry {
            process: process.clone(),
            outbound,
            listen_address,
            outbox: outbox.clone(),
            cancel: cancel.clone(),
        };
        table.links.insert(id, entry);
        self.outboxes.add(id, outbox.clone());
        self.metrics.links.inc();
        Ok((id, outbox, cancel))
    }

    fn unregister(&self, id: LinkId) {
        self.outboxes.remove(id);
        if self.table().links.remove(&id).is_some() {
            self.metrics.links.dec();
        }
        self.removed.send_replace(());
    }

    /// Reads and writes until one side ends the link or a certificate expires.
    pub(super) async fn run(self: Arc<Self>, link: Link) {
        let Link { id, process, expires, source, outbox, cancel, stream } = link;
        tracing::debug!(peer = %process.identity, "mesh link up");
        let (sink, stream) = stream.split();
        let up = self.events.send(LinkEvent::Up(id, process.identity.clone())).await;
        if up.is_ok() {
            let write = async {
                self.write(sink, id, &outbox).await;
                sleep(LINGER).await;
            };
            tokio::select! {
                () = self.read(stream, id, source.ip()) => {}
                () = write => {}
                () = clock::wait_until(|now| clock::reached(expires, now)) => {
                    tracing::info!(peer = %process.identity, "closed a mesh link: its certificate expired");
                }
                () = cancel.cancelled() => {}
            }
        }
        self.unregister(id);
        let _ = self.events.send(LinkEvent::Down(id)).await;
        tracing::debug!(peer = %process.identity, "mesh link down");
    }

    async fn write(&self, mut sink: SplitSink<FramedTls, Bytes>, id: LinkId, outbox: &Outbox) {
        loop {
            let frames = match timeout(self.limits.ping_interval, outbox.next()).await {
                Err(_) => [Message::Ping.encode()].into(),
                Ok(OutboxItem::Frames(frames)) => frames,
                Ok(OutboxItem::CaughtUp) => {
                    if self.events.send(LinkEvent::CaughtUp(id)).await.is_err() {
                        return;
                    }
                    continue;
                }
                Ok(OutboxItem::Closed) => {
                    let _ = timeout(self.limits.write_timeout, sink.close()).await;
                    return;
                }
            };
            let write_all = async {
                for frame in frames {
                    sink.feed(frame).await?;
                }
                sink.flush().await
            };
            match timeout(self.limits.write_timeout, write_all).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return,
            }
        }
    }

    async fn read(&self, mut stream: SplitStream<FramedTls>, id: LinkId, source: IpAddr) {
        loop {
            let violation = match timeout(self.limits.idle_timeout, stream.next()).await {
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
                Ok(Some(Err(error))) if is_protocol_error(&error) => error.to_string(),
                // Idle, broken or closed.
                Err(_) | Ok(Some(Err(_)) | None) => return,
            };
            self.metrics.connection_refused(source, RefusalReason::ProtocolViolation, &violation);
            return;
        }
    }
}

/// Converts an IPv4-mapped address, as a dual-stack listener returns it, to IPv4.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Whether the other side sent something invalid, as opposed to a broken connection or a refusal by that side.
fn is_protocol_error(error: &std::io::Error) -> bool {
    let inner = error.get_ref();
    inner.is_some_and(|error| error.is::<LengthDelimitedCodecError>()) || tls_refusal(error).is_some()
}

/// Classifies a TLS error; `None` if the connection broke or the other side refused it.
pub(super) fn tls_refusal(error: &std::io::Error) -> Option<RefusalReason> {
    let error = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>())?;
    match error {
        rustls::Error::InvalidCertificate(cause) => Some(match cause {
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => RefusalReason::Expired,
            CertificateError::Other(other) if other.0.downcast_ref::<IdentityNotAllowed>().is_some() => {
                RefusalReason::WrongIdentity
            }
            _ => RefusalReason::Untrusted,
        }),
        rustls::Error::NoCertificatesPresented => Some(RefusalReason::Untrusted),
        rustls::Error::AlertReceived(_) => None,
        _ => Some(RefusalReason::InvalidTls),
    }
}
