//! What all reconciliations share: clients, the beater, and the organisms that this process holds.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kube::Client;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::beater::Beater;
use super::body::children::{Nodes, Told};
use super::committer::{self, Held, Notice};
use super::life::Wanted;
use super::metrics::Metrics;
use super::nodes::collector::Collector;
use super::report::Report;
use super::segments::FirstLists;
use super::{Key, body, organism, publisher};
use crate::api;

/// How long the end of a life waits for pending entries to be committed.
const FLUSH_LIMIT: Duration = Duration::from_secs(20);
/// How long it waits for the commit under way.
const COMMIT_LIMIT: Duration = Duration::from_secs(15);

/// An organism that is held by this process.
#[derive(Clone)]
pub struct Living {
    /// UID of the Organism.
    pub uid: String,
    /// What is known of it.
    pub report: watch::Sender<Report>,
    /// The Genome it lives by.
    pub genome: watch::Sender<Option<String>>,
    /// Writes its status.
    pub publisher: Arc<Mutex<Option<JoinHandle<()>>>>,
    /// Present once its ledger is held.
    pub life: Option<Life>,
    /// What was last handed to the beater.
    pub wanted: Option<Wanted>,
    /// Keeps its body, where it has one.
    pub body: Option<body::keeper::Handle>,
    /// How many nodes that has.
    pub nodes: Option<Nodes>,
}

/// The tasks of a life.
#[derive(Clone)]
pub struct Life {
    notices: mpsc::UnboundedSender<Notice>,
    committer: Arc<Mutex<Option<JoinHandle<Held>>>>,
    /// Ends with the last of these.
    _collector: Option<Arc<Collector>>,
}

/// What all reconciliations share.
pub struct Context {
    /// For everything but ledgers.
    pub client: Client,
    /// For ledgers: it never retries by itself.
    pub ledger_client: Client,
    /// Name of this operator.
    pub identity: Arc<str>,
    /// Owns the lives.
    pub beater: Beater,
    /// Shared by the committers.
    pub committing: Arc<committer::Shared>,
    /// Shared by the publishers.
    pub publishing: Arc<publisher::Shared>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// When this operator started.
    pub started: Instant,
    /// What lies in the cluster at the start.
    pub first_lists: FirstLists,
    /// For bodies; none where the operator makes none.
    pub bodies: Option<Arc<body::Shared>>,
    pub(super) living: Mutex<BTreeMap<Key, Living>>,
}

impl Context {
    pub(super) fn table(&self) -> MutexGuard<'_, BTreeMap<Key, Living>> {
        // A panic while it is held leaves the map itself whole.
        self.living.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The organism, if it is held here.
    #[must_use]
    pub fn living(&self, key: &Key) -> Option<Living> {
        self.table().get(key).cloned()
    }

    /// All organisms held here.
    #[must_use]
    pub fn keys(&self) -> Vec<Key> {
        self.table().keys().cloned().collect()
    }

    /// Whether its ledger is held here.
    #[must_use]
    pub fn beats(&self, key: &Key) -> bool {
        self.table().get(key).is_some_and(|living| living.life.is_some())
    }

    /// Starts showing it, or shows its present spec.
    pub(super) fn show(&self, organism: &api::Organism, key: &Key) {
        let mut table = self.table();
        match table.get(key) {
            None => {
                let living = organism::show(self, organism, key);
                table.insert(key.clone(), living);
            }
            Some(living) if living.body.is_some() => {}
            Some(living) => {
                let replicas = organism.spec.nodes.replicas.into();
                living
                    .report
                    .send_if_modified(|report| std::mem::replace(&mut report.replicas, replicas) != replicas);
            }
        }
    }

    /// Changes what is known of it.
    pub(super) fn report(&self, key: &Key, change: impl FnOnce(&mut Report)) {
        if let Some(living) = self.table().get(key) {
            living.report.send_if_modified(|report| {
                let before = report.clone();
                change(report);
                *report != before
            });
        }
    }

