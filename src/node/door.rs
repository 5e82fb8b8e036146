//! A node's doors: what it shows to everybody, and where it takes injections from its own machine.

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

use crate::mesh::gossip::{INJECTION_TTL, InjectError, InjectionStatus};
use crate::mesh::{Credentials, InjectionId, InjectionPayload, Mesh, Metrics, Outcome, Ticket};

/// How long a client that injects is kept waiting.
const WAIT: Duration = Duration::from_secs(5);
/// An injection is some hundred bytes.
const LONGEST_BODY: usize = 4096;

/// What a client asks for.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ask {
    /// Its own id; one is made where there is none. A retry keeps it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Anomalies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anoms: Option<u64>,
    /// Weight of the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ml_weight: Option<f64>,
}

/// What a client is told.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Told {
    /// The injection's id.
    pub id: String,
    /// The entry of the ledger that it is, for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<u64>,
    /// Why not, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// An id that says when it was made, so that nobody takes it for a new one later.
#[must_use]
pub fn new_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// A node's certificate.
pub(super) enum Certificate {
    /// There is none, and why.
    Awaited(String),
    /// The present one.
    Had(watch::Receiver<Credentials>),
}

/// `/metrics`, `/healthz`, `/readyz`.
pub(super) fn public(metrics: Arc<Metrics>, certificate: watch::Receiver<Certificate>) -> Router {
    let ready = move || async move {
        // Not a matter of peers: an organism whose first node waits for its second would never begin.
        match &*certificate.borrow() {
            Certificate::Had(credentials) if credentials.borrow().not_after > SystemTime::now() => {
                (StatusCode::OK, "ok\n".to_owned())
            }
            Certificate::Had(_) => {
                let why = "the certificate has expired and there is no new one\n";
                (StatusCode::SERVICE_UNAVAILABLE, why.to_owned())
            }
            Certificate::Awaited(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        }
    };
    Router::new()
        .route("/metrics", get(move || async move { metrics.text() }))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
}

/// `/v1/injections`. To be served to this machine only.
pub(super) fn inject(mesh: Mesh) -> Router {
    Router::new()
        .route("/v1/injections", post(take))
        .route("/v1/injections/{id}", get(stand))
        .layer(DefaultBodyLimit::max(LONGEST_BODY))
        .with_state(mesh)
}

async fn take(State(mesh): State<Mesh>, headers: HeaderMap, body: Bytes) -> Response {
    // A page in somebody's browser reaches this door too, and a browser says so.
    if headers.contains_key(ORIGIN) {
        return refuse(StatusCode::FORBIDDEN, "", "not from a browser; use venom inject");
    }
    let ask: Ask = match serde_json::from_slice(&body) {
        Ok(ask) => ask,
        Err(error) => {
            let why = format!("{error}; write JSON like {{\"id\": \"…\", \"anoms\": 5, \"mlWeight\": 0.2}}");
            return refuse(StatusCode::UNPROCESSABLE_ENTITY, "", &why);
        }
    };
    let text = ask.id.unwrap_or_else(new_id);
    let id: InjectionId = match text.parse() {
        Ok(id) => id,
        Err(error) => {
            return refuse(StatusCode::UNPROCESSABLE_ENTITY, &text, &format!("id: {error}"));
        }
    };
    let payload = InjectionPayload { anoms: ask.anoms, ml_weight: ask.ml_weight };
    match mesh.inject(id, payload).await {
        Ok(Ticket::Settled(outcome)) => settled(&text, outcome),
        Ok(Ticket::Pending(ticket)) => match timeout(WAIT, ticket).await {
            Ok(Ok(outcome)) => settled(&text, outcome),
            _ => pending(&text),
        },
        Err(InjectError::Invalid(why)) => refuse(StatusCode::UNPROCESSABLE_ENTITY, &text, &why),
        Err(InjectError::Overloaded) => {
            refuse(StatusCode::SERVICE_UNAVAILABLE, &text, &InjectError::Overloaded.to_string())
        }
        Err(InjectError::IdExpired) => {
            refuse(StatusCode::CONFLICT, &text, &InjectError::IdExpired.to_string())
        }
    }
}

async fn stand(State(mesh): State<Mesh>, Path(text): Path<String>) -> Response {
    let id: InjectionId = match text.parse() {
        Ok(id) => id,
        Err(error) => {
            return refuse(StatusCode::UNPROCESSABLE_ENTITY, &text, &format!("id: {error}"));
        }
    };
    let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let old = id.created_at().is_some_and(|made| wall.saturating_sub(made) > INJECTION_TTL);
    match mesh.status(id).await {
        Some(InjectionStatus::Settled(outcome)) => settled(&text, outcome),
        Some(InjectionStatus::Pending) => pending(&text),
        None if old => refuse(StatusCode::CONFLICT, &text, &InjectError::IdExpired.to_string()),
        None => refuse(StatusCode::NOT_FOUND, &text, "not known here; inject it again with the same id"),
    }
}

fn settled(id: &str, outcome: Outcome) -> Response {
    match outcome {
        Outcome::Committed { entry } => {
            tell(StatusCode::OK, &Told { id: id.into(), entry: Some(entry), error: None })
        }
        Outcome::Refused { reason } => refuse(StatusCode::UNPROCESSABLE_ENTITY, id, &reason),
    }
}

fn pending(id: &str) -> Response {
    tell(StatusCode::ACCEPTED, &Told { id: id.into(), ..Told::default() })
}

fn refuse(status: StatusCode, id: &str, why: &str) -> Response {
    let told = tell(status, &Told { id: id.into(), entry: None, error: Some(why.into()) });
    if status == StatusCode::SERVICE_UNAVAILABLE {
        ([(RETRY_AFTER, "1")], told).into_response()
    } else {
        told
    }
}

fn tell(status: StatusCode, told: &Told) -> Response {
    // Texts and a number: JSON can say them.
    let body = serde_json::to_string(told).unwrap_or_default() + "\n";
    (status, [(CONTENT_TYPE, "application/json")], body).into_response()
}
