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
use crate::operator::committer::LedgerEvent;
use crate::operator::key::Key;
use crate::operator::recovery::first_lists::FirstLists;
use crate::operator::registry::Registry;
use crate::store::configmap::{LedgerObject, Objects};

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
                if let Some((key, object)) = parse(&object) {
                    first_lists.add(&key, object.clone());
                    list.entry(key).or_default().insert(object.name.clone(), object);
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
                    registry.send(&key, Message::LedgerObjects(LedgerEvent::Listed(existing)));
                }
            }
            Event::Delete(object) => {
                if let Some((key, object)) = parse(&object) {
                    first_lists.remove(&key, &object);
                    let LedgerObject { name, uid, .. } = object;
                    registry.send(&key, Message::LedgerObjects(LedgerEvent::Deleted { name, uid }));
                }
            }
            Event::Apply(object) => {
                if let Some((key, object)) = parse(&object) {
                    first_lists.add(&key, object);
                }
            }
        }
    }
}

fn parse(object: &Object) -> Option<(Key, LedgerObject)> {
    let name = object.labels().get(ORGANISM_LABEL)?;
    Some((Key::new(&object.namespace()?, name), LedgerObject::of(&object.metadata)))
}

#[cfg(test)]
mod tests;
