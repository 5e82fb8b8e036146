//! One HTTP request at a time, which is all that is needed here.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Uri};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// Most bytes of an answer.
const LONGEST_ANSWER: usize = 64 * 1024;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: Bytes,
}

/// Posts JSON to `url`, over TLS where there is one. All of it takes no longer than `patience`.
///
/// # Errors
/// Says what went wrong.
pub async fn post(
    url: &Uri,
    json: &[u8],
    authorization: Option<&str>,
    tls: Option<Arc<ClientConfig>>,
    patience: Duration,
) -> Result<Answer, String> {
    let exchange = async {
        let host = url.host().ok_or("the address names no host")?.trim_matches(['[', ']']);
        let port = url.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
        let scheme = if tls.is_some() { "https" } else { "http" };
        if url.scheme_str() != Some(scheme) {
            return Err(format!("the address has to begin with {scheme}://"));
        }
        let path = url.path_and_query().map_or("/", |it| it.as_str());
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(HOST, url.authority().map_or(host, |it| it.as_str()))
            .header(CONTENT_TYPE, "application/json");
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let body = Full::new(Bytes::copy_from_slice(json));
        let request = request.body(body).map_err(|error| error.to_string())?;
        let stream = TcpStream::connect((host, port)).await.map_err(|error| error.to_string())?;
        match tls {
            None => send(TokioIo::new(stream), request).await,
            Some(tls) => {
                let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
                let stream = TlsConnector::from(tls).connect(name, stream).await;
                send(TokioIo::new(stream.map_err(|error| error.to_string())?), request).await
            }
        }
    };
    timeout(patience, exchange).await.unwrap_or_else(|_| Err("no answer in time".into()))
}

async fn send<T>(io: T, request: Request<Full<Bytes>>) -> Result<Answer, String>
where
    T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let told = |error: hyper::Error| error.to_string();
    let (mut sender, connection) = http1::handshake(io).await.map_err(told)?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(told)?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), LONGEST_ANSWER).collect().await;
        Ok(Answer { status, body: body.map_err(|error| error.to_string())?.to_bytes() })
    };
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        // The connection may end with the answer read but not taken.
        ended = connection => {
            ended.map_err(told)?;
            exchange.await
        }
    }
}
