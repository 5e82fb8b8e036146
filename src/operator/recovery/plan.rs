//! What a head that was found, or none, means for an Organism. Pure.

use crate::api;
use crate::store::head::Head;

/// How a ledger is taken over.
#[derive(Debug, PartialEq)]
pub(super) enum Plan {
    /// Nothing is stored and nothing was published: start generation 1.
    Start,
    /// The head is ours: continue.
    Continue(Head),
    /// An Organism of this name left its ledger behind: a new generation continues it.
    NewGeneration(Head),
    /// An Organism of this name is gone, and its ledger was not to be kept.
    Replace(Head),
    /// Published entries are missing: a new generation continues what is known.
    TailLost { head: Option<Head>, from: u64, to: u64 },
}

/// Decides from the head that was found, the UID of the Organism, and what its status has published.
pub(super) fn plan(found: Option<Head>, uid: &str, published: Option<&api::LedgerStatus>) -> Plan {
    let published = published.map_or((0, 0), |it| (it.generation, it.size));
    match found {
        None if published.1 == 0 => Plan::Start,
        None => Plan::TailLost { head: None, from: 0, to: published.1 - 1 },
        Some(head) if head.uid == uid => {
            if (head.generation, head.size) < published {
                let from = if head.generation == published.0 { head.size } else { 0 };
                Plan::TailLost { head: Some(head), from, to: published.1.saturating_sub(1) }
            } else {
                Plan::Continue(head)
            }
        }
        // Of Organisms with this name and namespace only ours exists: another UID belongs to one that is gone.
        Some(head) if head.retained => Plan::NewGeneration(head),
        Some(head) => Plan::Replace(head),
    }
}

#[cfg(test)]
mod tests;
