//! A new generation of a ledger: what it continues, and its number and epoch.

use super::lists::SharedLists;
use super::load::{adopt, extends};
use super::plan::After;
use super::{Recovery, RecoveryError};
use crate::ledger::sealed::HexHash;
use crate::operator::committer::ledger::OwnedLedger;
use crate::runtime::History;
use crate::store::configmap::{ConfigMaps, StoreError, StoreErrorKind, StoredHead};
use crate::store::head::{Forged, Head};
use crate::store::objects::{LedgerObject, Objects, parse_archived_name, parse_segment_name};
use crate::store::rebuild::{LARGEST_EPOCH, Published, UNKNOWN_EPOCHS, newest_epoch};

impl Recovery<'_> {
    /// Archives the head that was found, if there is one, and writes that of a new generation.
    pub(super) async fn begin(
        self,
        after: After,
        lists: &SharedLists,
    ) -> Result<(OwnedLedger, History), RecoveryError> {
        let (name, store) = (&*self.key.name, &self.store);
        let existing = lists.objects(&self.key).await?;
        let archived = existing.keys().filter_map(|object| parse_archived_name(name, object)).max();
        let headless = matches!(after, After::Nothing | After::Lost { head: None, .. });
        let stored = if headless { newest_generation(store, name, &existing).await? } else { None };
        let published = self.published.as_ref();
        let highest = [published.map(|it| it.generation), archived, stored].into_iter().flatten().max();
        let highest = highest.unwrap_or_default();
        let next = Next { uid: &self.uid, holder: self.holder, name, existing: &existing, highest, headless };
        let (head, continues) = match after {
            After::Nothing => {
                // Of a newer generation than the archived one only segments are left: how it ended is not known.
                let continues = match archived.filter(|it| stored.is_none_or(|stored| stored <= *it)) {
                    Some(generation) => store.archived_head(generation).await?.and_then(|it| it.head),
                    None => None,
                };
                (next.generation(highest + 1, 0), continues)
            }
            After::Predecessor(old) => {
                let old = adopt(store, old, self.codec).await?;
                self.archive(&old).await?;
                (next.after(&old), Some(old))
            }
            After::Lost { head, from, to } => {
                if let Some(old) = &head {
                    self.archive(old).await?;
                }
                let none = Head::empty(&self.uid, 0, 0, "");
                let begun = next.after_loss(head.as_ref().unwrap_or(&none), from, to);
                let ours = head.filter(|head| head.uid == self.uid);
                (begun, ours.or_else(|| published.map(|it| published_head(it, &self.uid))))
            }
            After::Forged { head, what, published } => {
                self.archive(&head).await?;
                (next.after_forgery(&head, what, &published), Some(published_head(&published, &self.uid)))
            }
        };
        let continues = continues.map(|old| self.continued(&old));
        let origin = self.origin(head.generation);
        let resource_version = match &self.resource_version {
            Some(resource_version) => store.put_head(&head, resource_version).await?,
            None => store.create_head(&head).await?,
        };
        let history = History::Empty { origin: Some(origin.clone()), continues };
        let mut ledger = OwnedLedger::new(self.store, head, resource_version, origin);
        ledger.listed(&existing);
        Ok((ledger, history))
    }

    /// Stores `head` as an archived one. If an earlier attempt did that, and a writer of its Organism has committed once
    /// more since, an earlier state of the same ledger is stored: it is replaced.
    async fn archive(&self, head: &Head) -> Result<(), RecoveryError> {
        let store = &self.store;
        let taken = match store.archive_head(head).await {
            Err(error) if matches!(error.kind, StoreErrorKind::Conflict) => error,
            done => return Ok(done?),
        };
        // If it is gone since, the next attempt succeeds.
        let Some(StoredHead { head: stored, uid, .. }) = store.archived_head(head.generation).await? else {
            return Err(taken.into());
        };
        let name = store.archived_head_name(head.generation);
        match stored {
            Some(stored) if stored.states_the_same_as(head) => Ok(()),
            Some(stored) if extends(store, head, &stored, self.codec).await? => {
                // Until the new generation begins, the head itself still states all of it.
                store.delete(&name, &uid).await?;
                Ok(store.archive_head(head).await?)
            }
            _ => Err(RecoveryError::ArchiveTaken(name)),
        }
    }
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

/// A head of which only what a status has published is known.
pub(super) fn published_head(published: &Published, uid: &str) -> Head {
    let mut head = Head::empty(uid, published.generation, 0, "");
    head.size = published.size;
    (head.root, head.last_hash) = (HexHash(published.root), HexHash(published.last_hash));
    head
}
