//! The node's HTTP servers: metrics and probes for the cluster, and the injection API for its own machine.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::header::{CONTENT_TYPE, ORIGIN, RETRY_AFTER};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::mesh::event::InvalidInjectionId;
use crate::mesh::{
    Credentials, INJECTION_TTL, InjectError, InjectionId, InjectionPayload, InjectionStatus, Mesh, Metrics,
    Outcome, Ticket,
};
use crate::printable::{LINE, line};

/// How long a POST waits for the outcome before it returns 202.
const OUTCOME_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum size of a request's body. An injection has some hundred bytes.
const MAX_BODY_BYTES: usize = 4096;

/// Body of `POST /v1/injections`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InjectionRequest {
    /// The client's id, which a retry keeps. The node generates one if it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Anomalies to add to the risk window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anoms: Option<u64>,
    /// The model's weight from the next beat on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ml_weight: Option<f64>,
}

/// Body of every response of the injection API.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct InjectionResponse {
    /// The injection's id.
    pub id: String,
    /// Index of the ledger entry, once committed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<u64>,
    /// Why the injection was not accepted, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Generates an injection id: a UUID of version 7, whose timestamp lets a node recognize it as too old to retry.
#[must_use]
pub fn new_injection_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// What `/readyz` reports.
pub(super) enum CertificateState {
    /// The node has no certificate yet, for this reason.
    Pending(String),
    /// The node's current credentials.
    Obtained(watch::Receiver<Credentials>),
}

/// `/metrics`, `/healthz` and `/readyz`.
pub(super) fn probe_routes(metrics: Arc<Metrics>, certificate: watch::Receiver<CertificateState>) -> Router {
    let ready = move || async move {
        // Ready does not mean linked: the first node of an organism has no peer until its second one is ready.
        match &*certificate.borrow() {
            CertificateState::Obtained(credentials) if credentials.borrow().not_after > SystemTime::now() => {
                (StatusCode::OK, "ok\n".to_owned())
            }
            CertificateState::Obtained(_) => {
                let reason = "the certificate has expired and could not be renewed\n";
                (StatusCode::SERVICE_UNAVAILABLE, reason.to_owned())
            }
            CertificateState::Pending(reason) => (StatusCode::SERVICE_UNAVAILABLE, line(reason, LINE) + "\n"),
        }
    };
    Router::new()
        .route("/metrics", get(move || async move { metrics.text() }))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
}

/// `/v1/injections`. Has no authentication: serve it on the loopback interface only.
pub(super) fn injection_routes(mesh: Mesh) -> Router {
    Router::new()
        .route("/v1/injections", post(inject))
        .route("/v1/injections/{id}", get(show_injection))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(mesh)
}

async fn inject(State(mesh): State<Mesh>, headers: HeaderMap, body: Bytes) -> Response {
    // Any web page can make a browser on this machine post here; the browser then adds an Origin header.
    if headers.contains_key(ORIGIN) {
        return error_response(
            StatusCode::FORBIDDEN,
            "",
            "requests from browsers are not allowed; use venom inject",
        );
    }
    let request: InjectionRequest = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(error) => {
            let message =
                format!("{error}; send JSON like {{\"id\": \"…\", \"anoms\": 5, \"mlWeight\": 0.2}}");
            return error_response(StatusCode::UNPROCESSABLE_ENTITY, "", &message);
        }
    };
    let id_text = request.id.unwrap_or_else(new_injection_id);
    let id: InjectionId = match id_text.parse() {
        Ok(id) => id,
        Err(error) => return invalid_id(&id_text, error),
    };
    let payload = InjectionPayload { anoms: request.anoms, ml_weight: request.ml_weight };
    match mesh.inject(id, payload).await {
        Ok(Ticket::Settled(outcome)) => settled_response(&id_text, outcome),
        Ok(Ticket::Pending(ticket)) => match timeout(OUTCOME_TIMEOUT, ticket).await {
            Ok(Ok(outcome)) => settled_response(&id_text, outcome),
            _ => pending_response(&id_text),
        },
        Err(error) => {
            let status = match error {
                InjectError::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
                InjectError::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
                InjectError::IdExpired => StatusCode::CONFLICT,
            };
            error_response(status, &id_text, &error.to_string())
        }
    }
}

async fn show_injection(State(mesh): State<Mesh>, Path(id_text): Path<String>) -> Response {
    let id: InjectionId = match id_text.parse() {
        Ok(id) => id,
        Err(error) => return invalid_id(&id_text, error),
    };
    let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let expired = id.created_at().is_some_and(|created| wall.saturating_sub(created) > INJECTION_TTL);
    match mesh.status(id).await {
        Some(InjectionStatus::Settled(outcome)) => settled_response(&id_text, outcome),
        Some(InjectionStatus::Pending) => pending_response(&id_text),
        None if expired => {
            error_response(StatusCode::CONFLICT, &id_text, &InjectError::IdExpired.to_string())
        }
        None => error_response(
            StatusCode::NOT_FOUND,
            &id_text,
            "the id is unknown to this node; inject again with the same id",
        ),
    }
}

fn settled_response(id: &str, outcome: Outcome) -> Response {
    match outcome {
        Outcome::Committed { entry } => json_response(
            StatusCode::OK,
            &InjectionResponse { id: id.into(), entry: Some(entry), error: None },
        ),
        Outcome::Refused { reason } => error_response(StatusCode::UNPROCESSABLE_ENTITY, id, &reason),
    }
}

fn pending_response(id: &str) -> Response {
    json_response(StatusCode::ACCEPTED, &InjectionResponse { id: id.into(), ..InjectionResponse::default() })
}

fn invalid_id(id: &str, error: InvalidInjectionId) -> Response {
    error_response(StatusCode::UNPROCESSABLE_ENTITY, id, &error.to_string())
}

fn error_response(status: StatusCode, id: &str, message: &str) -> Response {
    let body = InjectionResponse { id: id.into(), entry: None, error: Some(message.into()) };
    let response = json_response(status, &body);
    if status == StatusCode::SERVICE_UNAVAILABLE {
        ([(RETRY_AFTER, "1")], response).into_response()
    } else {
        response
    }
}

fn json_response(status: StatusCode, body: &InjectionResponse) -> Response {
    // Cannot fail: strings and an integer are valid JSON.
    let body = serde_json::to_string(body).unwrap_or_default() + "\n";
    (status, [(CONTENT_TYPE, "application/json")], body).into_response()
}
