//! The calls that write one object of a body. What they return goes into the index, so that the reconciler reads its
//! own writes.

use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::{DynamicObject, ObjectMeta};
use serde_json::{Value, json};

use super::Resources;
use super::build::ChildObject;
use super::index::{FIELD_MANAGER, ObjectId, ObservedStatus, as_applied};
use crate::operator::call::{CallError, call};
use crate::operator::key::Key;

/// Writes one object.
pub(super) struct ObjectWriter<'a> {
    resources: &'a Resources,
    key: &'a Key,
    id: ObjectId,
    api: Api<DynamicObject>,
    /// Kind, namespace and name, for messages.
    object: String,
}

impl<'a> ObjectWriter<'a> {
    pub(super) fn new(resources: &'a Resources, key: &'a Key, child: &ChildObject) -> Self {
        Self {
            resources,
            key,
            id: (child.kind, child.name.clone()),
            api: child.kind.api(resources.client.clone(), &key.namespace),
            object: format!("{} {}/{}", child.kind.resource().kind, key.namespace, child.name),
        }
    }

    /// Reads the metadata; none if the object does not exist.
    pub(super) async fn metadata(&self) -> Result<Option<ObjectMeta>, CallError> {
        let found = call("get", &self.object, self.api.get_metadata_opt(&self.id.1)).await?;
        Ok(found.map(|found| found.metadata))
    }

    /// Creates the object. Returns its metadata.
    pub(super) async fn create(&self, desired: &DynamicObject) -> Result<ObjectMeta, CallError> {
        let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
        let made = call("create", &self.object, self.api.create(&params, desired)).await?;
        self.observe(&made);
        tracing::info!(object = self.object, "created");
        self.convert_to_apply(&made.metadata).await
    }

    /// Turns the fields owned by the creation into applied ones, so that an apply that follows can remove some.
    pub(super) async fn convert_to_apply(&self, metadata: &ObjectMeta) -> Result<ObjectMeta, CallError> {
        let entries = as_applied(metadata.managed_fields.as_deref().unwrap_or_default());
        self.patch(&json!({"metadata": {
            "uid": metadata.uid,
            "resourceVersion": metadata.resource_version,
            "managedFields": entries,
        }}))
        .await
    }

    /// Changes the number of replicas only.
    pub(super) async fn scale(&self, uid: &str, replicas: u64) -> Result<(), CallError> {
        self.patch(&json!({"metadata": {"uid": uid}, "spec": {"replicas": replicas}})).await?;
        Ok(())
    }

    async fn patch(&self, patch: &Value) -> Result<ObjectMeta, CallError> {
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        let made =
            call("patch", &self.object, self.api.patch(&self.id.1, &params, &Patch::Merge(patch))).await?;
        self.observe(&made);
        Ok(made.metadata)
    }

    /// Applies the object to that with this UID, and this resourceVersion where one is given. Returns the metadata.
    pub(super) async fn apply(
        &self,
        desired: &DynamicObject,
        uid: &str,
        resource_version: Option<String>,
    ) -> Result<ObjectMeta, CallError> {
        let mut patch = desired.clone();
        patch.metadata.uid = Some(uid.to_owned());
        patch.metadata.resource_version = resource_version;
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let made =
            call("apply", &self.object, self.api.patch(&self.id.1, &params, &Patch::Apply(&patch))).await?;
        self.observe(&made);
        Ok(made.metadata)
    }

    pub(super) async fn delete(&self, uid: &str) -> Result<(), CallError> {
        let preconditions = Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None });
        let params = DeleteParams { preconditions, ..DeleteParams::default() };
        call("delete", &self.object, self.api.delete(&self.id.1, &params)).await?;
        self.resources.index.remove(self.key, &self.id, uid);
        Ok(())
    }

    fn observe(&self, made: &DynamicObject) {
        let status = Some(ObservedStatus::of(made));
        self.resources.index.put(self.key, self.id.clone(), &made.metadata, status);
    }
}
