//! Rows of data, counted by their number of anomalies.
//!
//! The model has one input, so rows with the same number of anomalies and the same label are alike: all that matters is
//! how many there are.

use std::collections::BTreeMap;

use fastrand::Rng;
use serde::Serialize;

/// The largest number of anomalies in a row, which is also the largest of `spec.risk.anoms`. It bounds the memory.
pub const MOST_ANOMS: u32 = 1_000_000;

/// A number of rows, by their label.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Rows without an incident.
    pub calm: u64,
    /// Rows with an incident.
    pub incident: u64,
}

impl Tally {
    /// All of them.
    #[must_use]
    pub fn rows(self) -> u64 {
        self.calm + self.incident
    }

    /// Whether both kinds are there.
    #[must_use]
    pub fn has_both(self) -> bool {
        self.calm > 0 && self.incident > 0
    }

    fn of(&mut self, incident: bool) -> &mut u64 {
        if incident { &mut self.incident } else { &mut self.calm }
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.calm += other.calm;
        self.incident += other.incident;
    }
}

/// Nothing can be learned from the data. In one line, which says what to do.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum DataError {
    /// There is no row.
    #[error("no rows; a header and at least two rows are needed")]
    Empty,
    /// All rows have the same label.
    #[error("all {rows} rows are {label}: there is nothing to tell apart; add rows of the other kind")]
    OneClass {
        /// How many.
        rows: u64,
        /// What they are.
        label: &'static str,
    },
    /// All rows have the same number of anomalies.
    #[error(
        "all {rows} rows have {anoms} anomalies: nothing can be learned from a constant; add rows that differ"
    )]
    Constant {
        /// How many.
        rows: u64,
        /// The number of anomalies.
        anoms: u32,
    },
    /// A row is wrong.
    #[error("row {row}, column {column}: {what}")]
    Field {
        /// Its line in the file; the header is line 1.
        row: u64,
        /// Name of the column.
        column: String,
        /// What is wrong, and what to write.
        what: String,
    },
    /// A row cannot be read.
    #[error("row {row}: {what}")]
    Row {
        /// Its line in the file; the header is line 1.
        row: u64,
        /// What is wrong, and what to do.
        what: String,
    },
    /// The header is wrong.
    #[error("row 1: {0}")]
    Header(String),
    /// A ledger has nothing to replay from.
    #[error("no genesis and no snapshot to replay from, so the anomalies that counted are not known")]
    NoStart,
    /// An entry of a ledger is wrong.
    #[error("entry {entry}: {what}")]
    Entry {
        /// Its index.
        entry: u64,
        /// What is wrong.
        what: String,
    },
}

/// Rows, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    groups: BTreeMap<u32, Tally>,
}

impl Rows {
    /// Adds a row.
    pub fn add(&mut self, anoms: u32, incident: bool) {
        self.add_many(anoms, incident, 1);
    }

    /// Adds `count` rows that are alike.
    pub fn add_many(&mut self, anoms: u32, incident: bool, count: u64) {
        if count > 0 {
            *self.groups.entry(anoms).or_default().of(incident) += count;
        }
    }

