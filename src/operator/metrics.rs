//! What the operator counts, under `venom_*`, and how it is asked: `/metrics`, `/healthz`, `/readyz`.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use prometheus::{
    Encoder, Gauge, Histogram, IntCounter, IntCounterVec, IntGauge, Registry, TextEncoder,
    register_gauge_with_registry, register_histogram_with_registry, register_int_counter_vec_with_registry,
    register_int_counter_with_registry, register_int_gauge_with_registry,
};

use crate::mesh;
use crate::organism::Action;

/// The counters. Labels are bounded: no object's name is one.
pub struct Metrics {
    /// What the operator's places in meshes count, all together.
    pub mesh: Arc<mesh::Metrics>,
    registry: Registry,
    ready: AtomicBool,
    beats: IntCounter,
    held: IntCounter,
    missed: IntCounter,
    deviation: Histogram,
    decisions: IntCounterVec,
    organisms: IntGauge,
    tempo: Gauge,
    commits: IntCounterVec,
    commit_seconds: Histogram,
    ledger_bytes: IntCounter,
    api_errors: IntCounterVec,
    status_writes: IntCounter,
    segments_lost: IntCounter,
    certificates: IntCounter,
    certificates_refused: IntCounterVec,
}

impl Metrics {
    /// Registers all of them.
    ///
    /// # Errors
    /// When a name is registered twice.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counter = |name, help| register_int_counter_with_registry!(name, help, registry);
        let counters =
            |name, help, label| register_int_counter_vec_with_registry!(name, help, &[label], registry);
        let histogram = |name, help, buckets: &[f64]| {
            register_histogram_with_registry!(name, help, buckets.to_vec(), registry)
        };
        let organisms = register_int_gauge_with_registry!(
            "venom_organisms",
            "Organisms whose ledger this operator holds.",
            registry
        )?;
        let tempo = register_gauge_with_registry!(
            "venom_tempo",
            "How slow organisms beat; 1 is their own pace.",
            registry
        )?;
        Ok(Self {
            mesh: Arc::new(mesh::Metrics::new()?),
            ready: AtomicBool::new(false),
            beats: counter("venom_beats_total", "Beats made.")?,
            held: counter("venom_beats_held_total", "Beats held because a core failed.")?,
            missed: counter("venom_beats_missed_total", "Deadlines skipped.")?,
            deviation: histogram(
                "venom_beat_deviation_seconds",
                "How late beats began.",
                &[1e-4, 2.5e-4, 5e-4, 1e-3, 2e-3, 3e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0],
            )?,
            decisions: counters(
                "venom_decisions_total",
                "Changes of decision, by the new action.",
                "action",
            )?,
            organisms,
            tempo,
            commits: counters("venom_commits_total", "Commits, urgent or calm.", "kind")?,
            commit_seconds: histogram(
                "venom_commit_seconds",
                "From the hand-over of entries to their commit.",
                &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0],
            )?,
            ledger_bytes: counter("venom_ledger_written_bytes_total", "Bytes written to ledgers.")?,
            api_errors: counters("venom_api_errors_total", "Failed calls of the API server.", "what")?,
            status_writes: counter("venom_status_writes_total", "Status writes.")?,
            segments_lost: counter("venom_ledger_segments_lost_total", "Segments that somebody removed.")?,
            certificates: counter("venom_certificates_total", "Certificates issued to nodes.")?,
            certificates_refused: counters(
                "venom_certificates_refused_total",
                "Requests for certificates that were refused, by reason.",
                "reason",
            )?,
            registry,
        })
    }

    /// A beat began this late.
    pub fn deviation(&self, late: Duration) {
        self.deviation.observe(late.as_secs_f64());
    }

    /// A beat was made.
    pub fn beat(&self, held: bool) {
        self.beats.inc();
        if held {
            self.held.inc();
        }
    }

    /// Deadlines were skipped.
    pub fn missed(&self, count: u64) {
        self.missed.inc_by(count);
    }

    /// A decision changed to `action`.
    pub fn decided(&self, action: Action) {
        self.decisions.with_label_values(&[action.as_str()]).inc();
    }

    /// So many ledgers are held.
    pub fn organisms(&self, count: usize) {
        self.organisms.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// The tempo in force.
    pub fn tempo(&self, tempo: f64) {
        self.tempo.set(tempo);
    }

    /// A commit succeeded.
    pub fn committed(&self, urgent: bool, bytes: u64, took: Duration) {
        self.commits.with_label_values(&[if urgent { "urgent" } else { "calm" }]).inc();
        self.ledger_bytes.inc_by(bytes);
        self.commit_seconds.observe(took.as_secs_f64());
    }

    /// A call failed.
    pub fn api_error(&self, what: &str) {
        self.api_errors.with_label_values(&[what]).inc();
    }

    /// A status was written.
    pub fn status_written(&self) {
        self.status_writes.inc();
    }

    /// Segments were lost.
    pub fn lost(&self, segments: usize) {
        self.segments_lost.inc_by(segments as u64);
    }

    /// A node got a certificate.
    pub fn certificate_issued(&self) {
        self.certificates.inc();
    }

    /// Somebody got none.
    pub fn certificate_refused(&self, reason: &str) {
        self.certificates_refused.with_label_values(&[reason]).inc();
    }

    /// The operator watches and can serve.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Relaxed);
    }

    /// The text of `/metrics`.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = Vec::new();
        // Encoding into memory fails only for a malformed family.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut out);
        String::from_utf8(out).unwrap_or_default() + &self.mesh.text()
    }
}

/// Serves until `shutdown` comes.
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve(
    address: SocketAddr,
    metrics: Arc<Metrics>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let app = Router::new()
        .route("/metrics", get(|State(metrics): State<Arc<Metrics>>| async move { metrics.text() }))
        .route("/healthz", get(|| async { "ok\n" }))
        .route(
            "/readyz",
            get(|State(metrics): State<Arc<Metrics>>| async move {
                if metrics.ready.load(Ordering::Relaxed) {
                    (StatusCode::OK, "ok\n")
                } else {
                    (StatusCode::SERVICE_UNAVAILABLE, "the first watch has not come in yet\n")
                }
            }),
        )
        .with_state(metrics);
    let listener = tokio::net::TcpListener::bind(address).await?;
    axum::serve(listener, app).with_graceful_shutdown(shutdown).await
}
