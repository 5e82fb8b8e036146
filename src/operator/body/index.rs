//! An index of the objects of all bodies, as the watches observe them: metadata only, except for Deployments and
//! HorizontalPodAutoscalers, whose statuses hold the numbers of nodes. Writes of the reconcilers update it too, so
//! that they read their own writes.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta, OwnerReference};
use kube::core::{DynamicObject, Resource};
use serde_json::Value;
use tokio::sync::watch;

use super::build::Kind;
use crate::api;
use crate::api::labels::{MANAGED_BY_LABEL, MANAGER, ORGANISM_LABEL};
use crate::operator::key::Key;
use crate::operator::publisher::autoscaling::Scaling;
use crate::operator::publisher::body::Workload;

/// Field manager of the operator.
pub const FIELD_MANAGER: &str = "venom";

/// Annotation of a Deployment: hash of the pod template as it was built, so that a changed one shows without
/// comparing it with the defaults that the API server has filled in.
pub const TEMPLATE_ANNOTATION: &str = "genesis.venom.dev/template-hash";

/// Annotation of every object: hash of the object as it was built. It is written together with what it stands for.
pub const APPLIED_ANNOTATION: &str = "genesis.venom.dev/applied-hash";

/// Numbers of node pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Nodes {
    /// Ready ones.
    pub ready: u64,
    /// All, ready or not.
    pub replicas: u64,
}

impl Nodes {
    /// P, at least 1: an organism whose body is down still beats.
    #[must_use]
    pub fn p(self) -> u64 {
        self.ready.max(1)
    }

    /// The numbers in a Deployment's status.
    fn of(deployment: &Value) -> Self {
        let number = |field: &str| deployment[field].as_u64().unwrap_or_default();
        Self { ready: number("readyReplicas"), replicas: number("replicas") }
    }
}

/// The part of an object's status that matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedStatus {
    /// From a Deployment.
    pub nodes: Nodes,
    /// From a Deployment.
    pub workload: Option<Workload>,
    /// From a HorizontalPodAutoscaler that has evaluated its metrics.
    pub scaling: Option<Scaling>,
}

impl ObservedStatus {
    /// The status of this object.
    #[must_use]
    pub fn of(object: &DynamicObject) -> Self {
        let status = &object.data["status"];
        Self {
            nodes: Nodes::of(status),
            workload: Workload::of(object.metadata.generation, &object.data),
            scaling: Scaling::of(status),
        }
    }
}

/// The metadata of an object that matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedObject {
    /// Its UID.
    pub uid: String,
    /// UID of the controller that owns it.
    pub owner: Option<String>,
    /// Name of the Organism that owns it as its controller, which may be gone.
    pub organism: Option<String>,
    /// Whether nobody controls it, but the operator has made it: it has lost its ownerReference.
    pub orphan: bool,
    /// Whether it has a deletionTimestamp.
    pub deleting: bool,
    /// Hash of the names of the fields that the operator has applied and still owns. Another field manager that
    /// changes or removes one of them takes it out of this set, so drift shows without reading any content.
    pub owned: u64,
    /// Whether the operator has created it and not yet turned those fields into applied ones.
    pub created: bool,
    /// Whether someone else has set its number of replicas through /scale.
    pub scaled: bool,
    /// Value of [`TEMPLATE_ANNOTATION`].
    pub template: Option<String>,
    /// Value of [`APPLIED_ANNOTATION`].
    pub applied: Option<String>,
}

impl ObservedObject {
    /// The part of `metadata` that matters here.
    #[must_use]
    pub fn of(metadata: &ObjectMeta) -> Self {
        let entries = metadata.managed_fields.as_deref().unwrap_or_default();
        let mut hasher = DefaultHasher::new();
        for entry in entries.iter().filter(|it| is_ours(it, "Apply")) {
            entry.fields_v1.as_ref().map(|fields| fields.0.to_string()).hash(&mut hasher);
        }
        let owners = metadata.owner_references.as_deref().unwrap_or_default();
        let owner = owners.iter().find(|it| it.controller == Some(true));
        let is_organism = |it: &&OwnerReference| {
            it.kind == api::Organism::kind(&()) && it.api_version == api::Organism::api_version(&())
        };
        let label = |name: &str| metadata.labels.as_ref().and_then(|it| it.get(name));
        let ours = || {
            label(ORGANISM_LABEL).is_some()
                && label(MANAGED_BY_LABEL).is_some_and(|it| it == MANAGER)
                && entries.iter().any(|it| is_ours(it, "Apply") || is_ours(it, "Update"))
        };
        let scales = |it: &ManagedFieldsEntry| {
            let replicas = it.fields_v1.as_ref().map(|fields| &fields.0["f:spec"]["f:replicas"]);
            it.subresource.as_deref() == Some("scale") && replicas.is_some_and(|it| !it.is_null())
        };
        let annotation = |name: &str| metadata.annotations.as_ref().and_then(|it| it.get(name)).cloned();
        Self {
            uid: metadata.uid.clone().unwrap_or_default(),
            owner: owner.map(|it| it.uid.clone()),
            organism: owner.filter(is_organism).map(|it| it.name.clone()),
            orphan: owner.is_none() && ours(),
            deleting: metadata.deletion_timestamp.is_some(),
            owned: hasher.finish(),
            created: entries.iter().any(|it| is_ours(it, "Update")),
            scaled: entries.iter().any(scales),
            template: annotation(TEMPLATE_ANNOTATION),
            applied: annotation(APPLIED_ANNOTATION),
        }
    }
}

/// Whether `entry` lists the fields that the operator owns by this operation.
pub(super) fn is_ours(entry: &ManagedFieldsEntry, operation: &str) -> bool {
    entry.manager.as_deref() == Some(FIELD_MANAGER)
        && entry.operation.as_deref() == Some(operation)
        && entry.subresource.is_none()
}