    /// The different numbers of anomalies in ascending order, and their rows.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (u32, Tally)> + '_ {
        self.groups.iter().map(|(anoms, tally)| (*anoms, *tally))
    }

    /// All rows.
    #[must_use]
    pub fn total(&self) -> Tally {
        let mut total = Tally::default();
        self.groups.values().for_each(|tally| total += *tally);
        total
    }

    /// Checks that there is something to learn.
    ///
    /// # Errors
    /// [`DataError`] if there are no rows, or all have the same label or number of anomalies.
    pub fn check(&self) -> Result<(), DataError> {
        let total = self.total();
        let rows = total.rows();
        match self.groups.first_key_value() {
            None => Err(DataError::Empty),
            Some(_) if total.incident == 0 => Err(DataError::OneClass { rows, label: "calm (0)" }),
            Some(_) if total.calm == 0 => Err(DataError::OneClass { rows, label: "incidents (1)" }),
            Some((anoms, _)) if self.groups.len() == 1 => Err(DataError::Constant { rows, anoms: *anoms }),
            Some(_) => Ok(()),
        }
    }

    /// Whether some number of anomalies tells all incidents from all calm rows, that number itself aside.
    #[must_use]
    pub fn is_separable(&self) -> bool {
        let with = |incident: bool| self.iter().filter(move |(_, it)| *it.clone().of(incident) > 0);
        let range = |incident: bool| Some((with(incident).next()?.0, with(incident).next_back()?.0));
        match (range(false), range(true)) {
            (Some(calm), Some(incident)) => calm.1 <= incident.0 || incident.1 <= calm.0,
            _ => false,
        }
    }

    /// Sets `share` of the calm rows and of the incidents aside, chosen by `rng`: what is left, and what was set aside.
    /// Of each kind at least one is left.
    #[must_use]
    pub fn split(&self, share: f64, rng: &mut Rng) -> (Self, Self) {
        let (mut train, mut held_out) = (Self::default(), Self::default());
        let total = self.total();
        for (incident, rows) in [(false, total.calm), (true, total.incident)] {
            let wanted = (rows as f64 * share).round() as u64;
            let mut sampling = Sampling { wanted: wanted.min(rows.saturating_sub(1)), left: rows };
            for (anoms, mut tally) in self.iter() {
                let count = *tally.of(incident);
                let chosen = sampling.choose(count, rng);
                held_out.add_many(anoms, incident, chosen);
                train.add_many(anoms, incident, count - chosen);
            }
        }
        (train, held_out)
    }

    /// The same rows, with those of the rarer kind repeated until there are as many as of the other: each as often as it
    /// goes, and the rest chosen by `rng` without repetition.
    #[must_use]
    pub fn balanced(&self, rng: &mut Rng) -> Self {
        let total = self.total();
        if !total.has_both() {
            return self.clone();
        }
        let rare = total.incident < total.calm;
        let (few, many) = (total.calm.min(total.incident), total.calm.max(total.incident));
        let times = many / few;
        let mut sampling = Sampling { wanted: many % few, left: few };
        let mut balanced = Self::default();
        for (anoms, mut tally) in self.iter() {
            balanced.add_many(anoms, !rare, *tally.of(!rare));
            let count = *tally.of(rare);
            let more = sampling.choose(count, rng);
            balanced.add_many(anoms, rare, count * times + more);
        }
        balanced
    }

    /// About `most` rows in the same proportions, and at least one of each kind that is there; all of them if they are no
    /// more than that. Each kind is thinned evenly in the order of its anomalies.
    #[must_use]
    pub fn thinned(&self, most: u64) -> Self {
        let total = self.total();
        if total.rows() <= most {
            return self.clone();
        }
        let mut thinned = Self::default();
        for (incident, rows) in [(false, total.calm), (true, total.incident)] {
            let wanted = share(rows, most, total.rows()).max(u64::from(rows > 0));
            let (mut seen, mut taken) = (0, 0);
            for (anoms, mut tally) in self.iter() {
                seen += *tally.of(incident);
                let until = if rows > 0 { share(seen, wanted, rows) } else { 0 };
                thinned.add_many(anoms, incident, until - taken);
                taken = until;
            }
        }
        thinned
    }
}

/// `rows` · `part` / `whole`, rounded down, without overflow.
fn share(rows: u64, part: u64, whole: u64) -> u64 {
    (u128::from(rows) * u128::from(part) / u128::from(whole)) as u64
}

/// Chooses `wanted` of the `left` rows that are still to come.
struct Sampling {
    wanted: u64,
    left: u64,
}

impl Sampling {
    /// How many of the next `count` rows are chosen. Each in turn is chosen with the probability that makes all choices of so
    /// many rows equally likely (selection sampling; Knuth, The Art of Computer Programming, 3.4.2, algorithm S).
    fn choose(&mut self, count: u64, rng: &mut Rng) -> u64 {
        let mut chosen = 0;
        for _ in 0..count {
            if rng.u64(0..self.left) < self.wanted {
                self.wanted -= 1;
                chosen += 1;
            }
            self.left -= 1;
        }
        chosen
    }
}
