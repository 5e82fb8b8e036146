//! The certificate issuer: an HTTPS endpoint that signs the certificates of nodes.
//!
//! 1. A node connects. The number of connections is limited: a newcomer displaces the oldest of the source address that
//!    has the most. The server certificate is signed by the mesh CA, which the node already trusts. Each connection
//!    serves one request, which has to arrive soon.
//! 2. The issuer authenticates the node: the API server reviews its ServiceAccount token, and the issuer reads the
//!    pod and its ReplicaSet ([`proof`] decides and is pure).
//! 3. The issuer signs the public key of the request for the pod's identity.
//!
//! The port is open to unauthenticated clients. Three limits bound the work that they can cause: the number of
//! connections, a delay of one second before each refusal, and the number of concurrent token reviews.

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
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, PostParams};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;

use super::body;
use super::body::build::{Kind, TOKEN_AUDIENCE};
use super::call::{CallError, call};
use super::certificates::{CachedCertificate, Certificates, TRUST_DOMAIN};
use super::metrics::Metrics;
use crate::api::Organism;
use crate::mesh::Identity;
use crate::mesh::certificate_request::{CertificateRequest, CertificateResponse, EXCHANGE_TIMEOUT};
use crate::net::{self, Connections, LogLimiter, http1, share_of_descriptors};
use crate::printable;
use proof::{PodClaim, Refusal};
use url::{PATH, Url};

/// Limit of the request body. A signing request has less than 1 KiB.
const MAX_BODY_BYTES: usize = 16 * 1024;
/// Read buffer of a connection; the headers have to fit in it. A token has less than 2 KiB.
const MAX_BUFFER_BYTES: usize = 32 * 1024;
/// Concurrent connections.
const MAX_CONNECTIONS: usize = 256;
/// They take at most this part of the process's descriptors.
const PART_OF_DESCRIPTORS: usize = 4;
/// Concurrent token reviews, which bounds the load on the API server.
const MAX_REVIEWS: usize = 8;
/// From the connection to the end of the request: TLS handshake, headers and body.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// For the wait until fewer than [`MAX_REVIEWS`] are running.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(2);
/// For all API calls of a review.
const REVIEW_TIMEOUT: Duration = Duration::from_secs(3);
/// Delay before a refusal is sent. It slows down clients that retry without a pause.
const REFUSAL_DELAY: Duration = Duration::from_secs(1);
/// For all of it. A node waits longer, so that it learns why it is refused.
const CONNECTION_TIMEOUT: Duration = REQUEST_TIMEOUT
    .saturating_add(QUEUE_TIMEOUT)
    .saturating_add(REVIEW_TIMEOUT)
    .saturating_add(REFUSAL_DELAY);
const _: () = assert!(CONNECTION_TIMEOUT.as_millis() < EXCHANGE_TIMEOUT.as_millis());
/// Longest detail of a refusal in the log. It may quote what the client sent.
const MAX_DETAIL_BYTES: usize = 300;

/// Serves certificate requests of the nodes.
pub struct Issuer {
    client: kube::Client,
    bodies: Arc<body::Resources>,
    certificates: Arc<Certificates>,
    metrics: Arc<Metrics>,
    url: Url,
    tls: CachedCertificate<Arc<ServerConfig>>,
    reviews: Arc<Semaphore>,
    log_limiter: LogLimiter<(IpAddr, Refusal)>,
}

/// A client's connection.
#[derive(Clone)]
struct Client {
    issuer: Arc<Issuer>,
    source: IpAddr,
    /// When its request has to be there.
    deadline: Instant,
}

impl Issuer {
    /// Creates the issuer that the nodes of `bodies` reach at `url`.
    #[must_use]
    pub fn new(
        client: kube::Client,
        bodies: Arc<body::Resources>,
        certificates: Arc<Certificates>,
        url: Url,
    ) -> Self {
        Self {
            client,
            metrics: bodies.metrics.clone(),
            bodies,
            certificates,
            url,
            tls: CachedCertificate::default(),
            reviews: Arc::new(Semaphore::new(MAX_REVIEWS)),
            log_limiter: LogLimiter::default(),
        }
    }