    /// Notes the Genome it lives by. Returns the one that it leaves, if that is another.
    pub(super) fn set_genome(&self, key: &Key, name: Option<String>) -> Option<String> {
        let mut left = None;
        if let Some(living) = self.table().get(key) {
            living.genome.send_if_modified(|genome| {
                let changed = *genome != name;
                if changed {
                    left = std::mem::replace(genome, name);
                }
                changed
            });
        }
        left
    }

    pub(super) fn set_life(
        &self,
        key: &Key,
        notices: mpsc::UnboundedSender<Notice>,
        committer: JoinHandle<Held>,
        collector: Option<Collector>,
    ) {
        if let Some(living) = self.table().get_mut(key) {
            let committer = Arc::new(Mutex::new(Some(committer)));
            living.life = Some(Life { notices, committer, _collector: collector.map(Arc::new) });
        }
    }

    pub(super) fn wanted(&self, key: &Key) -> Option<Wanted> {
        self.table().get(key).and_then(|living| living.wanted.clone())
    }

    /// What is wanted, with P as it is: with a body the number of nodes that are ready.
    pub(super) fn with_nodes(&self, key: &Key, mut wanted: Wanted) -> Wanted {
        let nodes = self.table().get(key).and_then(|living| living.nodes);
        wanted.config.pulse.p = nodes.map_or(wanted.config.pulse.p, Nodes::p);
        wanted
    }

    /// Hands to the beater what is wanted, with P as it is.
    pub(super) fn want(&self, key: &Key, mut wanted: Wanted) {
        if let Some(living) = self.table().get_mut(key) {
            wanted.config.pulse.p = living.nodes.map_or(wanted.config.pulse.p, Nodes::p);
            living.wanted = Some(wanted.clone());
            self.beater.want(key, wanted);
        }
    }

    /// Takes in what the watches see of its body: P follows, and the keeper has a look.
    pub(super) fn body_changed(&self, shared: &body::Shared, key: &Key) {
        let mut table = self.table();
        let Some(living) = table.get_mut(key) else { return };
        let Some(body) = &living.body else { return };
        body.wake();
        let Told { nodes, scaling } = shared.children.told(key, &living.uid);
        living.report.send_if_modified(|report| {
            let changed = report.scaling != scaling;
            report.scaling = scaling;
            changed
        });
        if living.nodes.replace(nodes) != Some(nodes) {
            living.report.send_modify(|report| {
                (report.ready, report.replicas) = (nodes.ready, nodes.replicas);
            });
            if let Some(wanted) = living.wanted.as_mut().filter(|it| it.config.pulse.p != nodes.p()) {
                wanted.config.pulse.p = nodes.p();
                self.beater.want(key, wanted.clone());
            }
        }
    }

    pub(super) fn notice(&self, key: &Key, notice: Notice) {
        if let Some(life) = self.table().get(key).and_then(|living| living.life.as_ref()) {
            // A committer that is gone has nothing to lose.
            let _ = life.notices.send(notice);
        }
    }

    /// Ends a life. With `flush` what is pending is committed first, if that is possible in time.
    pub(super) async fn forget(&self, key: &Key, flush: bool) {
        let Some(living) = self.living(key) else { return };
        if let Some(body) = &living.body {
            body.end();
        }
        let committer = living.life.as_ref().and_then(|life| take(&life.committer));
        if let Some(mut committer) = committer {
            let flushed = flush && timeout(FLUSH_LIMIT, self.beater.end(key, true)).await.is_ok();
            if !flushed {
                if flush {
                    tracing::warn!(organism = %key, "what was pending could not be committed in time");
                }
                self.beater.end(key, false).await;
            }
            // The beater has dropped the jobs' sender: the committer ends by itself. A call that is cut off may
            // still reach the API server, so the one under way is waited for.
            if timeout(COMMIT_LIMIT, &mut committer).await.is_err() {
                committer.abort();
            }
        }
        self.table().remove(key);
        if let Some(publisher) = take(&living.publisher) {
            publisher.abort();
        }
    }
}

pub(super) fn take<T>(slot: &Mutex<Option<T>>) -> Option<T> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).take()
}
