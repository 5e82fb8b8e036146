//! Feeds the index of bodies, and wakes the actors whose bodies have changed.

use std::sync::Arc;

use futures::{Stream, StreamExt};
use kube::core::{DynamicObject, PartialObjectMeta, Resource};
use kube::runtime::watcher::{self, Event};
use kube::{Api, ResourceExt};

use super::{Scope, Watches};
use crate::api::labels::ORGANISM_LABEL;
use crate::operator::actor::mailbox::Message;
use crate::operator::body;
use crate::operator::body::build::{COMPONENT, COMPONENT_LABEL, Kind};
use crate::operator::body::index::{Index, ObservedStatus};
use crate::operator::key::Key;
use crate::operator::registry::Registry;

/// Follows the objects of one kind in one scope.
pub async fn follow(
    registry: Arc<Registry>,
    bodies: Arc<body::Resources>,
    watches: Watches,
    kind: Kind,
    scope: Scope,
) {
    // Without the component the label selects ledger objects too: they are many, and watched elsewhere.
    let selector = format!("{ORGANISM_LABEL},{COMPONENT_LABEL}={COMPONENT}");
    let config = watcher::Config::default().labels(&selector);
    let resource = kind.resource();
    let list = scope.list(kind.plural());
    let watched = Watched { registry: &registry, index: &bodies.index, kind, scope: &scope };
    if matches!(kind, Kind::Deployment | Kind::HorizontalPodAutoscaler) {
        let api: Api<DynamicObject> = scope.dynamic_api(&watches.client, &resource);
        watched.follow(watches.watch(list, api, config), ObservedStatus::of).await;
    } else {
        let api: Api<PartialObjectMeta<DynamicObject>> = scope.dynamic_api(&watches.client, &resource);
        let metadata_only = |_: &PartialObjectMeta<DynamicObject>| ObservedStatus::default();
        watched.follow(watches.watch(list, api, config), metadata_only).await;
    }
}

struct Watched<'a> {
    registry: &'a Registry,
    index: &'a Index,
    kind: Kind,
    scope: &'a Scope,
}

impl Watched<'_> {
    async fn follow<K: Resource>(
        &self,
        events: impl Stream<Item = Result<Event<K>, watcher::Error>> + Send,
        status: impl Fn(&K) -> ObservedStatus,
    ) {
        let id = |object: &K| (self.kind, object.name_any());
        let mut events = std::pin::pin!(events);
        let mut list = vec![];
        while let Some(Ok(event)) = events.next().await {
            match event {
                Event::Init => list.clear(),
                Event::InitApply(object) => {
                    if let Some(key) = key_of(&object) {
                        list.push((key, id(&object), object.meta().clone(), status(&object)));
                    }
                }
                Event::InitDone => {
                    let changed =
                        self.index.replace(self.kind, self.scope.namespace(), std::mem::take(&mut list));
                    changed.iter().for_each(|key| self.wake(key));
                }
                Event::Apply(object) => {
                    if let Some(key) = key_of(&object)
                        && self.index.put(&key, id(&object), object.meta(), Some(status(&object)))
                    {
                        self.wake(&key);
                    }
                }
                Event::Delete(object) => {
                    if let Some(key) = key_of(&object) {
                        self.index.remove(&key, &id(&object), &object.uid().unwrap_or_default());
                        self.wake(&key);
                    }
                }
            }
        }
    }

    fn wake(&self, key: &Key) {
        self.registry.send(key, Message::BodyChanged);
    }
}

fn key_of<K: Resource>(object: &K) -> Option<Key> {
    let name = object.labels().get(ORGANISM_LABEL)?;
    Some(Key::new(&object.namespace()?, name))
}
