//! A ledger that this process has taken over.

use std::collections::BTreeSet;

use crate::ledger::entry::Origin;
use crate::ledger::sealed::ReplayStart;
use crate::operator::publisher::report::{Integrity, Listed, PublishedEnd};
use crate::store::configmap::ConfigMaps;
use crate::store::head::{Head, SegmentRef};
use crate::store::objects::{LedgerObject, Objects};
use crate::store::recent::Recent;

/// A ledger whose head names this process as its writer.
pub struct OwnedLedger {
    /// Its objects.
    pub store: ConfigMaps,
    /// The head as it was last read or written.
    pub head: Head,
    /// resourceVersion of that head.
    pub resource_version: String,
    /// The Organism that the ledger belongs to.
    pub origin: Origin,
    /// Names of listed segments that are missing.
    pub lost: BTreeSet<String>,
    /// What the missing segments amount to.
    pub integrity: Integrity,
    /// Whether its objects were listed since it was taken over: until then segments may be missing that nobody knows of.
    pub listed: Listed,
    /// Inputs of the last 30 minutes: they must not be recorded again.
    pub known: Recent,
    /// Time of the last pulse before it was taken over, in seconds since the Unix epoch.
    pub last_pulse: Option<f64>,
    /// How far the status has published it.
    pub published: PublishedEnd,
    /// Whether an object of this Organism has another ownerReference than spec.ledger.onDelete asks for.
    pub misowned: bool,
}

impl OwnedLedger {
    /// A ledger of which no segment is known to be missing, and whose objects were not listed.
    #[must_use]
    pub fn new(store: ConfigMaps, head: Head, resource_version: String, origin: Origin) -> Self {
        let integrity = integrity(&head, &BTreeSet::new(), &store);
        let (lost, known) = (BTreeSet::new(), Recent::default());
        let published = PublishedEnd::default();
        Self {
            store,
            head,
            resource_version,
            origin,
            lost,
            integrity,
            listed: Listed::NotYet,
            known,
            last_pulse: None,
            published,
            misowned: false,
        }
    }

    /// Takes in a list of its objects, but for what is missing.
    pub fn listed(&mut self, objects: &Objects) {
        self.listed = Listed::Yes;
        self.misowned = !self.misowned_among(objects).is_empty();
    }

    /// Those of `objects` that this Organism has written and whose ownerReference is not what the store writes. The
    /// head gets it with every write.
    #[must_use]
    pub fn misowned_among(&self, objects: &Objects) -> Vec<(String, String)> {
        let uid = self.store.organism_uid();
        let head = self.store.head_name();
        let wrong = |it: &&LedgerObject| {
            let owned = it.owner.as_deref() == Some(uid);
            it.organism == uid && it.name != head && owned != self.store.is_owned()
        };
        objects.values().filter(wrong).map(|it| (it.name.clone(), it.uid.clone())).collect()
    }

    /// Notes listed segments, by name, as missing. Returns how many of them were not known to be.
    pub fn mark_lost(&mut self, names: impl IntoIterator<Item = String>) -> usize {
        let fresh = names.into_iter().filter(|name| self.lost.insert(name.clone())).count();
        // No replay can start in a missing segment, whatever it held.
        for segment in &mut self.head.segments {
            if self.lost.contains(&self.store.name_of(segment)) {
                segment.start = None;
            }
        }
        self.integrity = integrity(&self.head, &self.lost, &self.store);
        fresh
    }

    /// Forgets what is known of segments that the head no longer lists.
    pub fn forget(&mut self, parts: &[SegmentRef]) {
        for part in parts {
            self.lost.remove(&self.store.name_of(part));
        }
        self.integrity = integrity(&self.head, &self.lost, &self.store);
    }

    /// Whether a listed segment is missing.
    #[must_use]
    pub fn is_lost(&self, segment: &SegmentRef) -> bool {
        self.lost.contains(&self.store.name_of(segment))
    }

    /// The first genesis or snapshot after the last missing segment.
    #[must_use]
    pub fn replayable_from(&self) -> Option<ReplayStart> {
        let segments = &self.head.segments;
        let gap = segments.iter().rposition(|it| self.is_lost(it));
        segments[gap.map_or(0, |at| at + 1)..].iter().find_map(|it| it.start)
    }
}

/// From the first to the last entry of the missing segments, or what the head states about the generation before.
fn integrity(head: &Head, lost: &BTreeSet<String>, store: &ConfigMaps) -> Integrity {
    let mut missing = head.segments.iter().filter(|it| lost.contains(&store.name_of(it)));
    match (&head.forged, missing.next(), head.lost_tail) {
        (Some(forged), ..) => Integrity::Forged(Box::new(forged.clone())),
        (None, Some(first), _) => {
            let last = missing.next_back().unwrap_or(first);
            Integrity::SegmentLost(first.first, last.end().saturating_sub(1))
        }
        (None, None, Some((first, last))) => Integrity::TailLost(first, last),
        (None, None, None) => Integrity::Verified,
    }
}
