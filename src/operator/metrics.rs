//! The operator's metrics, `venom_*`.

use std::sync::Arc;
use std::time::Duration;

use prometheus::{
    Encoder, Gauge, Histogram, IntCounter, IntCounterVec, IntGauge, Registry, TextEncoder,
    register_gauge_with_registry, register_histogram_with_registry, register_int_counter_vec_with_registry,
    register_int_counter_with_registry, register_int_gauge_with_registry,
};

use crate::mesh;
use crate::organism::Action;

/// All metrics. Labels are bounded: no object name is one.
pub struct Metrics {
    /// Metrics of the operator's links to meshes, over all organisms.
    pub mesh: Arc<mesh::Metrics>,
    registry: Registry,
    beats: IntCounter,
    held: IntCounter,
    missed: IntCounter,
    deviation: Histogram,
    decisions: IntCounterVec,
    organisms: IntGauge,
    quarantined: IntGauge,
    enforcements: IntCounterVec,
    sensed: IntCounterVec,
    enforcement_seconds: Histogram,
    commit_failing: IntGauge,
    slowdown: Gauge,
    commits: IntCounterVec,
    commit_seconds: Histogram,
    ledger_bytes: IntCounter,
    api_errors: IntCounterVec,
    status_writes: IntCounter,
    segments_lost: IntCounter,
    restarts: IntCounterVec,
    takeovers: IntCounterVec,
    watch_failures: IntCounterVec,
    watches_failing: IntGauge,
    authority_lost: IntCounter,
    certificates: IntCounter,
    certificates_refused: IntCounterVec,
}

