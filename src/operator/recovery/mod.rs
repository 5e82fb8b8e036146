//! Recovery of a ledger: from the objects in the cluster to a head that is ours and a state to continue from.
//!
//! 1. Read the head and decide what it means (`plan`, pure).
//! 2. Take it over: replace it with a higher epoch, or start a new generation.
//! 3. Load the newest snapshot and what follows it, verify every hash, replay; read the ids of recent injections.
//! 4. Delete segments that no head lists and an earlier writer left behind.

pub mod first_lists;
mod plan;

use std::collections::BTreeSet;

use kube::{Client, ResourceExt};

use self::first_lists::Objects;
use self::plan::{Plan, plan};
use super::committer::ledger::OwnedLedger;
use super::publisher::status;
use crate::api;
use crate::ledger::Chain;
use crate::ledger::entry::{Continues, Origin};
use crate::ledger::replay::{Decision, Mismatch, Replay};
use crate::ledger::sealed::OpenError;
use crate::mesh::CommittedInjection;
use crate::organism::State;
use crate::organism::input::ResumeReason;
use crate::runtime::{CurrentDecision, History};
use crate::store::configmap::{ConfigMaps, StoreError, StoreErrorKind, StoredHead, parse_segment_name};
use crate::store::head::Head;
use crate::store::injections::RecentInjections;

/// Why a ledger could not be recovered.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The head's name is taken by an object of someone else.
    #[error("ConfigMap {0} exists and is not a ledger of ours; rename it or the Organism")]
    NameTaken(String),
    /// The head cannot be read.
    #[error("ConfigMap {0} is not a readable ledger head: {1}; restore its data.head to go on")]
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
    /// The segments do not end where the head says.
    #[error("ledger {0}: its segments do not end at the head's last hash and root")]
    End(String),
}

/// Recovers the ledger of `organism` for the operator `holder`, and writes a head with a higher epoch than any
/// before. `existing` are the ledger's objects, if they were listed already.
///
/// # Errors
/// [`RecoveryError`].
pub async fn recover(
    client: Client,
    organism: &api::Organism,
    holder: &str,
    existing: Option<Objects>,
) -> Result<(OwnedLedger, History), RecoveryError> {
    let namespace = organism.namespace().unwrap_or_default();
    let name = organism.name_any();
    let uid = organism.uid().unwrap_or_default();
    let store = ConfigMaps::new(client, &namespace, &name, &uid);
    let published = organism.status.as_ref().and_then(|status| status.ledger.as_ref());
    let origin = |generation| Origin {
        generation,
        name: name.clone(),
        namespace: namespace.clone(),
        uid: uid.clone(),
    };

    let found = store.head().await.map_err(|error| match error.kind {
        StoreErrorKind::Content(why) => RecoveryError::HeadUnreadable(error.name, why),
        _ => error.into(),
    })?;
    let (mut resource_version, found) = match found {
        None => (None, None),
        Some(StoredHead { head: None, .. }) => return Err(RecoveryError::NameTaken(store.head_name())),
        Some(StoredHead { head: Some(head), resource_version, .. }) => (Some(resource_version), Some(head)),
    };

    let existing = match existing {
        Some(existing) => existing,
        None => list(&store, &uid).await?,
    };
    let empty = |generation, epoch| Head::empty(&uid, generation, epoch, holder);
    let (head, continues) = match plan(found, &uid, published) {
        Plan::Continue(mut head) => {
            let reason = head.take_over(holder);
            let rv = store.put_head(&head, resource_version.as_deref().unwrap_or_default()).await?;
            let origin_of_head = origin(head.generation);
            let mut ledger = OwnedLedger::new(store, head, rv, origin_of_head);
            let missing = missing(&ledger, &existing).await?;
            ledger.mark_lost(missing);
            if ledger.head.size == 0 {
                let history = History::Empty { origin: Some(ledger.origin.clone()), continues: None };
                return Ok((ledger, history));
            }
            match load(&ledger, organism, reason).await? {
                Some(history) => {
                    ledger.known = recent_injections(&ledger).await?;
                    delete_unlisted(&ledger, &existing).await;
                    return Ok((ledger, history));
                }
                // No snapshot is left whose followers are all there.
                None => {
                    let OwnedLedger { head, resource_version: rv, store: its, .. } = ledger;
                    resource_version = Some(rv);
                    its.archive_head(&head).await?;
                    let mut next = empty(head.generation + 1, head.epoch + 1);
                    next.lost_tail = Some((head.floor, head.size.saturating_sub(1)));
                    return start(its, next, resource_version, Some(&head), &origin).await;
                }
            }
        }
        // Segments without a head are of a ledger that was never shown: their names are not used again.
        Plan::Start => (empty(1, highest_epoch(&existing, &name) + 1), None),
        Plan::NewGeneration(old) => {
            store.archive_head(&old).await?;
            (empty(old.generation + 1, old.epoch + 1), Some(old))
        }
        Plan::Replace(old) => {
            let next = empty(1, old.epoch + 1);
            let started = start(store, next, resource_version, None, &origin).await?;
            // What cannot be deleted now belongs to a UID that is gone and is in nobody's way.
            for object in started.0.store.list(&old.uid).await? {
                let object_uid = object.uid().unwrap_or_default();
                if parse_segment_name(&name, &object.name_any()).is_some() {
                    let _ = started.0.store.delete(&object.name_any(), &object_uid).await;
                }
            }
            return Ok(started);
        }
        Plan::TailLost { head, from, to } => {
            if let Some(old) = &head {
                store.archive_head(old).await?;
            }
            let generation = published.map_or(0, |it| it.generation);
            let newest = head.as_ref().map_or(generation, |head| head.generation.max(generation));
            // The epoch of a head that is gone is not known. Names of segments carry it.
            let epoch = match &head {
                Some(head) => head.epoch,
                None => highest_epoch(&list(&store, &uid).await?, &name),
            };
            let old = head.or_else(|| published.map(|it| published_head(it, &uid)));
            let mut next = empty(newest + 1, epoch + 1);
            next.lost_tail = Some((from, to));
            (next, old)
        }
    };
    start(store, head, resource_version, continues.as_ref(), &origin).await
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
    use crate::ledger::parse_hash;
    use crate::ledger::sealed::HexHash;
    let mut head = Head::empty(uid, published.generation, 0, "");
    head.size = published.size;
    head.root = HexHash(parse_hash(&published.merkle_root).unwrap_or_default());
    head.last_hash = HexHash(parse_hash(&published.last_hash).unwrap_or_default());
    head
}

