//! Recovery of a ledger: from the objects in the cluster to a head that is ours and a state to continue from.
//!
//! 1. Read the head and decide what it means (`plan`, pure).
//! 2. Take it over: replace it with a higher epoch, or start a new generation.
//! 3. Load the newest snapshot and what follows it, verify every hash, replay (`load`); read the ids of recent
//!    injections. What the status has published must be among it: the root at that size, and the last hash.
//! 4. Delete segments of this generation that the head does not list and an earlier writer left behind (`garbage`).
//!
//! Many may write ConfigMaps, only the operator may write a status. A ledger that contradicts what its status has
//! published is kept as it is, as an archived head, and a new generation continues what was published.
//!
//! A ledger whose Organism is gone is never deleted here: a new generation continues it, and its segments stay
//! listed in its archived head. One that Kubernetes is collecting is waited for.

pub mod disown;
pub mod first_lists;
mod garbage;
mod load;
mod plan;

use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};

use self::garbage::delete_unlisted;
use self::load::{Loaded, adopt, load, recent_inputs};
use self::plan::{Plan, plan};
use super::codec::Codec;
use super::committer::ledger::OwnedLedger;
use super::key::Key;
use super::ownership::Ownership;
use crate::api::{self, OnDelete};
use crate::ledger::entry::{Continues, Origin};
use crate::ledger::replay::Mismatch;
use crate::ledger::sealed::{HexHash, OpenError};
use crate::organism::input::ResumeReason;
use crate::printable::{QUOTE, line};
use crate::runtime::History;
use crate::store::configmap::{
    ConfigMaps, LedgerObject, Objects, StoreError, StoreErrorKind, StoredHead, parse_archived_name,
    parse_segment_name,
};
use crate::store::head::{Forged, Head, head_unreadable};
use crate::store::rebuild::{LARGEST_EPOCH, Published, UNKNOWN_EPOCHS, newest_epoch};
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
/// another replica holds it. `existing` are the objects of a ledger of this name, if they were listed already.
///
/// # Errors
/// [`RecoveryError`].
pub async fn recover(
    client: Client,
    organism: &api::Organism,
    ownership: &Ownership,
    existing: Option<Objects>,
    codec: &Codec,
) -> Result<(OwnedLedger, History), RecoveryError> {
    let namespace = organism.namespace().unwrap_or_default();
    let name = organism.name_any();
    let uid = organism.uid().unwrap_or_default();
    let holder = &**ownership.members.identity();
    let mut store = ConfigMaps::new(client.clone(), &namespace, &name, &uid);
    store.set_owned(organism.spec.ledger.on_delete == OnDelete::Delete);
    let origin = |generation| Origin {
        generation,
        name: name.clone(),
        namespace: namespace.clone(),
        uid: uid.clone(),
    };

    let found = read_head(&client, &store, &namespace).await?;
    if !ownership.members.permit.is_valid() {
        return Err(RecoveryError::Lapsed(store.head_name()));
    }
    if let Some((_, head)) = found.as_ref().filter(|(_, head)| head.uid == uid)
        && ownership.may_take(&Key::new(&namespace, &name), head).is_none()
    {
        return Err(RecoveryError::Held(store.head_name(), line(&head.holder, QUOTE)));
    }
    let (mut resource_version, found) = found.unzip();
    let existing = match existing {
        Some(existing) => existing,
        None => store.list().await?,
    };
    let archived = existing.keys().filter_map(|object| parse_archived_name(&name, object)).max();
    let mut published = published_in(organism);
    let mut planned = plan(found.clone(), &uid, published.as_ref(), archived);
    if matches!(planned, Plan::Forged(..)) {
        // What was watched may be older than what was published last.
        published = published_now(&client, organism).await?;
        planned = plan(found, &uid, published.as_ref(), archived);
    }
    let headless = matches!(planned, Plan::Start { .. } | Plan::TailLost { head: None, .. });
    let stored = if headless { newest_generation(&store, &name, &existing).await? } else { None };
    let highest = [published.as_ref().map(|it| it.generation), archived, stored].into_iter().flatten().max();
    let highest = highest.unwrap_or_default();
    let next = Next { uid: &uid, holder, name: &name, existing: &existing, highest, headless };
    let (head, continues) = match planned {
        Plan::Continue(head) => {
            let rv = resource_version.as_deref().unwrap_or_default();
            let (ledger, reason) = take_over(store, head, rv, holder, &origin, &existing).await?;
            if ledger.head.size == 0 {
                // This generation was begun, and its writer ended before its first commit.
                let before = published.filter(|it| it.generation < ledger.head.generation);
                let continues = before.map(|it| continued(&published_head(&it, &uid), &origin));
                let history = History::Empty { origin: Some(ledger.origin.clone()), continues };
                return Ok((ledger, history));
            }
            let mut loaded = load(&ledger, organism, published.as_ref(), reason, codec).await?;
            if matches!(loaded, Loaded::Contradiction(..)) {
                published = published_now(&client, organism).await?;
                loaded = load(&ledger, organism, published.as_ref(), reason, codec).await?;
            }
            let head = &ledger.head;
            let (begun, continues) = match loaded {
                Loaded::State(history) => return keep(ledger, history, &existing, codec).await,
                Loaded::NoStart => {
                    (next.after_loss(head, head.floor, head.size.saturating_sub(1)), Some(head.clone()))
                }
                Loaded::EndLost(from, to) => (next.after_loss(head, from, to), Some(head.clone())),
                Loaded::Contradiction(what, published) => {
                    (next.after_forgery(head, what, &published), Some(published_head(&published, &uid)))
                }
            };
            ledger.store.archive_head(head).await?;
            (store, resource_version) = (ledger.store, Some(ledger.resource_version));
            (begun, continues)
        }
        Plan::Start { archived } => {
            // Of a newer generation than the archived one only segments are left: how it ended is not known.
            let continues = match archived.filter(|it| stored.is_none_or(|stored| stored <= *it)) {
                Some(generation) => store.archived_head(generation).await?,
                None => None,
            };
            (next.generation(highest + 1, 0), continues)
        }
        Plan::NewGeneration(old) => {
            let old = adopt(&store, old, codec).await?;
            store.archive_head(&old).await?;
            (next.after(&old), Some(old))
        }
        Plan::TailLost { head, from, to } => {
            if let Some(old) = &head {
                store.archive_head(old).await?;
            }
            let none = Head::empty(&uid, 0, 0, "");
            let begun = next.after_loss(head.as_ref().unwrap_or(&none), from, to);
            let ours = head.filter(|head| head.uid == uid);
            (begun, ours.or_else(|| published.map(|it| published_head(&it, &uid))))
        }
        Plan::Forged(head, published) => {
            store.archive_head(&head).await?;
            let Head { generation, size, .. } = head;
            let root = head.root_hex();
            let what =
                format!("its head states generation {generation} with {size} entries and the root {root}");
            (next.after_forgery(&head, what, &published), Some(published_head(&published, &uid)))
        }
    };
    let (mut ledger, history) = start(store, head, resource_version, continues.as_ref(), &origin).await?;
    ledger.misowned = ledger.misowned_among(&existing);
    Ok((ledger, history))
}