impl Metrics {
    /// Registers all metrics.
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
            "venom_held_organisms",
            "Organisms that this replica holds.",
            registry
        )?;
        let quarantined = register_int_gauge_with_registry!(
            "venom_quarantined",
            "Organisms whose pods are isolated by this operator.",
            registry
        )?;
        let enforcements = register_int_counter_vec_with_registry!(
            "venom_enforcements_total",
            "Changes of what is done about decisions, by action, change, mode and result (Done, or why not).",
            &["action", "change", "mode", "result"],
            registry
        )?;
        let commit_failing = register_int_gauge_with_registry!(
            "venom_organisms_commit_failing",
            "Organisms whose entries cannot be committed at present.",
            registry
        )?;
        let slowdown = register_gauge_with_registry!(
            "venom_tempo",
            "Largest factor by which an organism beats more slowly than its spec asks; 1 is its own pace.",
            registry
        )?;
        let watches_failing = register_int_gauge_with_registry!(
            "venom_watches_failing",
            "Watches that fail at present; /readyz?verbose names them.",
            registry
        )?;
        Ok(Self {
            mesh: Arc::new(mesh::Metrics::new()?),
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
            quarantined,
            enforcements,
            sensed: counters(
                "venom_sensed_total",
                "Observations of sensors, by kind, suppressed ones included.",
                "kind",
            )?,
            enforcement_seconds: histogram(
                "venom_enforcement_seconds",
                "From the commit of a decision to the last write of its response.",
                &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0],
            )?,
            slowdown,
            commit_failing,
            commits: counters("venom_commits_total", "Commits, urgent or calm.", "kind")?,
            commit_seconds: histogram(
                "venom_commit_seconds",
                "From the hand-over of entries to their commit.",
                &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0],
            )?,
            ledger_bytes: counter("venom_ledger_written_bytes_total", "Bytes written to ledgers.")?,
            api_errors: counters("venom_api_errors_total", "Failed calls of the API server.", "what")?,
            status_writes: counter("venom_status_writes_total", "Status writes.")?,
            segments_lost: counter(
                "venom_ledger_segments_lost_total",
                "Segments that were deleted by someone else.",
            )?,
            restarts: counters(
                "venom_organism_restarts_total",
                "Runs of an organism that ended and are started again, by reason: fenced, panic, failed.",
                "reason",
            )?,
            takeovers: counters(
                "venom_takeovers_total",
                "Organisms that this replica began to hold, by reason: new, restart, released, expired.",
                "reason",
            )?,
            watch_failures: counters(
                "venom_watch_failures_total",
                "Failed attempts at a list or a watch, by what is listed.",
                "list",
            )?,
            watches_failing,
            authority_lost: counter(
                "venom_mesh_ca_lost_total",
                "Losses of the Secret of the certificate authority.",
            )?,
            certificates: counter("venom_certificates_total", "Certificates issued to nodes.")?,
            certificates_refused: counters(
                "venom_certificates_refused_total",
                "Requests for certificates that were refused, by reason.",
                "reason",
            )?,
            registry,
        })
    }

    /// Observes how late a beat began.
    pub fn deviation(&self, late: Duration) {
        self.deviation.observe(late.as_secs_f64());
    }

    /// Counts a beat.
    pub fn beat(&self, held: bool) {
        self.beats.inc();
        if held {
            self.held.inc();
        }
    }

    /// Counts skipped deadlines.
    pub fn missed(&self, count: u64) {
        self.missed.inc_by(count);
    }

    /// Counts a change of decision to `action`.
    pub fn decided(&self, action: Action) {
        self.decisions.with_label_values(&[action.as_str()]).inc();
    }

    /// Sets the number of running engines.
    pub fn organisms(&self, count: usize) {
        self.organisms.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Sets the number of organisms whose pods are isolated.
    pub fn quarantined(&self, count: usize) {
        self.quarantined.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Counts a change of what is done about decisions.
    pub fn enforced(&self, action: &str, change: &str, mode: &str, result: &str) {
        self.enforcements.with_label_values(&[action, change, mode, result]).inc();
    }

    /// Counts an observation of a sensor.
    pub fn sensed(&self, kind: &str) {
        self.sensed.with_label_values(&[kind]).inc();
    }

    /// Observes how long a response took.
    pub fn enforcement_seconds(&self, took: Duration) {
        self.enforcement_seconds.observe(took.as_secs_f64());
    }

    /// Counts an organism whose entries cannot be committed (1), or can again (-1).
    pub fn commit_failing(&self, change: i64) {
        self.commit_failing.add(change);
    }

    /// Sets the slowdown in force.
    pub fn slowdown(&self, slowdown: f64) {
        self.slowdown.set(slowdown);
    }

    /// Counts a commit.
    pub fn committed(&self, urgent: bool, bytes: u64, took: Duration) {
        self.commits.with_label_values(&[if urgent { "urgent" } else { "calm" }]).inc();
        self.ledger_bytes.inc_by(bytes);
        self.commit_seconds.observe(took.as_secs_f64());
    }

    /// Counts a failed API call.
    pub fn api_error(&self, what: &str) {
        self.api_errors.with_label_values(&[what]).inc();
    }

    /// Counts a status write.
    pub fn status_written(&self) {
        self.status_writes.inc();
    }

    /// Counts missing segments.
    pub fn lost(&self, segments: usize) {
        self.segments_lost.inc_by(segments as u64);
    }

    /// Counts a failed attempt at a list or a watch.
    pub fn watch_failed(&self, list: &str) {
        self.watch_failures.with_label_values(&[list]).inc();
    }

    /// Sets the number of watches that fail.
    pub fn watches_failing(&self, count: usize) {
        self.watches_failing.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Counts a loss of the certificate authority's Secret.
    pub fn authority_lost(&self) {
        self.authority_lost.inc();
    }

    /// Counts an issued certificate.
    pub fn certificate_issued(&self) {
        self.certificates.inc();
    }

    /// Counts a refused certificate request.
    pub fn certificate_refused(&self, reason: &str) {
        self.certificates_refused.with_label_values(&[reason]).inc();
    }

    /// A run of an organism ended for this reason and is started again.
    pub fn restarted(&self, reason: &str) {
        self.restarts.with_label_values(&[reason]).inc();
    }

    /// This replica begins to hold an organism, for this reason.
    pub fn took_over(&self, reason: &str) {
        self.takeovers.with_label_values(&[reason]).inc();
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
