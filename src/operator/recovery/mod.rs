//! Recovery of a ledger: from the objects in the cluster to a head that is ours and a state to continue from.
//!
//! 1. Read the head and decide what it means (`plan`, pure).
//! 2. Take it over: replace it with a higher epoch, or start a new generation.
//! 3. Load the newest snapshot and what follows it, verify every hash, replay (`load`); read the ids of recent
//!    injections.
//! 4. Delete segments of this Organism that no head lists and an earlier writer left behind (`garbage`).
//!
//! A ledger whose Organism is gone is never deleted here: a new generation continues it, and its segments stay
//! listed in its archived head. One that Kubernetes is collecting is waited for.

pub mod first_lists;
mod garbage;
mod load;
mod plan;

use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};

use self::garbage::delete_unlisted;
use self::load::{adopt, load, recent_injections};
use self::plan::{Plan, plan};
use super::codec::Codec;
use super::committer::ledger::OwnedLedger;
use crate::api::{self, OnDelete};
use crate::ledger::entry::{Continues, Origin};
use crate::ledger::parse_hash;
use crate::ledger::replay::Mismatch;
use crate::ledger::sealed::{HexHash, OpenError};
use crate::runtime::History;
use crate::store::configmap::{
    ConfigMaps, Objects, StoreError, StoreErrorKind, StoredHead, parse_archived_name, parse_segment_name,
};
use crate::store::head::{Head, head_unreadable};
use crate::store::rebuild::LARGEST_EPOCH;
use crate::store::{ApiFailure, CALL_TIMEOUT};

/// Why a ledger could not be recovered.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The head's name is taken by an object of someone else.
    #[error("ConfigMap {0} exists and is not a ledger of ours; rename it or the Organism")]
    NameTaken(String),
    /// The head is that of an Organism of another name, which exists.
    #[error("ConfigMap {0} is the ledger head of Organism {1}, which exists; delete that ConfigMap to go on")]
    BelongsTo(String, String),
    /// The head is that of an earlier Organism, and Kubernetes is deleting it.
    #[error(
        "the ledger of an earlier Organism of this name is being deleted; waiting until ConfigMap {0} is gone"
    )]
    BeingCollected(String),
    /// The head cannot be read.
    #[error("{}", head_unreadable(.0, .1))]
    HeadUnreadable(String, String),
    /// A call failed; a retry may succeed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The head contradicts itself.
    #[error("the head of ledger {0} contradicts itself: its peaks do not give its root")]
    Head(String),
    /// A segment is not what it claims to be.
    #[error("segment {name}: {error}")]
    Segment {
        /// Its name.
        name: String,
        /// What is wrong with it.
        error: OpenError,
    },
    /// The ledger does not follow from itself.
    #[error("ledger {name}: {mismatch}")]
    Replay {
        /// Name of its head.
        name: String,
        /// The first entry that does not follow.
        mismatch: Mismatch,
    },
    /// The Organisms of the namespace could not be listed; without a cause there was no answer in time.
    #[error("cannot list Organisms: {}", .0.as_ref().map_or("no answer in time".into(), ToString::to_string))]
    Organisms(Option<ApiFailure>),
    /// A computation panicked.
    #[error("cannot open a segment: {0}")]
    Task(#[from] tokio::task::JoinError),
    /// The segments do not end where the head says.
    #[error("ledger {0}: its segments do not end at the head's last hash and root")]
    End(String),
}

impl RecoveryError {
    /// Whether another writer was faster.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Store(StoreError { kind: StoreErrorKind::Conflict, .. }))
    }

    /// Whether nothing can be created in the namespace any more.
    #[must_use]
    pub fn is_namespace_terminating(&self) -> bool {
        matches!(self, Self::Store(StoreError { kind: StoreErrorKind::NamespaceTerminating, .. }))
    }
}