/// The empty head of a generation that begins.
struct Next<'a> {
    uid: &'a str,
    holder: &'a str,
    name: &'a str,
    existing: &'a Objects,
    /// The newest generation that is published, archived or, without a head, stored in a segment.
    highest: u64,
    /// Whether there is no head.
    headless: bool,
}

impl Next<'_> {
    /// Names of segments carry the epoch of their writer, and no name is used twice.
    fn generation(&self, generation: u64, epoch: u64) -> Head {
        let used = newest_epoch(self.name, self.existing);
        // The last writer of a head that is gone may have committed nothing.
        let unknown = if self.headless && used.is_some() { UNKNOWN_EPOCHS } else { 0 };
        let epoch = used.unwrap_or_default().max(epoch) + unknown + 1;
        Head::empty(self.uid, generation, epoch, self.holder)
    }

    fn after(&self, old: &Head) -> Head {
        self.generation(old.generation.max(self.highest) + 1, old.epoch)
    }

    fn after_loss(&self, old: &Head, from: u64, to: u64) -> Head {
        Head { lost_tail: Some((from, to)), ..self.after(old) }
    }

    fn after_forgery(&self, found: &Head, what: String, published: &Published) -> Head {
        let (organism, generation) = (self.name, found.generation);
        tracing::error!(
            organism,
            uid = self.uid,
            generation,
            what,
            "the ledger that was found contradicts what was published; a new generation continues that"
        );
        Head { forged: Some(Forged::new(generation, what, published)), ..self.after(found) }
    }
}

