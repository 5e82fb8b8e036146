//! Plain HTTP for clients that nobody has authenticated: metrics, probes, the injection API.
//!
//! What a client can hold is bounded: a place among few, for a limited time, with a small buffer. With all places taken
//! a newcomer displaces a connection of the source that has the most ([`Connections`]), so that a probe is answered
//! whoever else is connected. Places are a part of the process's descriptors: the mesh keeps the rest.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Connection, Connections, accept, share_of_descriptors};

/// Most connections of one server.
const MAX_CONNECTIONS: usize = 64;
/// A server takes at most this part of the process's descriptors.
const PART_OF_DESCRIPTORS: usize = 8;
/// Read buffer of a connection; the headers of a request have to fit in it.
const MAX_BUFFER_BYTES: usize = 16 * 1024;
/// For the headers of a request, from the connection or the end of the previous request on. It therefore also ends idle
/// connections.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// For a connection with all its requests: a client that reads its answers slowly does not hold them for ever. An
/// injection waits for its outcome for up to 5 s.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
/// For requests that are being answered when the server stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// HTTP/1 with a bounded buffer and a deadline for the headers of each request.
pub(crate) fn http1(max_buffer_bytes: usize, header_timeout: Duration) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(header_timeout).max_buf_size(max_buffer_bytes);
    builder
}

/// Serves plain HTTP on one or several listeners, which share their places.
#[derive(Clone, Debug)]
pub(crate) struct HttpServer {
    connections: Arc<Connections>,
    stop: CancellationToken,
}

impl HttpServer {
    /// A server that ends when `stop` is cancelled.
    pub(crate) fn new(stop: CancellationToken) -> Self {
        let places = share_of_descriptors(PART_OF_DESCRIPTORS, MAX_CONNECTIONS);
        Self { connections: Connections::new(places), stop }
    }

    /// Serves `routes` until the server has stopped and its requests are answered.
    pub(crate) async fn serve(self, listener: TcpListener, routes: Router) {
        let mut open = JoinSet::new();
        loop {
            let admitted = async {
                let (stream, source) = accept(&listener).await;
                (stream, self.connections.admit(source.ip()).await.0)
            };
            let Some((stream, connection)) = self.stop.run_until_cancelled(admitted).await else { break };
            // Those that have ended.
            while open.try_join_next().is_some() {}
            open.spawn(serve_connection(stream, connection, routes.clone(), self.stop.clone()));
        }
        drop(listener);
        while open.join_next().await.is_some() {}
    }
}

async fn serve_connection(
    stream: TcpStream,
    connection: Connection,
    routes: Router,
    stop: CancellationToken,
) {
    let routes = TowerToHyperService::new(routes);
    let service = service_fn(|request| {
        connection.set_busy(true);
        let response = routes.call(request);
        async {
            let response = response.await;
            connection.set_busy(false);
            response
        }
    });
    let serving = http1(MAX_BUFFER_BYTES, HEADER_TIMEOUT).serve_connection(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    let until_stop = async {
        tokio::select! {
            // A broken connection affects only its client.
            _ = timeout(CONNECTION_TIMEOUT, serving.as_mut()) => return,
            () = stop.cancelled() => {}
        }
        serving.as_mut().graceful_shutdown();
        let _ = timeout(STOP_TIMEOUT, serving).await;
    };
    connection.run(until_stop).await;
}
