//! What is known of an organism, reported by its actor, its committer, its body's reconciler and its collector. Pure.

use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

use super::adoption::Adoption;
use super::autoscaling::{Autoscaling, Scaling};
use super::body::{Body, Workload};
use super::mesh::MeshLink;
use super::response::Response;
use super::sensing::Sensing;
use crate::api::{OnDelete, OrganismStatus, WorkloadRef};
use crate::ledger::hex;
use crate::ledger::sealed::ReplayStart;
use crate::printable::{QUOTE, line};
use crate::runtime::{EngineStatus, Pace};
use crate::store::Head;
use crate::store::head::{Forged, LastEnforcement};

/// Where the parts of a report are written.
pub type ReportSender = tokio::sync::watch::Sender<Report>;

/// Everything that a status is made of. Each part has one writer; the publisher only reads.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Why the organism does not get as far as beating. Written by the actor.
    pub not_ready: Option<NotReady>,
    /// Since when it is being ended. Written by the actor.
    pub ends: Option<Instant>,
    /// Name of the Genome it is bound to. Written by the actor.
    pub genome: Option<String>,
    /// The engine as of the last commit. Written by the committer.
    pub engine: Option<EngineStatus>,
    /// How the organism keeps its pace now. Written by the beater.
    pub pace: Pace,
    /// The ledger as of the last commit. Written by the committer.
    pub ledger: Option<CommittedLedger>,
    /// Whether committed entries are missing. Written by the committer.
    pub integrity: Integrity,
    /// Whether anybody has looked. Written by the committer.
    pub listed: Listed,
    /// What becomes of the ledger when the Organism is deleted; none while a change of spec.ledger.onDelete is being
    /// followed. Written by the committer.
    pub on_delete: Option<OnDelete>,
    /// What keeps the committer from writing the ledger. Written by the committer.
    pub ledger_fault: Option<LedgerFault>,
    /// What is wrong with the body; none before it is known. Written by the body's reconciler.
    pub body: Option<Body>,
    /// Whether the workload in spec.workloadRef is the body; none without that. Written by the actor.
    pub adoption: Option<Adoption>,
    /// The spec.workloadRef. Written by the actor.
    pub workload_ref: Option<WorkloadRef>,
    /// The Deployment of the body, or the adopted workload. Written by the actor.
    pub workload: Option<Workload>,
    /// The link to the body's mesh; none before it is known. Written by the collector.
    pub mesh: Option<MeshLink>,
    /// What is done about decisions; none before it is known. Written by the response.
    pub response: Option<Response>,
    /// Whether everything that the spec asks for is sensed. Written by the sensors.
    pub sensing: Option<Sensing>,
    /// Node pods that are ready; 0 without a body. Written by the actor.
    pub ready_nodes: u64,
    /// Node pods that exist; without a body `spec.nodes.replicas`. Written by the actor.
    pub nodes: u64,
    /// Who sets the number of nodes. Written by the actor.
    pub autoscaling: Option<Autoscaling>,
    /// The status of the HorizontalPodAutoscaler. Written by the actor.
    pub scaling: Option<Scaling>,
}

impl Report {
    /// Whether its ledger is being taken over, and nothing has gone wrong so far.
    #[must_use]
    pub fn is_about_to_beat(&self) -> bool {
        self.engine.is_none()
            && self.not_ready.is_none()
            && self.ledger_fault.as_ref().is_none_or(|it| !it.shown)
    }
}

/// Generation and size of the ledger as the status has published them last. The publisher writes it; the committer keeps
/// the entries there, for they show the next recovery that the ledger is the published one.
#[derive(Clone, Debug, Default)]
pub struct PublishedEnd(Arc<Mutex<(u64, u64)>>);

impl PublishedEnd {
    /// Notes what `status` has published.
    pub fn set(&self, status: &OrganismStatus) {
        if let Some(ledger) = &status.ledger {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (ledger.generation, ledger.size);
        }
    }

    /// The published size of this generation; 0 if none of it is published.
    #[must_use]
    pub fn size(&self, generation: u64) -> u64 {
        let (published, size) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if published == generation { size } else { 0 }
    }
}

