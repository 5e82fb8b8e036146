//! What an organism senses: events of its pods and values of Prometheus, as anomalies of its ledger.
//!
//! | module | contents |
//! |---|---|
//! | [`pods`] | what the status of a pod tells (pure) |
//! | [`index`] | the pods of all bodies |
//! | [`tracker`] | which events are new (pure) |
//! | [`prometheus`] | instant queries, and what their results count as |
//!
//! One task an organism whose ledger is held. Each event is recorded once: its subject identifies it, and the subjects of
//! the last half hour are read back from the ledger at each take-over.
//!
//! Not sensed: pods that are being removed on purpose (deleted, drained, preempted, scaled down), and anything while a
//! rollout is in progress. While the pods are isolated and for a minute afterwards only containers that end count; what
//! else happens is recorded as suppressed, for isolation must not feed itself.

pub mod index;
pub mod pods;
pub mod prometheus;
pub mod tracker;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use self::index::PodIndex;
use self::prometheus::{Evaluation, Prometheus, Queries};
use self::tracker::Tracker;
use super::beater::Inputs;
use super::key::Key;
use super::metrics::Metrics;
use super::publisher::adoption::Adoption;
use super::publisher::report::{Report, ReportSender};
use super::publisher::sensing::Sensing;
use crate::api::Organism;
use crate::organism::input::Sense;
use crate::runtime::Phase;

/// How long after an isolation what it may have caused does not count.
const AFTERMATH: Duration = Duration::from_secs(60);

/// What all sensors share.
pub struct Resources {
    /// The pods of bodies that the operator has made.
    pub pods: PodIndex,
    /// The pods of adopted workloads.
    pub adopted: PodIndex,
    /// The Prometheus server; none without `--prometheus-url`.
    pub prometheus: Option<Prometheus>,
    /// Counts observations.
    pub metrics: Arc<Metrics>,
}

/// What the sensors of one run are connected to.
pub struct Connections {
    /// The Organism.
    pub organism: watch::Receiver<Arc<Organism>>,
    /// Told when a pod of the body has changed.
    pub pods_changed: Arc<Notify>,
    /// Takes the observations.
    pub inputs: Inputs,
    /// Whether a rollout is in progress, whether the pods are isolated, and how sensing goes.
    pub report: ReportSender,
}

/// What the ledger says of the time before it was taken over.
#[derive(Debug, Default)]
pub struct Before {
    /// Subjects of recent observations.
    pub sensed: Vec<String>,
    /// Time of the last pulse, in seconds since the Unix epoch.
    pub last_pulse: Option<f64>,
    /// Whether a quarantine is in force.
    pub isolated: bool,
}

/// The sensors of one organism, for as long as its ledger is held.
pub struct Sensors {
    key: Key,
    connections: Connections,
    resources: Arc<Resources>,
    reports: watch::Receiver<Report>,
    tracker: Tracker,
    queries: Queries,
    /// When the pods were seen isolated last.
    isolated: Option<Instant>,
}

impl Sensors {
    /// The sensors of the Organism `key`.
    #[must_use]
    pub fn new(key: Key, connections: Connections, before: Before, resources: Arc<Resources>) -> Self {
        let organism = connections.organism.borrow().clone();
        let created = organism.metadata.creation_timestamp.as_ref().map(|it| it.0);
        let micros = before.last_pulse.map(|it| (it * 1e6) as i64);
        let last_pulse = micros.and_then(|it| Timestamp::from_microsecond(it).ok());
        Self {
            tracker: Tracker::new(created, last_pulse, before.sensed),
            queries: Queries::default(),
            reports: connections.report.subscribe(),
            isolated: before.isolated.then(Instant::now),
            key,
            connections,
            resources,
        }
    }

