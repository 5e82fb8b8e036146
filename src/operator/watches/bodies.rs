//! Feeds the index of bodies, and wakes the actors whose bodies have changed.

use std::sync::Arc;

use futures::{Stream, StreamExt};
use kube::core::{DynamicObject, PartialObjectMeta, Resource};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, ResourceExt};

use super::Scope;
use crate::api::labels::ORGANISM_LABEL;
use crate::operator::actor::mailbox::Message;
use crate::operator::body;
use crate::operator::body::build::{COMPONENT, COMPONENT_LABEL, Kind};
use crate::operator::body::index::{Index, ObservedStatus};
use crate::operator::key::Key;
use crate::operator::registry::Registry;

/// Follows the objects of one kind in one scope.
pub async fn follow(registry: Arc<Registry>, bodies: Arc<body::Resources>, kind: Kind, scope: Scope) {
    // Without the component the label selects ledger objects too: they are many, and watched elsewhere.
    let selector = format!("{ORGANISM_LABEL},{COMPONENT_LABEL}={COMPONENT}");
    let config = watcher::Config::default().labels(&selector);
    let resource = kind.resource();
    let watched = Watched { registry: &registry, index: &bodies.index, kind, scope: &scope };
    if matches!(kind, Kind::Deployment | Kind::HorizontalPodAutoscaler) {
        let api: Api<DynamicObject> = scope.dynamic_api(&bodies.client, &resource);
        watched.follow(watch(api, config).default_backoff(), ObservedStatus::of).await;
    } else {
        let api: Api<PartialObjectMeta<DynamicObject>> = scope.dynamic_api(&bodies.client, &resource);
        let metadata_only = |_: &PartialObjectMeta<DynamicObject>| ObservedStatus::default();
        watched.follow(watch(api, config).default_backoff(), metadata_only).await;
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
        let mut first = true;
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => list.clear(),
                Ok(Event::InitApply(object)) => {
                    if let Some(key) = key_of(&object) {
                        list.push((key, id(&object), object.meta().clone(), status(&object)));
                    }
                }
                Ok(Event::InitDone) => {
                    let changed =
                        self.index.replace(self.kind, self.scope.namespace(), std::mem::take(&mut list));
                    if std::mem::take(&mut first) {
                        self.index.first_list_arrived();
                    }
                    changed.iter().for_each(|key| self.wake(key));
                }
                Ok(Event::Apply(object)) => {
                    if let Some(key) = key_of(&object)
                        && self.index.put(&key, id(&object), object.meta(), Some(status(&object)))
                    {
                        self.wake(&key);
                    }
                }
                Ok(Event::Delete(object)) => {
                    if let Some(key) = key_of(&object) {
                        self.index.remove(&key, &id(&object), &object.uid().unwrap_or_default());
                        self.wake(&key);
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, kind = ?self.kind, "the watch on a body's objects failed; retrying");
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
