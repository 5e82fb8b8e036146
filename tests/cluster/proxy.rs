//! A proxy before the API server that can hold requests back: what is sent then arrives late, as over a slow network. It can
//! also lose, delay and refuse requests.
use std::io;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use futures::{StreamExt, stream};
use kube::Client;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::sleep;

/// Which requests are held back, by method and path.
type Holds = fn(&Method, &str) -> bool;
/// Requests that were held back, and how each was answered in the end.
type Seen = Arc<Mutex<Vec<(String, Option<StatusCode>)>>>;

/// What happens to requests besides being held back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Trouble {
    /// Nothing.
    None,
    /// Request and answer each take this much longer.
    Late(Duration),
    /// They are answered with this status and not passed on.
    Refused(StatusCode),
    /// Their connection ends, and they are not passed on. Watches end too.
    Cut,
    /// They are passed on, and their connection ends instead of an answer. Watches end too.
    Unanswered,
}

impl Trouble {
    fn cuts(&self) -> bool {
        matches!(self, Self::Cut | Self::Unanswered)
    }
}

/// Passes requests on with the rights of the test's client.
pub struct Proxy {
    /// For an operator that uses the proxy.
    pub kubeconfig: PathBuf,
    holding: watch::Sender<bool>,
    /// With the share of requests that it happens to, in percent.
    trouble: watch::Sender<(Trouble, u8)>,
    seen: Seen,
}

impl Proxy {
    /// Starts a proxy that holds nothing yet.
    pub async fn start(client: Client, holds: Holds, folder: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let kubeconfig = folder.join("kubeconfig");
        let named = |kind: &str, content| json!([{"name": "proxy", kind: content}]);
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "proxy",
            "clusters": named("cluster", json!({"server": format!("http://{address}")})),
            "contexts": named("context", json!({"cluster": "proxy", "user": "proxy"})),
            "users": named("user", json!({})),
        });
        std::fs::write(&kubeconfig, config.to_string()).unwrap();
        let (holding, held) = watch::channel(false);
        let (trouble, troubled) = watch::channel((Trouble::None, 0));
        let seen = Arc::new(Mutex::new(vec![]));
        let answers = seen.clone();
        let app = axum::Router::new().fallback(move |request: Request| {
            let passing = Passing { client: client.clone(), holds, held: held.clone(), seen: seen.clone() };
            let mut troubled = troubled.clone();
            let (trouble, share) = *troubled.borrow_and_update();
            let trouble = if fastrand::u8(..100) < share { trouble } else { Trouble::None };
            // A task of its own: the request arrives even if its sender has given up.
            let passed = tokio::spawn(passing.with(trouble, request));
            async move {
                match passed.await.unwrap() {
                    Some(answer) => answer.map(|body| until_cut(body, troubled)),
                    // Ends the connection's task, and with it the connection, without a message.
                    None => resume_unwind(Box::new("cut")),
                }
            }
        });
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { kubeconfig, holding, trouble, seen: answers }
    }

    /// From now on `trouble` happens to `share` percent of the requests.
    pub fn trouble(&self, trouble: Trouble, share: u8) {
        self.trouble.send_replace((trouble, share));
    }

    /// Holds requests back from now on, or lets all of them go.
    pub fn hold(&self, hold: bool) {
        self.holding.send_replace(hold);
    }

    /// The requests that were held back, and how each was answered in the end.
    pub fn seen(&self) -> Vec<(String, Option<StatusCode>)> {
        self.seen.lock().unwrap().clone()
    }
}

/// What passes one request on.
struct Passing {
    client: Client,
    holds: Holds,
    held: watch::Receiver<bool>,
    seen: Seen,
}

impl Passing {
    /// The answer; `None` if the connection is to end without one.
    async fn with(self, trouble: Trouble, request: Request) -> Option<Response> {
        match trouble {
            Trouble::Late(time) => sleep(time).await,
            Trouble::Refused(code) => return Some(refused(code)),
            Trouble::Cut => return None,
            Trouble::None | Trouble::Unanswered => {}
        }
        let answer = self.pass_on(request).await;
        if let Trouble::Late(time) = trouble {
            sleep(time).await;
        }
        (trouble != Trouble::Unanswered).then_some(answer)
    }

    async fn pass_on(self, request: Request) -> Response {
        let Self { client, holds, mut held, seen } = self;
        let (parts, body) = request.into_parts();
        let Ok(body) = axum::body::to_bytes(body, usize::MAX).await else {
            // Its sender was killed.
            return refused(StatusCode::BAD_REQUEST);
        };
        let path = parts.uri.path().to_owned();
        let mut place = None;
        if *held.borrow_and_update() && holds(&parts.method, &path) {
            let mut seen = seen.lock().unwrap();
            place = Some(seen.len());
            seen.push((format!("{} {path}", parts.method), None));
        }
        if place.is_some() {
            held.wait_for(|holding| !holding).await.unwrap();
        }
        let mut forward = axum::http::Request::builder().method(parts.method).uri(parts.uri);
        *forward.headers_mut().unwrap() = of_content(&parts.headers);
        let forward = forward.body(kube::client::Body::from(body)).unwrap();
        let answer = match client.send(forward).await {
            Ok(answer) => answer.map(axum::body::Body::new),
            Err(error) => {
                let mut answer = Response::new(error.to_string().into());
                *answer.status_mut() = StatusCode::BAD_GATEWAY;
                answer
            }
        };
        if let Some(place) = place {
            seen.lock().unwrap()[place].1 = Some(answer.status());
        }
        answer
    }
}

/// The headers that are not about a connection.
fn of_content(headers: &HeaderMap) -> HeaderMap {
    let about = [header::ACCEPT, header::CONTENT_TYPE, header::USER_AGENT];
    about.into_iter().filter_map(|name| Some((name.clone(), headers.get(name)?.clone()))).collect()
}

/// An answer of the API server that it takes no request now.
fn refused(code: StatusCode) -> Response {
    let reason = if code == StatusCode::TOO_MANY_REQUESTS { "TooManyRequests" } else { "InternalError" };
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": reason,
        "message": "refused by the proxy of a test", "code": code.as_u16(),
    });
    let mut answer = Response::new(Body::from(status.to_string()));
    *answer.status_mut() = code;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    answer
}

/// `body` until connections are cut. Then it ends with an error.
fn until_cut(body: Body, mut troubled: watch::Receiver<(Trouble, u8)>) -> Body {
    let cut = Box::pin(async move {
        // Only what is on the way when the trouble begins.
        while troubled.changed().await.is_ok() {
            if troubled.borrow_and_update().0.cuts() {
                return;
            }
        }
        std::future::pending::<()>().await;
    });
    Body::from_stream(stream::unfold(Some((body.into_data_stream(), cut)), async |state| {
        let (mut data, mut cut) = state?;
        tokio::select! {
            biased;
            () = &mut cut => Some((Err(io::Error::other("cut")), None)),
            item = data.next() => item.map(|item| (item.map_err(io::Error::other), Some((data, cut)))),
        }
    }))
}
