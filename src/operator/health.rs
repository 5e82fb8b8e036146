//! The operator's HTTP server: `/metrics`, `/healthz`, `/readyz`.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::routing::get;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::beater::Beater;
use super::metrics::Metrics;
use crate::net;
use crate::printable::{LINE, line};

/// What a watch lists, and where.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct List {
    /// What, in the plural.
    pub kind: &'static str,
    /// The namespace; none for all.
    pub namespace: Option<String>,
}

impl fmt::Display for List {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(out, "{} in {namespace}", self.kind),
            None => out.write_str(self.kind),
        }
    }
}

#[derive(Default)]
struct ListState {
    /// Whether the operator is unready before it has arrived.
    required: bool,
    arrived: bool,
    /// Why the watch fails, and since when.
    failure: Option<(String, Instant)>,
}

/// The watched lists: which have arrived, and which fail.
#[derive(Default)]
pub struct Readiness {
    lists: watch::Sender<BTreeMap<List, ListState>>,
    stopping: std::sync::atomic::AtomicBool,
}

impl Readiness {
    /// Adds a list.
    pub fn add(&self, list: &List) {
        self.update(list, |_| {});
    }

    /// Adds a list without which the operator is not ready.
    pub fn wait_for(&self, list: &List) {
        self.update(list, |state| state.required = true);
    }

    /// Notes that a list has arrived.
    pub fn arrived(&self, list: &List) {
        self.update(list, |state| state.arrived = true);
    }

    /// Notes why the watch on a list fails, or that it works. Returns how many fail.
    pub fn failing(&self, list: &List, failure: Option<&str>) -> usize {
        self.update(list, |state| {
            let since = state.failure.as_ref().map_or_else(Instant::now, |(_, since)| *since);
            state.failure = failure.map(|it| (it.to_owned(), since));
        });
        self.lists.borrow().values().filter(|state| state.failure.is_some()).count()
    }

    /// Whether a list has not arrived.
    #[must_use]
    pub fn is_waiting_for(&self, list: &List) -> bool {
        self.lists.borrow().get(list).is_none_or(|state| !state.arrived)
    }

    /// Returns when the list has arrived.
    pub async fn until_arrived(&self, list: &List) {
        self.until(list, |state| state.arrived).await;
    }

    /// Returns when the list has arrived or could not be had.
    pub async fn until_tried(&self, list: &List) {
        self.until(list, |state| state.arrived || state.failure.is_some()).await;
    }

    /// Makes the operator unready for good.
    pub fn stop(&self) {
        self.stopping.store(true, std::sync::atomic::Ordering::Relaxed);
    }

    /// What keeps the operator from being ready; none when it is. A list that cannot be had in one namespace does not,
    /// if it has arrived in another.
    #[must_use]
    pub fn missing(&self) -> Option<String> {
        if self.stopping.load(std::sync::atomic::Ordering::Relaxed) {
            return Some("the operator is stopping".into());
        }
        let lists = self.lists.borrow();
        let elsewhere = |list: &List| lists.iter().any(|(it, state)| it.kind == list.kind && state.arrived);
        // One list may wait for another of its namespace.
        let fails = |list: &List| {
            lists.iter().any(|(it, state)| it.namespace == list.namespace && state.failure.is_some())
        };
        let missing = |(list, state): &(&List, &ListState)| {
            state.required && !state.arrived && !(fails(list) && elsewhere(list))
        };
        let names: Vec<_> = lists.iter().filter(missing).map(|(list, _)| list.to_string()).collect();
        (!names.is_empty()).then(|| format!("waiting for the first list of {}", names.join(", ")))
    }

    /// One line for each watch that fails.
    #[must_use]
    pub fn verbose(&self) -> Vec<String> {
        let line = |(list, state): (&List, &ListState)| {
            state.failure.as_ref().map(|(failure, _)| format!("the watch on {list} fails: {failure}"))
        };
        self.lists.borrow().iter().filter_map(line).collect()
    }

    /// Lists whose watches have failed for at least this long, and why.
    #[must_use]
    pub fn failing_for(&self, least: Duration) -> Vec<(List, String)> {
        let failing = |(list, state): (&List, &ListState)| {
            let (failure, since) = state.failure.as_ref()?;
            (since.elapsed() >= least).then(|| (list.clone(), failure.clone()))
        };
        self.lists.borrow().iter().filter_map(failing).collect()
    }

    fn update(&self, list: &List, change: impl FnOnce(&mut ListState)) {
        self.lists.send_modify(|lists| change(lists.entry(list.clone()).or_default()));
    }

