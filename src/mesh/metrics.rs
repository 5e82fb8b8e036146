//! Prometheus metrics of a mesh, `venom_mesh_*`. All labels are bounded: no peer's name is one.

use std::net::IpAddr;

use prometheus::{
    Encoder, Gauge, IntCounter, IntCounterVec, IntGauge, Registry, TextEncoder, register_gauge_with_registry,
    register_int_counter_vec_with_registry, register_int_counter_with_registry,
    register_int_gauge_with_registry,
};

use super::event::{InjectionPayload, Outcome};
use crate::net::LogLimiter;
use crate::printable;

/// Longest detail of a refusal in the log. It may quote what the peer sent.
const MAX_DETAIL_BYTES: usize = 300;

/// Why a connection was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalReason {
    /// No certificate, or one that the mesh's CA did not sign.
    Untrusted,
    /// A certificate that has expired or is not valid yet.
    Expired,
    /// A certificate of another organism, or without a mesh identity.
    WrongIdentity,
    /// The TLS handshake and the greeting took too long.
    HandshakeTimeout,
    /// Not TLS 1.3.
    InvalidTls,
    /// Too many connections are in their handshake.
    TooManyHandshakes,
    /// Too many links are up.
    TooManyLinks,
    /// An invalid frame, another protocol version, or a message that the protocol does not allow.
    ProtocolViolation,
    /// More messages than an honest peer sends.
    Flood,
}

impl RefusalReason {
    /// The value of the metric's `reason` label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Untrusted => "stranger",
            Self::Expired => "expired",
            Self::WrongIdentity => "identity",
            Self::HandshakeTimeout => "timeout",
            Self::InvalidTls => "garbage",
            Self::TooManyHandshakes => "half_open",
            Self::TooManyLinks => "too_many",
            Self::ProtocolViolation => "protocol",
            Self::Flood => "flood",
        }
    }
}

/// The metrics of one mesh, or the totals of several that share them.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    pub(super) links: IntGauge,
    pub(super) pending: IntGauge,
    pub(super) queue: IntGauge,
    pub(super) dropped: IntCounter,
    pub(super) full: IntCounter,
    pub(super) limited: IntCounter,
    pub(super) expired: IntCounter,
    pub(super) certificate: Gauge,
    refused: IntCounterVec,
    injections: IntCounter,
    anoms: IntCounter,
    ml_weight: Gauge,
    settled: IntCounterVec,
    refusal_log: LogLimiter<IpAddr>,
}

impl Metrics {
    /// Registers all metrics in a registry of their own.
    ///
    /// # Errors
    /// A metric's name is registered twice.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counter = |name, help| register_int_counter_with_registry!(name, help, registry);
        let counters =
            |name, help, label| register_int_counter_vec_with_registry!(name, help, &[label], registry);
        let int_gauge = |name, help| register_int_gauge_with_registry!(name, help, registry);
        let gauge = |name, help| register_gauge_with_registry!(name, help, registry);
        Ok(Self {
            links: int_gauge("venom_mesh_links", "Links to other peers that are up.")?,
            pending: int_gauge("venom_mesh_pending", "Injections without a known outcome.")?,
            queue: int_gauge("venom_mesh_queue", "Deliveries in the queue.")?,
            dropped: counter("venom_mesh_dropped_total", "Frames dropped because a peer was behind.")?,
            full: counter(
                "venom_mesh_full_total",
                "Injections of other peers dropped because too many were pending.",
            )?,
            limited: counter(
                "venom_mesh_limited_total",
                "Injections and outcomes of other peers dropped because their sender exceeded its rate.",
            )?,
            expired: counter("venom_mesh_expired_total", "Injections dropped without an outcome in time.")?,
            certificate: gauge(
                "venom_mesh_certificate_expiry_seconds",
                "When the certificate expires, in seconds since the Unix epoch.",
            )?,
            refused: counters("venom_mesh_refused_total", "Refused connections, by reason.", "reason")?,
            injections: counter("venom_mesh_injections_total", "Injections that this peer has seen.")?,
            anoms: counter("venom_mesh_anoms_total", "Anomalies of the injections that this peer has seen.")?,
            ml_weight: gauge(
                "venom_mesh_ml_weight",
                "Model weight of the newest injection that had one; 0 before any.",
            )?,
            settled: counters(
                "venom_mesh_settled_total",
                "Injections whose outcome this peer has seen, by outcome.",
                "outcome",
            )?,
            refusal_log: LogLimiter::default(),
            registry,
        })
    }

    /// Counts a refused connection, and logs it at most once per source and minute.
    pub(super) fn connection_refused(&self, source: IpAddr, reason: RefusalReason, detail: &str) {
        self.refused.with_label_values(&[reason.as_str()]).inc();
        if self.refusal_log.allow(source) {
            let detail = printable::line(detail, MAX_DETAIL_BYTES);
            tracing::warn!(%source, reason = reason.as_str(), "refused a mesh connection: {detail}");
        }
    }

    /// Number of connections refused for `reason`.
    #[must_use]
    pub fn refused(&self, reason: RefusalReason) -> u64 {
        self.refused.with_label_values(&[reason.as_str()]).get()
    }

    /// Number of links that are up.
    #[must_use]
    pub fn links(&self) -> i64 {
        self.links.get()
    }

    /// Number of frames dropped because a peer was behind.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.get()
    }

    /// Counts an injection seen for the first time: the mission's `inject_data`, as far as a node shows it.
    pub(super) fn injection_seen(&self, payload: InjectionPayload) {
        self.injections.inc();
        self.anoms.inc_by(payload.anoms.unwrap_or_default());
        if let Some(weight) = payload.ml_weight {
            self.ml_weight.set(weight);
        }
    }

    pub(super) fn injection_settled(&self, outcome: &Outcome) {
        let label = match outcome {
            Outcome::Committed { .. } => "committed",
            Outcome::Refused { .. } => "refused",
        };
        self.settled.with_label_values(&[label]).inc();
    }

    /// All metrics in Prometheus' text format.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = Vec::new();
        // Writing into memory fails only for a malformed metric family, which registration rules out.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut out);
        String::from_utf8(out).unwrap_or_default()
    }
}
