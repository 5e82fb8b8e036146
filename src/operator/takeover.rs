//! Taking a ledger over: from whatever lies in the cluster to a head that is ours and a state to go on from.
//!
//! 1. Read the head and decide what it is to us ([`plan`], pure).
//! 2. Make it ours: replace it with a higher epoch, or start a new generation.
//! 3. Load the newest snapshot and what follows it, check every hash, replay; read the ids of injections.
//! 4. Delete what no head lists and an earlier writer left behind.

use std::collections::BTreeSet;

use kube::{Client, ResourceExt};

use super::committer::{Held, integrity};
use super::life::Past;
use super::report::Integrity;
use super::segments::Objects;
use super::view::Decided;
use crate::api;
use crate::ledger::Chain;
use crate::ledger::entry::{Continues, Origin};
use crate::ledger::replay::{Decision, Mismatch, Replay};
use crate::ledger::sealed::OpenError;
use crate::mesh::Known;
use crate::organism::State;
use crate::organism::input::ResumeReason;
use crate::store::configmap::{ConfigMaps, Found, StoreError, Why, parse_segment_name};
use crate::store::head::Head;
use crate::store::injections::Recent;

/// Why a ledger could not be taken over.
#[derive(Debug, thiserror::Error)]
pub enum TakeOverError {
    /// The head's name belongs to somebody else.
    #[error("ConfigMap {0} exists and is not a ledger of ours; rename it or the Organism")]
    NameTaken(String),
    /// A call failed; try again.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The head contradicts itself.
    #[error("the head of ledger {0} contradicts itself: its peaks do not give its root")]
    Head(String),
    /// A segment is not what it claims to be.
    #[error("segment {name}: {error}")]
    Segment {
        /// Which.
        name: String,
        /// Why.
        error: OpenError,
    },
    /// The ledger does not follow from itself.
    #[error("ledger {name}: {mismatch}")]
    Replay {
        /// Which.
        name: String,
        /// Where.
        mismatch: Mismatch,
    },
    /// The segments do not end where the head says.
    #[error("ledger {0}: its segments do not end at the head's last hash and root")]
    End(String),
}

/// What a head that was found, or none, means.
#[derive(Debug, PartialEq)]
enum Plan {
    /// Nothing there and nothing published: generation 1.
    Start,
    /// Ours: go on.
    GoOn(Head),
    /// An Organism of this name left its ledger: a new generation continues it.
    Continue(Head),
    /// An Organism of this name is gone and nobody kept its ledger.
    Replace(Head),
    /// What was published is not there: a new generation continues what is known.
    TailLost { head: Option<Head>, from: u64, to: u64 },
}

/// Decides. Pure.
fn plan(found: Option<Head>, uid: &str, published: Option<&api::LedgerStatus>) -> Plan {
    let published = published.map_or((0, 0), |it| (it.generation, it.size));
    match found {
        None if published.1 == 0 => Plan::Start,
        None => Plan::TailLost { head: None, from: 0, to: published.1 - 1 },
        Some(head) if head.uid == uid => {
            if (head.generation, head.size) < published {
                let from = if head.generation == published.0 { head.size } else { 0 };
                Plan::TailLost { head: Some(head), from, to: published.1.saturating_sub(1) }
            } else {
                Plan::GoOn(head)
            }
        }
        // An Organism of this name and namespace is ours alone: another UID is one that is gone.
        Some(head) if head.retained => Plan::Continue(head),
        Some(head) => Plan::Replace(head),
    }
}

