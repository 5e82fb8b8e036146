//! From the entries of a ledger to rows: one's own history as the training set.

use super::rows::{DataError, MOST_ANOMS, Rows};
use crate::ledger::Entry;
use crate::ledger::replay::{Mismatch, Replay};

/// A time in which there was an incident, in seconds since 1970: from `start` to before `end`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Incident {
    /// Its first moment.
    pub start: f64,
    /// The first moment after it.
    pub end: f64,
}

/// Rows in the making. Feed it all entries in order; it keeps none.
///
/// The ledger is replayed. A row is the first beat in each second of τ, the ledger's own time, in which there is one: so
/// pauses and outages give no rows, and neither does a faster pulse. Its number of anomalies is what the Entropy core
/// counted. Its label is whether the beat's timestamp lies in an incident.
#[derive(Debug, Default)]
pub struct History {
    replay: Replay,
    /// As given.
    incidents: Vec<Incident>,
    /// The same in order, without overlaps.
    merged: Vec<Incident>,
    rows: Rows,
    /// The second of τ of the last row.
    second: Option<f64>,
    /// Timestamps of the earliest and the latest row.
    range: Option<(f64, f64)>,
}

/// What a ledger gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Taken {
    /// The rows.
    pub rows: Rows,
    /// Timestamps of the earliest and the latest row, in seconds since 1970.
    pub range: (f64, f64),
    /// How many incidents have no row's timestamp between them, because the ledger lies before or after.
    pub outside: usize,
}

impl History {
    /// A history with these incidents.
    #[must_use]
    pub fn new(incidents: Vec<Incident>) -> Self {
        let mut ordered = incidents.clone();
        ordered.sort_by(|a, b| a.start.total_cmp(&b.start));
        let mut merged: Vec<Incident> = vec![];
        for it in ordered {
            match merged.last_mut() {
                Some(last) if it.start <= last.end => last.end = last.end.max(it.end),
                _ => merged.push(it),
            }
        }
        Self { incidents, merged, ..Self::default() }
    }

    /// Takes in the next entry. Its hash must be verified.
    ///
    /// # Errors
    /// [`DataError::Entry`] if the ledger does not replay, or too many anomalies count.
    pub fn feed(&mut self, entry: Entry) -> Result<(), DataError> {
        let beats = self.replay.beats();
        let (index, timestamp) = (entry.index, entry.timestamp);
        self.replay.feed(entry).map_err(mismatch)?;
        let Some(state) = self.replay.state().filter(|_| self.replay.beats() > beats) else { return Ok(()) };
        let second = state.tau.floor();
        if self.second.is_some_and(|last| second <= last) {
            return Ok(());
        }
        self.second = Some(second);
        let anoms = state.genome_anoms().saturating_add(state.features_anoms());
        let Some(anoms) = u32::try_from(anoms).ok().filter(|anoms| *anoms <= MOST_ANOMS) else {
            let what = format!("{anoms} anomalies count; rows have at most {MOST_ANOMS}");
            return Err(DataError::Entry { entry: index, what });
        };
        self.rows.add(anoms, self.is_in_incident(timestamp));
        let (from, to) = self.range.unwrap_or((timestamp, timestamp));
        self.range = Some((from.min(timestamp), to.max(timestamp)));
        Ok(())
    }

    fn is_in_incident(&self, timestamp: f64) -> bool {
        let begun = self.merged.partition_point(|it| it.start <= timestamp);
        begun.checked_sub(1).is_some_and(|last| timestamp < self.merged[last].end)
    }

    /// The rows, after the last entry.
    ///
    /// # Errors
    /// [`DataError`] if the ledger ends within a beat, or has nothing to replay from, or no beat.
    pub fn finish(self) -> Result<Taken, DataError> {
        if self.replay.from().is_none() {
            return Err(DataError::NoStart);
        }
        self.replay.finish().map_err(mismatch)?;
        let range = self.range.ok_or(DataError::Empty)?;
        let outside = self.incidents.iter().filter(|it| it.end <= range.0 || range.1 < it.start).count();
        Ok(Taken { rows: self.rows, range, outside })
    }
}

fn mismatch(Mismatch { index, what }: Mismatch) -> DataError {
    let what = format!("{what}; a ledger that does not replay teaches nothing; see venom ledger replay");
    DataError::Entry { entry: index, what }
}
