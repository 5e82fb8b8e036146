//! Which organisms this replica holds, is to take over, or has to give back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube::Client;
use kube::core::ObjectMeta;

use super::key::Key;
use super::members::Members;
use super::members::permit::boot_time;
use super::members::transfer::{self, Holder, Step, Why, is_held_elsewhere, may_take};
use crate::api::labels::{HOLDER_ANNOTATION, RELEASED_ANNOTATION, UID_LABEL};
use crate::store::configmap::{ConfigMaps, StoreError, StoreErrorKind};
use crate::store::head::Head;

/// A head that was written within this time has a holder that is alive, whatever its Lease says: it may have come back. Less
/// than a Lease is good for, so that a holder that dies is not waited for twice.
const WRITTEN: Duration = Duration::from_secs(3);
/// The same for a holder that keeps no Lease beside ours, because it watches other namespaces.
const WRITTEN_BY_A_STRANGER: Duration = Duration::from_secs(150);

/// The replicas, and what the heads of all ledgers say of their holders.
pub struct Ownership {
    /// The replicas.
    pub members: Arc<Members>,
    heads: Mutex<BTreeMap<Key, SeenHead>>,
}

/// What the metadata of a head shows.
#[derive(Clone, Debug)]
pub struct SeenHead {
    /// UID of the Organism that has written it.
    organism: Box<str>,
    holder: Arc<str>,
    released: bool,
    /// Whether it was deleted since. A holder that is alive makes it again.
    deleted: bool,
    /// Its resourceVersion.
    version: Box<str>,
    /// When it was last seen to change, since the machine booted; none before that.
    changed: Option<Duration>,
}

impl SeenHead {
    /// What this metadata of a head shows; none where it names no holder.
    #[must_use]
    pub fn of(metadata: &ObjectMeta) -> Option<Self> {
        let annotations = metadata.annotations.as_ref()?;
        Some(Self {
            organism: metadata.labels.as_ref()?.get(UID_LABEL)?.as_str().into(),
            holder: annotations.get(HOLDER_ANNOTATION)?.as_str().into(),
            released: annotations.get(RELEASED_ANNOTATION).is_some_and(|it| it == "true"),
            deleted: false,
            version: metadata.resource_version.as_deref().unwrap_or_default().into(),
            changed: None,
        })
    }

    /// The same head, which was written just now.
    #[must_use]
    pub fn written(self) -> Self {
        Self { changed: Some(boot_time()), ..self }
    }

    /// What decides who is to hold the ledger. The rest changes with every commit.
    fn says(&self) -> (&str, &str, bool, bool) {
        (&self.organism, &self.holder, self.released, self.deleted)
    }
}

impl Ownership {
    /// No head is known yet.
    #[must_use]
    pub fn new(members: Arc<Members>) -> Self {
        Self { members, heads: Mutex::default() }
    }

    /// Takes in what the watch shows of the head of a ledger; none where that is deleted. Returns whether it is news.
    pub fn observe(&self, key: &Key, head: Option<SeenHead>) -> bool {
        let mut heads = self.heads();
        let Some(mut head) = head else {
            return heads.get_mut(key).is_some_and(|head| !std::mem::replace(&mut head.deleted, true));
        };
        let Some(before) = heads.get_mut(key) else {
            heads.insert(key.clone(), head);
            return true;
        };
        if head.version == before.version {
            head.changed = before.changed;
        }
        // Thousands of heads name a few holders.
        if before.holder == head.holder {
            head.holder = before.holder.clone();
        }
        let news = head.says() != before.says();
        *before = head;
        news
    }

    /// Forgets the head of an Organism that is gone.
    pub fn forget(&self, key: &Key, uid: &str) {
        let mut heads = self.heads();
        if heads.get(key).is_some_and(|head| &*head.organism == uid) {
            heads.remove(key);
        }
    }

    /// Forgets the heads that are not in `listed`, all of them in this namespace, or in any if there is none.
    pub fn retain(&self, namespace: Option<&str>, listed: impl Fn(&Key) -> bool) {
        self.heads().retain(|key, _| namespace.is_some_and(|it| *key.namespace != *it) || listed(key));
    }

    /// What follows for an Organism that this replica runs, or does not.
    #[must_use]
    pub fn step(&self, key: &Key, uid: &str, runs: bool) -> Step {
        let view = self.members.view();
        let heads = self.heads();
        // The head of an Organism that is gone is held by nobody, whatever it says.
        let seen = heads.get(key).filter(|head| &*head.organism == uid);
        let head = seen.and_then(|it| {
            let holder = Holder { identity: &it.holder, released: it.released };
            (!it.deleted || is_held_elsewhere(&view, holder)).then_some(holder)
        });
        match transfer::step(&view, uid, runs, head) {
            Step::Take(Why::Expired) if seen.is_some_and(|head| self.is_written(head)) => Step::Wait,
            // What it has seen of the others may be long past.
            Step::Take(_) | Step::Disown if !self.members.permit.is_valid() => Step::Wait,
            step => step,
        }
    }

    /// Whether the holder of this head goes on writing it.
    fn is_written(&self, head: &SeenHead) -> bool {
        let within = if self.members.has_seen(&head.holder) { WRITTEN } else { WRITTEN_BY_A_STRANGER };
        head.changed.is_some_and(|at| boot_time().saturating_sub(at) < within)
    }

    /// Whether this replica is the one to act on an object with this UID that nobody holds.
    #[must_use]
    pub fn owns(&self, uid: &str) -> bool {
        self.members.view().owns(uid)
    }

    /// Why the ledger with this head may be taken over; none while another replica holds it.
    #[must_use]
    pub fn may_take(&self, key: &Key, head: &Head) -> Option<Why> {
        let why = may_take(&self.members.view(), holder(head))?;
        let heads = self.heads();
        let written = || heads.get(key).is_some_and(|it| *it.holder == head.holder && self.is_written(it));
        (why != Why::Expired || !written()).then_some(why)
    }

    /// Reads whether another replica holds the ledger of the Organism with this UID, or, where it was held with this
    /// `epoch`, has held it since. A head that was deleted is nobody's, and one that cannot be read neither.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn is_lost(
        &self,
        client: Client,
        key: &Key,
        uid: &str,
        epoch: Option<u64>,
    ) -> Result<bool, StoreError> {
        let store = ConfigMaps::new(client, &key.namespace, &key.name, uid);
        let found = match store.head().await {
            Err(StoreError { kind: StoreErrorKind::Content(_), .. }) => None,
            found => found?,
        };
        let head = found.and_then(|found| found.head).filter(|head| head.uid == uid);
        Ok(head.is_some_and(|head| match epoch {
            Some(epoch) => head.epoch != epoch,
            None => is_held_elsewhere(&self.members.view(), holder(&head)),
        }))
    }

    fn heads(&self) -> MutexGuard<'_, BTreeMap<Key, SeenHead>> {
        // A panic while it is held leaves the map itself whole.
        self.heads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn holder(head: &Head) -> Holder<'_> {
    Holder { identity: &head.holder, released: head.released }
}