/// Why an organism does not get as far as beating.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotReady {
    /// Reason of the condition Ready.
    pub reason: NotReadyReason,
    /// What is wrong and what to do.
    pub message: String,
    /// metadata.generation of the Organism that this was found for.
    pub generation: i64,
}

/// Reasons of Ready=False before an organism beats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotReadyReason {
    /// The Genome does not exist.
    GenomeNotFound,
    /// The Genome is bound to another Organism.
    GenomeInUse,
    /// The name of the ledger's head belongs to an object that is not ours.
    NameTaken,
    /// The ledger's head cannot be read.
    HeadUnreadable,
    /// The ledger contradicts itself.
    Invalid,
    /// The ledger is about to be recovered again.
    WaitingForFirstCommit,
    /// The Organism is being deleted.
    Deleting,
}

impl NotReadyReason {
    /// The reason as the condition has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::GenomeNotFound => "GenomeNotFound",
            Self::GenomeInUse => "GenomeInUse",
            Self::NameTaken => "NameTaken",
            Self::HeadUnreadable => "HeadUnreadable",
            Self::Invalid => "Invalid",
            Self::WaitingForFirstCommit => "WaitingForFirstCommit",
            Self::Deleting => "Deleting",
        }
    }
}

/// Whether all entries that were committed and not pruned are still stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Integrity {
    /// They are.
    #[default]
    Verified,
    /// Segments are missing, from this first to this last index.
    SegmentLost(u64, u64),
    /// The end of the ledger is missing, from this first to this last index; a new generation continues it.
    TailLost(u64, u64),
    /// The ledger that was found contradicts what was published; a new generation continues what was published.
    Forged(Box<Forged>),
}

/// Whether the objects of a ledger were listed since it was taken over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Listed {
    /// They are about to be.
    #[default]
    NotYet,
    /// They could not be, for this reason.
    Failed(String),
    /// They were.
    Yes,
}

/// What keeps a committer from writing the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerFault {
    /// What it is.
    pub cause: FaultCause,
    /// Since when nothing has been committed.
    pub since: Timestamp,
    /// Whether it is to be shown: most failures pass within seconds.
    pub shown: bool,
}

/// What a [`LedgerFault`] is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FaultCause {
    /// This ConfigMap has the name of a ledger object and is not ours.
    NameTaken(String),
    /// The head cannot be read; the text names it and the cure.
    HeadUnreadable(String),
    /// The cluster refuses a write: its words, and what to do.
    Refused(String, &'static str),
    /// A write has not been answered.
    Unanswered,
}

/// The committed ledger, as its head states it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CommittedLedger {
    /// Number of the ledger among those of this name, from 1.
    pub generation: u64,
    /// Entries since genesis.
    pub size: u64,
    /// Merkle root over all of them, in hex.
    pub root: String,
    /// Hash of the last entry, in hex.
    pub last_hash: String,
    /// Number of segments.
    pub segments: u64,
    /// Encoded bytes in them.
    pub bytes: u64,
    /// Where a replay can start.
    pub replayable_from: Option<ReplayStart>,
    /// Injections committed.
    pub injected_total: u64,
    /// Whether `--ledger-total-bytes` leaves less than the spec asks for.
    pub retain_reduced: bool,
    /// What the last enforcement entry recorded.
    pub enforcement: Option<LastEnforcement>,
    /// The replica that has committed it.
    pub holder: String,
}

impl CommittedLedger {
    /// The ledger of `head`.
    #[must_use]
    pub fn of(head: &Head, retain_reduced: bool) -> Self {
        Self {
            generation: head.generation,
            size: head.size,
            root: head.root_hex(),
            last_hash: hex(&head.last_hash.0),
            segments: head.segments.len() as u64,
            bytes: head.bytes(),
            replayable_from: head.replayable_from(),
            injected_total: head.injected_total,
            retain_reduced,
            enforcement: head.enforcement.clone(),
            holder: line(&head.holder, QUOTE),
        }
    }
}
