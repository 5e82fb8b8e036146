//! The certificate issuer: an HTTPS endpoint that signs the certificates of nodes.
//!
//! 1. A node connects. The number of connections is limited in total and per source address. The server
//!    certificate is signed by the mesh CA, which the node already trusts. Each connection serves one request.
//! 2. The issuer authenticates the node: the API server reviews its ServiceAccount token, and the issuer reads the
//!    pod and its ReplicaSet ([`proof`] decides and is pure).
//! 3. The issuer signs the public key of the request for the pod's identity.
//!
//! The port is open to unauthenticated clients. Three limits bound the work that they can cause: the connections
//! per source, a delay of one second before each refusal, and the number of concurrent token reviews.

pub mod proof;
pub mod url;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use futures::TryFutureExt;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, PostParams};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::body;
use super::body::build::{Kind, TOKEN_AUDIENCE};
use super::call::{CallError, call};
use super::certificates::{CachedCertificate, Certificates, TRUST_DOMAIN};
use super::metrics::Metrics;
use super::registry::Registry;
use crate::mesh::Identity;
use crate::mesh::certificate_request::{CertificateRequest, CertificateResponse};
use crate::net::{ConnectionLimiter, ConnectionPermit, LogLimiter};
use proof::{PodClaim, Refusal};
use url::{PATH, Url};

/// Limit of the request body. A signing request has less than 1 KiB.
const MAX_BODY_BYTES: usize = 16 * 1024;
/// Read buffer of a connection; the headers have to fit in it. A token has less than 2 KiB.
const MAX_BUFFER_BYTES: usize = 32 * 1024;
/// Concurrent connections in total.
const MAX_CONNECTIONS: usize = 256;
/// Concurrent connections per source address. All pods of a machine may share the machine's address.
const MAX_CONNECTIONS_PER_SOURCE: usize = 32;
/// Concurrent token reviews, which bounds the load on the API server.
const MAX_REVIEWS: usize = 8;
/// For the TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// For the request and the response, after the handshake.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(12);
/// For the wait until fewer than [`MAX_REVIEWS`] are running.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(3);
/// For all API calls of a review. A node waits 10 s for a response; queue, review and refusal take 9 s at most.
const REVIEW_TIMEOUT: Duration = Duration::from_secs(5);
/// Delay before a refusal is sent. It slows down clients that retry without a pause.
const REFUSAL_DELAY: Duration = Duration::from_secs(1);
/// Delay after a failed `accept`, which would fail again at once while file descriptors are exhausted.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// Serves certificate requests of the nodes.
pub struct Issuer {
    client: Client,
    registry: Arc<Registry>,
    bodies: Arc<body::Resources>,
    certificates: Arc<Certificates>,
    metrics: Arc<Metrics>,
    url: Url,
    tls: CachedCertificate<Arc<ServerConfig>>,
    connections: Arc<ConnectionLimiter>,
    reviews: Semaphore,
    log_limiter: LogLimiter<(IpAddr, Refusal)>,
}

/// A client's connection.
#[derive(Clone)]
struct Connection {
    issuer: Arc<Issuer>,
    source: IpAddr,
    /// Shared with the task that handles the request, which may outlive the connection.
    _permit: Arc<ConnectionPermit>,
}

impl Issuer {
    /// Creates the issuer that the nodes of `bodies` reach at `url`.
    #[must_use]
    pub fn new(
        client: Client,
        registry: Arc<Registry>,
        bodies: Arc<body::Resources>,
        certificates: Arc<Certificates>,
        url: Url,
    ) -> Self {
        Self {
            client,
            registry,
            metrics: bodies.metrics.clone(),
            bodies,
            certificates,
            url,
            tls: CachedCertificate::default(),
            connections: Arc::default(),
            reviews: Semaphore::new(MAX_REVIEWS),
            log_limiter: LogLimiter::default(),
        }
    }

