//! What a head that was found, or none, means for an Organism. Pure.

use std::cmp::Ordering;

use crate::store::head::Head;
use crate::store::rebuild::Published;

/// How a ledger is taken over.
#[derive(Debug, PartialEq)]
pub(super) enum Plan {
    /// The head is ours: continue. Where something was published, the entries have to show that they extend it.
    Continue(Head),
    /// A new generation begins.
    Begin(After),
}

/// What a new generation comes after.
#[derive(Debug, PartialEq)]
pub(super) enum After {
    /// No head is stored and nothing was published.
    Nothing,
    /// An Organism of this name is gone and has left its ledger: it is continued.
    Predecessor(Head),
    /// Published entries are missing, from this first to this last index: what is known is continued.
    Lost { head: Option<Head>, from: u64, to: u64 },
    /// The head is ours and contradicts what was published; in words. What was published is continued.
    Forged { head: Head, what: String, published: Published },
}

/// Decides from the head that was found, the UID of the Organism, and what its status has published. Only the operator can
/// write a status; many more can write a ConfigMap.
pub(super) fn plan(found: Option<Head>, uid: &str, published: Option<&Published>) -> Plan {
    let Some(published) = published else {
        return match found {
            None => Plan::Begin(After::Nothing),
            Some(head) if head.uid == uid => Plan::Continue(head),
            Some(head) => Plan::Begin(After::Predecessor(head)),
        };
    };
    let to = published.size - 1;
    let lost = |head, from| Plan::Begin(After::Lost { head, from, to });
    // No head, or one of another Organism where ours has published a ledger.
    let Some(head) = found.as_ref().filter(|head| head.uid == uid).cloned() else { return lost(found, 0) };
    let ends_as_published = head.root.0 == published.root && head.last_hash.0 == published.last_hash;
    match (head.generation.cmp(&published.generation), head.size.cmp(&published.size)) {
        // A generation begins after a published one only where that was lost or forged, and its head says so.
        (Ordering::Greater, _) if head.lost_tail.is_some() || head.forged.is_some() => Plan::Continue(head),
        (Ordering::Greater, _) => forged(head, published),
        (Ordering::Less, _) => lost(Some(head), 0),
        (Ordering::Equal, Ordering::Less) => lost(Some(head.clone()), head.size),
        (Ordering::Equal, Ordering::Equal) if !ends_as_published => forged(head, published),
        (Ordering::Equal, _) => Plan::Continue(head),
    }
}

fn forged(head: Head, published: &Published) -> Plan {
    let Head { generation, size, .. } = head;
    let root = head.root_hex();
    let what = format!("its head states generation {generation} with {size} entries and the root {root}");
    Plan::Begin(After::Forged { head, what, published: published.clone() })
}

#[cfg(test)]
mod tests;
