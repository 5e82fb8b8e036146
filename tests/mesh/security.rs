//! Unauthenticated, misbehaving and stalled peers: refused, counted, and harmless to the others.

use std::io::Write;
use std::net::{SocketAddr, TcpStream as Plain};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{BufMut, Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpSocket;
use tokio_rustls::client::TlsStream;
use tokio_util::codec::{BytesCodec, Framed};
use venom::mesh::metrics::RefusalReason;
use venom::mesh::wire::{Hello, Message, PROTOCOL_VERSION, WireEvent};
use venom::mesh::{Identity, LinkLimits, Mesh};

use crate::support::{
    DAY, Entries, Peer, PeerConfig, addresses, anoms, assert_exactly_once, authority, credentials, inject,
    introduce, issue, node, nodes, operator, pod, start, until,
};

/// Accepts any server certificate.
#[derive(Debug)]
struct AcceptAnyServer;

impl ServerCertVerifier for AcceptAnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

pub type RawConnection = Framed<TlsStream<tokio::net::TcpStream>, BytesCodec>;

/// Connects with this client certificate, or none, to send raw bytes.
pub async fn connect(address: SocketAddr, pem: Option<&str>) -> std::io::Result<RawConnection> {
    let config = ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AcceptAnyServer));
    let config = match pem {
        None => config.with_no_client_auth(),
        Some(pem) => {
            let chain =
                CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>().unwrap();
            let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap();
            config.with_client_auth_cert(chain, key).unwrap()
        }
    };
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(8192)?;
    let stream = socket.connect(address).await?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = connector.connect(ServerName::from(address.ip()), stream).await?;
    Ok(Framed::new(stream, BytesCodec::new()))
}

pub fn frame(message: &Message) -> Bytes {
    let body = message.encode();
    let mut frame = BytesMut::new();
    frame.put_u32(u32::try_from(body.len()).unwrap());
    frame.put(body);
    frame.freeze()
}

pub fn hello() -> Bytes {
    frame(&Message::Hello(Hello { version: PROTOCOL_VERSION, instance: fastrand::u64(..), port: None }))
}

/// Sends `frames`, and waits until the other side closes the connection.
async fn send_until_closed(address: SocketAddr, pem: Option<&str>, frames: &[Bytes]) {
    let Ok(mut raw) = connect(address, pem).await else { return };
    for frame in frames {
        if raw.send(frame.clone()).await.is_err() {
            return;
        }
    }
    let end = async { while let Some(Ok(_)) = raw.next().await {} };
    tokio::time::timeout(crate::support::PATIENCE, end).await.expect("the connection was not closed");
}

