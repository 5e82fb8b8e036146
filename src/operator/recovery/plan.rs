//! What a head that was found, or none, means for an Organism. Pure.

use std::cmp::Ordering;

use crate::store::head::Head;
use crate::store::rebuild::Published;

/// How a ledger is taken over.
#[derive(Debug, PartialEq)]
pub(super) enum Plan {
    /// No head is stored and nothing was published. `archived` is the newest generation of this name that is stored.
    Start { archived: Option<u64> },
    /// The head is ours: continue. Where something was published, the entries have to show that they extend it.
    Continue(Head),
    /// An Organism of this name is gone and has left its ledger: a new generation continues it.
    NewGeneration(Head),
    /// Published entries are missing: a new generation continues what is known.
    TailLost { head: Option<Head>, from: u64, to: u64 },
    /// The head is ours and contradicts what was published: a new generation continues what was published.
    Forged(Head, Published),
}

/// Decides from the head that was found, the UID of the Organism, what its status has published, and the newest
/// archived generation. Only the operator can write a status; many more can write a ConfigMap.
pub(super) fn plan(
    found: Option<Head>,
    uid: &str,
    published: Option<&Published>,
    archived: Option<u64>,
) -> Plan {
    let Some(published) = published else {
        return match found {
            None => Plan::Start { archived },
            Some(head) if head.uid == uid => Plan::Continue(head),
            Some(head) => Plan::NewGeneration(head),
        };
    };
    let to = published.size - 1;
    // No head, or one of another Organism where ours has published a ledger.
    let Some(head) = found.as_ref().filter(|head| head.uid == uid).cloned() else {
        return Plan::TailLost { head: found, from: 0, to };
    };
    let ends_as_published = head.root.0 == published.root && head.last_hash.0 == published.last_hash;
    match (head.generation.cmp(&published.generation), head.size.cmp(&published.size)) {
        // A generation begins after a published one only where that was lost or forged, and its head says so.
        (Ordering::Greater, _) if head.lost_tail.is_some() || head.forged.is_some() => Plan::Continue(head),
        (Ordering::Greater, _) => Plan::Forged(head, published.clone()),
        (Ordering::Less, _) => Plan::TailLost { head: Some(head), from: 0, to },
        (Ordering::Equal, Ordering::Less) => Plan::TailLost { from: head.size, head: Some(head), to },
        (Ordering::Equal, Ordering::Equal) if !ends_as_published => Plan::Forged(head, published.clone()),
        (Ordering::Equal, _) => Plan::Continue(head),
    }
}

#[cfg(test)]
mod tests;
