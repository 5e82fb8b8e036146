//! The watch on segments: who removes one is noticed while the organism beats. Metadata only.
//!
//! Its first list serves the take-overs at the start: a list for each organism would have the API server go
//! through all ConfigMaps as many times.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{self, Event};
use tokio::sync::watch;

use super::Key;
use super::committer::Notice;
use super::context::Context;
use crate::api::labels::{ORGANISM_LABEL, UID_LABEL};

type Object = PartialObjectMeta<ConfigMap>;

/// Name and UID of each object of a ledger.
pub type Objects = BTreeSet<(String, String)>;

/// How long a take-over waits for the first lists before it asks by itself.
const LIST_LIMIT: Duration = Duration::from_secs(30);

/// What the first lists, and what came after, have of the ledgers that were not taken over yet.
pub struct FirstLists {
    /// By the UID of their Organism; nothing once an Organism was seen to.
    found: Mutex<(BTreeMap<String, Objects>, BTreeSet<String>)>,
    /// How many lists are still to come.
    missing: watch::Sender<usize>,
}

impl FirstLists {
    /// Waits for so many lists.
    #[must_use]
    pub fn new(lists: usize) -> Self {
        Self { found: Mutex::default(), missing: watch::Sender::new(lists) }
    }

    /// The objects of this UID's ledger, once: a later take-over has to ask the API server.
    pub async fn take(&self, uid: &str) -> Option<Objects> {
        let mut missing = self.missing.subscribe();
        let complete = missing.wait_for(|&lists| lists == 0);
        tokio::time::timeout(LIST_LIMIT, complete).await.ok()?.ok()?;
        let (found, taken) = &mut *self.found();
        taken.insert(uid.to_owned()).then(|| found.remove(uid).unwrap_or_default())
    }

    fn note(&self, object: &Object, there: bool) {
        let Some(uid) = object.labels().get(UID_LABEL) else { return };
        let (found, taken) = &mut *self.found();
        if taken.contains(uid) {
            return;
        }
        let objects = found.entry(uid.clone()).or_default();
        if there {
            objects.insert(identity(object));
        } else {
            objects.remove(&identity(object));
        }
    }

    fn found(&self) -> MutexGuard<'_, (BTreeMap<String, Objects>, BTreeSet<String>)> {
        // A panic while it is held leaves the maps themselves whole.
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells each organism's committer of deleted segments, and after a new list of all that are there.
pub async fn notice(
    context: Arc<Context>,
    events: impl Stream<Item = Result<Event<Object>, watcher::Error>> + Send,
) {
    let mut events = std::pin::pin!(events);
    let mut listed: BTreeMap<Key, Objects> = BTreeMap::new();
    let mut first = true;
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(object)) => {
                context.first_lists.note(&object, true);
                if let Some(key) = key_of(&object) {
                    listed.entry(key).or_default().insert(identity(&object));
                }
            }
            Ok(Event::InitDone) => {
                // Before the first list every take-over has looked for itself.
                let mut all = std::mem::take(&mut listed);
                if std::mem::take(&mut first) {
                    context.first_lists.missing.send_modify(|lists| *lists = lists.saturating_sub(1));
                } else {
                    for key in context.keys() {
                        let there = all.remove(&key).unwrap_or_default();
                        context.notice(&key, Notice::Listed(there));
                    }
                }
            }
            Ok(Event::Delete(object)) => {
                context.first_lists.note(&object, false);
                if let Some(key) = key_of(&object) {
                    let (name, uid) = identity(&object);
                    context.notice(&key, Notice::Deleted { name, uid });
                }
            }
            Ok(Event::Apply(object)) => context.first_lists.note(&object, true),
            Err(error) => tracing::warn!(%error, "the watch on segments failed; it starts again"),
        }
    }
}

fn key_of(object: &Object) -> Option<Key> {
    let name = object.labels().get(ORGANISM_LABEL)?;
    Some(Key { namespace: object.namespace()?.into(), name: name.as_str().into() })
}

fn identity(object: &Object) -> (String, String) {
    (object.name_any(), object.uid().unwrap_or_default())
}
