//! A ledger in a cluster: one immutable ConfigMap per segment, and one mutable ConfigMap for the head.
//!
//! Every call makes a single attempt with a timeout. The caller decides whether to retry and what a conflict means: a
//! hidden retry could commit after the writer has given up.

use std::collections::BTreeMap;
use std::future::Future;

use futures::future::BoxFuture;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{
    Api, DeleteParams, ListParams, PartialObjectMeta, Patch, PatchParams, PostParams, Preconditions,
};
use kube::{Client, Resource, ResourceExt};
use serde_json::json;

use super::failure::is_namespace_terminating;
use super::objects::{LedgerObject, Objects, head_name, is_ledger_object, owner};
use super::{ApiFailure, CALL_TIMEOUT, Head, SegmentRef};
use crate::api::Organism;
use crate::api::labels::{
    HOLDER_ANNOTATION, MANAGED_BY_LABEL, MANAGER, ORGANISM_LABEL, RELEASED_ANNOTATION, UID_LABEL,
};
use crate::ledger::SealedSegment;

/// Objects in one page of a list. A page is in memory as a whole, and anyone who may write ConfigMaps may label any number
/// of them, each with annotations of 256 KiB, as objects of a ledger.
const PAGE_SIZE: u32 = 500;

/// A failed call for an object of a ledger.
#[derive(Debug, thiserror::Error)]
#[error("{verb} ConfigMap {name}: {kind}")]
pub struct StoreError {
    verb: &'static str,
    /// `namespace/name` of the object.
    pub name: String,
    /// The cause.
    pub kind: StoreErrorKind,
}

/// The cause of a [`StoreError`].
#[derive(Debug, thiserror::Error)]
pub enum StoreErrorKind {
    /// Another writer changed or created the object, or a precondition on its UID failed.
    #[error("conflict")]
    Conflict,
    /// The object does not exist.
    #[error("not found")]
    Missing,
    /// The object's namespace is being deleted: nothing can be created in it any more.
    #[error("the namespace is being deleted")]
    NamespaceTerminating,
    /// etcd's space quota is used up. No write succeeds until there is room.
    #[error("etcd's database space is exceeded; free space or raise its quota")]
    Full,
    /// No answer within [`CALL_TIMEOUT`]. The call may or may not have taken effect.
    #[error("no answer within {} s", CALL_TIMEOUT.as_secs())]
    TimeOut,
    /// Any other error of the API server or of the connection.
    #[error(transparent)]
    Api(ApiFailure),
    /// The content of the object is invalid.
    #[error("{0}")]
    Content(String),
}

impl From<kube::Error> for StoreErrorKind {
    fn from(error: kube::Error) -> Self {
        match &error {
            kube::Error::Api(status) if status.is_conflict() || status.is_already_exists() => Self::Conflict,
            kube::Error::Api(status) if status.is_not_found() => Self::Missing,
            kube::Error::Api(status) if status.message.contains("database space exceeded") => Self::Full,
            kube::Error::Api(status) if is_namespace_terminating(status) => Self::NamespaceTerminating,
            _ => Self::Api(ApiFailure(error)),
        }
    }
}

impl StoreErrorKind {
    /// Whether authentication or authorization failed, as it does after the operator's RBAC rules or its service
    /// account were deleted.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Api(ApiFailure(kube::Error::Api(status))) if matches!(status.code, 401 | 403))
    }
}

/// A head as stored in the cluster.
#[derive(Clone, Debug)]
pub struct StoredHead {
    /// The head, or `None` if an object of this name exists that is not managed by VENOM.
    pub head: Option<Head>,
    /// The precondition for writing the head back.
    pub resource_version: String,
    /// UID of the ConfigMap.
    pub uid: String,
    /// UID of the Organism in its ownerReferences: Kubernetes collects the object when that is gone.
    pub owner: Option<String>,
    /// Whether it has a deletionTimestamp.
    pub deleting: bool,
}

/// The ConfigMaps of one Organism's ledger.
#[derive(Clone)]
pub struct ConfigMaps {
    api: Api<ConfigMap>,
    organism: String,
    /// UID of the Organism.
    uid: String,
    /// Whether the objects belong to the Organism, so that Kubernetes deletes them with it.
    owned: bool,
}