/// Recovers the ledger of `organism` for the operator `holder`, and writes a head with a higher epoch than any
/// before. `existing` are the objects of a ledger of this name, if they were listed already.
///
/// # Errors
/// [`RecoveryError`].
pub async fn recover(
    client: Client,
    organism: &api::Organism,
    holder: &str,
    existing: Option<Objects>,
    codec: &Codec,
) -> Result<(OwnedLedger, History), RecoveryError> {
    let namespace = organism.namespace().unwrap_or_default();
    let name = organism.name_any();
    let uid = organism.uid().unwrap_or_default();
    let mut store = ConfigMaps::new(client.clone(), &namespace, &name, &uid);
    store.set_owned(organism.spec.ledger.on_delete == OnDelete::Delete);
    let published = organism.status.as_ref().and_then(|status| status.ledger.as_ref());
    let origin = |generation| Origin {
        generation,
        name: name.clone(),
        namespace: namespace.clone(),
        uid: uid.clone(),
    };

    let found = read_head(&client, &store, &namespace).await?;
    let (mut resource_version, found) = found.unzip();
    let existing = match existing {
        Some(existing) => existing,
        None => store.list().await?,
    };
    let archived = existing.keys().filter_map(|object| parse_archived_name(&name, object)).max();
    let empty = |generation, epoch| Head::empty(&uid, generation, epoch, holder);
    // Names of segments carry the epoch of their writer, and no name is used twice.
    let unused_epoch = |epoch: u64| {
        let used = existing.keys().filter_map(|object| parse_segment_name(&name, object));
        let used = used.map(|(epoch, ..)| epoch).filter(|epoch| *epoch <= LARGEST_EPOCH);
        used.max().unwrap_or_default().max(epoch) + 1
    };
    let (head, continues) = match plan(found, &uid, published, archived) {
        Plan::Continue(mut head) => {
            let reason = head.take_over(holder);
            let rv = store.put_head(&head, resource_version.as_deref().unwrap_or_default()).await?;
            let origin_of_head = origin(head.generation);
            let mut ledger = OwnedLedger::new(store, head, rv, origin_of_head);
            ledger.misowned = ledger.misowned_among(&existing);
            let missing = missing(&ledger, &existing).await?;
            ledger.mark_lost(missing);
            if ledger.head.size == 0 {
                let history = History::Empty { origin: Some(ledger.origin.clone()), continues: None };
                return Ok((ledger, history));
            }
            match load(&ledger, organism, reason, codec).await? {
                Some(history) => {
                    ledger.known = recent_injections(&ledger, codec).await?;
                    delete_unlisted(&ledger, &existing).await;
                    return Ok((ledger, history));
                }
                // No snapshot is left whose followers are all there.
                None => {
                    let OwnedLedger { head, resource_version: rv, store: its, .. } = ledger;
                    (store, resource_version) = (its, Some(rv));
                    store.archive_head(&head).await?;
                    let mut next = empty(head.generation + 1, unused_epoch(head.epoch));
                    next.lost_tail = Some((head.floor, head.size.saturating_sub(1)));
                    (next, Some(head))
                }
            }
        }
        Plan::Start { archived: None } => (empty(1, unused_epoch(0)), None),
        Plan::Start { archived: Some(generation) } => {
            (empty(generation + 1, unused_epoch(0)), store.archived_head(generation).await?)
        }
        Plan::NewGeneration(old) => {
            let old = adopt(&store, old, codec).await?;
            store.archive_head(&old).await?;
            let generation = old.generation.max(archived.unwrap_or_default()) + 1;
            (empty(generation, unused_epoch(old.epoch)), Some(old))
        }
        Plan::TailLost { head, from, to } => {
            if let Some(old) = &head {
                store.archive_head(old).await?;
            }
            let generation = published.map_or(0, |it| it.generation).max(archived.unwrap_or_default());
            let newest = head.as_ref().map_or(generation, |head| head.generation.max(generation));
            let mut next = empty(newest + 1, unused_epoch(head.as_ref().map_or(0, |head| head.epoch)));
            next.lost_tail = Some((from, to));
            let ours = head.filter(|head| head.uid == uid);
            (next, ours.or_else(|| published.map(|it| published_head(it, &uid))))
        }
    };
    let (mut ledger, history) = start(store, head, resource_version, continues.as_ref(), &origin).await?;
    ledger.misowned = ledger.misowned_among(&existing);
    Ok((ledger, history))
}

