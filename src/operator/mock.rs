//! A mocked transport, for answers that a real API server cannot be made to give on demand.

use std::time::Duration;

use axum::http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tower_test::mock;

/// The API server's end of a transport.
pub(super) struct ApiServer(mock::Handle<Request<Body>, Response<Body>>);

/// A status and a body.
pub(super) type Answer = (StatusCode, Value);

impl ApiServer {
    /// A client whose requests arrive here.
    pub(super) fn start() -> (Client, Self) {
        let (service, handle) = mock::pair::<Request<Body>, Response<Body>>();
        (Client::new(service, "a"), Self(handle))
    }

    /// Answers the next request. Returns its URI.
    pub(super) async fn answer_uri(&mut self, (status, answer): Answer) -> String {
        let next = tokio::time::timeout(Duration::from_secs(60), self.0.next_request());
        let (request, send) = next.await.expect("a request").expect("an open transport");
        let response = Response::builder().status(status).body(Body::from(answer.to_string().into_bytes()));
        send.send_response(response.unwrap());
        request.uri().to_string()
    }

    /// Answers the next request, given its JSON body. Returns its method and that body.
    pub(super) async fn answer(&mut self, answer: impl FnOnce(&Value) -> Answer) -> (Method, Value) {
        let next = tokio::time::timeout(Duration::from_secs(10), self.0.next_request());
        let (request, send) = next.await.expect("a request").expect("an open transport");
        let method = request.method().clone();
        let bytes = request.into_body().collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap_or_default();
        let (status, answer) = answer(&body);
        let response = Response::builder().status(status).body(Body::from(answer.to_string().into_bytes()));
        send.send_response(response.unwrap());
        (method, body)
    }
}

/// An answer that tells of a failure.
pub(super) fn failure(code: StatusCode, reason: &str, message: &str) -> Answer {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code.as_u16(), "reason": reason,
        "message": message,
    });
    (code, status)
}

/// The object has changed since it was read.
pub(super) fn conflict() -> Answer {
    failure(StatusCode::CONFLICT, "Conflict", "the object has been modified")
}

/// The object does not exist.
pub(super) fn not_found() -> Answer {
    failure(StatusCode::NOT_FOUND, "NotFound", "not found")
}

/// Whether the write happened is not known.
pub(super) fn server_error() -> Answer {
    failure(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", "etcdserver: request timed out")
}

/// The metadata of these objects.
pub(super) fn metadata_list(items: &[Value]) -> Answer {
    let kind = "PartialObjectMetadataList";
    (StatusCode::OK, json!({"apiVersion": "meta.k8s.io/v1", "kind": kind, "metadata": {}, "items": items}))
}

/// `object` as an API server returns it.
pub(super) fn stored(object: &Value, uid: &str, resource_version: &str) -> Value {
    let mut object = object.clone();
    object["metadata"]["uid"] = json!(uid);
    object["metadata"]["resourceVersion"] = json!(resource_version);
    object
}