/// Takes the ledger of `organism` over for the operator `holder`. `there` are its objects, where a list of
/// them was made already. Comes back with a head of a higher epoch than any before, written.
///
/// # Errors
/// [`TakeOverError`].
pub async fn take_over(
    client: Client,
    organism: &api::Organism,
    holder: &str,
    there: Option<Objects>,
) -> Result<(Held, Past), TakeOverError> {
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

    let found = store.head().await?;
    let (mut resource_version, found) = match found {
        None => (None, None),
        Some(Found { head: None, .. }) => return Err(TakeOverError::NameTaken(store.head_name())),
        Some(Found { head: Some(head), resource_version, .. }) => (Some(resource_version), Some(head)),
    };

    let there = match there {
        Some(there) => there,
        None => list(&store, &uid).await?,
    };
    let empty = |generation, epoch| Head::empty(&uid, generation, epoch, holder);
    let (head, continues) = match plan(found, &uid, published) {
        Plan::GoOn(mut head) => {
            let reason = head.take_over(holder);
            let rv = store.put_head(&head, resource_version.as_deref().unwrap_or_default()).await?;
            let mut held = Held {
                origin: origin(head.generation),
                store,
                head,
                resource_version: rv,
                lost: BTreeSet::new(),
                integrity: Integrity::Verified,
                known: vec![],
            };
            held.lost = lost(&held, &there).await?;
            for segment in &mut held.head.segments {
                if held.lost.contains(&held.store.name_of(segment)) {
                    segment.start = None;
                }
            }
            held.integrity = integrity(&held.head, &held.lost, &held.store);
            if held.head.size == 0 {
                let past = Past::New { origin: held.origin.clone(), continues: None };
                return Ok((held, past));
            }
            match load(&held, organism, reason).await? {
                Some(past) => {
                    held.known = recall(&held).await?;
                    remove_garbage(&held, &there).await;
                    return Ok((held, past));
                }
                // No snapshot is left whose followers are all there.
                None => {
                    let Held { head, resource_version: rv, store: its, .. } = held;
                    resource_version = Some(rv);
                    its.retire_head(&head).await?;
                    let mut next = empty(head.generation + 1, head.epoch + 1);
                    next.lost_tail = Some((head.floor, head.size.saturating_sub(1)));
                    return start(its, next, resource_version, Some(&head), &origin).await;
                }
            }
        }
        // Segments without a head are of a ledger that was never shown: their names are not used again.
        Plan::Start => (empty(1, highest_epoch(&there, &name) + 1), None),
        Plan::Continue(old) => {
            store.retire_head(&old).await?;
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
                store.retire_head(old).await?;
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
) -> Result<(Held, Past), TakeOverError> {
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
    let past = Past::New { origin: origin.clone(), continues };
    let integrity = integrity(&head, &BTreeSet::new(), &store);
    let held =
        Held { store, head, resource_version, origin, lost: BTreeSet::new(), integrity, known: vec![] };
    Ok((held, past))
}

/// What a status says about a head that is gone.
fn published_head(published: &api::LedgerStatus, uid: &str) -> Head {
    use crate::ledger::parse_hash;
    use crate::ledger::sealed::HexHash;
    let mut head = Head::empty(uid, published.generation, 0, "");
    head.size = published.size;
    head.root = HexHash(parse_hash(&published.merkle_root).unwrap_or_default());
    head.last_hash = HexHash(parse_hash(&published.last_hash).unwrap_or_default());
    head
}

fn highest_epoch(there: &Objects, name: &str) -> u64 {
    let epochs = there.iter().filter_map(|(object, _)| parse_segment_name(name, object));
    epochs.map(|(epoch, ..)| epoch).max().unwrap_or_default()
}

async fn list(store: &ConfigMaps, uid: &str) -> Result<Objects, StoreError> {
    let objects = store.list(uid).await?;
    Ok(objects.iter().map(|object| (object.name_any(), object.uid().unwrap_or_default())).collect())
}

/// Names of listed segments that are not there, or are not the objects that were listed.
async fn lost(held: &Held, there: &Objects) -> Result<BTreeSet<String>, StoreError> {
    let mut lost = BTreeSet::new();
    for listed in &held.head.segments {
        let name = held.store.name_of(listed);
        // The list may be older than the segment: ask.
        if !there.contains(&(name.clone(), listed.object.clone()))
            && held.store.listed(listed).await?.is_none()
        {
            lost.insert(name);
        }
    }
    Ok(lost)
}

/// The state after the last entry: from the newest segment with a snapshot whose followers are all there.
async fn load(
    held: &Held,
    organism: &api::Organism,
    reason: ResumeReason,
) -> Result<Option<Past>, TakeOverError> {
    let name = held.store.head_name();
    let end = held.head.chain().ok_or_else(|| TakeOverError::Head(name.clone()))?;
    let segments = &held.head.segments;
    let whole =
        segments.iter().rposition(|it| held.lost.contains(&held.store.name_of(it))).map_or(0, |at| at + 1);
    let Some(from) = segments[whole..].iter().rposition(|it| it.start.is_some()) else { return Ok(None) };

    let mut replay = Replay::default();
    let mut chain: Option<Chain> = None;
    for listed in &segments[whole + from..] {
        let segment = held.store.name_of(listed);
        let wrong = |error| TakeOverError::Segment { name: segment.clone(), error };
        let Some(sealed) = held.store.listed(listed).await? else {
            return Err(held.store.missing(&segment).into());
        };
        let before = sealed.chain_before().map_err(wrong)?;
        if chain.as_ref().is_some_and(|chain| *chain != before) {
            return Err(TakeOverError::End(name));
        }
        let mut after = before;
        for entry in sealed.open().map_err(wrong)? {
            after.push_hash(entry.hash);
            replay.feed(entry).map_err(|mismatch| TakeOverError::Replay { name: name.clone(), mismatch })?;
        }
        chain = Some(after);
    }
    if chain.is_none_or(|chain| chain != end) {
        return Err(TakeOverError::End(name));
    }
    let decision = replay.decision();
    let state = replay.finish().map_err(|mismatch| TakeOverError::Replay { name, mismatch })?;
    Ok(state.map(|state| {
        let decided = decided(decision, &state, organism);
        Past::Ledger { state: Box::new(state), chain: end, decided, reason }
    }))
}

/// The injections that a retry must not bring in again. Segments are read from the newest back, and none where
/// there was no injection for long.
async fn recall(held: &Held) -> Result<Vec<Known>, TakeOverError> {
    let head = &held.head;
    let Some(mut recent) = Recent::of(head) else { return Ok(vec![]) };
    let newest = head.last_injection.map_or(0, |(entry, _)| entry);
    for listed in head.segments.iter().rev().skip_while(|it| it.first > newest) {
        // What somebody removed is told of elsewhere; its ids are forgotten.
        let Some(sealed) = held.store.listed(listed).await? else { continue };
        let opened = tokio::task::spawn_blocking(move || sealed.open()).await;
        match opened.map_err(|error| error.to_string()).and_then(|it| it.map_err(|error| error.to_string())) {
            Ok(entries) if recent.read(&entries) => {}
            Ok(_) => break,
            Err(error) => {
                let segment = held.store.name_of(listed);
                tracing::warn!(segment, error, "cannot be read; ids of injections in it are forgotten");
            }
        }
    }
    Ok(recent.known())
}

/// The decision in force: as it was published where that is the same one, for only earlier entries of the
/// ledger know since when it holds.
fn decided(replayed: Option<Decision>, state: &State, organism: &api::Organism) -> Option<Decided> {
    let published = organism.status.as_ref().and_then(|status| status.decision.as_ref());
    let same = published.filter(|it| it.action == super::report::action(state.action) && state.beat > 0);
    match (same, replayed) {
        (Some(it), replayed) if replayed.is_none_or(|replayed| it.entry <= replayed.entry) => {
            let since = it.since.0.as_microsecond() as f64 / 1e6;
            Some(Decided { action: state.action, since, entry: it.entry })
        }
        (_, replayed) => replayed.map(|Decision { action, entry, since }| Decided { action, since, entry }),
    }
}

/// Deletes segments that no head lists, retired ones included, and that an earlier epoch wrote.
async fn remove_garbage(held: &Held, there: &Objects) {
    if let Err(error) = try_remove_garbage(held, there).await {
        tracing::warn!(%error, "garbage stays until the next take-over");
    }
}

async fn try_remove_garbage(held: &Held, there: &Objects) -> Result<(), StoreError> {
    let mut listed: BTreeSet<String> = held.head.segments.iter().map(|it| held.store.name_of(it)).collect();
    for generation in 1..held.head.generation {
        // Where an earlier head was lost nobody can say which segments were its own: none is touched.
        let Some(head) = held.store.retired(generation).await? else { return Ok(()) };
        listed.extend(head.segments.iter().map(|it| held.store.name_of(it)));
    }
    for (name, uid) in there {
        let garbage = parse_segment_name(&held.origin.name, name)
            .is_some_and(|(epoch, ..)| epoch < held.head.epoch && !listed.contains(name));
        if garbage {
            match held.store.delete(name, uid).await {
                Ok(()) | Err(StoreError { why: Why::Conflict, .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