    /// Accepts connections and serves each in a task of its own. Never returns.
    pub async fn serve(self, listener: TcpListener) {
        let issuer = Arc::new(self);
        loop {
            let (stream, source) = match listener.accept().await {
                Ok((stream, source)) => (stream, source.ip().to_canonical()),
                // File descriptors are exhausted, or the client has closed the connection already.
                Err(_) => {
                    sleep(ACCEPT_RETRY_DELAY).await;
                    continue;
                }
            };
            match issuer.connections.try_acquire(source, MAX_CONNECTIONS, MAX_CONNECTIONS_PER_SOURCE) {
                Some(permit) => {
                    let connection = Connection { issuer: issuer.clone(), source, _permit: Arc::new(permit) };
                    tokio::spawn(connection.serve(stream));
                }
                None => issuer.record_refusal(source, Refusal::Busy, &"too many connections"),
            }
        }
    }

    /// Returns the TLS configuration with a server certificate that is renewed long before it expires.
    fn tls_acceptor(&self) -> io::Result<TlsAcceptor> {
        let now = SystemTime::now();
        let config = self.tls.get_or_create(now, || self.certificates.server_config(&self.url.host, now));
        config.map(TlsAcceptor::from).map_err(io::Error::other)
    }

    /// Counts a refusal and logs it at most once per minute, source and reason.
    fn record_refusal(&self, source: IpAddr, refusal: Refusal, detail: &dyn std::fmt::Display) {
        self.metrics.certificate_refused(refusal.as_str());
        if self.log_limiter.allow((source, refusal)) {
            tracing::warn!(%source, reason = refusal.as_str(), "refused a certificate request: {detail}");
        }
    }

    /// Returns the certificate, or the refusal for the client and its detail for the log.
    async fn issue(
        &self,
        headers: &HeaderMap,
        body: &mut Body,
    ) -> Result<CertificateResponse, (Refusal, String)> {
        let token = bearer_token(headers).ok_or_else(|| without_detail(Refusal::NoToken))?.to_owned();
        let body = Limited::new(body, MAX_BODY_BYTES).collect().await.map_err(|error| {
            without_detail(if error.is::<LengthLimitError>() { Refusal::TooLong } else { Refusal::Body })
        })?;
        let CertificateRequest { csr } =
            serde_json::from_slice(&body.to_bytes()).map_err(|_| without_detail(Refusal::Body))?;
        let (claim, identity) = self.authenticate(token).await?;
        let signed = self.certificates.sign(&csr, &identity);
        let certificate =
            signed.map_err(|error| (Refusal::Request, format!("{}: {error}", describe(&claim))))?;
        self.metrics.certificate_issued();
        tracing::info!(organism = %claim.organism, pod = claim.pod, "issued a certificate");
        Ok(CertificateResponse { certificate })
    }

    /// Returns whose token it is. Waits until fewer than [`MAX_REVIEWS`] are running.
    async fn authenticate(&self, token: String) -> Result<(PodClaim, Identity), (Refusal, String)> {
        let permit = timeout(QUEUE_TIMEOUT, self.reviews.acquire()).await;
        let _permit = permit.map_err(|_| (Refusal::Busy, "too many token reviews are waiting".to_owned()))?;
        let review = timeout(REVIEW_TIMEOUT, self.review(token)).await;
        review.unwrap_or_else(|_| {
            Err((Refusal::Unavailable, "the API calls of the token review timed out".into()))
        })
    }

