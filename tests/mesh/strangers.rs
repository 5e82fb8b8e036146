//! Who has no business in a mesh: refused, counted, and nobody is the worse for it.

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
    DAY, Entries, Peer, Wanted, addresses, anoms, assert_exactly_once, authority, credentials, inject,
    introduce, issue, node, nodes, operator, pod, start, until,
};

/// Takes whatever the other side shows.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
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

type Raw = Framed<TlsStream<tokio::net::TcpStream>, BytesCodec>;

/// A connection of somebody who shows this certificate, or none, and says raw bytes.
async fn connect(address: SocketAddr, pem: Option<&str>) -> std::io::Result<Raw> {
    let config = ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody));
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

fn frame(message: &Message) -> Bytes {
    let body = message.encode();
    let mut frame = BytesMut::new();
    frame.put_u32(u32::try_from(body.len()).unwrap());
    frame.put(body);
    frame.freeze()
}

fn hello() -> Bytes {
    frame(&Message::Hello(Hello { version: PROTOCOL_VERSION, instance: fastrand::u64(..), port: None }))
}

/// Says this after the greeting, and reads until the other side ends it.
async fn say_and_be_ended(address: SocketAddr, pem: Option<&str>, words: &[Bytes]) {
    let Ok(mut raw) = connect(address, pem).await else { return };
    for word in words {
        if raw.send(word.clone()).await.is_err() {
            return;
        }
    }
    let end = async { while let Some(Ok(_)) = raw.next().await {} };
    tokio::time::timeout(crate::support::PATIENCE, end).await.expect("was not ended");
}

fn resident_kib() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Two nodes of which one is patient for half a second only.
async fn two(authority: &venom::mesh::Authority) -> Vec<Peer> {
    let limits = LinkLimits {
        handshake_timeout: Duration::from_millis(1_500),
        half_open: 16,
        half_open_per_source: 8,
        ..LinkLimits::default()
    };
    let first = Wanted { limits, ..node(credentials(authority, &pod("a"), DAY)) };
    let second = node(credentials(authority, &pod("b"), DAY));
    let peers = vec![start(first, None).await.0, start(second, None).await.0];
    introduce(&peers);
    until("a link", || peers.iter().all(|peer| peer.metrics.links() == 1)).await;
    peers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_refused_and_counted() {
    let ours = authority();
    let peers = two(&ours).await;
    let address = peers[0].address.unwrap();
    let refused = |reason| peers[0].metrics.refused(reason);
    let now = SystemTime::now();
    let good = issue(&ours, &pod("c"), now, DAY);

    let other_authority = issue(&authority(), &pod("c"), now, DAY);
    let other_organism = issue(&ours, &Identity::pod("venom", "other", "c").unwrap(), now, DAY);
    let other_domain = issue(&ours, &Identity::pod("elsewhere", "uid", "c").unwrap(), now, DAY);
    let expired = issue(&ours, &pod("c"), now - DAY * 2, DAY);
    let early = issue(&ours, &pod("c"), now + DAY, DAY);
    let (certificate, key) = ours.server_certificate(&["localhost"], now, DAY).unwrap();
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
        say_and_be_ended(address, pem.map(String::as_str), &[hello()]).await;
        until(reason.as_str(), || refused(reason) == before + 1).await;
    }

    let mut plain = Plain::connect(address).unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nhost: mesh\r\n\r\n").unwrap();
    until("garbage", || refused(RefusalReason::InvalidTls) == 1).await;

    let mut names_itself =
        WireEvent { id: "x".parse().unwrap(), origin: None, seq: 1, age: 0, payload: anoms(1) };
    names_itself.origin = Some(pod("c"));
    let mut huge = BytesMut::new();
    huge.put_u32(1 << 30);
    let mut nonsense = BytesMut::new();
    nonsense.put_u32(4);
    nonsense.put_slice(b"what");
    let newer = frame(&Message::Hello(Hello { version: PROTOCOL_VERSION + 1, instance: 1, port: None }));
    for words in [
        vec![newer],
        vec![frame(&Message::Ping)],
        vec![huge.clone().freeze()],
        vec![hello(), huge.freeze()],
        vec![hello(), nonsense.freeze()],
        vec![hello(), hello()],
        vec![hello(), frame(&Message::Events(vec![names_itself]))],
    ] {
        let before = refused(RefusalReason::ProtocolViolation);
        say_and_be_ended(address, Some(&good), &words).await;
        until("protocol", || refused(RefusalReason::ProtocolViolation) == before + 1).await;
    }
    // All the while the two are linked.
    until("strangers gone", || peers[0].metrics.links() == 1).await;
    assert_eq!(peers[1].metrics.links(), 1);
}

