//! A ledger in a cluster: immutable ConfigMaps for segments, one mutable ConfigMap for the head.
//!
//! Every call here makes one attempt under a time limit. Whether to try again, and what a conflict means,
//! is the caller's business: a hidden retry could commit behind the back of a writer that gave up.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, DeleteParams, ListParams, PartialObjectMeta, PostParams, Preconditions};
use kube::{Client, ResourceExt};

use super::{Head, Listed};
use crate::ledger::SealedSegment;

/// Label of every object of a ledger: the Organism's name.
pub const ORGANISM_LABEL: &str = "genesis.venom.dev/organism";
/// Label of every object of a ledger: the Organism's UID.
pub const UID_LABEL: &str = "genesis.venom.dev/organism-uid";
/// Label of every object that an operator made.
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// Value of [`MANAGED_BY_LABEL`].
pub const MANAGER: &str = "venom";

/// Longest time one API call may take.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// Why a call on a ledger's object did not do what it was to do.
#[derive(Debug, thiserror::Error)]
#[error("{verb} ConfigMap {name}: {why}")]
pub struct StoreError {
    verb: &'static str,
    /// `namespace/name` of the object.
    pub name: String,
    /// What went wrong.
    pub why: Why,
}

/// What went wrong with a call.
#[derive(Debug, thiserror::Error)]
pub enum Why {
    /// Somebody else changed or made the object, or its UID is not the one meant.
    #[error("conflict")]
    Conflict,
    /// It is not there.
    #[error("not found")]
    Missing,
    /// The store's database is full.
    #[error("etcd's database space is exceeded")]
    Full,
    /// No answer in time; whether it happened is not known.
    #[error("no answer within {} s", CALL_LIMIT.as_secs())]
    TimeOut,
    /// Refused, or no answer.
    #[error(transparent)]
    Api(kube::Error),
    /// It does not hold what it has to.
    #[error("{0}")]
    Content(String),
}

impl From<kube::Error> for Why {
    fn from(error: kube::Error) -> Self {
        match &error {
            kube::Error::Api(status) if status.is_conflict() || status.is_already_exists() => Self::Conflict,
            kube::Error::Api(status) if status.is_not_found() => Self::Missing,
            kube::Error::Api(status) if status.message.contains("database space exceeded") => Self::Full,
            _ => Self::Api(error),
        }
    }
}

impl Why {
    /// Whether we may not: our rights were taken away, or our account with them.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Api(kube::Error::Api(status)) if matches!(status.code, 401 | 403))
    }
}

/// The head as it was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// The head; nothing when the object is not a ledger's head but a stranger's.
    pub head: Option<Head>,
    /// To write it only as it was read.
    pub resource_version: String,
    /// The object's own UID.
    pub uid: String,
}

/// The objects of one Organism's ledger.
#[derive(Clone)]
pub struct ConfigMaps {
    api: Api<ConfigMap>,
    organism: String,
    /// UID of the Organism.
    uid: String,
}

impl ConfigMaps {
    /// The ledger of the Organism `organism` with this UID. `client` should not retry by itself.
    #[must_use]
    pub fn new(client: Client, namespace: &str, organism: &str, uid: &str) -> Self {
        Self { api: Api::namespaced(client, namespace), organism: organism.to_owned(), uid: uid.to_owned() }
    }

    /// Name of the head.
    #[must_use]
    pub fn head_name(&self) -> String {
        format!("{}-ledger", self.organism)
    }

    /// Name of a segment.
    #[must_use]
    pub fn segment_name(&self, epoch: u64, first: u64, count: u64) -> String {
        format!("{}-ledger-{epoch}-{first}-{count}", self.organism)
    }

    /// Name of a listed segment.
    #[must_use]
    pub fn name_of(&self, listed: &Listed) -> String {
        self.segment_name(listed.epoch, listed.first, listed.count)
    }

    /// Name under which the head of an earlier generation stays.
    #[must_use]
    pub fn retired_name(&self, generation: u64) -> String {
        format!("{}-ledger-g{generation}", self.organism)
    }

