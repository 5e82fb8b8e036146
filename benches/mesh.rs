//! The mesh: its transport beside a broker's, the pace of its queue, 100 nodes at once, a node at rest.
//!
//! `cargo bench --bench mesh`. A broker is measured where `nats-server` is on the PATH, or named by
//! NATS_SERVER: the same fan-out, over mutual TLS too. Not asserted: figures to compare.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use rustls::pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use tokio_util::codec::{BytesCodec, Framed};
use venom::mesh::gossip::PeerId;
use venom::mesh::identity::{Authority, LIFE, new_key};
use venom::mesh::queue::{Delivery, Next, Outbox, Outboxes, To};
use venom::mesh::wire::codec;
use venom::mesh::{Bounds, Credentials, Identity, Injectable, Mesh, Metrics, Options, Reach};

const RECEIVERS: usize = 9;
const BYTES: usize = 128;
/// Messages of the latency run, one a millisecond.
const SINGLE: usize = 3_000;
/// Messages of the throughput run.
const MANY: usize = 100_000;

type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> Fallible<()> {
    if std::env::args().any(|arg| arg == "--test") {
        return Ok(());
    }
    let runtime = tokio::runtime::Runtime::new()?;
    let authority = Authority::new("venom", SystemTime::now())?;
    println!("1 publisher, {RECEIVERS} receivers, {BYTES} B, mutual TLS 1.3, two runs each");
    for _ in 0..2 {
        runtime.block_on(ours(&authority))?.print("mesh (queue without delay, frames)");
        match runtime.block_on(nats(&authority)) {
            Ok(figures) => figures.print("nats-server (mTLS)"),
            Err(why) => println!("  nats-server: not measured: {why}"),
        }
    }
    println!("pace of the queue");
    pace(&runtime, "≤ 100 wait", 90, 20);
    pace(&runtime, "> 100 wait", 6_000, 1);
    for count in [10, 100] {
        runtime.block_on(full_mesh(&authority, count))?;
    }
    at_rest()
}

fn credentials(authority: &Authority, identity: &Identity) -> Fallible<Credentials> {
    let (key, request) = new_key()?;
    let certificate = authority.sign(&request, identity, SystemTime::now(), LIFE)?;
    Ok(Credentials::from_pem(authority.ca_pem(), &certificate, &key, Some("uid"))?)
}

fn pod(at: usize) -> Fallible<Identity> {
    Ok(Identity::pod("venom", "uid", &format!("pod-{at}"))?)
}

struct Figures {
    micros: Vec<u64>,
    deliveries_a_second: f64,
}

impl Figures {
    fn print(mut self, name: &str) {
        self.micros.sort_unstable();
        let quantile = |part: f64| self.micros[((self.micros.len() - 1) as f64 * part) as usize];
        println!(
            "  {name}: p50 {} µs, p99 {} µs; {:.2} M deliveries/s",
            quantile(0.5),
            quantile(0.99),
            self.deliveries_a_second / 1e6
        );
    }
}

/// A payload that carries when it was sent.
fn payload(started: Instant) -> Bytes {
    let mut payload = BytesMut::with_capacity(BYTES);
    payload.put_u64(started.elapsed().as_nanos() as u64);
    payload.resize(BYTES, b'.');
    payload.freeze()
}

fn micros(started: Instant, mut payload: &[u8]) -> u64 {
    (started.elapsed().as_nanos() as u64).saturating_sub(payload.get_u64()) / 1000
}

