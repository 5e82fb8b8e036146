//! The pods of bodies, into the index of pods.

use std::sync::Arc;

use futures::StreamExt;
use kube::ResourceExt;
use kube::runtime::watcher::{Config, Event};

use super::{Scope, Watches};
use crate::api::labels::{MANAGED_BY_LABEL, MANAGER, ORGANISM_LABEL};
use crate::operator::actor::mailbox::Message;
use crate::operator::body::build::{COMPONENT, COMPONENT_LABEL};
use crate::operator::key::Key;
use crate::operator::registry::Registry;
use crate::operator::sensing;
use crate::operator::sensing::pods::{Pod, WatchedPod};

/// The name of the list.
pub const LIST: &str = "Pods";
/// Objects in a page of a list.
const PAGE_SIZE: u32 = 500;

/// Follows the pods of one scope for ever.
pub async fn follow(
    registry: Arc<Registry>,
    sensors: Arc<sensing::Resources>,
    watches: Watches,
    scope: Scope,
) {
    let selector = format!("{ORGANISM_LABEL},{COMPONENT_LABEL}={COMPONENT},{MANAGED_BY_LABEL}={MANAGER}");
    let config = Config::default().labels(&selector).page_size(PAGE_SIZE);
    let events = watches.watch(scope.list(LIST), scope.api::<WatchedPod>(&watches.client), config);
    let mut events = std::pin::pin!(events);
    let wake = |key: &Key| registry.send(key, Message::PodsChanged);
    let (mut list, mut first) = (vec![], true);
    while let Some(Ok(event)) = events.next().await {
        match event {
            Event::Init => list.clear(),
            Event::InitApply(pod) => {
                list.extend(key_of(&pod).map(|key| (key, pod.name_any(), Pod::of(&pod))));
            }
            Event::InitDone => {
                let changed = sensors.pods.replace(scope.namespace(), std::mem::take(&mut list));
                if std::mem::take(&mut first) {
                    sensors.pods.first_list_arrived();
                }
                changed.iter().for_each(wake);
            }
            Event::Apply(pod) => {
                if let Some(key) = key_of(&pod)
                    && sensors.pods.put(key.clone(), pod.name_any(), Pod::of(&pod))
                {
                    wake(&key);
                }
            }
            Event::Delete(pod) => {
                if let Some(key) = key_of(&pod) {
                    sensors.pods.remove(&key, &pod.name_any());
                    wake(&key);
                }
            }
        }
    }
}

fn key_of(pod: &WatchedPod) -> Option<Key> {
    let name = pod.labels().get(ORGANISM_LABEL)?;
    Some(Key::new(&pod.namespace()?, name))
}
