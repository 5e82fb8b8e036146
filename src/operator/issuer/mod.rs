//! The issuer: where a node shows its pod's token and gets a certificate for the key that it made.
//!
//! 1. A connection: bounded in number, in all and by source; TLS by a certificate of the authority, which the
//!    node trusts already. One request each.
//! 2. Who asks: the API server reviews the token, and is asked for the pod and its ReplicaSet ([`proof`], pure).
//! 3. The certificate: the public key of the request, under the pod's name.
//!
//! Whoever reaches the port may ask. What a stranger can have done for him is bounded by his connections: each
//! refusal takes a second, and those who ask the API server take turns.

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
use super::certificates::{Certificates, Renewed, TRUST_DOMAIN};
use super::metrics::Metrics;
use super::registry::Registry;
use crate::mesh::Identity;
use crate::mesh::certificate_request::{CertificateRequest, CertificateResponse};
use crate::net::{ConnectionLimiter, ConnectionPermit, LogLimiter};
use proof::{Claim, Refused};
use url::{PATH, Url};

/// A signing request is less than 1 KiB.
const LONGEST_BODY: usize = 16 * 1024;
/// What is kept of one connection, headers included. A token is less than 2 KiB.
const MOST_BUFFERED: usize = 32 * 1024;
/// Connections at once.
const CONNECTIONS: usize = 256;
/// Of these, from one address: a machine's pods may come from that of the machine.
const CONNECTIONS_A_SOURCE: usize = 32;
/// Those who ask the API server at once.
const REVIEWS: usize = 8;
/// For the TLS handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// For all that comes after it.
const REQUEST_LIMIT: Duration = Duration::from_secs(12);
/// For a turn at the API server.
const TURN_LIMIT: Duration = Duration::from_secs(3);
/// For what it is asked then. With the turn and the pause less than a node waits.
const REVIEW_LIMIT: Duration = Duration::from_secs(5);
/// A refusal comes after this.
const PAUSE: Duration = Duration::from_secs(1);
/// After a connection could not be taken in.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Signs what nodes ask for.
pub struct Issuer {
    client: Client,
    registry: Arc<Registry>,
    bodies: Arc<body::Resources>,
    certificates: Arc<Certificates>,
    metrics: Arc<Metrics>,
    url: Url,
    tls: Renewed<Arc<ServerConfig>>,
    places: Arc<ConnectionLimiter>,
    turns: Semaphore,
    told: LogLimiter<(IpAddr, Refused)>,
}

/// Who has connected.
#[derive(Clone)]
struct Caller {
    issuer: Arc<Issuer>,
    source: IpAddr,
    /// Kept until there is an answer.
    _place: Arc<ConnectionPermit>,
}