impl ConfigMaps {
    /// The ledger of the Organism `organism` with this UID. `client` should not retry: see the module.
    #[must_use]
    pub fn new(client: Client, namespace: &str, organism: &str, uid: &str) -> Self {
        let (organism, uid) = (organism.to_owned(), uid.to_owned());
        Self { api: Api::namespaced(client, namespace), organism, uid, owned: false }
    }

    /// Whether objects written from now on carry an ownerReference to the Organism.
    pub fn set_owned(&mut self, owned: bool) {
        self.owned = owned;
    }

    /// Whether objects are written with an ownerReference to the Organism.
    #[must_use]
    pub fn is_owned(&self) -> bool {
        self.owned
    }

    /// UID of the Organism.
    #[must_use]
    pub fn organism_uid(&self) -> &str {
        &self.uid
    }

    /// Name of the head.
    #[must_use]
    pub fn head_name(&self) -> String {
        head_name(&self.organism)
    }

    /// Name of a segment: `<organism>-ledger-<epoch>-<first>-<count>`.
    #[must_use]
    pub fn segment_name(&self, epoch: u64, first: u64, count: u64) -> String {
        format!("{}-ledger-{epoch}-{first}-{count}", self.organism)
    }

    /// Name of a segment that a head lists.
    #[must_use]
    pub fn name_of(&self, listed: &SegmentRef) -> String {
        self.segment_name(listed.epoch, listed.first, listed.count)
    }

    /// Name of an archived head: `<organism>-ledger-g<generation>`.
    #[must_use]
    pub fn archived_head_name(&self, generation: u64) -> String {
        format!("{}-ledger-g{generation}", self.organism)
    }