/// The queue, outboxes, TLS and frames of the mesh, as its links use them.
async fn ours(authority: &Authority) -> Fallible<Figures> {
    let started = Instant::now();
    let outboxes = Arc::new(Outboxes::default());
    let delivery = Delivery::at_once(outboxes.clone());
    let publisher = credentials(authority, &pod(0)?)?;
    let mut receivers = vec![];
    for at in 0..RECEIVERS {
        let receiver = credentials(authority, &pod(at + 1)?)?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        receivers.push(tokio::spawn(async move {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let stream = TlsAcceptor::from(receiver.server).accept(stream).await?;
            let mut frames = Framed::new(TlsStream::from(stream), codec());
            let mut single = Vec::with_capacity(SINGLE);
            for at in 0..SINGLE + MANY {
                let frame = frames.next().await.ok_or("the publisher has gone")??;
                if at < SINGLE {
                    single.push(micros(started, &frame));
                }
            }
            Fallible::Ok(single)
        }));
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::from(address.ip());
        let stream = TlsConnector::from(publisher.client.clone()).connect(name, stream).await?;
        let mut frames = Framed::new(TlsStream::from(stream), codec());
        let outbox = Arc::new(Outbox::default());
        outboxes.add(PeerId(at as u64), outbox.clone());
        tokio::spawn(async move {
            while let Next::Frames(waiting) = outbox.next().await {
                for frame in waiting {
                    frames.feed(frame).await?;
                }
                SinkExt::<Bytes>::flush(&mut frames).await?;
            }
            Fallible::Ok(())
        });
    }
    let mut beat = tokio::time::interval(Duration::from_millis(1));
    for _ in 0..SINGLE {
        beat.tick().await;
        delivery.send(To::AllBut(None), payload(started));
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let began = Instant::now();
    let frame = payload(started);
    for at in 0..MANY {
        delivery.send(To::AllBut(None), frame.clone());
        // An outbox holds a mebibyte; past it a peer is behind, which is not what is measured here.
        if at % 2_000 == 1_999 {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
    }
    collect(receivers, began, delivery.dropped()).await
}

async fn collect(
    receivers: Vec<tokio::task::JoinHandle<Fallible<Vec<u64>>>>,
    began: Instant,
    dropped: u64,
) -> Fallible<Figures> {
    if dropped > 0 {
        return Err(format!("{dropped} frames were dropped: receivers are too slow for this run").into());
    }
    let mut all = vec![];
    for receiver in receivers {
        all.extend(receiver.await??);
    }
    let deliveries = (MANY * RECEIVERS) as f64;
    Ok(Figures { micros: all, deliveries_a_second: deliveries / began.elapsed().as_secs_f64() })
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The same fan-out through a broker, in its own text protocol.
async fn nats(authority: &Authority) -> Fallible<Figures> {
    let program = std::env::var("NATS_SERVER").unwrap_or_else(|_| "nats-server".into());
    let folder = tempfile::tempdir()?;
    let (certificate, key) = authority.server(&["localhost"], SystemTime::now(), LIFE)?;
    for (name, text) in [("ca.pem", authority.ca_pem()), ("cert.pem", &certificate), ("key.pem", &key)] {
        std::fs::write(folder.path().join(name), text)?;
    }
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let mut server = Command::new(program);
    server.args(["-a", "127.0.0.1", "-p", &port.to_string(), "--tls", "--tlsverify"]);
    for (flag, name) in [("--tlscert", "cert.pem"), ("--tlskey", "key.pem"), ("--tlscacert", "ca.pem")] {
        server.arg(flag).arg(folder.path().join(name));
    }
    let server = server.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let _server = Killed(server);
    let address: SocketAddr = ([127, 0, 0, 1], port).into();
    for _ in 0..100 {
        if TcpStream::connect(address).await.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    let started = Instant::now();
    let mut receivers = vec![];
    for at in 0..RECEIVERS {
        let mut wire = nats_connect(authority, at + 1, address).await?;
        wire.send(Bytes::from_static(b"SUB s 1\r\nPING\r\n")).await?;
        until_pong(&mut wire).await?;
        receivers.push(tokio::spawn(async move {
            let head = b"MSG s 1 128\r\n".len();
            let (mut single, mut buffer, mut got) = (Vec::with_capacity(SINGLE), BytesMut::new(), 0);
            while got < SINGLE + MANY {
                if buffer.starts_with(b"PING") {
                    buffer.advance(6.min(buffer.len()));
                    wire.send(Bytes::from_static(b"PONG\r\n")).await?;
                }
                while buffer.len() >= head + BYTES + 2 && buffer.starts_with(b"MSG") {
                    if got < SINGLE {
                        single.push(micros(started, &buffer[head..]));
                    }
                    got += 1;
                    buffer.advance(head + BYTES + 2);
                }
                if got < SINGLE + MANY {
                    let more = wire.next().await.ok_or("the broker has gone")??;
                    buffer.extend_from_slice(&more);
                }
            }
            Fallible::Ok(single)
        }));
    }
    let mut wire = nats_connect(authority, 0, address).await?;
    let publish = |payload: &[u8]| {
        let mut line = BytesMut::from(&b"PUB s 128\r\n"[..]);
        line.put_slice(payload);
        line.put_slice(b"\r\n");
        line
    };
    let mut beat = tokio::time::interval(Duration::from_millis(1));
    for _ in 0..SINGLE {
        beat.tick().await;
        wire.send(publish(&payload(started)).freeze()).await?;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let began = Instant::now();
    let line = publish(&payload(started));
    for _ in 0..MANY / 100 {
        wire.send(Bytes::from(line.repeat(100))).await?;
    }
    collect(receivers, began, 0).await
}

type Wire = Framed<tokio_rustls::client::TlsStream<TcpStream>, BytesCodec>;

async fn nats_connect(authority: &Authority, at: usize, address: SocketAddr) -> Fallible<Wire> {
    // A broker's certificate names a host, and ours would not take it: this one does.
    let (key, request) = new_key()?;
    let certificate = authority.sign(&request, &pod(at)?, SystemTime::now(), LIFE)?;
    let mut roots = rustls::RootCertStore::empty();
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    roots.add(CertificateDer::from_pem_slice(authority.ca_pem().as_bytes())?)?;
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes())?];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())?;
    let provider = rustls::crypto::ring::default_provider();
    let config = rustls::ClientConfig::builder_with_provider(provider.into())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?;

    // The broker greets in the clear, then both speak TLS.
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut greeting = vec![];
    while !greeting.ends_with(b"\r\n") {
        stream.readable().await?;
        let mut byte = [0];
        match stream.try_read(&mut byte) {
            Ok(0) => return Err("the broker has gone".into()),
            Ok(_) => greeting.push(byte[0]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
    let name = ServerName::try_from("localhost")?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let mut wire = Framed::new(stream, BytesCodec::new());
    wire.send(Bytes::from_static(b"CONNECT {\"verbose\":false,\"tls_required\":true}\r\nPING\r\n")).await?;
    until_pong(&mut wire).await?;
    Ok(wire)
}

async fn until_pong(wire: &mut Wire) -> Fallible<()> {
    let mut seen = BytesMut::new();
    while !seen.ends_with(b"PONG\r\n") {
        seen.extend_from_slice(&wire.next().await.ok_or("the broker has gone")??);
    }
    Ok(())
}

/// Puts `burst` into the queue, waits until it is empty, and again; the mean time between deliveries.
fn pace(runtime: &tokio::runtime::Runtime, name: &str, burst: usize, times: usize) {
    let (mut all, mut crowded, mut calm) = (vec![], vec![], vec![]);
    for _ in 0..times {
        let outboxes = Arc::new(Outboxes::default());
        let outbox = Arc::new(Outbox::default());
        outboxes.add(PeerId(0), outbox.clone());
        let Ok(delivery) = Delivery::paced(outboxes) else { return };
        for _ in 0..burst {
            delivery.send(To::AllBut(None), Bytes::from_static(b"."));
        }
        let mut arrived: Vec<Instant> = vec![];
        runtime.block_on(async {
            while arrived.len() < burst {
                if let Next::Frames(frames) = outbox.next().await {
                    arrived.extend(frames.iter().map(|_| Instant::now()));
                }
            }
        });
        let gaps = arrived.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64() * 1e3);
        for (at, gap) in gaps.enumerate() {
            all.push(gap);
            if burst - at > 102 { crowded.push(gap) } else { calm.push(gap) }
        }
    }
    let mean = |gaps: &[f64]| gaps.iter().sum::<f64>() / gaps.len().max(1) as f64;
    println!(
        "  {name}: mean {:.3} ms where > 100 wait (0.3 is asked), {:.3} ms else (1 is asked), {} deliveries",
        mean(&crowded),
        mean(&calm),
        all.len()
    );
}

async fn full_mesh(authority: &Authority, count: usize) -> Fallible<()> {
    let (mut meshes, mut metrics, mut found, mut kept) = (vec![], vec![], vec![], vec![]);
    let mut ready = vec![];
    for at in 0..count {
        ready.push((credentials(authority, &pod(at)?)?, TcpListener::bind("127.0.0.1:0").await?));
    }
    let began = Instant::now();
    for (credentials, listener) in ready {
        let (current, credentials) = watch::channel(credentials);
        let (sender, addresses) = watch::channel(vec![]);
        let counted = Arc::new(Metrics::new()?);
        let mesh = Mesh::join(Options {
            credentials,
            addresses,
            reach: Reach::All,
            listener: Some(listener),
            injectable: Injectable::default(),
            metrics: counted.clone(),
            bounds: Bounds { half_open: 1_000, half_open_a_source: 1_000, ..Bounds::default() },
            paced: true,
        })?;
        meshes.push(mesh);
        metrics.push(counted);
        found.push(sender);
        kept.push(current);
    }
    let all: Vec<SocketAddr> = meshes.iter().filter_map(Mesh::listening).collect();
    for sender in &found {
        sender.send_replace(all.clone());
    }
    let full = count as i64 - 1;
    while !metrics.iter().all(|it| it.links() >= full) {
        if began.elapsed() > Duration::from_secs(60) {
            let links: i64 = metrics.iter().map(|it| it.links()).sum();
            println!("{count} nodes, full mesh: not complete after 60 s, {links} ends are up");
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!("{count} nodes, full mesh of {} links: {:.2?}", count * (count - 1) / 2, began.elapsed());
    for mesh in &meshes {
        mesh.stop().await;
    }
    Ok(())
}

/// Five processes that are linked and have nothing to do.
fn at_rest() -> Fallible<()> {
    let folder = tempfile::tempdir()?;
    let mesh = folder.path().join("mesh");
    venom::node::folder::init(&mesh, 5, LIFE)?;
    let ports: Vec<u16> = (0..5)
        .map(|_| Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port()))
        .collect::<Fallible<_>>()?;
    let peers = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",");
    let mut nodes = vec![];
    for (at, port) in ports.iter().enumerate() {
        let node = Command::new(env!("CARGO_BIN_EXE_venom"))
            .arg("node")
            .arg("--identity")
            .arg(mesh.join(format!("node-{}", at + 1)))
            .args(["--mesh-port", &port.to_string(), "--http-port", "0", "--inject-port", "0"])
            .args(["--peers", &peers])
            .stderr(Stdio::null())
            .spawn()?;
        nodes.push(Killed(node));
    }
    std::thread::sleep(Duration::from_secs(10));
    let id = nodes[0].0.id();
    let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let field =
        |name: &str| status.lines().find_map(|it| it.strip_prefix(name)).unwrap_or("?").trim().to_owned();
    let cpu = || -> Fallible<u64> {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
        Ok(stat.split_whitespace().skip(13).take(2).filter_map(|it| it.parse::<u64>().ok()).sum())
    };
    let before = cpu()?;
    std::thread::sleep(Duration::from_secs(10));
    println!(
        "a node at rest, linked to 4: {} resident, {} threads, {} ms of CPU in 10 s",
        field("VmRSS:"),
        field("Threads:"),
        (cpu()? - before) * 10
    );
    Ok(())
}
