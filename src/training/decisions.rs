//! The numbers of anomalies at which a model decides ALERT and QUARANTINE.

use serde::Serialize;

use crate::ledger::explain::why_not::{Span, span_of};
use crate::organism::Action;
use crate::organism::genome::{Ml, Thresholds};

/// What the two threat rules decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Decisions {
    /// The total numbers of anomalies that lead to ALERT; `None` if none does.
    pub alert: Option<Span>,
    /// Those that lead to QUARANTINE.
    pub quarantine: Option<Span>,
}

/// Numbers of anomalies for which two models decide differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The numbers.
    #[serde(flatten)]
    pub anoms: Span,
    /// QUARANTINE or ALERT; `None` where neither rule holds and the others decide.
    pub before: Option<Action>,
    /// Likewise.
    pub after: Option<Action>,
}

impl Decisions {
    /// What `model` decides.
    #[must_use]
    pub fn of(model: &Ml, thresholds: &Thresholds) -> Self {
        Self {
            alert: span_of(Action::Alert, model, thresholds),
            quarantine: span_of(Action::Quarantine, model, thresholds),
        }
    }

    fn at(&self, anoms: u64) -> Option<Action> {
        let holds = |span: Option<Span>| span.is_some_and(|span| span.contains(anoms));
        if holds(self.quarantine) {
            Some(Action::Quarantine)
        } else {
            holds(self.alert).then_some(Action::Alert)
        }
    }

    fn spans(&self) -> impl Iterator<Item = Span> {
        [self.alert, self.quarantine].into_iter().flatten()
    }

    /// Where `after` decides otherwise, in ascending order.
    #[must_use]
    pub fn changes(&self, after: &Self) -> Vec<Change> {
        // Between two neighbours of these nothing changes.
        let ends = |span: Span| [Some(span.from), span.to.map(|to| to + 1)];
        let mut edges: Vec<u64> = self.spans().chain(after.spans()).flat_map(ends).flatten().collect();
        edges.push(0);
        edges.sort_unstable();
        edges.dedup();
        let mut changes: Vec<Change> = vec![];
        for (at, &from) in edges.iter().enumerate() {
            let (was, is) = (self.at(from), after.at(from));
            if was == is {
                continue;
            }
            let to = edges.get(at + 1).map(|next| next - 1);
            match changes.last_mut() {
                Some(last)
                    if (last.before, last.after) == (was, is) && last.anoms.to == from.checked_sub(1) =>
                {
                    last.anoms.to = to;
                }
                _ => changes.push(Change { anoms: Span { from, to }, before: was, after: is }),
            }
        }
        changes
    }
}
