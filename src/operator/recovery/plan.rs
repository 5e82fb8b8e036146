//! What a head that was found, or none, means for an Organism. Pure.

use crate::api;
use crate::store::head::Head;

/// How a ledger is taken over.
#[derive(Debug, PartialEq)]
pub(super) enum Plan {
    /// No head is stored and nothing was published. `archived` is the newest generation of this name that is stored.
    Start { archived: Option<u64> },
    /// The head is ours: continue.
    Continue(Head),
    /// An Organism of this name is gone and has left its ledger: a new generation continues it.
    NewGeneration(Head),
    /// Published entries are missing: a new generation continues what is known.
    TailLost { head: Option<Head>, from: u64, to: u64 },
}

/// Decides from the head that was found, the UID of the Organism, what its status has published, and the newest
/// archived generation.
pub(super) fn plan(
    found: Option<Head>,
    uid: &str,
    published: Option<&api::LedgerStatus>,
    archived: Option<u64>,
) -> Plan {
    let published = published.map_or((0, 0), |it| (it.generation, it.size));
    let last_published = published.1.saturating_sub(1);
    match found {
        None if published.1 == 0 => Plan::Start { archived },
        Some(head) if head.uid == uid => {
            if (head.generation, head.size) < published {
                let from = if head.generation == published.0 { head.size } else { 0 };
                Plan::TailLost { head: Some(head), from, to: last_published }
            } else {
                Plan::Continue(head)
            }
        }
        Some(head) if published.1 == 0 => Plan::NewGeneration(head),
        // No head, or one of another Organism where ours has published a ledger.
        head => Plan::TailLost { head, from: 0, to: last_published },
    }
}

#[cfg(test)]
mod tests;
