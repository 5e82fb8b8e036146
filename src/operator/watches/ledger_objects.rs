//! Watches ledger objects, metadata only: a deleted segment or head is noticed while the organism beats, and a head
//! that has changed hands by the other replicas.

use std::collections::{BTreeMap, BTreeSet};
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
use crate::operator::registry::Registry;
use crate::store::objects::{LedgerObject, Objects, head_name};

type Object = PartialObjectMeta<ConfigMap>;

/// The name of their list.
pub const LIST: &str = "ledger objects";

/// Whom the ledger objects of one scope concern.
pub struct LedgerObjects {
    /// Their actors.
    pub registry: Arc<Registry>,
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

    /// Sends each deletion and each list to the actors of the scope.
    async fn handle(
        &self,
        events: impl Stream<Item = Result<Event<Object>, watcher::Error>> + Send,
        namespace: Option<&str>,
    ) {
        let mut events = std::pin::pin!(events);
        // Those of the actors there are; whoever comes later lists by itself.
        let (mut lists, mut heads) = (BTreeMap::<Key, Objects>::new(), BTreeSet::new());
        while let Some(Ok(event)) = events.next().await {
            match event {
                Event::Init => {
                    // Of this scope only: the list tells nothing about other namespaces.
                    let within = |key: &Key| namespace.is_none_or(|it| *key.namespace == *it);
                    let keys = self.registry.keys().into_iter().filter(within);
                    (lists, heads) = (keys.map(|key| (key, Objects::new())).collect(), BTreeSet::new());
                }
                Event::InitApply(object) => {
                    self.observe_head(&object, SeenHead::of(&object.metadata));
                    let Some((key, object)) = parse(&object) else { continue };
                    let is_head = object.name == head_name(&key.name);
                    if let Some(list) = lists.get_mut(&key) {
                        list.insert(object.name.clone(), object);
                    }
                    if is_head {
                        heads.insert(key);
                    }
                }
                Event::InitDone => {
                    let heads = std::mem::take(&mut heads);
                    self.ownership.retain(namespace, |key| heads.contains(key));
                    for (key, existing) in std::mem::take(&mut lists) {
                        self.registry.send(&key, Message::LedgerObjects(LedgerEvent::Listed(existing)));
                    }
                }
                Event::Delete(object) => {
                    self.observe_head(&object, None);
                    if let Some((key, LedgerObject { name, uid, .. })) = parse(&object) {
                        self.registry.send(&key, Message::LedgerObjects(LedgerEvent::Deleted { name, uid }));
                    }
                }
                Event::Apply(object) => {
                    self.observe_head(&object, SeenHead::of(&object.metadata).map(SeenHead::written));
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
