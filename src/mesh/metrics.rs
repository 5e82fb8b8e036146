//! What a mesh counts, under `venom_mesh_*`. Labels are bounded: no peer's name is one.

use std::net::IpAddr;

use prometheus::{
    Encoder, Gauge, IntCounter, IntCounterVec, IntGauge, Registry, TextEncoder, register_gauge_with_registry,
    register_int_counter_vec_with_registry, register_int_counter_with_registry,
    register_int_gauge_with_registry,
};

use super::event::{InjectionPayload, Outcome};
use crate::net::LogLimiter;

/// Why a connection was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// No or another authority's certificate.
    Stranger,
    /// A certificate that is not good now.
    Expired,
    /// A certificate of another organism, or of nobody of a mesh.
    Identity,
    /// The handshake took too long.
    Timeout,
    /// No TLS 1.3.
    Garbage,
    /// Too many connections are in their handshake.
    HalfOpen,
    /// Too many links.
    TooMany,
    /// No frames, or none of this version of the mesh.
    Protocol,
}

impl Refused {
    /// As a metric's label has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stranger => "stranger",
            Self::Expired => "expired",
            Self::Identity => "identity",
            Self::Timeout => "timeout",
            Self::Garbage => "garbage",
            Self::HalfOpen => "half_open",
            Self::TooMany => "too_many",
            Self::Protocol => "protocol",
        }
    }
}

/// The counters. Several meshes may share them.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    pub(super) links: IntGauge,
    pub(super) pending: IntGauge,
    pub(super) queue: IntGauge,
    pub(super) dropped: IntCounter,
    pub(super) full: IntCounter,
    pub(super) expired: IntCounter,
    pub(super) certificate: Gauge,
    refused: IntCounterVec,
    heard: IntCounter,
    anoms: IntCounter,
    ml_weight: Gauge,
    settled: IntCounterVec,
    refusal_log: LogLimiter<IpAddr>,
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
        let int_gauge = |name, help| register_int_gauge_with_registry!(name, help, registry);
        let gauge = |name, help| register_gauge_with_registry!(name, help, registry);
        Ok(Self {
            links: int_gauge("venom_mesh_links", "Peers that are linked.")?,
            pending: int_gauge("venom_mesh_pending", "Injections not known to be settled.")?,
            queue: int_gauge("venom_mesh_queue", "Deliveries that wait.")?,
            dropped: counter("venom_mesh_dropped_total", "Frames not sent because a peer was behind.")?,
            full: counter("venom_mesh_full_total", "Injections of peers that found no room.")?,
            expired: counter("venom_mesh_expired_total", "Injections that nobody acknowledged in time.")?,
            certificate: gauge(
                "venom_mesh_certificate_expiry_seconds",
                "When the certificate ends, in seconds since 1970.",
            )?,
            refused: counters("venom_mesh_refused_total", "Refused connections, by reason.", "reason")?,
            heard: counter("venom_mesh_injections_total", "Injections this peer has heard of.")?,
            anoms: counter("venom_mesh_anoms_total", "Anomalies of the injections it has heard of.")?,
            ml_weight: gauge(
                "venom_mesh_ml_weight",
                "Weight of the newest injection that had one; 0 before any.",
            )?,
            settled: counters(
                "venom_mesh_settled_total",
                "Injections whose outcome this peer has heard.",
                "outcome",
            )?,
            refusal_log: LogLimiter::default(),
            registry,
        })
    }

    /// A connection was refused: counted, and told once a source and minute.
    pub(super) fn refuse(&self, source: IpAddr, reason: Refused, what: &str) {
        self.refused.with_label_values(&[reason.as_str()]).inc();
        if self.refusal_log.allow(source) {
            tracing::warn!(%source, reason = reason.as_str(), "mesh: refused a connection: {what}");
        }
    }

    /// How many connections were refused for `reason`.
    #[must_use]
    pub fn refused(&self, reason: Refused) -> u64 {
        self.refused.with_label_values(&[reason.as_str()]).get()
    }

    /// Peers that are linked.
    #[must_use]
    pub fn links(&self) -> i64 {
        self.links.get()
    }

    /// Frames that were not sent because a peer was behind.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.get()
    }

    /// The mission's `inject_data`: what is shown of it here.
    pub(super) fn hear(&self, payload: InjectionPayload) {
        self.heard.inc();
        self.anoms.inc_by(payload.anoms.unwrap_or_default());
        if let Some(weight) = payload.ml_weight {
            self.ml_weight.set(weight);
        }
    }

    pub(super) fn settle(&self, outcome: &Outcome) {
        let label = match outcome {
            Outcome::Committed { .. } => "committed",
            Outcome::Refused { .. } => "refused",
        };
        self.settled.with_label_values(&[label]).inc();
    }

    /// The text of `/metrics`.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = Vec::new();
        // Encoding into memory fails only for a malformed family.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut out);
        String::from_utf8(out).unwrap_or_default()
    }
}