fn resident_kib() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Two linked nodes, the first with a short handshake timeout and few half-open connections.
async fn two(authority: &venom::mesh::Authority) -> Vec<Peer> {
    let limits = LinkLimits {
        handshake_timeout: Duration::from_millis(1_500),
        half_open: 16,
        ..LinkLimits::default()
    };
    let first = PeerConfig { limits, ..node(credentials(authority, &pod("a"), DAY)) };
    let second = node(credentials(authority, &pod("b"), DAY));
    let peers = vec![start(first, None).await.0, start(second, None).await.0];
    introduce(&peers);
    until("a link", || peers.iter().all(|peer| peer.metrics.links() == 1)).await;
    peers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unauthenticated_and_misbehaving_peers_are_refused_and_counted() {
    let authority = authority();
    let peers = two(&authority).await;
    let address = peers[0].address.unwrap();
    let refused = |reason| peers[0].metrics.refused(reason);
    let now = SystemTime::now();
    let good = issue(&authority, &pod("c"), now, DAY);

    let other_authority = issue(&crate::support::authority(), &pod("c"), now, DAY);
    let other_organism = issue(&authority, &Identity::pod("venom", "other", "c").unwrap(), now, DAY);
    let other_domain = issue(&authority, &Identity::pod("elsewhere", "uid", "c").unwrap(), now, DAY);
    let expired = issue(&authority, &pod("c"), now - DAY * 2, DAY);
    let early = issue(&authority, &pod("c"), now + DAY, DAY);
    let (certificate, key) = authority.server_certificate(&["localhost"], now, DAY).unwrap();
    let server = certificate + &key;
    for (pem, reason) in [
        (None, RefusalReason::Untrusted),
        (Some(&other_authority), RefusalReason::Untrusted),
        (Some(&other_organism), RefusalReason::WrongIdentity),
        (Some(&other_domain), RefusalReason::WrongIdentity),
        (Some(&expired), RefusalReason::Expired),
        (Some(&early), RefusalReason::Expired),
        (Some(&server), RefusalReason::Untrusted),
    ] {
        let before = refused(reason);
        send_until_closed(address, pem.map(String::as_str), &[hello()]).await;
        until(reason.as_str(), || refused(reason) == before + 1).await;
    }

    let mut plain = Plain::connect(address).unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nhost: mesh\r\n\r\n").unwrap();
    until("a TLS error", || refused(RefusalReason::InvalidTls) == 1).await;

    let mut names_itself =
        WireEvent { id: "x".parse().unwrap(), origin: None, seq: 1, age: 0, payload: anoms(1) };
    names_itself.origin = Some(pod("c"));
    let mut huge = BytesMut::new();
    huge.put_u32(1 << 30);
    let mut not_json = BytesMut::new();
    not_json.put_u32(4);
    not_json.put_slice(b"what");
    let newer_version =
        frame(&Message::Hello(Hello { version: PROTOCOL_VERSION + 1, instance: 1, port: None }));
    for frames in [
        vec![newer_version],
        vec![frame(&Message::Ping)],
        vec![huge.clone().freeze()],
        vec![hello(), huge.freeze()],
        vec![hello(), not_json.freeze()],
        vec![hello(), hello()],
        vec![hello(), frame(&Message::Events(vec![names_itself]))],
    ] {
        let before = refused(RefusalReason::ProtocolViolation);
        send_until_closed(address, Some(&good), &frames).await;
        until("a protocol violation", || refused(RefusalReason::ProtocolViolation) == before + 1).await;
    }
    // The link between the two nodes has stayed up.
    until("only the legitimate link", || peers[0].metrics.links() == 1).await;
    assert_eq!(peers[1].metrics.links(), 1);
}

/// Frames that announce a gibibyte, and handshakes that never finish: nothing is allocated for them, and a
/// legitimate peer can still link.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_is_bounded_and_legitimate_peers_can_link() {
    let authority = authority();
    let mut peers = two(&authority).await;
    let address = peers[0].address.unwrap();
    let good = issue(&authority, &pod("c"), SystemTime::now(), DAY);
    let before = resident_kib();
    for _ in 0..30 {
        let mut huge = BytesMut::new();
        huge.put_u32(1 << 30);
        huge.put_bytes(b'x', 60_000);
        send_until_closed(address, Some(&good), &[hello(), huge.freeze()]).await;
    }
    let half_open: Vec<Plain> = (0..60).map(|_| Plain::connect(address).unwrap()).collect();
    until("half-open connections", || peers[0].metrics.refused(RefusalReason::TooManyHandshakes) >= 30).await;
    until("handshake timeouts", || peers[0].metrics.refused(RefusalReason::HandshakeTimeout) >= 8).await;
    let grown = resident_kib() - before;
    assert!(grown < 64 * 1024, "{grown} KiB");
    drop(half_open);

    let (third, _) = start(node(credentials(&authority, &pod("d"), DAY)), None).await;
    third.addresses.send_replace(addresses(&peers));
    until("a third peer", || third.metrics.links() == 2).await;
    peers.push(third);
    assert_eq!(peers[0].metrics.links(), 2);
}

/// The stalled peer sends its greeting and then reads nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_peer_does_not_delay_injections() {
    let authority = authority();
    let peers = nodes(&authority, 3).await;
    until("a full mesh", || peers.iter().all(|peer| peer.metrics.links() == 2)).await;
    let entries = Entries::default();
    let _collector = operator(&authority, &entries, addresses(&peers)).await;
    let good = issue(&authority, &pod("stalled"), SystemTime::now(), DAY);
    let mut stalled = vec![];
    for peer in &peers {
        let mut raw = connect(peer.address.unwrap(), Some(&good)).await.unwrap();
        raw.send(hello()).await.unwrap();
        stalled.push(raw);
    }
    until("links to the stalled peer", || peers.iter().all(|peer| peer.metrics.links() >= 3)).await;
    let entry_nodes: Vec<Mesh> = peers.iter().map(|peer| peer.mesh.clone()).collect();
    let mut tasks = vec![];
    for part in 0..8_usize {
        let mut entry_nodes = entry_nodes.clone();
        entry_nodes.rotate_left(part % 3);
        tasks.push(tokio::spawn(async move {
            let mut acknowledged = vec![];
            for number in 0..50 {
                let id = format!("injection-{part}-{number}-{}", "x".repeat(40));
                acknowledged.push((id.clone(), inject(&entry_nodes, &id, anoms(1)).await));
            }
            acknowledged
        }));
    }
    let mut acknowledged = std::collections::BTreeMap::new();
    for task in tasks {
        acknowledged.extend(task.await.unwrap());
    }
    assert_exactly_once(&entries, &acknowledged);
    drop(stalled);
}

/// A peer that has dialled and stated its port is dialled only once its link is down.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_with_an_inbound_link_is_not_dialled() {
    let authority = authority();
    let (peer, _) = start(node(credentials(&authority, &pod("a"), DAY)), None).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let pem = issue(&authority, &pod("b"), SystemTime::now(), DAY);
    let mut raw = connect(peer.address.unwrap(), Some(&pem)).await.unwrap();
    let hello = Hello { version: PROTOCOL_VERSION, instance: 1, port: Some(address.port()) };
    raw.send(frame(&Message::Hello(hello))).await.unwrap();
    until("a link", || peer.metrics.links() == 1).await;
    peer.addresses.send_replace(vec![address]);
    assert!(tokio::time::timeout(Duration::from_millis(500), listener.accept()).await.is_err());
    drop(raw);
    tokio::time::timeout(crate::support::PATIENCE, listener.accept()).await.unwrap().unwrap();
}
