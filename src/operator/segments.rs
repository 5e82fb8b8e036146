//! The watch on segments: who removes one is noticed while the organism beats. Metadata only.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{self, Event};

use super::Key;
use super::committer::Notice;
use super::context::Context;
use crate::store::configmap::ORGANISM_LABEL;

type Object = PartialObjectMeta<ConfigMap>;

/// Tells each organism's committer of deleted segments, and after a new list of all that are there.
pub async fn watch(
    context: Arc<Context>,
    events: impl Stream<Item = Result<Event<Object>, watcher::Error>> + Send,
) {
    let mut events = std::pin::pin!(events);
    let mut listed: BTreeMap<Key, BTreeSet<(String, String)>> = BTreeMap::new();
    let mut first = true;
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(object)) => {
                if let Some(key) = key_of(&object) {
                    listed.entry(key).or_default().insert(identity(&object));
                }
            }
            Ok(Event::InitDone) => {
                // Before the first list every take-over has looked for itself.
                let mut all = std::mem::take(&mut listed);
                if !std::mem::take(&mut first) {
                    for key in context.keys() {
                        let there = all.remove(&key).unwrap_or_default();
                        context.notice(&key, Notice::Listed(there));
                    }
                }
            }
            Ok(Event::Delete(object)) => {
                if let Some(key) = key_of(&object) {
                    let (name, uid) = identity(&object);
                    context.notice(&key, Notice::Deleted { name, uid });
                }
            }
            Ok(Event::Apply(_)) => {}
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
