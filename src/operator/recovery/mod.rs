//! Recovery of a ledger: from the objects in the cluster to a head that is ours and a state to continue from.
//!
//! 1. Read the head and decide what it means (`plan`, pure).
//! 2. Take it over: replace it with a higher epoch, or begin a new generation (`begin`).
//! 3. Load the newest snapshot and what follows it, verify every hash, replay (`load`); read the ids of recent
//!    injections. What the status has published must be among it: the root at that size, and the last hash.
//!
//! A ledger that goes on is not listed: that would take the API server longer than all the rest. Whether everything else is
//! there is looked at while it beats ([`lists`]); until then nothing new is said about it.
//!
//! Many may write ConfigMaps, only the operator may write a status. A ledger that contradicts what its status has
//! published is kept as it is, as an archived head, and a new generation continues what was published.
//!
//! A ledger whose Organism is gone is never deleted here: a new generation continues it, and its segments stay
//! listed in its archived head. One that Kubernetes is collecting is waited for.

mod begin;
pub mod disown;
pub mod lists;
mod load;
mod plan;

use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};

use self::begin::published_head;
use self::lists::{ListError, SharedLists};
use self::load::{Loaded, load, recent_inputs};
use self::plan::{After, Plan, plan};
use super::codec::Codec;
use super::committer::ledger::OwnedLedger;
use super::key::Key;
use super::ownership::Ownership;
use crate::api::{self, OnDelete};
use crate::ledger::entry::{Continues, Origin};
use crate::ledger::replay::Mismatch;
use crate::ledger::sealed::OpenError;
use crate::printable::{QUOTE, line};
use crate::runtime::History;
use crate::store::configmap::{ConfigMaps, StoreError, StoreErrorKind, StoredHead};
use crate::store::head::{Head, head_unreadable};
use crate::store::rebuild::Published;
use crate::store::{ApiFailure, CALL_TIMEOUT};

/// Why a ledger could not be recovered.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The head's name is taken by an object of someone else.
    #[error("ConfigMap {0} exists and is not a ledger of ours; rename it or the Organism")]
    NameTaken(String),
    /// The name for the head of an ended generation is taken by an object that states something else.
    #[error("ConfigMap {0} has the name of an earlier head and is another one; rename it to go on")]
    ArchiveTaken(String),
    /// The head is that of an Organism of another name, which exists.
    #[error("ConfigMap {0} is the ledger head of Organism {1}, which exists; delete that ConfigMap to go on")]
    BelongsTo(String, String),
    /// The head is that of an earlier Organism, and Kubernetes is deleting it.
    #[error(
        "the ledger of an earlier Organism of this name is being deleted; waiting until ConfigMap {0} is gone"
    )]
    BeingCollected(String),
    /// Another replica holds the ledger.
    #[error("operator {1} holds the ledger {0}")]
    Held(String, String),
    /// Another replica may have taken the ledger over since.
    #[error("the Lease of this replica has run out, and another may hold the ledger {0}")]
    Lapsed(String),
    /// The head cannot be read.
    #[error("{}", head_unreadable(.0, .1))]
    HeadUnreadable(String, String),
    /// A call failed; a retry may succeed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The objects of the ledger could not be listed; a retry may succeed.
    #[error(transparent)]
    List(#[from] ListError),
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

/// Recovers the ledger of `organism` for this replica, and writes a head with a higher epoch than any before, unless
/// another replica holds it.
///
/// # Errors
/// [`RecoveryError`].
pub async fn recover(
    client: Client,
    organism: &api::Organism,
    ownership: &Ownership,
    lists: &SharedLists,
    codec: &Codec,
) -> Result<(OwnedLedger, History), RecoveryError> {
    let key = Key::of(organism);
    let uid = organism.uid().unwrap_or_default();
    let mut store = ConfigMaps::new(client.clone(), &key.namespace, &key.name, &uid);
    store.set_owned(organism.spec.ledger.on_delete == OnDelete::Delete);

    let found = read_head(&client, &store, &key.namespace).await?;
    if !ownership.members.permit.is_valid() {
        return Err(RecoveryError::Lapsed(store.head_name()));
    }
    if let Some((_, head)) = found.as_ref().filter(|(_, head)| head.uid == uid)
        && ownership.may_take(&key, head).is_none()
    {
        return Err(RecoveryError::Held(store.head_name(), line(&head.holder, QUOTE)));
    }
    let (resource_version, found) = found.unzip();
    let mut published = published_in(organism);
    let mut planned = plan(found.clone(), &uid, published.as_ref());
    if matches!(planned, Plan::Begin(After::Forged { .. })) {
        // What was watched may be older than what was published last.
        published = published_now(&client, organism).await?;
        planned = plan(found, &uid, published.as_ref());
    }
    let holder = &**ownership.members.identity();
    let mut recovery =
        Recovery { client, organism, key, uid, holder, store, resource_version, published, codec };
    let after = match planned {
        Plan::Continue(head) => match recovery.go_on(head).await? {
            Outcome::GoesOn(recovered) => return Ok(*recovered),
            Outcome::Ends(after) => *after,
        },
        Plan::Begin(after) => after,
    };
    recovery.begin(after, lists).await
}

/// What a recovery knows.
struct Recovery<'a> {
    client: Client,
    organism: &'a api::Organism,
    key: Key,
    /// UID of the Organism.
    uid: String,
    holder: &'a str,
    store: ConfigMaps,
    /// That of the head; none where there is no head.
    resource_version: Option<String>,
    published: Option<Published>,
    codec: &'a Codec,
}