/// The generation of the newest segment that can be read, where a head may have been deleted and left its segments. Those
/// that Kubernetes collects with an earlier Organism are none.
async fn newest_generation(
    store: &ConfigMaps,
    name: &str,
    existing: &Objects,
) -> Result<Option<u64>, StoreError> {
    let stays = |it: &&LedgerObject| it.owner.is_none() || it.organism == store.organism_uid();
    let numbered =
        |it: &LedgerObject| parse_segment_name(name, &it.name).map(|place| (place, it.name.clone()));
    let mut segments: Vec<_> = existing.values().filter(stays).filter_map(numbered).collect();
    segments.sort();
    for (_, segment) in segments.into_iter().rev() {
        let Some((_, sealed)) = store.readable_segment(&segment).await? else { continue };
        let generation = sealed.head.origin.map(|it| it.generation).filter(|it| *it <= LARGEST_EPOCH);
        if generation.is_some() {
            return Ok(generation);
        }
    }
    Ok(None)
}

/// Writes the head with a higher epoch, and looks which of its segments are there.
async fn take_over(
    store: ConfigMaps,
    mut head: Head,
    resource_version: &str,
    holder: &str,
    origin: &impl Fn(u64) -> Origin,
    existing: &Objects,
) -> Result<(OwnedLedger, ResumeReason), RecoveryError> {
    let reason = head.take_over(holder);
    let resource_version = store.put_head(&head, resource_version).await?;
    let origin = origin(head.generation);
    let mut ledger = OwnedLedger::new(store, head, resource_version, origin);
    ledger.misowned = ledger.misowned_among(existing);
    let missing = missing(&ledger, existing).await?;
    ledger.mark_lost(missing);
    Ok((ledger, reason))
}

/// What a ledger that goes on needs besides its state.
async fn keep(
    mut ledger: OwnedLedger,
    history: History,
    existing: &Objects,
    codec: &Codec,
) -> Result<(OwnedLedger, History), RecoveryError> {
    ledger.last_pulse = match &history {
        History::Recovered { state, .. } => state.pid.last,
        History::Empty { .. } => None,
    };
    ledger.known = recent_inputs(&ledger, ledger.last_pulse, codec).await?;
    delete_unlisted(&ledger, existing).await;
    Ok((ledger, history))
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
    let continues = continues.map(|old| continued(old, origin));
    let origin = origin(head.generation);
    let history = History::Empty { origin: Some(origin.clone()), continues };
    Ok((OwnedLedger::new(store, head, resource_version, origin), history))
}

/// What a genesis says of the ledger of `old`, which it continues.
fn continued(old: &Head, origin: &impl Fn(u64) -> Origin) -> Continues {
    Continues {
        origin: Origin { uid: old.uid.clone(), ..origin(old.generation) },
        root: old.root_hex(),
        size: old.size,
    }
}

/// A head of which only what a status has published is known.
fn published_head(published: &Published, uid: &str) -> Head {
    let mut head = Head::empty(uid, published.generation, 0, "");
    head.size = published.size;
    (head.root, head.last_hash) = (HexHash(published.root), HexHash(published.last_hash));
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