    async fn until(&self, list: &List, holds: impl Fn(&ListState) -> bool) {
        let mut lists = self.lists.subscribe();
        // Infallible: this holds the sender.
        let _ = lists.wait_for(|lists| lists.get(list).is_some_and(&holds)).await;
    }
}

/// What the server reports.
#[derive(Clone)]
pub struct Health {
    /// For `/metrics`.
    pub metrics: Arc<Metrics>,
    /// Without it nothing beats: `/healthz` fails, so that the kubelet restarts the container.
    pub beater: Arc<Beater>,
    /// For `/readyz`.
    pub readiness: Arc<Readiness>,
}

/// Serves until `shutdown` completes.
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve(
    address: SocketAddr,
    health: Health,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let app = Router::new()
        .route("/metrics", get(|State(health): State<Health>| async move { health.metrics.text() }))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(health);
    let listener = net::bind(address).await?;
    let stop = CancellationToken::new();
    let server = net::HttpServer::new(stop.clone());
    tokio::join!(server.serve(listener, app), async {
        shutdown.await;
        stop.cancel();
    });
    Ok(())
}

async fn healthz(State(health): State<Health>) -> (StatusCode, &'static str) {
    if health.beater.is_healthy() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::INTERNAL_SERVER_ERROR, "the beater's thread has ended or is stuck\n")
    }
}

/// With the query `verbose` it also names the watches that fail.
async fn readyz(State(health): State<Health>, RawQuery(query): RawQuery) -> (StatusCode, String) {
    let (status, mut text) = match health.readiness.missing() {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(missing) => (StatusCode::SERVICE_UNAVAILABLE, missing + "\n"),
    };
    if query.is_some_and(|query| query.split('&').any(|it| it == "verbose" || it.starts_with("verbose="))) {
        text.extend(health.readiness.verbose().iter().map(|told| line(told, LINE) + "\n"));
    }
    (status, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::budget::{Budget, Limits};
    use crate::organism::cores::Cores;

    fn health() -> Health {
        let metrics = Arc::new(Metrics::new().unwrap());
        let budget = Arc::new(Budget::new(&Limits::for_tests()));
        let beater = Beater::start(Cores::default(), budget, metrics.clone()).unwrap();
        Health { metrics, beater: Arc::new(beater), readiness: Arc::default() }
    }

    #[tokio::test]
    async fn healthz_fails_without_a_beater() {
        let health = health();
        assert_eq!(healthz(State(health.clone())).await.0, StatusCode::OK);
        health.beater.panic();
        assert_eq!(healthz(State(health)).await.0, StatusCode::INTERNAL_SERVER_ERROR);
    }

    #[tokio::test]
    async fn readyz_names_the_lists_that_are_missing_and_fails_during_a_stop() {
        let health = health();
        let ready = async || readyz(State(health.clone()), RawQuery(None)).await;
        let list = |namespace: &str| List { kind: "Organisms", namespace: Some(namespace.into()) };
        health.readiness.wait_for(&list("a"));
        health.readiness.wait_for(&list("b"));
        health.readiness.arrived(&list("a"));
        let waiting = "waiting for the first list of Organisms in b\n".to_owned();
        assert_eq!(ready().await, (StatusCode::SERVICE_UNAVAILABLE, waiting));
        health.readiness.arrived(&list("b"));
        assert_eq!(ready().await.0, StatusCode::OK);
        health.readiness.stop();
        assert_eq!(ready().await.0, StatusCode::SERVICE_UNAVAILABLE);
    }

    #[tokio::test]
    async fn a_namespace_that_cannot_be_listed_does_not_make_the_others_unready() {
        let health = health();
        let verbose = async || readyz(State(health.clone()), RawQuery(Some("verbose".into()))).await;
        let list = |namespace: &str| List { kind: "Organisms", namespace: Some(namespace.into()) };
        health.readiness.wait_for(&list("a"));
        health.readiness.wait_for(&list("b"));
        for namespace in ["a", "b"] {
            health.readiness.failing(&list(namespace), Some("forbidden"));
        }
        let (status, _) = verbose().await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "no namespace can be listed");
        health.readiness.arrived(&list("a"));
        assert_eq!(health.readiness.failing(&list("a"), None), 1);
        let told = "ok\nthe watch on Organisms in b fails: forbidden\n".to_owned();
        assert_eq!(verbose().await, (StatusCode::OK, told));
        assert!(health.readiness.is_waiting_for(&list("b")));
    }
}
