//! Certificates: the CA, the issuer, and mesh directories.

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
use venom::node::certificate_source::{CertificateSource, IssuerEndpoint};
use venom::node::{Node, Options, directory};

use crate::support::{DAY, PATIENCE, authority, credentials, pod};

/// The CA's caller chooses the identity; the request's own names and extensions have no effect.
#[test]
fn names_in_a_signing_request_are_ignored() {
    let authority = authority();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    let claimed = "spiffe://venom/operator".try_into().unwrap();
    params.subject_alt_names = vec![SanType::URI(claimed)];
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let request = params.serialize_request(&key).unwrap().pem().unwrap();
    let signed = authority.sign(&request, &pod("a"), SystemTime::now(), DAY).unwrap();
    let credentials = Credentials::from_pem(authority.ca_pem(), &signed, &key.serialize_pem(), None).unwrap();
    assert_eq!(credentials.identity, pod("a"));
    let der = CertificateDer::from_pem_slice(signed.as_bytes()).unwrap();
    let (_, read) = x509_parser::parse_x509_certificate(&der).unwrap();
    assert!(!read.is_ca());
}

/// Otherwise a certificate could be issued for a key that the client does not have.
#[test]
fn a_request_not_signed_with_its_own_key_is_rejected() {
    let (_, request) = generate_key_and_csr().unwrap();
    let lines: Vec<&str> = request.lines().collect();
    let mut text = lines[1..lines.len() - 1].concat();
    // The signature comes last. Change one byte of it.
    let at = text.len() - 8;
    let other = if &text[at..=at] == "A" { "B" } else { "A" };
    text.replace_range(at..=at, other);
    let forged = format!("{}\n{text}\n{}\n", lines[0], lines[lines.len() - 1]);
    for request in [forged.as_str(), "", "not PEM"] {
        assert!(authority().sign(request, &pod("a"), SystemTime::now(), DAY).is_err());
    }
}

#[test]
fn an_authority_can_be_stored_and_loaded() {
    let first = authority();
    let second = Authority::from_pem(first.ca_pem(), &first.key_pem()).unwrap();
    let (key, request) = generate_key_and_csr().unwrap();
    let now = SystemTime::now();
    let signed = second.sign(&request, &pod("a"), now, DAY).unwrap();
    let credentials = Credentials::from_pem(first.ca_pem(), &signed, &key, None).unwrap();
    let left = credentials.not_after.duration_since(now).unwrap();
    assert!(left <= DAY && left > DAY - Duration::from_secs(2));
    let until_renewal = credentials.renew_at().duration_since(now).unwrap();
    assert!(until_renewal > DAY / 4 && until_renewal < DAY / 2, "renewed after about 8 h: {until_renewal:?}");
}

/// The operator's credentials need an organism; a certificate without a mesh identity makes no credentials.
#[test]
fn credentials_need_an_identity_and_an_organism() {
    let authority = authority();
    let now = SystemTime::now();
    let operator = Identity::operator("venom").unwrap();
    assert_eq!(credentials(&authority, &operator, DAY).organism, "uid");
    let pem = crate::support::issue(&authority, &operator, now, DAY);
    let error = Credentials::from_pem(authority.ca_pem(), &pem, &pem, None);
    assert!(matches!(error, Err(IdentityError::OrganismRequired)));
    let (certificate, key) = authority.server_certificate(&["localhost"], now, DAY).unwrap();
    let error = Credentials::from_pem(authority.ca_pem(), &certificate, &key, None);
    assert!(matches!(error, Err(IdentityError::NoMeshIdentity)));
    // The key of another certificate.
    let (key, _) = generate_key_and_csr().unwrap();
    assert!(Credentials::from_pem(authority.ca_pem(), &pem, &key, Some("uid")).is_err());
}

/// A certificate from the future is not waited for: a clock is wrong.
#[tokio::test]
async fn a_certificate_from_the_future_names_the_clock() {
    let temp = TempDir::new().unwrap();
    let authority = authority();
    let sign = |now: SystemTime| crate::support::issue(&authority, &pod("a"), now, DAY);
    std::fs::write(temp.path().join("ca.pem"), authority.ca_pem()).unwrap();
    let source = CertificateSource::Directory(temp.path().to_owned());
    std::fs::write(temp.path().join("identity.pem"), sign(SystemTime::now() + Duration::from_secs(3600)))
        .unwrap();
    let error = source.obtain().await.unwrap_err().to_string();
    assert!(
        error.contains("is valid only in 3") && error.contains("check the clock of this machine"),
        "{error}"
    );
    // Within what clocks may differ.
    std::fs::write(temp.path().join("identity.pem"), sign(SystemTime::now() + Duration::from_secs(60)))
        .unwrap();
    let credentials = source.obtain().await.unwrap();
    let now = SystemTime::now();
    assert!(credentials.renewal_due(now).is_err());
    assert_eq!(credentials.renewal_due(credentials.renew_at()), Ok(()));
    assert_eq!(credentials.renewal_due(now - DAY), Ok(()), "the clock was set back");
}