    /// Accepts connections and serves each in a task of its own. Never returns.
    pub async fn serve(self, listener: TcpListener) {
        let issuer = Arc::new(self);
        let connections = Connections::new(share_of_descriptors(PART_OF_DESCRIPTORS, MAX_CONNECTIONS));
        loop {
            let (stream, source) = net::accept(&listener).await;
            let source = source.ip();
            let connection = connections.admit(source).await.0;
            let client =
                Client { issuer: issuer.clone(), source, deadline: Instant::now() + REQUEST_TIMEOUT };
            let issuer = issuer.clone();
            tokio::spawn(async move {
                // A certificate is signed at once after the review: until then a connection may have to give way.
                if connection.run(timeout(CONNECTION_TIMEOUT, client.serve(stream))).await.is_none() {
                    issuer.record_refusal(source, Refusal::Busy, &"too many connections");
                }
            });
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
            let detail = printable::line(&detail.to_string(), MAX_DETAIL_BYTES);
            tracing::warn!(%source, reason = refusal.as_str(), "refused a certificate request: {detail}");
        }
    }

    /// Returns the certificate, or the refusal for the client and its detail for the log.
    async fn issue(
        self: &Arc<Self>,
        headers: &HeaderMap,
        body: &mut Body,
        deadline: Instant,
    ) -> Result<CertificateResponse, (Refusal, String)> {
        let token = bearer_token(headers).ok_or_else(|| without_detail(Refusal::NoToken))?.to_owned();
        let body = timeout_at(deadline, Limited::new(body, MAX_BODY_BYTES).collect()).await;
        let body = body.map_err(|_| without_detail(Refusal::Body))?.map_err(|error| {
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
    async fn authenticate(
        self: &Arc<Self>,
        token: String,
    ) -> Result<(PodClaim, Identity), (Refusal, String)> {
        let permit = timeout(QUEUE_TIMEOUT, self.reviews.clone().acquire_owned()).await;
        let permit = permit.map_err(|_| (Refusal::Busy, "too many token reviews are waiting".to_owned()))?;
        let issuer = self.clone();
        // In a task of its own: a client that disconnects does not make room for another review before its own has ended.
        let review = tokio::spawn(async move {
            let _permit = permit;
            timeout(REVIEW_TIMEOUT, issuer.review(token)).await
        });
        let unavailable = |what: &str| (Refusal::Unavailable, what.to_owned());
        let review = review.await.map_err(|_| unavailable("the token review failed"))?;
        review.unwrap_or_else(|_| Err(unavailable("the API calls of the token review timed out")))
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
        // Any replica may be asked, whoever holds the organism.
        let organisms: Api<Organism> = Api::namespaced(client.clone(), &key.namespace);
        let found = organisms.get_metadata_opt(&key.name);
        let organism = call("get", &format!("Organism {key}"), found).map_err(failed).await?;
        let organism = organism.and_then(|it| it.metadata.uid).ok_or_else(|| refuse(Refusal::Organism))?;
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

impl Client {
    /// Performs the handshake and serves one request.
    async fn serve(self, stream: TcpStream) {
        let handshake = async { self.issuer.tls_acceptor()?.accept(stream).await };
        let stream = match timeout_at(self.deadline, handshake).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return self.issuer.record_refusal(self.source, Refusal::Handshake, &error),
            Err(_) => return self.issuer.record_refusal(self.source, Refusal::Handshake, &"timed out"),
        };
        let left = self.deadline.saturating_duration_since(Instant::now());
        let router = Router::new().route(PATH, post(handle)).with_state(self);
        let served = http1(MAX_BUFFER_BYTES, left)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
        // A broken connection affects only its client, which retries.
        let _ = served.await;
    }

    async fn respond(self, request: Request) -> Response {
        let (parts, mut body) = request.into_parts();
        let (refusal, detail) = match self.issuer.issue(&parts.headers, &mut body, self.deadline).await {
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

async fn handle(State(client): State<Client>, request: Request) -> Response {
    client.respond(request).await
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

#[cfg(test)]
mod tests;