    /// Boxed: a call takes kilobytes, and the task of each organism would keep that much for good.
    fn call<'a, T>(
        &'a self,
        verb: &'static str,
        name: &'a str,
        call: impl Future<Output = Result<T, kube::Error>> + Send + 'a,
    ) -> BoxFuture<'a, Result<T, StoreError>> {
        Box::pin(async move {
            let kind = match tokio::time::timeout(CALL_TIMEOUT, call).await {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(error)) => error.into(),
                Err(_) => StoreErrorKind::TimeOut,
            };
            Err(self.error(verb, name, kind))
        })
    }

    fn error(&self, verb: &'static str, name: &str, kind: StoreErrorKind) -> StoreError {
        let namespace = self.api.namespace().unwrap_or_default();
        StoreError { verb, name: format!("{namespace}/{name}"), kind }
    }

    /// The error for an object that must exist and does not.
    #[must_use]
    pub fn missing(&self, name: &str) -> StoreError {
        self.error("get", name, StoreErrorKind::Missing)
    }

    /// Reads the head.
    ///
    /// # Errors
    /// [`StoreError`]. A missing head is `Ok(None)`.
    pub async fn head(&self) -> Result<Option<StoredHead>, StoreError> {
        self.head_named(self.head_name()).await
    }

    /// Reads the archived head of an earlier generation.
    ///
    /// # Errors
    /// [`StoreError`]. A missing object is `Ok(None)`.
    pub async fn archived_head(&self, generation: u64) -> Result<Option<StoredHead>, StoreError> {
        self.head_named(self.archived_head_name(generation)).await
    }

    async fn head_named(&self, name: String) -> Result<Option<StoredHead>, StoreError> {
        let Some(object) = self.call("get", &name, self.api.get_opt(&name)).await? else {
            return Ok(None);
        };
        let ours = is_ledger_object(&object);
        let text = object.data.as_ref().and_then(|data| data.get("head"));
        let head = match text {
            Some(text) if ours => Some(
                Head::parse(text)
                    .map_err(|error| self.error("read", &name, StoreErrorKind::Content(error.to_string())))?,
            ),
            _ => None,
        };
        Ok(Some(StoredHead {
            head,
            resource_version: object.resource_version().unwrap_or_default(),
            uid: object.uid().unwrap_or_default(),
            owner: owner(&object.metadata),
            deleting: object.metadata.deletion_timestamp.is_some(),
        }))
    }

    /// Creates the head. Returns its resourceVersion.
    ///
    /// # Errors
    /// [`StoreErrorKind::Conflict`] if an object of this name exists.
    pub async fn create_head(&self, head: &Head) -> Result<String, StoreError> {
        let object = self.head_object(self.head_name(), head)?;
        let made =
            self.call("create", &self.head_name(), self.api.create(&PostParams::default(), &object)).await?;
        Ok(made.resource_version().unwrap_or_default())
    }

    /// Replaces the head if it is still at `resource_version`. Returns the new resourceVersion. This call commits:
    /// a segment belongs to the ledger once the head lists it.
    ///
    /// # Errors
    /// [`StoreErrorKind::Conflict`] if the head was written since. After [`StoreErrorKind::TimeOut`] the head may or
    /// may not have been replaced: read it to find out.
    pub async fn put_head(&self, head: &Head, resource_version: &str) -> Result<String, StoreError> {
        let name = self.head_name();
        let mut object = self.head_object(name.clone(), head)?;
        object.metadata.resource_version = Some(resource_version.to_owned());
        let params = PostParams::default();
        let put = self.api.replace(&name, &params, &object);
        Ok(self.call("update", &name, put).await?.resource_version().unwrap_or_default())
    }

    /// Stores the head of an ended generation as an immutable object.
    ///
    /// # Errors
    /// [`StoreErrorKind::Conflict`] if an object of this name exists.
    pub async fn archive_head(&self, head: &Head) -> Result<(), StoreError> {
        let name = self.archived_head_name(head.generation);
        let mut object = self.head_object(name.clone(), head)?;
        object.immutable = Some(true);
        self.call("create", &name, self.api.create(&PostParams::default(), &object)).await?;
        Ok(())
    }

    /// Stores a segment. Returns the UID of its object. An existing object with the same bytes counts as success: it
    /// comes from an earlier attempt whose answer was lost.
    ///
    /// # Errors
    /// [`StoreErrorKind::Conflict`] if an object of this name has another content.
    pub async fn create_segment(&self, sealed: &SealedSegment, epoch: u64) -> Result<String, StoreError> {
        let name = self.segment_name(epoch, sealed.head.first, sealed.head.count);
        let head = sealed
            .head_text()
            .map_err(|error| self.error("create", &name, StoreErrorKind::Content(error.to_string())))?;
        let object = ConfigMap {
            metadata: self.metadata(name.clone()),
            data: Some(BTreeMap::from([("head".into(), head)])),
            binary_data: Some(BTreeMap::from([("entries".into(), ByteString(sealed.entries.clone()))])),
            immutable: Some(true),
        };
        match self.call("create", &name, self.api.create(&PostParams::default(), &object)).await {
            Ok(made) => Ok(made.uid().unwrap_or_default()),
            Err(error) if matches!(error.kind, StoreErrorKind::Conflict | StoreErrorKind::TimeOut) => {
                match self.segment(&name).await? {
                    Some((uid, stored)) if stored == *sealed => Ok(uid),
                    _ => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Reads a segment. Returns the UID of its object and the content.
    ///
    /// # Errors
    /// [`StoreError`]. A missing object is `Ok(None)`.
    pub async fn segment(&self, name: &str) -> Result<Option<(String, SealedSegment)>, StoreError> {
        let Some(object) = self.call("get", name, self.api.get_opt(name)).await? else {
            return Ok(None);
        };
        self.parse_segment(name, object).map(Some)
    }

    /// As [`segment`](Self::segment), where one that cannot be read counts as missing.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn readable_segment(&self, name: &str) -> Result<Option<(String, SealedSegment)>, StoreError> {
        match self.segment(name).await {
            Err(StoreError { kind: StoreErrorKind::Content(_), .. }) => Ok(None),
            found => found,
        }
    }

    /// Reads the segment that a head lists. Returns `None` if it is gone or was replaced by another object.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn listed(&self, listed: &SegmentRef) -> Result<Option<SealedSegment>, StoreError> {
        let name = self.name_of(listed);
        let Some(object) = self.call("get", &name, self.api.get_opt(&name)).await? else {
            return Ok(None);
        };
        if object.uid().as_ref() != Some(&listed.object) {
            return Ok(None);
        }
        self.parse_segment(&name, object).map(|(_, sealed)| Some(sealed))
    }

    fn parse_segment(&self, name: &str, object: ConfigMap) -> Result<(String, SealedSegment), StoreError> {
        let uid = object.uid().unwrap_or_default();
        let head = object.data.unwrap_or_default().remove("head").unwrap_or_default();
        let entries = object.binary_data.unwrap_or_default().remove("entries").unwrap_or_default().0;
        let sealed = SealedSegment::from_parts(&head, entries)
            .map_err(|error| self.error("read", name, StoreErrorKind::Content(error.to_string())))?;
        Ok((uid, sealed))
    }

    /// Deletes the object of this name if it has this UID. A missing object counts as deleted.
    ///
    /// # Errors
    /// [`StoreErrorKind::Conflict`] if the object has another UID.
    pub async fn delete(&self, name: &str, uid: &str) -> Result<(), StoreError> {
        let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match self.call("delete", name, self.api.delete(name, &params)).await {
            Ok(_) | Err(StoreError { kind: StoreErrorKind::Missing, .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Lists every object of a ledger of this name, heads included, whichever Organism has written it. Metadata only.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn list(&self) -> Result<Objects, StoreError> {
        let mut found = self.list_of(&[&self.organism]).await?;
        Ok(found.remove(&self.organism).unwrap_or_default())
    }

    /// As [`list`](Self::list), for the ledgers of all these names in the namespace. The names are part of the request's
    /// address.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn list_of(&self, organisms: &[&str]) -> Result<BTreeMap<String, Objects>, StoreError> {
        let selector = format!("{ORGANISM_LABEL} in ({}),{UID_LABEL}", organisms.join(","));
        let mut params = ListParams::default().labels(&selector).limit(PAGE_SIZE);
        let mut ledgers: BTreeMap<String, Objects> = BTreeMap::new();
        loop {
            let page = self.call("list", &self.head_name(), self.api.list_metadata(&params)).await?;
            for PartialObjectMeta::<ConfigMap> { metadata, .. } in &page.items {
                let organism = metadata.labels.as_ref().and_then(|it| it.get(ORGANISM_LABEL));
                let object = LedgerObject::of(metadata);
                let objects = ledgers.entry(organism.cloned().unwrap_or_default()).or_default();
                objects.insert(object.name.clone(), object);
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(ledgers),
            }
        }
    }

    /// Gives the object of this name and UID the ownerReference that [`set_owned`](Self::set_owned) asks for, or
    /// takes it away. An object that is gone is none to change.
    ///
    /// # Errors
    /// [`StoreErrorKind::Conflict`] if the object has another UID.
    pub async fn write_owner(&self, name: &str, uid: &str) -> Result<(), StoreError> {
        let owners = self.owners().unwrap_or_default();
        let patch = json!({"metadata": {"uid": uid, "ownerReferences": owners}});
        let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
        match self.call("patch", name, self.api.patch_metadata(name, &params, &patch)).await {
            Ok(_) | Err(StoreError { kind: StoreErrorKind::Missing, .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The ownerReferences of an object. They do not block the deletion of the Organism: that would take a right
    /// that some clusters ask for, and nothing waits for a ledger.
    fn owners(&self) -> Option<Vec<OwnerReference>> {
        self.owned.then(|| {
            vec![OwnerReference {
                api_version: Organism::api_version(&()).into_owned(),
                block_owner_deletion: Some(false),
                controller: None,
                kind: Organism::kind(&()).into_owned(),
                name: self.organism.clone(),
                uid: self.uid.clone(),
            }]
        })
    }

    fn head_object(&self, name: String, head: &Head) -> Result<ConfigMap, StoreError> {
        let text = serde_json::to_string(head)
            .map_err(|error| self.error("write", &name, StoreErrorKind::Content(error.to_string())))?;
        let mut metadata = self.metadata(name);
        let annotations =
            [(HOLDER_ANNOTATION, head.holder.clone()), (RELEASED_ANNOTATION, head.released.to_string())];
        metadata.annotations =
            Some(annotations.into_iter().map(|(key, value)| (key.into(), value)).collect());
        if head.uid != self.uid {
            // An archived head belongs to the Organism that wrote it, which is gone.
            metadata.labels.get_or_insert_default().insert(UID_LABEL.into(), head.uid.clone());
            metadata.owner_references = None;
        }
        Ok(ConfigMap {
            metadata,
            data: Some(BTreeMap::from([("head".into(), text)])),
            ..ConfigMap::default()
        })
    }

    fn metadata(&self, name: String) -> ObjectMeta {
        let labels = [
            (MANAGED_BY_LABEL, MANAGER),
            (ORGANISM_LABEL, self.organism.as_str()),
            (UID_LABEL, self.uid.as_str()),
        ];
        ObjectMeta {
            name: Some(name),
            labels: Some(labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect()),
            owner_references: self.owners(),
            ..ObjectMeta::default()
        }
    }
}
