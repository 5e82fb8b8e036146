//! Watches ledger objects, metadata only: a deleted segment or head is noticed while the organism beats.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{self, Event};

use super::{Scope, Watches};
use crate::api::labels::{ORGANISM_LABEL, UID_LABEL};
use crate::operator::actor::mailbox::Message;
use crate::operator::committer::ObjectEvent;
use crate::operator::key::Key;
use crate::operator::recovery::first_lists::{FirstLists, Objects};
use crate::operator::registry::Registry;

type Object = PartialObjectMeta<ConfigMap>;

/// The name of their list.
pub const LIST: &str = "ledger objects";

/// Follows the ledger objects of one scope.
pub async fn follow(registry: Arc<Registry>, first_lists: Arc<FirstLists>, watches: Watches, scope: Scope) {
    // A body's ConfigMap carries no UID label.
    let config = watcher::Config::default().labels(&format!("{ORGANISM_LABEL},{UID_LABEL}"));
    let events = watches.watch(scope.list(LIST), scope.api::<Object>(&watches.client), config);
    handle(events, &registry, &first_lists, scope.namespace()).await;
}

/// Sends each deletion, and every list but the first, to the actors of the scope.
async fn handle(
    events: impl Stream<Item = Result<Event<Object>, watcher::Error>> + Send,
    registry: &Registry,
    first_lists: &FirstLists,
    namespace: Option<&str>,
) {
    let mut events = std::pin::pin!(events);
    let mut list: BTreeMap<Key, Objects> = BTreeMap::new();
    let mut first = true;
    while let Some(Ok(event)) = events.next().await {
        match event {
            Event::Init => list.clear(),
            Event::InitApply(object) => {
                add_to(first_lists, &object);
                if let Some(key) = key_of(&object) {
                    list.entry(key).or_default().insert(identity(&object));
                }
            }
            Event::InitDone => {
                let mut all = std::mem::take(&mut list);
                if std::mem::take(&mut first) {
                    // A recovery before the first list has read the cluster by itself.
                    continue;
                }
                // Of this scope only: the list tells nothing about other namespaces.
                let within = |key: &Key| namespace.is_none_or(|it| *key.namespace == *it);
                for key in registry.keys().into_iter().filter(within) {
                    let existing = all.remove(&key).unwrap_or_default();
                    registry.send(&key, Message::LedgerObjects(ObjectEvent::Listed(existing)));
                }
            }
            Event::Delete(object) => {
                if let Some(uid) = object.labels().get(UID_LABEL) {
                    first_lists.remove(uid, &identity(&object));
                }
                if let Some(key) = key_of(&object) {
                    let (name, uid) = identity(&object);
                    registry.send(&key, Message::LedgerObjects(ObjectEvent::Deleted { name, uid }));
                }
            }
            Event::Apply(object) => add_to(first_lists, &object),
        }
    }
}

fn add_to(first_lists: &FirstLists, object: &Object) {
    if let Some(uid) = object.labels().get(UID_LABEL) {
        first_lists.add(uid, identity(object));
    }
}

fn key_of(object: &Object) -> Option<Key> {
    let name = object.labels().get(ORGANISM_LABEL)?;
    Some(Key::new(&object.namespace()?, name))
}

fn identity(object: &Object) -> (String, String) {
    (object.name_any(), object.uid().unwrap_or_default())
}

#[cfg(test)]
mod tests;
