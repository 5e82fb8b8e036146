//! HTTP client for single requests: one connection each, closed afterwards.

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::{Request, Uri};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rustls::ClientConfig;
use tokio::time::timeout;

/// Maximum size of a response's body.
const MAX_RESPONSE_BYTES: usize = 64 * 1024;

/// Status and body of a response.
#[derive(Debug)]
pub struct HttpResponse {
    /// The status code.
    pub status: u16,
    /// The whole body, at most 64 KiB.
    pub body: Bytes,
}

/// Posts a JSON body to `url`: over TLS only if `tls` is given, in plain text only if not.
///
/// # Errors
/// A message that says what went wrong; also if the exchange takes longer than `time_limit`.
pub async fn post_json(
    url: &Uri,
    body: &[u8],
    authorization: Option<&str>,
    tls: Option<ClientConfig>,
    time_limit: Duration,
) -> Result<HttpResponse, String> {
    let mut request = Request::post(url).header(CONTENT_TYPE, "application/json");
    if let Some(authorization) = authorization {
        request = request.header(AUTHORIZATION, authorization);
    }
    let body = Full::new(Bytes::copy_from_slice(body));
    let request = request.body(body).map_err(|error| error.to_string())?;
    let client = Client::builder(TokioExecutor::new());
    let exchange = async {
        let response = match tls {
            None => client.build_http().request(request).await,
            Some(tls) => {
                // https_only: a bearer token must never go over a plain connection.
                let connector =
                    HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_http1().build();
                client.build(connector).request(request).await
            }
        };
        let response = response.map_err(|error| describe(&error))?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), MAX_RESPONSE_BYTES).collect().await;
        Ok(HttpResponse { status, body: body.map_err(|error| error.to_string())?.to_bytes() })
    };
    timeout(time_limit, exchange).await.unwrap_or_else(|_| Err(format!("no response within {time_limit:?}")))
}

/// The error's causes. The client's own text says only in which phase of the request it failed.
fn describe(error: &hyper_util::client::legacy::Error) -> String {
    let causes = std::iter::successors(error.source(), |&error| error.source());
    let causes: Vec<String> = causes.map(ToString::to_string).collect();
    if causes.is_empty() { error.to_string() } else { causes.join(": ") }
}