/// The head and its resourceVersion, where it is one that can be taken over.
async fn read_head(
    client: &Client,
    store: &ConfigMaps,
    namespace: &str,
) -> Result<Option<(String, Head)>, RecoveryError> {
    let found = store.head().await.map_err(|error| match error.kind {
        StoreErrorKind::Content(why) => RecoveryError::HeadUnreadable(error.name, why),
        _ => error.into(),
    })?;
    let Some(StoredHead { head, resource_version, owner, deleting, .. }) = found else { return Ok(None) };
    let Some(head) = head else { return Err(RecoveryError::NameTaken(store.head_name())) };
    let ours = store.organism_uid();
    let strange = [Some(&head.uid), owner.as_ref()].into_iter().flatten().find(|uid| *uid != ours);
    if let Some(uid) = strange
        && let Some(living) = organism_with(client, namespace, uid).await?
    {
        return Err(RecoveryError::BelongsTo(store.head_name(), living));
    }
    if deleting || owner.is_some_and(|owner| owner != ours) {
        return Err(RecoveryError::BeingCollected(store.head_name()));
    }
    Ok(Some((resource_version, head)))
}

/// Name of the Organism of this namespace that has this UID.
async fn organism_with(client: &Client, namespace: &str, uid: &str) -> Result<Option<String>, RecoveryError> {
    let organisms: Api<api::Organism> = Api::namespaced(client.clone(), namespace);
    let params = ListParams::default();
    let list = match tokio::time::timeout(CALL_TIMEOUT, organisms.list_metadata(&params)).await {
        Ok(list) => list.map_err(|error| RecoveryError::Organisms(Some(ApiFailure(error))))?,
        Err(_) => return Err(RecoveryError::Organisms(None)),
    };
    Ok(list.items.iter().find(|it| it.metadata.uid.as_deref() == Some(uid)).map(ResourceExt::name_any))
}

/// Starts a generation: writes its empty head.
async fn start(
    store: ConfigMaps,
    head: Head,
    resource_version: Option<String>,
    continues: Option<&Head>,
    origin: &impl Fn(u64) -> Origin,
) -> Result<(OwnedLedger, History), RecoveryError> {
    let resource_version = match resource_version {
        Some(resource_version) => store.put_head(&head, &resource_version).await?,
        None => store.create_head(&head).await?,
    };
    let continues = continues.map(|old| Continues {
        origin: Origin { uid: old.uid.clone(), ..origin(old.generation) },
        root: old.root_hex(),
        size: old.size,
    });
    let origin = origin(head.generation);
    let history = History::Empty { origin: Some(origin.clone()), continues };
    Ok((OwnedLedger::new(store, head, resource_version, origin), history))
}

/// The missing head, as far as a status has published it.
fn published_head(published: &api::LedgerStatus, uid: &str) -> Head {
    let mut head = Head::empty(uid, published.generation, 0, "");
    head.size = published.size;
    head.root = HexHash(parse_hash(&published.merkle_root).unwrap_or_default());
    head.last_hash = HexHash(parse_hash(&published.last_hash).unwrap_or_default());
    head
}

/// Names of listed segments that do not exist, or are not the objects that were listed.
async fn missing(ledger: &OwnedLedger, existing: &Objects) -> Result<Vec<String>, StoreError> {
    let mut missing = vec![];
    for segment in &ledger.head.segments {
        let name = ledger.store.name_of(segment);
        // The list may be older than the segment: a GET decides.
        if existing.get(&name).is_none_or(|it| it.uid != segment.object)
            && ledger.store.listed(segment).await?.is_none()
        {
            missing.push(name);
        }
    }
    Ok(missing)
}