fn highest_epoch(existing: &Objects, name: &str) -> u64 {
    let epochs = existing.iter().filter_map(|(object, _)| parse_segment_name(name, object));
    epochs.map(|(epoch, ..)| epoch).max().unwrap_or_default()
}

async fn list(store: &ConfigMaps, uid: &str) -> Result<Objects, StoreError> {
    let objects = store.list(uid).await?;
    Ok(objects.iter().map(|object| (object.name_any(), object.uid().unwrap_or_default())).collect())
}

/// Names of listed segments that do not exist, or are not the objects that were listed.
async fn missing(ledger: &OwnedLedger, existing: &Objects) -> Result<Vec<String>, StoreError> {
    let mut missing = vec![];
    for segment in &ledger.head.segments {
        let name = ledger.store.name_of(segment);
        // The list may be older than the segment: a GET decides.
        if !existing.contains(&(name.clone(), segment.object.clone()))
            && ledger.store.listed(segment).await?.is_none()
        {
            missing.push(name);
        }
    }
    Ok(missing)
}

/// The state after the last entry: from the newest segment with a snapshot whose followers are all there.
async fn load(
    ledger: &OwnedLedger,
    organism: &api::Organism,
    reason: ResumeReason,
) -> Result<Option<History>, RecoveryError> {
    let name = ledger.store.head_name();
    let end = ledger.head.chain().ok_or_else(|| RecoveryError::Head(name.clone()))?;
    let segments = &ledger.head.segments;
    let whole = segments.iter().rposition(|it| ledger.is_lost(it)).map_or(0, |at| at + 1);
    let Some(from) = segments[whole..].iter().rposition(|it| it.start.is_some()) else { return Ok(None) };

    let mut replay = Replay::default();
    let mut chain: Option<Chain> = None;
    for listed in &segments[whole + from..] {
        let segment = ledger.store.name_of(listed);
        let wrong = |error| RecoveryError::Segment { name: segment.clone(), error };
        let Some(sealed) = ledger.store.listed(listed).await? else {
            return Err(ledger.store.missing(&segment).into());
        };
        let before = sealed.chain_before().map_err(wrong)?;
        if chain.as_ref().is_some_and(|chain| *chain != before) {
            return Err(RecoveryError::End(name));
        }
        let mut after = before;
        for entry in sealed.open().map_err(wrong)? {
            after.push_hash(entry.hash);
            replay.feed(entry).map_err(|mismatch| RecoveryError::Replay { name: name.clone(), mismatch })?;
        }
        chain = Some(after);
    }
    if chain.is_none_or(|chain| chain != end) {
        return Err(RecoveryError::End(name));
    }
    let replayed = replay.decision();
    let state = replay.finish().map_err(|mismatch| RecoveryError::Replay { name, mismatch })?;
    Ok(state.map(|state| {
        let decision = current_decision(replayed, &state, organism);
        History::Recovered { state: Box::new(state), chain: end, decision, reason }
    }))
}