    async fn call<T>(
        &self,
        verb: &'static str,
        name: &str,
        call: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, StoreError> {
        let why = match tokio::time::timeout(CALL_LIMIT, call).await {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(error)) => error.into(),
            Err(_) => Why::TimeOut,
        };
        Err(self.error(verb, name, why))
    }

    fn error(&self, verb: &'static str, name: &str, why: Why) -> StoreError {
        let namespace = self.api.namespace().unwrap_or_default();
        StoreError { verb, name: format!("{namespace}/{name}"), why }
    }

    /// The error of an object that has to be there and is not.
    #[must_use]
    pub fn missing(&self, name: &str) -> StoreError {
        self.error("get", name, Why::Missing)
    }

    /// Reads the head.
    ///
    /// # Errors
    /// [`StoreError`]; a missing head is `None`.
    pub async fn head(&self) -> Result<Option<Found>, StoreError> {
        self.head_named(self.head_name()).await
    }

    /// Reads the head of an ended generation.
    ///
    /// # Errors
    /// [`StoreError`]; a missing one is `None`.
    pub async fn retired(&self, generation: u64) -> Result<Option<Head>, StoreError> {
        let found = self.head_named(self.retired_name(generation)).await?;
        Ok(found.and_then(|found| found.head))
    }

    async fn head_named(&self, name: String) -> Result<Option<Found>, StoreError> {
        let Some(object) = self.call("get", &name, self.api.get_opt(&name)).await? else {
            return Ok(None);
        };
        let ours = object.labels().get(MANAGED_BY_LABEL).is_some_and(|value| value == MANAGER);
        let text = object.data.as_ref().and_then(|data| data.get("head"));
        let head = match text {
            Some(text) if ours => Some(
                serde_json::from_str(text)
                    .map_err(|error| self.error("read", &name, Why::Content(error.to_string())))?,
            ),
            _ => None,
        };
        Ok(Some(Found {
            head,
            resource_version: object.resource_version().unwrap_or_default(),
            uid: object.uid().unwrap_or_default(),
        }))
    }

    /// Makes the head. Returns its resourceVersion.
    ///
    /// # Errors
    /// [`Why::Conflict`] when one is there already.
    pub async fn create_head(&self, head: &Head) -> Result<String, StoreError> {
        let object = self.head_object(self.head_name(), head)?;
        let made =
            self.call("create", &self.head_name(), self.api.create(&PostParams::default(), &object)).await?;
        Ok(made.resource_version().unwrap_or_default())
    }

    /// Writes the head if it is still at `resource_version`. Returns the new one. This is what commits.
    ///
    /// # Errors
    /// [`Why::Conflict`] when it was written since; [`Why::TimeOut`] when nobody knows.
    pub async fn put_head(&self, head: &Head, resource_version: &str) -> Result<String, StoreError> {
        let name = self.head_name();
        let mut object = self.head_object(name.clone(), head)?;
        object.metadata.resource_version = Some(resource_version.to_owned());
        let params = PostParams::default();
        let put = self.api.replace(&name, &params, &object);
        Ok(self.call("update", &name, put).await?.resource_version().unwrap_or_default())
    }

