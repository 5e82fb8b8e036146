//! What there is of all bodies in the cluster, as the watches see it: metadata only, but for Deployments and
//! HorizontalPodAutoscalers, whose status says how many nodes are ready and how many there are to be.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::{Stream, StreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};
use kube::core::{DynamicObject, PartialObjectMeta, Resource};
use kube::runtime::watcher::{self, Event};
use kube::{Api, ResourceExt};
use serde_json::Value;
use tokio::sync::watch;

use super::autoscaling::Scaling;
use super::build::{COMPONENT, COMPONENT_LABEL, Kind};
use crate::api::labels::ORGANISM_LABEL;
use crate::operator::context::Context;
use crate::operator::{Key, body};

/// By this name the operator owns fields of the objects that it makes.
pub const MANAGER: &str = "venom";

/// How many nodes there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Nodes {
    /// Those that are ready.
    pub ready: u64,
    /// All of them.
    pub replicas: u64,
}

impl Nodes {
    /// P: a body that is down still beats.
    #[must_use]
    pub fn p(self) -> u64 {
        self.ready.max(1)
    }

    /// As a Deployment's status says.
    fn of(deployment: &Value) -> Self {
        let number = |field: &str| deployment[field].as_u64().unwrap_or_default();
        Self { ready: number("readyReplicas"), replicas: number("replicas") }
    }
}

/// What an object's status says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// A Deployment's.
    pub nodes: Nodes,
    /// An autoscaler's, once it has looked.
    pub scaling: Option<Scaling>,
}

impl Told {
    /// By this object.
    #[must_use]
    pub fn by(object: &DynamicObject) -> Self {
        let status = &object.data["status"];
        Self { nodes: Nodes::of(status), scaling: Scaling::of(status) }
    }
}

/// One object of a body, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its UID.
    pub uid: String,
    /// UID of the controller that owns it.
    pub owner: Option<String>,
    /// Whether it waits for somebody's finalizer.
    pub deleting: bool,
    /// Hash of the names of the fields that the operator has applied and still owns. Whoever changes or removes
    /// one of them, in whatever way, takes it out of there: so drift is seen without looking at any content.
    pub ours: u64,
    /// The operator has created it and not yet made those fields into applied ones.
    pub created: bool,
}

impl Seen {
    /// What matters of this metadata.
    #[must_use]
    pub fn of(metadata: &ObjectMeta) -> Self {
        let entries = metadata.managed_fields.as_deref().unwrap_or_default();
        let mut hasher = DefaultHasher::new();
        for entry in entries.iter().filter(|it| is_ours(it, "Apply")) {
            entry.fields_v1.as_ref().map(|fields| fields.0.to_string()).hash(&mut hasher);
        }
        let owners = metadata.owner_references.as_deref().unwrap_or_default();
        Self {
            uid: metadata.uid.clone().unwrap_or_default(),
            owner: owners.iter().find(|it| it.controller == Some(true)).map(|it| it.uid.clone()),
            deleting: metadata.deletion_timestamp.is_some(),
            ours: hasher.finish(),
            created: entries.iter().any(|it| is_ours(it, "Update")),
        }
    }
}

/// Whether this entry says what the operator owns by this kind of call.
fn is_ours(entry: &ManagedFieldsEntry, operation: &str) -> bool {
    entry.manager.as_deref() == Some(MANAGER)
        && entry.operation.as_deref() == Some(operation)
        && entry.subresource.is_none()
}

/// The entries of an object that the operator created, as if it had applied it instead. Without that, what a
/// later apply leaves out would stay for ever: it would still be owned by the creation.
#[must_use]
pub fn as_applied(entries: &[ManagedFieldsEntry]) -> Vec<ManagedFieldsEntry> {
    let applied = entries.iter().any(|it| is_ours(it, "Apply"));
    let mut entries = entries.to_vec();
    entries.retain(|it| !(applied && is_ours(it, "Update")));
    for entry in &mut entries {
        if is_ours(entry, "Update") {
            entry.operation = Some("Apply".into());
        }
    }
    entries
}

