//! The operator's HTTP server: `/metrics`, `/healthz`, `/readyz`.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;

use super::beater::Beater;
use super::metrics::Metrics;
use crate::net;

/// The lists that have to arrive before the operator is ready.
#[derive(Default)]
pub struct Readiness {
    waiting: Mutex<BTreeSet<String>>,
    stopping: std::sync::atomic::AtomicBool,
}

impl Readiness {
    /// Adds a list to wait for, by a name that says of what and where.
    pub fn wait_for(&self, list: &str) {
        self.lock().insert(list.to_owned());
    }

    /// Notes that a list has arrived.
    pub fn arrived(&self, list: &str) {
        self.lock().remove(list);
    }

    /// Whether a list has not arrived.
    #[must_use]
    pub fn is_waiting_for(&self, list: &str) -> bool {
        self.lock().contains(list)
    }

    /// Makes the operator unready for good.
    pub fn stop(&self) {
        self.stopping.store(true, std::sync::atomic::Ordering::Relaxed);
    }

    /// What keeps the operator from being ready; none when it is.
    #[must_use]
    pub fn missing(&self) -> Option<String> {
        if self.stopping.load(std::sync::atomic::Ordering::Relaxed) {
            return Some("the operator is stopping".into());
        }
        let waiting = self.lock();
        let names: Vec<&str> = waiting.iter().map(String::as_str).collect();
        (!names.is_empty()).then(|| format!("waiting for the first list of {}", names.join(", ")))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<String>> {
        // A panic while it is held leaves the set itself whole.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
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
    axum::serve(listener, app).with_graceful_shutdown(shutdown).await
}

async fn healthz(State(health): State<Health>) -> (StatusCode, &'static str) {
    if health.beater.is_healthy() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::INTERNAL_SERVER_ERROR, "the beater's thread has ended or is stuck\n")
    }
}

async fn readyz(State(health): State<Health>) -> (StatusCode, String) {
    match health.readiness.missing() {
        None => (StatusCode::OK, "ok\n".into()),
        Some(missing) => (StatusCode::SERVICE_UNAVAILABLE, missing + "\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::budget::Budget;
    use crate::organism::cores::Cores;

    fn health() -> Health {
        let metrics = Arc::new(Metrics::new().unwrap());
        let budget = Arc::new(Budget::for_tests());
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
        health.readiness.wait_for("Organisms in a");
        health.readiness.wait_for("Organisms in b");
        health.readiness.arrived("Organisms in a");
        let (status, text) = readyz(State(health.clone())).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(text, "waiting for the first list of Organisms in b\n");
        health.readiness.arrived("Organisms in b");
        assert_eq!(readyz(State(health.clone())).await.0, StatusCode::OK);
        health.readiness.stop();
        assert_eq!(readyz(State(health)).await.0, StatusCode::SERVICE_UNAVAILABLE);
    }
}