/// The injections that retries must not record again. Segments are read from the newest back, and only those that
/// may hold a recent injection.
async fn recent_injections(ledger: &OwnedLedger) -> Result<Vec<CommittedInjection>, RecoveryError> {
    let head = &ledger.head;
    let Some(mut recent) = RecentInjections::of(head) else { return Ok(vec![]) };
    let newest = head.last_injection.map_or(0, |(entry, _)| entry);
    for listed in head.segments.iter().rev().skip_while(|it| it.first > newest) {
        // A missing segment is reported elsewhere; its ids are forgotten.
        let Some(sealed) = ledger.store.listed(listed).await? else { continue };
        let opened = tokio::task::spawn_blocking(move || sealed.open()).await;
        match opened.map_err(|error| error.to_string()).and_then(|it| it.map_err(|error| error.to_string())) {
            Ok(entries) if recent.read(&entries) => {}
            Ok(_) => break,
            Err(error) => {
                let segment = ledger.store.name_of(listed);
                tracing::warn!(
                    segment,
                    error,
                    "cannot read a segment; ids of injections in it are forgotten"
                );
            }
        }
    }
    Ok(recent.known())
}

/// The decision in force. Where the published one is the same, its time and entry stay: the replay may start
/// after the beat that first made it.
fn current_decision(
    replayed: Option<Decision>,
    state: &State,
    organism: &api::Organism,
) -> Option<CurrentDecision> {
    let published = organism.status.as_ref().and_then(|status| status.decision.as_ref());
    let same = published.filter(|it| it.action == status::action(state.action) && state.beat > 0);
    match (same, replayed) {
        (Some(it), replayed) if replayed.is_none_or(|replayed| it.entry <= replayed.entry) => {
            let since = it.since.0.as_microsecond() as f64 / 1e6;
            Some(CurrentDecision { action: state.action, since, entry: it.entry })
        }
        (_, replayed) => {
            replayed.map(|Decision { action, entry, since }| CurrentDecision { action, since, entry })
        }
    }
}

/// Deletes segments of earlier epochs that no head lists, heads of earlier generations included.
async fn delete_unlisted(ledger: &OwnedLedger, existing: &Objects) {
    if let Err(error) = try_delete_unlisted(ledger, existing).await {
        tracing::warn!(%error, "cannot delete segments that no head lists; the next take-over tries again");
    }
}

async fn try_delete_unlisted(ledger: &OwnedLedger, existing: &Objects) -> Result<(), StoreError> {
    let mut listed: BTreeSet<String> =
        ledger.head.segments.iter().map(|it| ledger.store.name_of(it)).collect();
    for generation in 1..ledger.head.generation {
        // Without an earlier head its segments are unknown: none is deleted.
        let Some(head) = ledger.store.archived_head(generation).await? else { return Ok(()) };
        listed.extend(head.segments.iter().map(|it| ledger.store.name_of(it)));
    }
    for (name, uid) in existing {
        let unlisted = parse_segment_name(&ledger.origin.name, name)
            .is_some_and(|(epoch, ..)| epoch < ledger.head.epoch && !listed.contains(name));
        if unlisted {
            match ledger.store.delete(name, uid).await {
                Ok(()) | Err(StoreError { kind: StoreErrorKind::Conflict, .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}