    /// Runs until the report's other senders are gone, or until it is aborted.
    pub async fn run(&mut self) {
        // What the index lacks until then may exist.
        self.resources.pods.wait_until_listed().await;
        loop {
            let organism = self.connections.organism.borrow_and_update().clone();
            let beats = self.beats();
            let queries = if beats == Some(true) { &organism.spec.sensing.prometheus[..] } else { &[] };
            self.queries.set(queries, Instant::now());
            // Before the first commit it is not known; what has happened is looked at then.
            if let Some(beats) = beats {
                self.sense_pods(&organism, beats);
                self.report(&organism, beats);
            }
            let changed = self.connections.pods_changed.clone();
            tokio::select! {
                () = changed.notified() => {}
                changed = self.reports.changed() => if changed.is_err() {
                    return;
                },
                changed = self.connections.organism.changed() => if changed.is_err() {
                    return;
                },
                evaluation = self.queries.next(self.resources.prometheus.as_ref()) => {
                    self.sense_value(evaluation);
                }
            }
        }
    }

    /// Whether it beats: nothing is recorded otherwise, and so nothing sensed. None before the first commit.
    fn beats(&self) -> Option<bool> {
        let report = self.reports.borrow();
        let phase = report.engine.as_ref()?.phase;
        Some(report.not_ready.is_none() && phase == Phase::Beating)
    }

    /// Whether what isolation may have caused does not count now.
    fn is_isolated(&mut self) -> bool {
        let isolates = self.reports.borrow().response.as_ref().is_some_and(|it| it.quarantine.isolates());
        if isolates {
            self.isolated = Some(Instant::now());
        }
        self.isolated.is_some_and(|at| at.elapsed() < AFTERMATH)
    }

    fn sense_pods(&mut self, organism: &Organism, beats: bool) {
        let (workload, adoption) = {
            let report = self.reports.borrow();
            (report.workload.clone(), report.adoption.clone())
        };
        // What becomes of pods that are not its body's, or that cannot be seen, is not known to be news later.
        let index = match (&organism.spec.workload_ref, adoption) {
            (None, _) => &self.resources.pods,
            (Some(_), Some(Adoption::Adopted(_))) => &self.resources.adopted,
            (Some(_), _) => return,
        };
        let pods = index.of(&self.key);
        // Whether a rollout has begun is known in a moment, and decides what the pods' events are.
        let Some(replaces) = workload.as_ref().map_or(Some(false), |it| it.replaces) else { return };
        let rollout = replaces && workload.is_some_and(|it| !it.stalled);
        let isolated = self.is_isolated();
        for new in self.tracker.observe(&pods, rollout, Timestamp::now()) {
            let anoms = new.kind.weight(&organism.spec.sensing.weights);
            // A weight of 0 turns the sensor off.
            if anoms > 0 && beats {
                let suppressed = isolated && new.kind.may_come_from_isolation();
                self.sense("pods", new.kind.as_str(), new.subject, anoms.into(), suppressed);
            }
        }
    }

    fn sense_value(&mut self, evaluation: Evaluation) {
        if evaluation.anoms > 0 {
            let suppressed = self.is_isolated();
            self.sense("prometheus", "query", evaluation.subject, evaluation.anoms, suppressed);
        }
    }

    fn sense(&self, source: &str, kind: &str, subject: String, anoms: u64, suppressed: bool) {
        tracing::info!(organism = %self.key, source, kind, subject, anoms, suppressed, "sensed");
        self.resources.metrics.sensed(kind);
        self.connections.inputs.sense(Sense {
            anoms,
            kind: kind.into(),
            source: source.into(),
            subject,
            suppressed,
        });
    }

    fn report(&self, organism: &Organism, beats: bool) {
        let adoption = self.reports.borrow().adoption.clone();
        let adopted = matches!(adoption, None | Some(Adoption::Adopted(_)));
        let sensing = if !beats {
            Sensing::NotBeating
        } else if organism.spec.workload_ref.is_some() && !adopted {
            Sensing::NotAdopted
        } else if !organism.spec.sensing.prometheus.is_empty() && self.resources.prometheus.is_none() {
            Sensing::NoPrometheus
        } else {
            match self.queries.fault() {
                Some((query, why)) => Sensing::QueryFailed { query, why },
                None => Sensing::Sensing,
            }
        };
        self.connections.report.send_if_modified(|report| {
            let changed = report.sensing.as_ref() != Some(&sensing);
            report.sensing = Some(sensing);
            changed
        });
    }
}