#[tokio::test]
async fn a_mesh_directory_is_created_and_renewed() {
    let temp = TempDir::new().unwrap();
    let mesh = temp.path().join("mesh");
    directory::init(&mesh, 2, DAY).unwrap();
    let obtain = async |name: &str| CertificateSource::Directory(mesh.join(name)).obtain().await;
    let first = obtain("node-2").await.unwrap();
    assert_eq!(first.identity.to_string(), "spiffe://venom/org/local/pod/node-2");
    assert!(obtain("operator").await.unwrap().identity.is_operator());
    let error = obtain("node-3").await.unwrap_err().to_string();
    assert!(error.contains("node-3"), "{error}");
    let ca = std::fs::read(mesh.join("ca.pem")).unwrap();
    directory::init(&mesh, 3, DAY * 2).unwrap();
    assert_eq!(std::fs::read(mesh.join("ca.pem")).unwrap(), ca, "the CA is kept");
    assert!(obtain("node-2").await.unwrap().not_after > first.not_after);
    assert!(obtain("node-3").await.is_ok());
    use std::os::unix::fs::PermissionsExt;
    for secret in ["ca.key", "node-1/identity.pem"] {
        let mode = std::fs::metadata(mesh.join(secret)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{secret}");
    }
}

/// Status code and body of a GET. Waits until the server listens.
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

/// A pod can start before the CA certificate exists and before the issuer runs: it reports that and retries. An
/// unusable directory is an error at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_retries_until_its_issuer_answers() {
    let ours = Arc::new(authority());
    let address = issuer(ours.clone()).await;
    let temp = TempDir::new().unwrap();
    let (token, ca) = (temp.path().join("token"), temp.path().join("ca.pem"));
    std::fs::write(&token, "secret").unwrap();
    let url = format!("https://localhost:{}/v1/certificates", address.port()).parse().unwrap();
    let http = std::net::TcpListener::bind("[::]:0").unwrap().local_addr().unwrap().port();
    let options = |source| Options {
        peers: vec![],
        mesh_port: 0,
        http_port: Some(http),
        inject_port: 0,
        certificate_source: source,
        injectable: Injectable::default(),
    };
    let source = CertificateSource::Issuer(IssuerEndpoint { url, token_file: token, ca_file: ca.clone() });
    let starting = tokio::spawn(Node::start(options(source.clone()), None));
    assert_eq!(get(http, "/healthz").0, 200);
    let ready = async |what: &str| {
        let end = std::time::Instant::now() + PATIENCE;
        loop {
            let (status, body) = get(http, "/readyz");
            if body.contains(what) {
                return status;
            }
            assert!(std::time::Instant::now() < end, "{what}: {body}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert_eq!(ready("no certificate yet").await, 503);
    assert_eq!(ready("ca.pem: No such file").await, 503);
    // First another CA, by which the issuer's certificate is not trusted.
    std::fs::write(&ca, authority().ca_pem()).unwrap();
    assert_eq!(ready("invalid peer certificate").await, 503);
    assert!(!starting.is_finished());
    std::fs::write(&ca, ours.ca_pem()).unwrap();
    let (node, _) = starting.await.unwrap().unwrap();
    assert_eq!(ready("ok").await, 200);
    node.stop().await;

    // A start that is cancelled while it waits closes its listener.
    std::fs::remove_file(&ca).unwrap();
    let waiting = tokio::time::timeout(Duration::from_millis(200), Node::start(options(source), None)).await;
    assert!(waiting.is_err());
    let end = std::time::Instant::now() + PATIENCE;
    while let Err(error) = std::net::TcpListener::bind(("::", http)) {
        assert!(std::time::Instant::now() < end, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let error =
        Node::start(options(CertificateSource::Directory(temp.path().join("none"))), None).await.unwrap_err();
    assert!(error.to_string().contains("none/ca.pem"), "{error}");
}

/// An issuer like the operator's, except that it accepts one token, of one pod.
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
                    let request_body: CertificateRequest = serde_json::from_slice(&body).unwrap();
                    let answer = if token == "Bearer secret" {
                        let certificate =
                            authority.sign(&request_body.csr, &pod("a"), SystemTime::now(), DAY).unwrap();
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
async fn a_node_obtains_a_certificate_with_its_token() {
    let ours = Arc::new(authority());
    let address = issuer(ours.clone()).await;
    let temp = TempDir::new().unwrap();
    let file = |name: &str, text: &str| {
        let path = temp.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let source = |token: &str, ca: &str| {
        CertificateSource::Issuer(IssuerEndpoint {
            url: format!("https://localhost:{}/v1/certificates", address.port()).parse().unwrap(),
            token_file: file(&format!("token-{token}"), &format!("{token}\n")),
            ca_file: file(&format!("ca-{}", ca.len()), ca),
        })
    };
    let obtained = source("secret", ours.ca_pem()).obtain().await.unwrap();
    assert_eq!(obtained.identity, pod("a"));
    let error = source("wrong", ours.ca_pem()).obtain().await.unwrap_err().to_string();
    assert!(error.contains("status 403: no such token"), "{error}");
    // A server that the CA did not certify does not get the token.
    let error = source("secret", authority().ca_pem()).obtain().await.unwrap_err().to_string();
    assert!(error.contains("localhost"), "{error}");
    let error = source("secret", "").obtain().await.unwrap_err().to_string();
    assert!(error.contains("no certificate in PEM form"), "{error}");
}