/// Which object of a body.
pub type Id = (Kind, String);

/// An object and the version it was seen at.
#[derive(Clone)]
struct Versioned {
    seen: Seen,
    version: Option<u64>,
    told: Told,
}

/// All that is seen of all bodies.
pub struct Children {
    table: Mutex<BTreeMap<Key, BTreeMap<Id, Versioned>>>,
    /// Watches that have not made their first list.
    awaited: watch::Sender<usize>,
}

impl Children {
    /// Nothing yet; `watches` will tell.
    #[must_use]
    pub fn new(watches: usize) -> Self {
        Self { table: Mutex::default(), awaited: watch::Sender::new(watches) }
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<Key, BTreeMap<Id, Versioned>>> {
        // A panic while it is held leaves the map itself whole.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Comes back when every watch has made its first list: what is not in the table is then not there.
    pub async fn listed(&self) {
        // The sender is ours: it is not gone.
        let _ = self.awaited.subscribe().wait_for(|&awaited| awaited == 0).await;
    }

    /// The object, if it is there.
    #[must_use]
    pub fn seen(&self, key: &Key, id: &Id) -> Option<Seen> {
        self.table().get(key)?.get(id).map(|it| it.seen.clone())
    }

    /// What the body of the Organism `uid` says of itself.
    #[must_use]
    pub fn told(&self, key: &Key, uid: &str) -> Told {
        let table = self.table();
        let of = |kind: Kind| {
            let found = table.get(key).and_then(|it| it.get(&(kind, key.name.to_string())));
            found
                .filter(|it| it.seen.owner.as_deref() == Some(uid))
                .map(|it| it.told.clone())
                .unwrap_or_default()
        };
        Told { scaling: of(Kind::HorizontalPodAutoscaler).scaling, ..of(Kind::Deployment) }
    }

    /// Notes an object; an older state than the one that is known is no news. Returns whether anything that
    /// matters has changed.
    pub fn put(&self, key: &Key, id: Id, metadata: &ObjectMeta, told: Option<Told>) -> bool {
        let mut next = versioned(metadata, told.clone().unwrap_or_default());
        let mut table = self.table();
        let objects = table.entry(key.clone()).or_default();
        match objects.get_mut(&id) {
            // Versions of one kind may be compared (KEP-5504).
            Some(known) if known.seen.uid == next.seen.uid && known.version > next.version => false,
            Some(known) => {
                if told.is_none() {
                    next.told = known.told.clone();
                }
                next.told.scaling = Scaling::after(known.told.scaling.clone(), next.told.scaling);
                let changed = known.seen != next.seen || known.told != next.told;
                *known = next;
                changed
            }
            None => {
                objects.insert(id, next);
                true
            }
        }
    }

    /// Notes that the object with this UID is gone.
    pub fn remove(&self, key: &Key, id: &Id, uid: &str) {
        let mut table = self.table();
        if let Some(objects) = table.get_mut(key) {
            if objects.get(id).is_some_and(|it| it.seen.uid == uid) {
                objects.remove(id);
            }
            if objects.is_empty() {
                table.remove(key);
            }
        }
    }

    /// Takes a new list of a kind in a namespace, or in all, for the old one. Returns whose bodies have changed.
    fn relist(
        &self,
        kind: Kind,
        namespace: Option<&str>,
        list: Vec<(Key, Id, ObjectMeta, Told)>,
    ) -> Vec<Key> {
        let mut before = BTreeMap::new();
        let mut table = self.table();
        for (key, objects) in
            table.iter_mut().filter(|(key, _)| namespace.is_none_or(|it| *key.namespace == *it))
        {
            let of_kind: Vec<_> = objects.keys().filter(|id| id.0 == kind).cloned().collect();
            for id in of_kind {
                if let Some(object) = objects.remove(&id) {
                    before.insert((key.clone(), id), (object.seen, object.told));
                }
            }
        }
        let mut changed = vec![];
        for (key, id, metadata, told) in list {
            let next = versioned(&metadata, told);
            let known = before.remove(&(key.clone(), id.clone()));
            if known.is_none_or(|known| known != (next.seen.clone(), next.told.clone())) {
                changed.push(key.clone());
            }
            table.entry(key).or_default().insert(id, next);
        }
        changed.extend(before.into_keys().map(|(key, _)| key));
        table.retain(|_, objects| !objects.is_empty());
        changed
    }
}

fn versioned(metadata: &ObjectMeta, told: Told) -> Versioned {
    let version = metadata.resource_version.as_ref().and_then(|version| version.parse().ok());
    Versioned { seen: Seen::of(metadata), version, told }
}

/// Watches the bodies' objects of one kind, and wakes those whose body has changed.
pub async fn watch(context: Arc<Context>, shared: Arc<body::Shared>, kind: Kind, namespace: Option<String>) {
    use kube::runtime::{WatchStreamExt, watcher};
    // Ledgers' ConfigMaps are of no component: they are many, and watched elsewhere.
    let of_bodies = format!("{ORGANISM_LABEL},{COMPONENT_LABEL}={COMPONENT}");
    let config = watcher::Config::default().labels(&of_bodies);
    let resource = kind.resource();
    let client = context.client.clone();
    if matches!(kind, Kind::Deployment | Kind::HorizontalPodAutoscaler) {
        let api: Api<DynamicObject> = match &namespace {
            Some(namespace) => Api::namespaced_with(client, namespace, &resource),
            None => Api::all_with(client, &resource),
        };
        let events = watcher(api, config).default_backoff();
        follow(&context, &shared, kind, namespace.as_deref(), events, Told::by).await;
    } else {
        let api: Api<PartialObjectMeta<DynamicObject>> = match &namespace {
            Some(namespace) => Api::namespaced_with(client, namespace, &resource),
            None => Api::all_with(client, &resource),
        };
        let events = watcher(api, config).default_backoff();
        follow(&context, &shared, kind, namespace.as_deref(), events, |_| Told::default()).await;
    }
}

async fn follow<K: Resource>(
    context: &Context,
    shared: &body::Shared,
    kind: Kind,
    namespace: Option<&str>,
    events: impl Stream<Item = Result<Event<K>, watcher::Error>> + Send,
    told: impl Fn(&K) -> Told,
) {
    let children = &shared.children;
    let id = |object: &K| (kind, object.name_any());
    let mut events = std::pin::pin!(events);
    let mut list = vec![];
    let mut first = true;
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => list.clear(),
            Ok(Event::InitApply(object)) => {
                if let Some(key) = key_of(&object) {
                    list.push((key, id(&object), object.meta().clone(), told(&object)));
                }
            }
            Ok(Event::InitDone) => {
                let changed = children.relist(kind, namespace, std::mem::take(&mut list));
                if std::mem::take(&mut first) {
                    children.awaited.send_modify(|awaited| *awaited = awaited.saturating_sub(1));
                }
                changed.iter().for_each(|key| context.body_changed(shared, key));
            }
            Ok(Event::Apply(object)) => {
                if let Some(key) = key_of(&object)
                    && children.put(&key, id(&object), object.meta(), Some(told(&object)))
                {
                    context.body_changed(shared, &key);
                }
            }
            Ok(Event::Delete(object)) => {
                if let Some(key) = key_of(&object) {
                    children.remove(&key, &id(&object), &object.uid().unwrap_or_default());
                    context.body_changed(shared, &key);
                }
            }
            Err(error) => tracing::warn!(%error, ?kind, "the watch on bodies failed; it starts again"),
        }
    }
}

fn key_of<K: Resource>(object: &K) -> Option<Key> {
    let name = object.labels().get(ORGANISM_LABEL)?;
    Some(Key { namespace: object.namespace()?.into(), name: name.as_str().into() })
}

#[cfg(test)]
mod tests;
