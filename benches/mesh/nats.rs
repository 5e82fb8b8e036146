//! The broker: a `nats-server` process, over mutual TLS, in its own text protocol.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Buf, Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::codec::{Decoder, Encoder, Framed};
use venom::mesh::identity::{Authority, CERTIFICATE_LIFETIME};

use super::fanout::{Fanout, Figures, MANY, RECEIVERS, sent};
use super::{Fallible, issue, print_process};

fn program() -> String {
    std::env::var("NATS_SERVER").unwrap_or_else(|_| "nats-server".into())
}

/// The broker's name and version, or why it cannot run.
pub fn version() -> Fallible<String> {
    let output = Command::new(program()).arg("--version").output();
    let output = output.map_err(|error| format!("{}: {error}", program()))?;
    Ok(String::from_utf8(output.stdout)?.trim().replace(": v", " "))
}

/// Decodes a message's payload, or any other line of the protocol; encodes raw bytes. PING is not answered, for
/// which the broker allows minutes.
struct Protocol;

impl Decoder for Protocol {
    type Item = BytesMut;
    type Error = std::io::Error;

    fn decode(&mut self, from: &mut BytesMut) -> std::io::Result<Option<BytesMut>> {
        let Some(end) = from.iter().position(|it| *it == b'\n') else { return Ok(None) };
        let line = &from[..=end];
        if !line.starts_with(b"MSG ") {
            return Ok(Some(from.split_to(end + 1)));
        }
        let size = std::str::from_utf8(line).ok().and_then(|it| it.split_whitespace().last()?.parse().ok());
        let size: usize = size.ok_or(std::io::ErrorKind::InvalidData)?;
        if from.len() < end + 1 + size + 2 {
            return Ok(None);
        }
        from.advance(end + 1);
        let payload = from.split_to(size);
        from.advance(2);
        Ok(Some(payload))
    }
}

impl Encoder<Bytes> for Protocol {
    type Error = std::io::Error;

    fn encode(&mut self, bytes: Bytes, to: &mut BytesMut) -> std::io::Result<()> {
        to.extend_from_slice(&bytes);
        Ok(())
    }
}

type Connection = Framed<TlsStream<TcpStream>, Protocol>;

/// A broker process that is killed when dropped.
struct Broker {
    child: Child,
    address: SocketAddr,
    _folder: TempDir,
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Broker {
    async fn start(authority: &Authority) -> Fallible<Self> {
        let folder = tempfile::tempdir()?;
        let (certificate, key) =
            authority.server_certificate(&["localhost"], SystemTime::now(), CERTIFICATE_LIFETIME)?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut server = Command::new(program());
        server.args(["-a", "127.0.0.1", "-p", &port.to_string(), "--tls", "--tlsverify"]);
        for (flag, name, text) in [
            ("--tlscert", "cert.pem", certificate.as_str()),
            ("--tlskey", "key.pem", &key),
            ("--tlscacert", "ca.pem", authority.ca_pem()),
        ] {
            std::fs::write(folder.path().join(name), text)?;
            server.arg(flag).arg(folder.path().join(name));
        }
        let child = server.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let broker = Self { child, address: ([127, 0, 0, 1], port).into(), _folder: folder };
        for _ in 0..100 {
            if TcpStream::connect(broker.address).await.is_ok() {
                return Ok(broker);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err("the broker does not accept connections".into())
    }
}

/// TLS configuration for the broker, whose certificate names a host: the mesh's own configuration would reject it.
fn client(authority: &Authority, at: usize) -> Fallible<Arc<ClientConfig>> {
    let (certificate, key) = issue(authority, at)?;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.ca_pem().as_bytes())?)?;
    let config = ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![CertificateDer::from_pem_slice(certificate.as_bytes())?],
            PrivateKeyDer::from_pem_slice(key.as_bytes())?,
        )?;
    Ok(config.into())
}

async fn connect(
    client: Arc<ClientConfig>,
    address: SocketAddr,
    first: &'static str,
) -> Fallible<Connection> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    // The broker sends INFO in plain text, then expects TLS.
    let mut greeting = Framed::new(stream, Protocol);
    until(&mut greeting, b"INFO").await?;
    let stream = TlsConnector::from(client).connect("localhost".try_into()?, greeting.into_inner()).await?;
    let mut wire = Framed::new(stream, Protocol);
    wire.send(Bytes::from_static(b"CONNECT {\"verbose\":false,\"tls_required\":true}\r\n")).await?;
    wire.send(Bytes::from_static(first.as_bytes())).await?;
    wire.send(Bytes::from_static(b"PING\r\n")).await?;
    until(&mut wire, b"PONG").await?;
    Ok(wire)
}

/// Waits for a line that starts with `line`.
async fn until<T>(wire: &mut Framed<T, Protocol>, line: &[u8]) -> Fallible<()>
where
    Framed<T, Protocol>: futures::Stream<Item = std::io::Result<BytesMut>> + Unpin,
{
    loop {
        let next = wire.next().await.ok_or("the broker closed the connection")??;
        if next.starts_with(line) {
            return Ok(());
        }
        if next.starts_with(b"-ERR") {
            return Err(String::from_utf8_lossy(&next).into());
        }
    }
}

/// The same fan-out through the broker.
pub async fn fan_out(authority: &Authority) -> Fallible<Figures> {
    let broker = Broker::start(authority).await?;
    let address = broker.address;
    let mut fanout = Fanout::new(MANY);
    for at in 0..RECEIVERS {
        let client = client(authority, at + 1)?;
        fanout.receive(async move || connect(client, address, "SUB s 1\r\n").await, sent);
    }
    let mut wire = connect(client(authority, 0)?, address, "").await?;
    let figures = fanout.publish(async |message, times| {
        let line = [format!("PUB s {}\r\n", message.len()).as_bytes(), &message, b"\r\n"].concat();
        Ok(wire.send(line.repeat(times).into()).await?)
    });
    figures.await
}

/// Measures an idle broker with ten clients.
pub async fn at_rest(authority: &Authority, version: &str) -> Fallible<()> {
    let broker = Broker::start(authority).await?;
    let mut clients = vec![];
    for at in 0..=RECEIVERS {
        clients.push(connect(client(authority, at)?, broker.address, "SUB s 1\r\n").await?);
    }
    print_process(version, broker.child.id())
}