/// What becomes of a ledger that was taken over.
enum Outcome {
    GoesOn(Box<(OwnedLedger, History)>),
    Ends(Box<After>),
}

impl Recovery<'_> {
    fn origin(&self, generation: u64) -> Origin {
        let (namespace, name) = (self.key.namespace.to_string(), self.key.name.to_string());
        Origin { generation, name, namespace, uid: self.uid.clone() }
    }

    /// Writes the head with a higher epoch, and loads what it lists.
    async fn go_on(&mut self, mut head: Head) -> Result<Outcome, RecoveryError> {
        let reason = head.take_over(self.holder);
        let before = self.resource_version.take().unwrap_or_default();
        let resource_version = self.store.put_head(&head, &before).await?;
        self.resource_version = Some(resource_version.clone());
        let origin = self.origin(head.generation);
        let mut ledger = OwnedLedger::new(self.store.clone(), head, resource_version, origin);
        if ledger.head.size == 0 {
            // This generation was begun, and its writer ended before its first commit.
            let generation = ledger.head.generation;
            let before = match self.published.as_ref().filter(|it| it.generation < generation) {
                Some(published) => Some(published_head(published, &self.uid)),
                // That of an earlier Organism: this one has published nothing yet.
                None => self.store.archived_head(generation.saturating_sub(1)).await?.and_then(|it| it.head),
            };
            let continues = before.map(|old| self.continued(&old));
            let history = History::Empty { origin: Some(ledger.origin.clone()), continues };
            return Ok(Outcome::GoesOn(Box::new((ledger, history))));
        }
        let mut read_again = false;
        let after = loop {
            match load(&ledger, self.organism, self.published.as_ref(), reason, self.codec).await? {
                Loaded::State(history) => {
                    ledger.last_pulse = match &history {
                        History::Recovered { state, .. } => state.pid.last,
                        History::Empty { .. } => None,
                    };
                    ledger.known = recent_inputs(&ledger, ledger.last_pulse, self.codec).await?;
                    return Ok(Outcome::GoesOn(Box::new((ledger, history))));
                }
                // From another start, or around the gap.
                Loaded::Missing(segment) => drop(ledger.mark_lost([segment])),
                Loaded::Contradiction(..) if !std::mem::replace(&mut read_again, true) => {
                    self.published = published_now(&self.client, self.organism).await?;
                }
                Loaded::NoStart => {
                    let (from, to) = (ledger.head.floor, ledger.head.size.saturating_sub(1));
                    break After::Lost { head: Some(ledger.head), from, to };
                }
                Loaded::EndLost(from, to) => break After::Lost { head: Some(ledger.head), from, to },
                Loaded::Contradiction(what, published) => {
                    break After::Forged { head: ledger.head, what, published };
                }
            }
        };
        Ok(Outcome::Ends(Box::new(after)))
    }

    /// What a genesis says of the ledger of `old`, which it continues.
    fn continued(&self, old: &Head) -> Continues {
        Continues {
            origin: Origin { uid: old.uid.clone(), ..self.origin(old.generation) },
            root: old.root_hex(),
            size: old.size,
        }
    }
}

/// What the status has published of the ledger.
fn published_in(organism: &api::Organism) -> Option<Published> {
    Published::of(organism.status.as_ref()?.ledger.as_ref()?)
}

/// As [`published_in`], read from the API server.
async fn published_now(
    client: &Client,
    organism: &api::Organism,
) -> Result<Option<Published>, RecoveryError> {
    let api: Api<api::Organism> = Api::namespaced(client.clone(), &organism.namespace().unwrap_or_default());
    let name = organism.name_any();
    let found = match tokio::time::timeout(CALL_TIMEOUT, api.get_opt(&name)).await {
        Ok(found) => found.map_err(|error| RecoveryError::Organisms(Some(ApiFailure(error))))?,
        Err(_) => return Err(RecoveryError::Organisms(None)),
    };
    // If it is gone, its actor is about to be told.
    let same = found.filter(|found| found.uid() == organism.uid());
    Ok(published_in(same.as_ref().unwrap_or(organism)))
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