impl Issuer {
    /// For the nodes of `bodies`, which are told to ask at `url`.
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
            tls: Renewed::default(),
            places: Arc::default(),
            turns: Semaphore::new(REVIEWS),
            told: LogLimiter::default(),
        }
    }

    /// Serves for ever.
    pub async fn serve(self, listener: TcpListener) {
        let issuer = Arc::new(self);
        loop {
            let (stream, source) = match listener.accept().await {
                Ok((stream, source)) => (stream, source.ip().to_canonical()),
                // Out of file descriptors, or the connection is gone again.
                Err(_) => {
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            match issuer.places.try_acquire(source, CONNECTIONS, CONNECTIONS_A_SOURCE) {
                Some(place) => {
                    let caller = Caller { issuer: issuer.clone(), source, _place: Arc::new(place) };
                    tokio::spawn(caller.talk(stream));
                }
                None => issuer.refuse(source, Refused::Busy, &"too many connections"),
            }
        }
    }

    /// Its own certificate is made anew long before it expires.
    fn tls(&self) -> io::Result<TlsAcceptor> {
        let now = SystemTime::now();
        let config = self.tls.get(now, || self.certificates.server(&self.url.host, now));
        config.map(TlsAcceptor::from).map_err(io::Error::other)
    }

    /// Counts a refusal, and tells of it once a minute, source and reason.
    fn refuse(&self, source: IpAddr, refused: Refused, why: &dyn std::fmt::Display) {
        self.metrics.certificate_refused(refused.as_str());
        if self.told.allow((source, refused)) {
            tracing::warn!(%source, reason = refused.as_str(), "no certificate: {why}");
        }
    }

    async fn issue(
        &self,
        headers: &HeaderMap,
        body: &mut Body,
    ) -> Result<CertificateResponse, (Refused, String)> {
        let token = bearer(headers).ok_or_else(|| plain(Refused::NoToken))?.to_owned();
        let body = Limited::new(body, LONGEST_BODY).collect().await.map_err(|error| {
            plain(if error.is::<LengthLimitError>() { Refused::TooLong } else { Refused::Body })
        })?;
        let CertificateRequest { csr } =
            serde_json::from_slice(&body.to_bytes()).map_err(|_| plain(Refused::Body))?;
        let (claim, identity) = self.identity(token).await?;
        let signed = self.certificates.sign(&csr, &identity);
        let certificate = signed.map_err(|error| (Refused::Request, format!("{}: {error}", said(&claim))))?;
        self.metrics.certificate_issued();
        tracing::info!(organism = %claim.organism, pod = claim.pod, "certificate issued");
        Ok(CertificateResponse { certificate })
    }

    /// Who shows this token, in his turn.
    async fn identity(&self, token: String) -> Result<(Claim, Identity), (Refused, String)> {
        let turn = timeout(TURN_LIMIT, self.turns.acquire()).await;
        let _turn = turn.map_err(|_| (Refused::Busy, "too many tokens to be reviewed".to_owned()))?;
        let asking = timeout(REVIEW_LIMIT, self.review(token)).await;
        asking.unwrap_or_else(|_| Err((Refused::Unavailable, "the API server takes too long".into())))
    }

    async fn review(&self, token: String) -> Result<(Claim, Identity), (Refused, String)> {
        let client = &self.client;
        let failed = |error: CallError| {
            self.metrics.api_error("certificate");
            (Refused::Unavailable, error.to_string())
        };
        let spec = TokenReviewSpec { token, audiences: Some(vec![TOKEN_AUDIENCE.into()]) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let (reviews, params) = (Api::<TokenReview>::all(client.clone()), PostParams::default());
        let review = call("create", "TokenReview", reviews.create(&params, &review)).map_err(failed).await?;
        let claim = proof::claim(review.status.as_ref()).map_err(plain)?;
        let no = |refused: Refused| (refused, said(&claim) + ": " + &refused.to_string());

        let key = &claim.organism;
        let organism = self.registry.uid(key).ok_or_else(|| no(Refused::Organism))?;
        self.bodies.index.wait_until_listed().await;
        let deployment = self.bodies.index.object(key, &(Kind::Deployment, key.name.to_string()));
        let ours = deployment.filter(|it| it.owner.as_ref() == Some(&organism) && !it.deleting);
        let deployment = ours.ok_or_else(|| no(Refused::Workload))?.uid;

        let pods: Api<Pod> = Api::namespaced(client.clone(), &key.namespace);
        let object = format!("Pod {}/{}", key.namespace, claim.pod);
        let pod = call("get", &object, pods.get_metadata_opt(&claim.pod)).map_err(failed).await?;
        let set = proof::replica_set(&claim, pod.as_ref().map(|it| &it.metadata)).map_err(no)?;
        let sets: Api<ReplicaSet> = Api::namespaced(client.clone(), &key.namespace);
        let object = format!("ReplicaSet {}/{}", key.namespace, set.name);
        let found = call("get", &object, sets.get_metadata_opt(&set.name)).map_err(failed).await?;
        proof::of_workload(set, found.as_ref().map(|it| &it.metadata), &deployment).map_err(no)?;

        // An API server's UIDs are always of that form.
        let identity = Identity::pod(TRUST_DOMAIN, &organism, &claim.pod_uid);
        let identity = identity.map_err(|_| no(Refused::Pod))?;
        Ok((claim, identity))
    }
}

impl Caller {
    async fn talk(self, stream: TcpStream) {
        let accepted = async { self.issuer.tls()?.accept(stream).await };
        let stream = match timeout(HANDSHAKE_LIMIT, accepted).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return self.issuer.refuse(self.source, Refused::Handshake, &error),
            Err(_) => return self.issuer.refuse(self.source, Refused::Handshake, &"it took too long"),
        };
        let router = Router::new().route(PATH, post(take)).with_state(self);
        let served = http1::Builder::new()
            .keep_alive(false)
            .max_buf_size(MOST_BUFFERED)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
        // A connection that breaks or takes too long is nobody's loss but the caller's.
        let _ = timeout(REQUEST_LIMIT, served).await;
    }

    async fn answer(self, request: Request) -> Response {
        let (parts, mut body) = request.into_parts();
        let (refused, why) = match self.issuer.issue(&parts.headers, &mut body).await {
            // A text: JSON can say it.
            Ok(issued) => {
                let body = serde_json::to_string(&issued).unwrap_or_default() + "\n";
                return ([(CONTENT_TYPE, "application/json")], body).into_response();
            }
            Err(refused) => refused,
        };
        self.issuer.refuse(self.source, refused, &why);
        let mut answer = (refused.status(), format!("{refused}\n")).into_response();
        match refused.status() {
            StatusCode::SERVICE_UNAVAILABLE => {
                answer.headers_mut().insert(RETRY_AFTER, 1.into());
            }
            StatusCode::UNAUTHORIZED => {
                answer.headers_mut().insert(WWW_AUTHENTICATE, axum::http::HeaderValue::from_static("Bearer"));
            }
            _ => {}
        }
        // What is still sent is thrown away: a connection that is closed with something unread takes the answer
        // along.
        let rest = async { while let Some(Ok(_)) = body.frame().await {} };
        let _ = tokio::join!(sleep(PAUSE), timeout(PAUSE, rest));
        answer
    }
}

/// In a task of its own: who breaks the connection off takes his place up to the end all the same.
async fn take(State(caller): State<Caller>, request: Request) -> Response {
    let answered = tokio::spawn(caller.answer(request)).await;
    answered.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// A refusal of which there is no more to say than what the caller is told.
fn plain(refused: Refused) -> (Refused, String) {
    (refused, refused.to_string())
}

/// Who that is by his token, for the log.
fn said(claim: &Claim) -> String {
    format!("pod {} of ServiceAccount {}", claim.pod, claim.organism)
}