    /// Follows the chain from the token to its pod, the pod's ReplicaSet, and the Organism's Deployment.
    async fn review(&self, token: String) -> Result<(PodClaim, Identity), (Refusal, String)> {
        let client = &self.client;
        let failed = |error: CallError| {
            self.metrics.api_error("certificate");
            (Refusal::Unavailable, error.to_string())
        };
        let spec = TokenReviewSpec { token, audiences: Some(vec![TOKEN_AUDIENCE.into()]) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let (reviews, params) = (Api::<TokenReview>::all(client.clone()), PostParams::default());
        let review = call("create", "TokenReview", reviews.create(&params, &review)).map_err(failed).await?;
        let claim = proof::pod_claim(review.status.as_ref()).map_err(without_detail)?;
        let refuse = |refusal: Refusal| (refusal, format!("{}: {refusal}", describe(&claim)));

        let key = &claim.organism;
        let organism = self.registry.uid(key).ok_or_else(|| refuse(Refusal::Organism))?;
        // Before the first lists, a Deployment may exist that the index does not have.
        self.bodies.index.wait_until_listed().await;
        let deployment = self.bodies.index.object(key, &(Kind::Deployment, key.name.to_string()));
        let owned = deployment.filter(|it| it.owner.as_ref() == Some(&organism) && !it.deleting);
        let deployment = owned.ok_or_else(|| refuse(Refusal::Workload))?.uid;

        let pods: Api<Pod> = Api::namespaced(client.clone(), &key.namespace);
        let object = format!("Pod {}/{}", key.namespace, claim.pod);
        let pod = call("get", &object, pods.get_metadata_opt(&claim.pod)).map_err(failed).await?;
        let owner =
            proof::controlling_replica_set(&claim, pod.as_ref().map(|it| &it.metadata)).map_err(refuse)?;
        let replica_sets: Api<ReplicaSet> = Api::namespaced(client.clone(), &key.namespace);
        let object = format!("ReplicaSet {}/{}", key.namespace, owner.name);
        let replica_set =
            call("get", &object, replica_sets.get_metadata_opt(&owner.name)).map_err(failed).await?;
        let replica_set = replica_set.as_ref().map(|it| &it.metadata);
        proof::check_deployment(owner, replica_set, &deployment).map_err(refuse)?;

        // Cannot fail in practice: the UIDs of an API server are valid in an identity.
        let identity = Identity::pod(TRUST_DOMAIN, &organism, &claim.pod_uid);
        let identity = identity.map_err(|_| refuse(Refusal::Pod))?;
        Ok((claim, identity))
    }
}

impl Connection {
    /// Performs the handshake and serves one request.
    async fn serve(self, stream: TcpStream) {
        let handshake = async { self.issuer.tls_acceptor()?.accept(stream).await };
        let stream = match timeout(HANDSHAKE_TIMEOUT, handshake).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return self.issuer.record_refusal(self.source, Refusal::Handshake, &error),
            Err(_) => return self.issuer.record_refusal(self.source, Refusal::Handshake, &"timed out"),
        };
        let router = Router::new().route(PATH, post(handle)).with_state(self);
        let served = http1::Builder::new()
            .keep_alive(false)
            .max_buf_size(MAX_BUFFER_BYTES)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
        // A broken or slow connection affects only its client, which retries.
        let _ = timeout(REQUEST_TIMEOUT, served).await;
    }

    async fn respond(self, request: Request) -> Response {
        let (parts, mut body) = request.into_parts();
        let (refusal, detail) = match self.issuer.issue(&parts.headers, &mut body).await {
            // Serialization cannot fail: the response holds a single string.
            Ok(issued) => {
                let body = serde_json::to_string(&issued).unwrap_or_default() + "\n";
                return ([(CONTENT_TYPE, "application/json")], body).into_response();
            }
            Err(refused) => refused,
        };
        self.issuer.record_refusal(self.source, refusal, &detail);
        let mut response = (refusal.status(), format!("{refusal}\n")).into_response();
        match refusal.status() {
            StatusCode::SERVICE_UNAVAILABLE => {
                response.headers_mut().insert(RETRY_AFTER, 1.into());
            }
            StatusCode::UNAUTHORIZED => {
                response
                    .headers_mut()
                    .insert(WWW_AUTHENTICATE, axum::http::HeaderValue::from_static("Bearer"));
            }
            _ => {}
        }
        // Drain the request body: closing a socket with unread data resets the connection, and the client could lose
        // the response.
        let drain = async { while let Some(Ok(_)) = body.frame().await {} };
        let _ = tokio::join!(sleep(REFUSAL_DELAY), timeout(REFUSAL_DELAY, drain));
        response
    }
}

/// Responds in a task of its own, so that a client that disconnects early keeps its permit until the work is done.
async fn handle(State(connection): State<Connection>, request: Request) -> Response {
    let response = tokio::spawn(connection.respond(request)).await;
    response.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

/// Returns the token of the header `Authorization: Bearer TOKEN`.
fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// A refusal whose log message is the client's message.
fn without_detail(refusal: Refusal) -> (Refusal, String) {
    (refusal, refusal.to_string())
}

/// Describes the token's subject for the log.
fn describe(claim: &PodClaim) -> String {
    format!("pod {} of ServiceAccount {}", claim.pod, claim.organism)
}