/// The managedFields of an object that the operator created, as if it had applied it instead. Otherwise a field
/// that a later apply leaves out would stay for ever: its creation would still own it.
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

/// Kind and name of an object of a body.
pub type ObjectId = (Kind, String);

/// An object, and the resourceVersion at which it was observed.
#[derive(Clone)]
struct Versioned {
    object: ObservedObject,
    version: Option<u64>,
    status: ObservedStatus,
}

/// The objects of all bodies.
pub struct Index {
    table: Mutex<BTreeMap<Key, BTreeMap<ObjectId, Versioned>>>,
    /// Watches whose first list has not arrived.
    awaited: watch::Sender<usize>,
}

impl Index {
    /// An empty index, fed by this number of watches.
    #[must_use]
    pub fn new(watches: usize) -> Self {
        Self { table: Mutex::default(), awaited: watch::Sender::new(watches) }
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<Key, BTreeMap<ObjectId, Versioned>>> {
        // A panic while it is held leaves the map itself whole.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns once the first list of every watch has arrived: what the index lacks does not exist then.
    pub async fn wait_until_listed(&self) {
        // Infallible: this holds the sender.
        let _ = self.awaited.subscribe().wait_for(|&awaited| awaited == 0).await;
    }

    /// Whether the first list of every watch has arrived.
    #[must_use]
    pub fn is_listed(&self) -> bool {
        *self.awaited.borrow() == 0
    }

    /// The object, if it exists.
    #[must_use]
    pub fn object(&self, key: &Key, id: &ObjectId) -> Option<ObservedObject> {
        self.table().get(key)?.get(id).map(|it| it.object.clone())
    }

    /// The resourceVersion at which the object was observed.
    #[must_use]
    pub fn version(&self, key: &Key, id: &ObjectId) -> Option<String> {
        self.table().get(key)?.get(id)?.version.map(|it| it.to_string())
    }

    /// The status of the body of the Organism with this UID.
    #[must_use]
    pub fn status(&self, key: &Key, uid: &str) -> ObservedStatus {
        let table = self.table();
        let of = |kind: Kind| {
            let found = table.get(key).and_then(|it| it.get(&(kind, key.name.to_string())));
            found
                .filter(|it| it.object.owner.as_deref() == Some(uid))
                .map(|it| it.status.clone())
                .unwrap_or_default()
        };
        ObservedStatus { scaling: of(Kind::HorizontalPodAutoscaler).scaling, ..of(Kind::Deployment) }
    }

    /// Adds or replaces an object, unless a newer state of it is known; without `status` the known one stays.
    /// Returns whether anything that matters has changed.
    pub fn put(
        &self,
        key: &Key,
        id: ObjectId,
        metadata: &ObjectMeta,
        status: Option<ObservedStatus>,
    ) -> bool {
        let keeps_status = status.is_none();
        let mut next = versioned(metadata, status.unwrap_or_default());
        let mut table = self.table();
        let objects = table.entry(key.clone()).or_default();
        match objects.get_mut(&id) {
            // resourceVersions of one resource are comparable (KEP-5504).
            Some(known) if known.object.uid == next.object.uid && known.version > next.version => false,
            Some(known) => {
                if keeps_status {
                    next.status = known.status.clone();
                }
                next.status.scaling = Scaling::after(known.status.scaling.clone(), next.status.scaling);
                let changed = known.object != next.object || known.status != next.status;
                *known = next;
                changed
            }
            None => {
                objects.insert(id, next);
                true
            }
        }
    }

    /// Removes the object with this UID.
    pub fn remove(&self, key: &Key, id: &ObjectId, uid: &str) {
        let mut table = self.table();
        if let Some(objects) = table.get_mut(key) {
            if objects.get(id).is_some_and(|it| it.object.uid == uid) {
                objects.remove(id);
            }
            if objects.is_empty() {
                table.remove(key);
            }
        }
    }

    /// Notes that the first list of one watch has arrived, or cannot be had.
    pub fn first_list_arrived(&self) {
        self.awaited.send_modify(|awaited| *awaited = awaited.saturating_sub(1));
    }

    /// Replaces all objects of a kind, in a namespace or in all. Returns the Organisms whose bodies have changed.
    pub fn replace(
        &self,
        kind: Kind,
        namespace: Option<&str>,
        list: Vec<(Key, ObjectId, ObjectMeta, ObservedStatus)>,
    ) -> Vec<Key> {
        let mut before = BTreeMap::new();
        let mut table = self.table();
        for (key, objects) in
            table.iter_mut().filter(|(key, _)| namespace.is_none_or(|it| *key.namespace == *it))
        {
            let of_kind: Vec<_> = objects.keys().filter(|id| id.0 == kind).cloned().collect();
            for id in of_kind {
                if let Some(object) = objects.remove(&id) {
                    before.insert((key.clone(), id), (object.object, object.status));
                }
            }
        }
        let mut changed = vec![];
        for (key, id, metadata, status) in list {
            let next = versioned(&metadata, status);
            let known = before.remove(&(key.clone(), id.clone()));
            if known.is_none_or(|known| known != (next.object.clone(), next.status.clone())) {
                changed.push(key.clone());
            }
            table.entry(key).or_default().insert(id, next);
        }
        changed.extend(before.into_keys().map(|(key, _)| key));
        table.retain(|_, objects| !objects.is_empty());
        changed
    }
}

fn versioned(metadata: &ObjectMeta, status: ObservedStatus) -> Versioned {
    let version = metadata.resource_version.as_ref().and_then(|version| version.parse().ok());
    Versioned { object: ObservedObject::of(metadata), version, status }
}

#[cfg(test)]
mod tests;