    /// Stores the head of an ended generation for good. One that is there already stands: a retry.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn retire_head(&self, head: &Head) -> Result<(), StoreError> {
        let name = self.retired_name(head.generation);
        let mut object = self.head_object(name.clone(), head)?;
        object.immutable = Some(true);
        match self.call("create", &name, self.api.create(&PostParams::default(), &object)).await {
            Ok(_) | Err(StoreError { why: Why::Conflict, .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Stores a segment. Returns the UID of its object. One of this name that holds the same bytes is the
    /// trace of an earlier try whose answer was lost.
    ///
    /// # Errors
    /// [`Why::Conflict`] when an object of this name holds something else.
    pub async fn create_segment(&self, sealed: &SealedSegment, epoch: u64) -> Result<String, StoreError> {
        let name = self.segment_name(epoch, sealed.head.first, sealed.head.count);
        let head = sealed
            .head_text()
            .map_err(|error| self.error("create", &name, Why::Content(error.to_string())))?;
        let object = ConfigMap {
            metadata: self.metadata(name.clone()),
            data: Some(BTreeMap::from([("head".into(), head)])),
            binary_data: Some(BTreeMap::from([("entries".into(), ByteString(sealed.entries.clone()))])),
            immutable: Some(true),
        };
        match self.call("create", &name, self.api.create(&PostParams::default(), &object)).await {
            Ok(made) => Ok(made.uid().unwrap_or_default()),
            Err(error) if matches!(error.why, Why::Conflict | Why::TimeOut) => {
                match self.segment(&name).await? {
                    Some((uid, there)) if there == *sealed => Ok(uid),
                    _ => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Reads a segment: the UID of its object, and what it holds.
    ///
    /// # Errors
    /// [`StoreError`]; a missing one is `None`.
    pub async fn segment(&self, name: &str) -> Result<Option<(String, SealedSegment)>, StoreError> {
        let Some(object) = self.call("get", name, self.api.get_opt(name)).await? else {
            return Ok(None);
        };
        self.understood(name, object).map(Some)
    }

    /// Reads the segment that a head lists; nothing where it is gone or another object has its name.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn listed(&self, listed: &Listed) -> Result<Option<SealedSegment>, StoreError> {
        let name = self.name_of(listed);
        let Some(object) = self.call("get", &name, self.api.get_opt(&name)).await? else {
            return Ok(None);
        };
        if object.uid().as_ref() != Some(&listed.object) {
            return Ok(None);
        }
        self.understood(&name, object).map(|(_, sealed)| Some(sealed))
    }

    fn understood(&self, name: &str, object: ConfigMap) -> Result<(String, SealedSegment), StoreError> {
        let uid = object.uid().unwrap_or_default();
        let head = object.data.unwrap_or_default().remove("head").unwrap_or_default();
        let entries = object.binary_data.unwrap_or_default().remove("entries").unwrap_or_default().0;
        let sealed = SealedSegment::from_parts(&head, entries)
            .map_err(|error| self.error("read", name, Why::Content(error.to_string())))?;
        Ok((uid, sealed))
    }

    /// Deletes the object of this name if its UID is the one meant. One that is gone is fine.
    ///
    /// # Errors
    /// [`Why::Conflict`] when another object has that name.
    pub async fn delete(&self, name: &str, uid: &str) -> Result<(), StoreError> {
        let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match self.call("delete", name, self.api.delete(name, &params)).await {
            Ok(_) | Err(StoreError { why: Why::Missing, .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Deletes all objects of ledgers of this Organism's UID, heads too.
    ///
    /// # Errors
    /// [`Why::Content`] when some are there still: somebody's finalizer holds them, or a write under way made
    /// one more.
    pub async fn delete_all(&self, uid: &str) -> Result<(), StoreError> {
        let every = format!("{}*", self.head_name());
        let (params, of_this_uid) = (DeleteParams::default(), ListParams::default().labels(&label_of(uid)));
        self.call("delete", &every, self.api.delete_collection(&params, &of_this_uid)).await?;
        match self.list(uid).await?.first() {
            None => Ok(()),
            Some(left) => {
                Err(self.error("delete", &left.name_any(), Why::Content("it is still there".into())))
            }
        }
    }

    /// All objects of ledgers of this Organism's UID, heads too.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn list(&self, uid: &str) -> Result<Vec<PartialObjectMeta<ConfigMap>>, StoreError> {
        let mut params = ListParams::default().labels(&label_of(uid)).limit(500);
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
            .map_err(|error| self.error("write", &name, Why::Content(error.to_string())))?;
        let mut metadata = self.metadata(name);
        if let Some(labels) = &mut metadata.labels {
            // A head belongs to the UID it names, also a retired one of an Organism that is gone.
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

fn label_of(uid: &str) -> String {
    format!("{UID_LABEL}={uid}")
}

/// Index range that the name of a segment states, and the epoch of its writer: `<organism>-ledger-<epoch>-<first>-<count>`.
#[must_use]
pub fn parse_segment_name(organism: &str, name: &str) -> Option<(u64, u64, u64)> {
    let mut numbers = name.strip_prefix(organism)?.strip_prefix("-ledger-")?.split('-');
    let mut next = || numbers.next()?.parse().ok();
    let (epoch, first, count) = (next()?, next()?, next()?);
    numbers.next().is_none().then_some((epoch, first, count))
}
