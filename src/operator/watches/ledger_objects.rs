//! Watches ledger objects, metadata only: a deleted segment or head is noticed while the organism beats, and a head
//! that has changed hands by the other replicas.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::channel::mpsc;
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher::{self, Event};

use super::{Scope, Watches};
use crate::api::Organism;
use crate::api::labels::{ORGANISM_LABEL, UID_LABEL};
use crate::operator::actor::mailbox::Message;
use crate::operator::committer::LedgerEvent;
use crate::operator::key::Key;
use crate::operator::ownership::{Ownership, SeenHead};
use crate::operator::recovery::first_lists::FirstLists;
use crate::operator::registry::Registry;
use crate::store::configmap::{LedgerObject, Objects, head_name};

type Object = PartialObjectMeta<ConfigMap>;

/// The name of their list.
pub const LIST: &str = "ledger objects";

/// Whom the ledger objects of one scope concern.
pub struct LedgerObjects {
    /// Their actors.
    pub registry: Arc<Registry>,
    /// What the first recoveries need.
    pub first_lists: Arc<FirstLists>,
    /// Who holds the ledgers.
    pub ownership: Arc<Ownership>,
    /// Organisms whose heads say something new about their holder.
    pub moved: mpsc::UnboundedSender<ObjectRef<DeserializeGuard<Organism>>>,
}

impl LedgerObjects {
    /// Follows them.
    pub async fn follow(self, watches: Watches, scope: Scope) {
        // A body's ConfigMap carries no UID label.
        let config = watcher::Config::default().labels(&format!("{ORGANISM_LABEL},{UID_LABEL}"));
        let events = watches.watch(scope.list(LIST), scope.api::<Object>(&watches.client), config);
        self.handle(events, scope.namespace()).await;
    }

    /// Sends each deletion, and every list but the first, to the actors of the scope.
    async fn handle(
        &self,
        events: impl Stream<Item = Result<Event<Object>, watcher::Error>> + Send,
        namespace: Option<&str>,
    ) {
        let mut events = std::pin::pin!(events);
        let mut list: BTreeMap<Key, Objects> = BTreeMap::new();
        let mut first = true;
        while let Some(Ok(event)) = events.next().await {
            match event {
                Event::Init => list.clear(),
                Event::InitApply(object) => {
                    self.observe_head(&object, SeenHead::of(&object.metadata));
                    if let Some((key, object)) = parse(&object) {
                        self.first_lists.add(&key, object.clone());
                        list.entry(key).or_default().insert(object.name.clone(), object);
                    }
                }
                Event::InitDone => {
                    let mut all = std::mem::take(&mut list);
                    let has_head =
                        |key: &Key| all.get(key).is_some_and(|it| it.contains_key(&head_name(&key.name)));
                    self.ownership.retain(namespace, has_head);
                    if std::mem::take(&mut first) {
                        // A recovery before the first list has read the cluster by itself.
                        continue;
                    }
                    // Of this scope only: the list tells nothing about other namespaces.
                    let within = |key: &Key| namespace.is_none_or(|it| *key.namespace == *it);
                    for key in self.registry.keys().into_iter().filter(within) {
                        let existing = all.remove(&key).unwrap_or_default();
                        self.registry.send(&key, Message::LedgerObjects(LedgerEvent::Listed(existing)));
                    }
                }
                Event::Delete(object) => {
                    self.observe_head(&object, None);
                    if let Some((key, object)) = parse(&object) {
                        self.first_lists.remove(&key, &object);
                        let LedgerObject { name, uid, .. } = object;
                        self.registry.send(&key, Message::LedgerObjects(LedgerEvent::Deleted { name, uid }));
                    }
                }
                Event::Apply(object) => {
                    self.observe_head(&object, SeenHead::of(&object.metadata).map(SeenHead::written));
                    if let Some((key, object)) = parse(&object) {
                        self.first_lists.add(&key, object);
                    }
                }
            }
        }
    }

    /// Takes in a head, or that it is gone; what it says may make another replica its holder.
    fn observe_head(&self, object: &Object, head: Option<SeenHead>) {
        let Some((key, LedgerObject { name, .. })) = parse(object) else { return };
        if name == head_name(&key.name) && self.ownership.observe(&key, head) {
            // An error means that the operator stops.
            let _ = self.moved.unbounded_send(ObjectRef::new(&key.name).within(&key.namespace));
        }
    }
}

fn parse(object: &Object) -> Option<(Key, LedgerObject)> {
    let name = object.labels().get(ORGANISM_LABEL)?;
    Some((Key::new(&object.namespace()?, name), LedgerObject::of(&object.metadata)))
}

#[cfg(test)]
mod tests;
