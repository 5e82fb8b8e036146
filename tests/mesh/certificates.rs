//! Who gets which certificate.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair, SanType};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;
use venom::mesh::certificate_request::{CertificateRequest, CertificateResponse};
use venom::mesh::identity::{Authority, IdentityError, generate_key_and_csr};
use venom::mesh::{Credentials, Identity, Injectable};
use venom::node::source::{Issuer, Source};
use venom::node::{Node, Options, folder};

use crate::support::{DAY, PATIENCE, authority, credentials, pod};

/// The signer says who that is; what the request says of itself is not looked at.
#[test]
fn names_of_a_request_count_for_nothing() {
    let authority = authority();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    let wanted = "spiffe://venom/operator".try_into().unwrap();
    params.subject_alt_names = vec![SanType::URI(wanted)];
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let request = params.serialize_request(&key).unwrap().pem().unwrap();
    let signed = authority.sign(&request, &pod("a"), SystemTime::now(), DAY).unwrap();
    let credentials = Credentials::from_pem(authority.ca_pem(), &signed, &key.serialize_pem(), None).unwrap();
    assert_eq!(credentials.identity, pod("a"));
    let der = CertificateDer::from_pem_slice(signed.as_bytes()).unwrap();
    let (_, read) = x509_parser::parse_x509_certificate(&der).unwrap();
    assert!(!read.is_ca());
}

/// A request that was not signed with its own key proves nothing.
#[test]
fn a_request_has_to_be_signed_with_its_key() {
    let (_, request) = generate_key_and_csr().unwrap();
    let lines: Vec<&str> = request.lines().collect();
    let mut text = lines[1..lines.len() - 1].concat();
    // A byte of the signature, which comes last.
    let at = text.len() - 8;
    let other = if &text[at..=at] == "A" { "B" } else { "A" };
    text.replace_range(at..=at, other);
    let forged = format!("{}\n{text}\n{}\n", lines[0], lines[lines.len() - 1]);
    for request in [forged.as_str(), "", "no request"] {
        assert!(authority().sign(request, &pod("a"), SystemTime::now(), DAY).is_err());
    }
}

#[test]
fn an_authority_outlives_its_process() {
    let first = authority();
    let second = Authority::from_pem(first.ca_pem(), &first.key_pem()).unwrap();
    let (key, request) = generate_key_and_csr().unwrap();
    let now = SystemTime::now();
    let signed = second.sign(&request, &pod("a"), now, DAY).unwrap();
    let credentials = Credentials::from_pem(first.ca_pem(), &signed, &key, None).unwrap();
    let left = credentials.not_after.duration_since(now).unwrap();
    assert!(left <= DAY && left > DAY - Duration::from_secs(2));
    let third = credentials.renew_at().duration_since(now).unwrap();
    assert!(third > DAY / 4 && third < DAY / 2, "renewed after about 8 h: {third:?}");
}

/// The operator has to say which organism's mesh it joins; a certificate without a name is nobody's.
#[test]
fn credentials_are_somebodys() {
    let authority = authority();
    let now = SystemTime::now();
    let operator = Identity::operator("venom").unwrap();
    assert_eq!(credentials(&authority, &operator, DAY).organism, "uid");
    let pem = crate::support::issue(&authority, &operator, now, DAY);
    let told = Credentials::from_pem(authority.ca_pem(), &pem, &pem, None);
    assert!(matches!(told, Err(IdentityError::OrganismRequired)));
    let (certificate, key) = authority.server_certificate(&["localhost"], now, DAY).unwrap();
    let told = Credentials::from_pem(authority.ca_pem(), &certificate, &key, None);
    assert!(matches!(told, Err(IdentityError::NoMeshIdentity)));
    // The key of another one.
    let (key, _) = generate_key_and_csr().unwrap();
    assert!(Credentials::from_pem(authority.ca_pem(), &pem, &key, Some("uid")).is_err());
}

