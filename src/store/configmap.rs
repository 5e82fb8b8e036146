//! A ledger in a cluster: one immutable ConfigMap per segment, and one mutable ConfigMap for the head.
//!
//! Every call makes a single attempt with a timeout. The caller decides whether to retry and what a conflict means: a
//! hidden retry could commit after the writer has given up.

use std::collections::BTreeMap;
use std::future::Future;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, DeleteParams, ListParams, PartialObjectMeta, PostParams, Preconditions};
use kube::{Client, ResourceExt};

use super::{CALL_TIMEOUT, Head, SegmentRef};
use crate::api::labels::{MANAGED_BY_LABEL, MANAGER, ORGANISM_LABEL, UID_LABEL};
use crate::ledger::SealedSegment;

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
    /// etcd's space quota is used up. No write succeeds until there is room.
    #[error("etcd's database space is exceeded; free space or raise its quota")]
    Full,
    /// No answer within [`CALL_TIMEOUT`]. The call may or may not have taken effect.
    #[error("no answer within {} s", CALL_TIMEOUT.as_secs())]
    TimeOut,
    /// Any other error of the API server or of the connection.
    #[error(transparent)]
    Api(kube::Error),
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
            _ => Self::Api(error),
        }
    }
}

impl StoreErrorKind {
    /// Whether authentication or authorization failed, as it does after the operator's RBAC rules or its service
    /// account were deleted.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Api(kube::Error::Api(status)) if matches!(status.code, 401 | 403))
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
}

/// The ConfigMaps of one Organism's ledger.
#[derive(Clone)]
pub struct ConfigMaps {
    api: Api<ConfigMap>,
    organism: String,
    /// UID of the Organism.
    uid: String,
}

impl ConfigMaps {
    /// The ledger of the Organism `organism` with this UID. `client` should not retry: see the module.
    #[must_use]
    pub fn new(client: Client, namespace: &str, organism: &str, uid: &str) -> Self {
        Self { api: Api::namespaced(client, namespace), organism: organism.to_owned(), uid: uid.to_owned() }
    }

    /// Name of the head: `<organism>-ledger`.
    #[must_use]
    pub fn head_name(&self) -> String {
        format!("{}-ledger", self.organism)
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

    async fn call<T>(
        &self,
        verb: &'static str,
        name: &str,
        call: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, StoreError> {
        let kind = match tokio::time::timeout(CALL_TIMEOUT, call).await {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(error)) => error.into(),
            Err(_) => StoreErrorKind::TimeOut,
        };
        Err(self.error(verb, name, kind))
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
    pub async fn archived_head(&self, generation: u64) -> Result<Option<Head>, StoreError> {
        let found = self.head_named(self.archived_head_name(generation)).await?;
        Ok(found.and_then(|found| found.head))
    }

    async fn head_named(&self, name: String) -> Result<Option<StoredHead>, StoreError> {
        let Some(object) = self.call("get", &name, self.api.get_opt(&name)).await? else {
            return Ok(None);
        };
        let ours = object.labels().get(MANAGED_BY_LABEL).is_some_and(|value| value == MANAGER);
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

    /// Stores the head of an ended generation as an immutable object. An existing one is kept, so that a retry
    /// succeeds.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn archive_head(&self, head: &Head) -> Result<(), StoreError> {
        let name = self.archived_head_name(head.generation);
        let mut object = self.head_object(name.clone(), head)?;
        object.immutable = Some(true);
        match self.call("create", &name, self.api.create(&PostParams::default(), &object)).await {
            Ok(_) | Err(StoreError { kind: StoreErrorKind::Conflict, .. }) => Ok(()),
            Err(error) => Err(error),
        }
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

    /// Deletes every ledger object, heads included, of the Organism with this UID.
    ///
    /// # Errors
    /// [`StoreErrorKind::Content`] if an object remains, because of a finalizer or a concurrent write.
    pub async fn delete_all(&self, uid: &str) -> Result<(), StoreError> {
        let pattern = format!("{}*", self.head_name());
        let (params, selector) = (DeleteParams::default(), ListParams::default().labels(&uid_selector(uid)));
        self.call("delete", &pattern, self.api.delete_collection(&params, &selector)).await?;
        match self.list(uid).await?.first() {
            None => Ok(()),
            Some(remaining) => Err(self.error(
                "delete",
                &remaining.name_any(),
                StoreErrorKind::Content("still exists after its deletion; check its finalizers".into()),
            )),
        }
    }

    /// Lists every ledger object, heads included, of the Organism with this UID. Metadata only.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn list(&self, uid: &str) -> Result<Vec<PartialObjectMeta<ConfigMap>>, StoreError> {
        let mut params = ListParams::default().labels(&uid_selector(uid)).limit(500);
        let mut items = vec![];
        loop {
            let page = self.call("list", &self.head_name(), self.api.list_metadata(&params)).await?;
            items.extend(page.items);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(items),
            }
        }
    }

    fn head_object(&self, name: String, head: &Head) -> Result<ConfigMap, StoreError> {
        let text = serde_json::to_string(head)
            .map_err(|error| self.error("write", &name, StoreErrorKind::Content(error.to_string())))?;
        let mut metadata = self.metadata(name);
        if let Some(labels) = &mut metadata.labels {
            // An archived head keeps the label of the Organism that wrote it, which may be deleted.
            labels.insert(UID_LABEL.into(), head.uid.clone());
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
            ..ObjectMeta::default()
        }
    }
}

fn uid_selector(uid: &str) -> String {
    format!("{UID_LABEL}={uid}")
}

/// Parses the name of a segment, `<organism>-ledger-<epoch>-<first>-<count>`, into epoch, first index and count.
#[must_use]
pub fn parse_segment_name(organism: &str, name: &str) -> Option<(u64, u64, u64)> {
    let mut numbers = name.strip_prefix(organism)?.strip_prefix("-ledger-")?.split('-');
    let mut next = || numbers.next()?.parse().ok();
    let (epoch, first, count) = (next()?, next()?, next()?);
    numbers.next().is_none().then_some((epoch, first, count))
}
