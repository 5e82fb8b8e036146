//! The mesh: its transport alone, and a node that injects.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use rustls::pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use tokio_util::codec::{Framed, LengthDelimitedCodec};
use venom::mesh::gossip::LinkId;
use venom::mesh::identity::Authority;
use venom::mesh::queue::{DeliveryQueue, Outbox, OutboxItem, Outboxes, Recipients, delivery_delay};
use venom::mesh::wire::{self, Hello, Message, codec};
use venom::mesh::{
    Credentials, DialPolicy, Injectable, InjectionPayload, LinkLimits, Mesh, Metrics, Options,
};

use super::fanout::{Fanout, Figures, MANY, RECEIVERS, sent};
use super::{Fallible, credentials};

type Connection = Framed<TlsStream<TcpStream>, LengthDelimitedCodec>;

const PAYLOAD: InjectionPayload = InjectionPayload { anoms: Some(1), ml_weight: Some(0.5) };
/// With an id of this length, an injection's frame has about 128 bytes.
const ID_LEN: usize = 62;
/// Injections at once, for the longer and for the shorter delay.
const CALM: usize = 90;
const CONGESTED: usize = 4_000;

async fn dial(credentials: Credentials, address: SocketAddr) -> Fallible<Connection> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::from(address.ip());
    let stream = TlsConnector::from(credentials.client).connect(name, stream).await?;
    Ok(Framed::new(stream.into(), codec()))
}

/// Outboxes, TLS and framing as in a link, without the protocol: what a broker does.
pub async fn transport(authority: &Authority) -> Fallible<Figures> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let publisher = credentials(authority, 0)?;
    let outboxes = Arc::new(Outboxes::default());
    let mut fanout = Fanout::new(MANY);
    for at in 0..RECEIVERS {
        let receiver = credentials(authority, at + 1)?;
        fanout.receive(async move || dial(receiver, address).await, sent);
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let stream = TlsAcceptor::from(publisher.server.clone()).accept(stream).await?;
        let mut frames = Framed::new(TlsStream::from(stream), codec());
        let outbox = Arc::new(Outbox::default());
        outboxes.add(LinkId(at as u64), outbox.clone());
        tokio::spawn(async move {
            while let OutboxItem::Frames(waiting) = outbox.next().await {
                for frame in waiting {
                    frames.feed(frame).await?;
                }
                SinkExt::<Bytes>::flush(&mut frames).await?;
            }
            Fallible::Ok(())
        });
    }
    let delivery = DeliveryQueue::immediate(outboxes);
    let figures = fanout.publish(async |message, times| {
        (0..times).for_each(|_| delivery.send(Recipients::AllExcept(None), message.clone()));
        Ok(())
    });
    figures.await
}

/// A node that dials no peers.
struct Publisher {
    mesh: Mesh,
    address: SocketAddr,
    _credentials: watch::Sender<Credentials>,
}

impl Publisher {
    async fn join(authority: &Authority) -> Fallible<Self> {
        let (kept, credentials) = watch::channel(credentials(authority, 0)?);
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let mesh = Mesh::join(Options {
            credentials,
            addresses: watch::channel(vec![]).1,
            dial: DialPolicy::AllPeers,
            listener: Some(listener),
            injectable: Injectable::default(),
            metrics: Arc::new(Metrics::new()?),
            limits: LinkLimits::default(),
            paced: true,
        })?;
        Ok(Self { mesh, address, _credentials: kept })
    }

    async fn inject(&self, id: &str) -> Fallible<()> {
        self.mesh.inject(id.parse()?, PAYLOAD).await?;
        Ok(())
    }
}

/// Dials a node and exchanges greetings as a peer.
async fn link(credentials: Credentials, address: SocketAddr) -> Fallible<Connection> {
    let mut wire = dial(credentials, address).await?;
    let hello = Message::Hello(Hello { version: wire::PROTOCOL_VERSION, instance: 1, port: None });
    wire.send(hello.encode()).await?;
    wire.next().await.ok_or("the node closed the connection")??;
    // The link is up at the node once the node has read the greeting.
    tokio::time::sleep(Duration::from_millis(100)).await;
    Ok(wire)
}

/// When an injection was sent. Counts single events only: offers of pending ones come several to a frame.
fn injected(frame: &[u8]) -> Option<u64> {
    match Message::decode(frame) {
        Ok(Message::Events(events)) if events.len() == 1 => sent(events[0].id.as_str().as_bytes()),
        _ => None,
    }
}

/// From `Mesh::inject` through protocol, paced queue and link to the receiver.
pub async fn injection(authority: &Authority) -> Fallible<Figures> {
    let publisher = Publisher::join(authority).await?;
    let address = publisher.address;
    let mut fanout = Fanout::new(0);
    for at in 0..RECEIVERS {
        let receiver = credentials(authority, at + 1)?;
        fanout.receive(async move || link(receiver, address).await, injected);
    }
    let figures =
        fanout.publish(async |message, _| publisher.inject(std::str::from_utf8(&message[..ID_LEN])?).await);
    figures.await
}

/// Measures the time between arrivals, for each of the two delays.
pub async fn pace(authority: &Authority) -> Fallible<()> {
    let publisher = Publisher::join(authority).await?;
    let mut wire = link(credentials(authority, 1)?, publisher.address).await?;
    let mut gaps = vec![];
    for _ in 0..20 {
        gaps.extend(burst(&publisher, &mut wire, CALM).await?);
    }
    print("while 100 or fewer wait", delivery_delay(0), gaps);
    let gaps = burst(&publisher, &mut wire, CONGESTED).await?;
    // Without those delivered while the queue was short, at the start and at the end.
    print("while more than 100 wait", delivery_delay(CONGESTED), gaps[100..CONGESTED - 110].to_vec());
    Ok(())
}

/// Injects `count` at once and returns the times between arrivals.
async fn burst(publisher: &Publisher, wire: &mut Connection, count: usize) -> Fallible<Vec<Duration>> {
    let inject = async {
        for _ in 0..count {
            publisher.inject(&venom::node::http::new_injection_id()).await?;
        }
        Fallible::Ok(())
    };
    let arrive = async {
        let mut arrived: Vec<Instant> = vec![];
        while arrived.len() < count {
            let frame: BytesMut = wire.next().await.ok_or("the node closed the connection")??;
            // Offers count as well: they are deliveries like any other.
            arrived.extend(Message::decode(&frame).is_ok().then(Instant::now));
        }
        Fallible::Ok(arrived)
    };
    let (injected, arrived) = tokio::join!(inject, arrive);
    injected?;
    Ok(arrived?.windows(2).map(|pair| pair[1] - pair[0]).collect())
}

fn print(what: &str, target: Duration, mut gaps: Vec<Duration>) {
    gaps.sort_unstable();
    let millis = |gap: Duration| gap.as_secs_f64() * 1e3;
    let mean = millis(gaps.iter().sum()) / gaps.len() as f64;
    println!(
        "{what:<34} {mean:.3} ms on average, target {:.1} ({:+.1} %); p1 {:.2}, p99 {:.2}; {} gaps",
        millis(target),
        (mean / millis(target) - 1.0) * 100.0,
        millis(gaps[gaps.len() / 100]),
        millis(gaps[gaps.len() * 99 / 100]),
        gaps.len()
    );
}