#[tokio::test]
async fn a_folder_is_made_and_renewed() {
    let place = TempDir::new().unwrap();
    let mesh = place.path().join("mesh");
    folder::init(&mesh, 2, DAY).unwrap();
    let obtain = async |name: &str| Source::Folder(mesh.join(name)).obtain().await;
    let first = obtain("node-2").await.unwrap();
    assert_eq!(first.identity.to_string(), "spiffe://venom/org/local/pod/node-2");
    assert!(obtain("operator").await.unwrap().identity.is_operator());
    let told = obtain("node-3").await.unwrap_err().to_string();
    assert!(told.contains("node-3"), "{told}");
    let ca = std::fs::read(mesh.join("ca.pem")).unwrap();
    folder::init(&mesh, 3, DAY * 2).unwrap();
    assert_eq!(std::fs::read(mesh.join("ca.pem")).unwrap(), ca, "the authority stays");
    assert!(obtain("node-2").await.unwrap().not_after > first.not_after);
    assert!(obtain("node-3").await.is_ok());
    use std::os::unix::fs::PermissionsExt;
    for secret in ["ca.key", "node-1/identity.pem"] {
        let mode = std::fs::metadata(mesh.join(secret)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{secret}");
    }
}

/// Status code and body of a GET, once somebody listens.
fn get(port: u16, path: &str) -> (u16, String) {
    use std::io::{Read, Write};
    let end = std::time::Instant::now() + PATIENCE;
    let mut stream = loop {
        match std::net::TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => break stream,
            Err(error) => assert!(std::time::Instant::now() < end, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    write!(stream, "GET {path} HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// A pod may be there before the authority's certificate is, and before anybody issues: it says so, and waits. A
/// folder that is wrong stays wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_waits_for_its_issuer() {
    let ours = Arc::new(authority());
    let address = issuer(ours.clone()).await;
    let place = TempDir::new().unwrap();
    let (token, ca) = (place.path().join("token"), place.path().join("ca.pem"));
    std::fs::write(&token, "secret").unwrap();
    let url = format!("https://localhost:{}/v1/certificates", address.port()).parse().unwrap();
    let http = std::net::TcpListener::bind("[::]:0").unwrap().local_addr().unwrap().port();
    let options = |source| Options {
        peers: vec![],
        mesh_port: 0,
        http_port: Some(http),
        inject_port: 0,
        source,
        injectable: Injectable::default(),
    };
    let source = Source::Issuer(Issuer { url, token, ca: ca.clone() });
    let starting = tokio::spawn(Node::start(options(source.clone()), None));
    assert_eq!(get(http, "/healthz").0, 200);
    let ready = async |what: &str| {
        let end = std::time::Instant::now() + PATIENCE;
        loop {
            let (status, told) = get(http, "/readyz");
            if told.contains(what) {
                return status;
            }
            assert!(std::time::Instant::now() < end, "{what}: {told}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert_eq!(ready("no certificate yet").await, 503);
    assert_eq!(ready("ca.pem: No such file").await, 503);
    // Another's authority first: the issuer is not known by it.
    std::fs::write(&ca, authority().ca_pem()).unwrap();
    assert_eq!(ready("invalid peer certificate").await, 503);
    assert!(!starting.is_finished());
    std::fs::write(&ca, ours.ca_pem()).unwrap();
    let (node, _) = starting.await.unwrap().unwrap();
    assert_eq!(ready("ok").await, 200);
    node.stop().await;

    // Given up while it waits, it leaves nothing open.
    std::fs::remove_file(&ca).unwrap();
    let waiting = tokio::time::timeout(Duration::from_millis(200), Node::start(options(source), None)).await;
    assert!(waiting.is_err());
    let end = std::time::Instant::now() + PATIENCE;
    while let Err(error) = std::net::TcpListener::bind(("::", http)) {
        assert!(std::time::Instant::now() < end, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let told = Node::start(options(Source::Folder(place.path().join("none"))), None).await.unwrap_err();
    assert!(told.to_string().contains("none/ca.pem"), "{told}");
}

/// An issuer, much as the operator is one: the token decides who that is.
async fn issuer(authority: Arc<Authority>) -> std::net::SocketAddr {
    let (certificate, key) = authority.server_certificate(&["localhost"], SystemTime::now(), DAY).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
        )
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let authority = authority.clone();
            let sign = service_fn(move |request: Request<hyper::body::Incoming>| {
                let authority = authority.clone();
                async move {
                    let token = request.headers()["authorization"].to_str().unwrap().to_owned();
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    let ask: CertificateRequest = serde_json::from_slice(&body).unwrap();
                    let answer = if token == "Bearer secret" {
                        let certificate =
                            authority.sign(&ask.csr, &pod("a"), SystemTime::now(), DAY).unwrap();
                        Response::new(Full::from(
                            serde_json::to_vec(&CertificateResponse { certificate }).unwrap(),
                        ))
                    } else {
                        Response::builder().status(403).body(Full::from("no such token")).unwrap()
                    };
                    Ok::<Response<Full<Bytes>>, Infallible>(answer)
                }
            });
            let served = hyper::server::conn::http1::Builder::new();
            let _ = served.serve_connection(TokioIo::new(stream), sign).await;
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_issuer_is_asked_with_a_token() {
    let ours = Arc::new(authority());
    let address = issuer(ours.clone()).await;
    let place = TempDir::new().unwrap();
    let file = |name: &str, text: &str| {
        let path = place.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let source = |token: &str, ca: &str| {
        Source::Issuer(Issuer {
            url: format!("https://localhost:{}/v1/certificates", address.port()).parse().unwrap(),
            token: file(&format!("token-{token}"), &format!("{token}\n")),
            ca: file(&format!("ca-{}", ca.len()), ca),
        })
    };
    let obtained = source("secret", ours.ca_pem()).obtain().await.unwrap();
    assert_eq!(obtained.identity, pod("a"));
    let told = source("wrong", ours.ca_pem()).obtain().await.unwrap_err().to_string();
    assert!(told.contains("answered 403: no such token"), "{told}");
    // Somebody else at that address gets no token.
    let told = source("secret", authority().ca_pem()).obtain().await.unwrap_err().to_string();
    assert!(told.contains("localhost"), "{told}");
    let told = source("secret", "").obtain().await.unwrap_err().to_string();
    assert!(told.contains("no certificate in PEM form"), "{told}");
}