/// A gibibyte announced again and again, and handshakes that never end: nothing is allocated for them, and an
/// honest peer still gets in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_is_bounded_and_honest_peers_get_in() {
    let ours = authority();
    let mut peers = two(&ours).await;
    let address = peers[0].address.unwrap();
    let good = issue(&ours, &pod("c"), SystemTime::now(), DAY);
    let before = resident_kib();
    for _ in 0..30 {
        let mut huge = BytesMut::new();
        huge.put_u32(1 << 30);
        huge.put_bytes(b'x', 60_000);
        say_and_be_ended(address, Some(&good), &[hello(), huge.freeze()]).await;
    }
    let half: Vec<Plain> = (0..60).map(|_| Plain::connect(address).unwrap()).collect();
    until("half open", || peers[0].metrics.refused(RefusalReason::TooManyHandshakes) >= 30).await;
    until("timeout", || peers[0].metrics.refused(RefusalReason::HandshakeTimeout) >= 8).await;
    let grown = resident_kib() - before;
    assert!(grown < 64 * 1024, "{grown} KiB");
    drop(half);

    let (third, _) = start(node(credentials(&ours, &pod("d"), DAY)), None).await;
    third.addresses.send_replace(addresses(&peers));
    until("a third", || third.metrics.links() == 2).await;
    peers.push(third);
    assert_eq!(peers[0].metrics.links(), 2);
}

/// A peer that greets and then reads nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_peer_is_harmless() {
    let ours = authority();
    let peers = nodes(&ours, 3).await;
    until("a full mesh", || peers.iter().all(|peer| peer.metrics.links() == 2)).await;
    let entries = Entries::default();
    let _collector = operator(&ours, &entries, addresses(&peers)).await;
    let good = issue(&ours, &pod("stalled"), SystemTime::now(), DAY);
    let mut stalled = vec![];
    for peer in &peers {
        let mut raw = connect(peer.address.unwrap(), Some(&good)).await.unwrap();
        raw.send(hello()).await.unwrap();
        stalled.push(raw);
    }
    until("stalled peers", || peers.iter().all(|peer| peer.metrics.links() >= 3)).await;
    let doors: Vec<Mesh> = peers.iter().map(|peer| peer.mesh.clone()).collect();
    let mut tasks = vec![];
    for part in 0..8_usize {
        let mut doors = doors.clone();
        doors.rotate_left(part % 3);
        tasks.push(tokio::spawn(async move {
            let mut told = vec![];
            for number in 0..50 {
                let id = format!("injection-{part}-{number}-{}", "x".repeat(40));
                told.push((id.clone(), inject(&doors, &id, anoms(1)).await));
            }
            told
        }));
    }
    let mut told = std::collections::BTreeMap::new();
    for task in tasks {
        told.extend(task.await.unwrap());
    }
    assert_exactly_once(&entries, &told);
    drop(stalled);
}

/// Who has dialled, and said where it would be dialled, is dialled only once that link is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_dialled_is_not_dialled() {
    let ours = authority();
    let (peer, _) = start(node(credentials(&ours, &pod("a"), DAY)), None).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let pem = issue(&ours, &pod("b"), SystemTime::now(), DAY);
    let mut raw = connect(peer.address.unwrap(), Some(&pem)).await.unwrap();
    let hello = Hello { version: PROTOCOL_VERSION, instance: 1, port: Some(address.port()) };
    raw.send(frame(&Message::Hello(hello))).await.unwrap();
    until("a link", || peer.metrics.links() == 1).await;
    peer.addresses.send_replace(vec![address]);
    assert!(tokio::time::timeout(Duration::from_millis(500), listener.accept()).await.is_err());
    drop(raw);
    tokio::time::timeout(crate::support::PATIENCE, listener.accept()).await.unwrap().unwrap();
}
