//! Recent inputs in a ledger: the injections against which the mesh deduplicates retries, and the observations that sensors
//! must not hand in again. And the input that records an injection from the mesh.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Head;
use crate::ledger::entry::Data;
use crate::ledger::sealed::{OpenError, VisitError};
use crate::ledger::{Entry, SealedSegment};
use crate::mesh::INJECTION_RETENTION;
use crate::mesh::{CommittedInjection, InjectionEvent, InjectionPayload};
use crate::organism::Input;
use crate::organism::input::{Injection, Sense};

/// The input that records an injection from the mesh.
#[must_use]
pub fn input(event: &InjectionEvent) -> Input {
    Input::Injection(Injection {
        anoms: event.payload.anoms,
        from: Some(event.origin.to_string()),
        id: event.id.to_string(),
        ml_weight: event.payload.ml_weight,
        ..Injection::default()
    })
}

/// Most injections, and most observations, that are remembered, the newest: as many as a collector does. More are refused while they are recent,
/// so no ledger of ours has them.
pub const MOST_KNOWN: usize = 65_536;

/// Inputs of the last [`INJECTION_RETENTION`], oldest first.
#[derive(Clone, Debug, Default)]
pub struct Recent {
    /// Injections from a mesh.
    pub injections: Vec<CommittedInjection>,
    /// Observations of sensors.
    pub senses: Vec<CommittedSense>,
}

/// A committed observation of a sensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedSense {
    /// What was observed, and where.
    pub subject: String,
    /// Index of its entry.
    pub entry: u64,
    /// Time since it was recorded.
    pub age: Duration,
}

/// Collects the inputs of the last [`INJECTION_RETENTION`] from the segments of a ledger. Feed it the newest segment first,
/// and stop when [`RecentInputs::read`] returns false.
pub struct RecentInputs {
    /// Since the Unix epoch.
    now: Duration,
    /// Time of the last pulse.
    end: Duration,
    /// Those of each segment, oldest first; the newest segment first.
    known: Vec<Found>,
    injections: usize,
    senses: usize,
}

impl RecentInputs {
    /// A collector for the ledger of `head`; `None` if its last injection and observation are older than
    /// [`INJECTION_RETENTION`].
    #[must_use]
    ///
    /// `end` is the time of the last pulse, in seconds since the Unix epoch: what was observed before it must be known
    /// however long ago that is.
    pub fn of(head: &Head, end: Option<f64>) -> Option<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let end = end.and_then(|it| Duration::try_from_secs_f64(it).ok()).map_or(now, |it| it.min(now));
        let last = [head.last_injection, head.last_sense].into_iter().flatten();
        let time = last.map(|(_, time)| time).reduce(f64::max)?;
        // A time in the future means that the clock was set back since. It counts as recent.
        is_recent(end, time).then_some(Self { now, end, known: vec![], injections: 0, senses: 0 })
    }

    /// Collects the inputs of one segment. Returns whether the segment before it may contain recent ones too.
    ///
    /// # Errors
    /// [`OpenError`] if the segment cannot be read. Nothing of it is collected then.
    pub fn read(&mut self, sealed: &SealedSegment) -> Result<bool, OpenError> {
        let (mut found, mut newest) = (Found::default(), 0.0);
        let visited = sealed.visit(|entry| {
            self.entry(&entry, &mut found, &mut newest);
            Ok(())
        });
        visited.map_err(VisitError::open)?;
        Ok(self.end(found, newest))
    }

    fn entry(&self, entry: &Entry, found: &mut Found, newest: &mut f64) {
        // The newest time of the segment, not the last: the clock may have been set back within it.
        *newest = newest.max(entry.timestamp);
        // Searching is much faster than parsing millions of entries. No string within an entry can contain this
        // text, because JSON escapes its quotes.
        if !entry.data.contains("\"type\":\"injection\"") && !entry.data.contains("\"type\":\"sense\"") {
            return;
        }
        let recorded = Duration::try_from_secs_f64(entry.timestamp).unwrap_or(self.now);
        let age = self.now.saturating_sub(recorded);
        let injection = match entry.data() {
            Ok(Data::Injection(injection)) => injection,
            Ok(Data::Sense(Sense { subject, .. })) => {
                return push(
                    &mut found.senses,
                    self.senses,
                    CommittedSense { subject, entry: entry.index, age },
                );
            }
            _ => return,
        };
        // Only injections from a mesh have both.
        let (Ok(id), Some(Ok(origin))) = (injection.id.parse(), injection.from.map(|it| it.parse())) else {
            return;
        };
        let payload = InjectionPayload { anoms: injection.anoms, ml_weight: injection.ml_weight };
        let event = InjectionEvent { id, origin, seq: 0, payload };
        push(&mut found.injections, self.injections, CommittedInjection { event, entry: entry.index, age });
    }

    fn end(&mut self, found: Found, newest: f64) -> bool {
        self.injections += found.injections.len();
        self.senses += found.senses.len();
        self.known.push(found);
        is_recent(self.end, newest) && self.injections.min(self.senses) < MOST_KNOWN
    }

    /// The collected inputs.
    #[must_use]
    pub fn known(self) -> Recent {
        let mut recent = Recent::default();
        for Found { injections, senses } in self.known.into_iter().rev() {
            recent.injections.extend(injections);
            recent.senses.extend(senses);
        }
        recent
    }
}

/// The inputs of one segment, oldest first.
#[derive(Default)]
struct Found {
    injections: VecDeque<CommittedInjection>,
    senses: VecDeque<CommittedSense>,
}

/// Keeps the newest, where `known` later ones leave room for fewer.
fn push<T>(found: &mut VecDeque<T>, known: usize, item: T) {
    if known + found.len() >= MOST_KNOWN && found.pop_front().is_none() {
        return;
    }
    found.push_back(item);
}

fn is_recent(now: Duration, time: f64) -> bool {
    now.as_secs_f64() - time <= INJECTION_RETENTION.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::entry::Record;
    use crate::mesh::Identity;
    use crate::organism::input::Scale;

    fn entry(index: u64, timestamp: f64, input: &Input) -> Entry {
        let mut data = None;
        let record = Record::input(timestamp, input).unwrap();
        record.write(&mut vec![], &mut |_, text| data = Some(text.into())).unwrap();
        Entry { index, timestamp, data: data.unwrap(), previous_hash: [0; 32], hash: [0; 32] }
    }

    fn event(id: &str) -> InjectionEvent {
        let origin = Identity::pod("venom", "uid", "a").unwrap();
        InjectionEvent {
            id: id.parse().unwrap(),
            origin,
            seq: 0,
            payload: InjectionPayload { anoms: Some(3), ml_weight: Some(0.5) },
        }
    }

    fn read(recent: &mut RecentInputs, entries: &[Entry]) -> bool {
        let (mut found, mut newest) = (Found::default(), 0.0);
        entries.iter().for_each(|it| recent.entry(it, &mut found, &mut newest));
        recent.end(found, newest)
    }

    #[test]
    fn the_newest_injections_are_kept_where_a_forged_ledger_has_too_many() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let mut head = Head::empty("", 1, 1, "");
        head.last_injection = Some((7, now));
        let mut recent = RecentInputs::of(&head, None).unwrap();
        let one = entry(0, now, &input(&event("a")));
        let many = |from: u64, count: u64| -> Vec<Entry> {
            (from..from + count).map(|index| Entry { index, ..one.clone() }).collect()
        };
        assert!(read(&mut recent, &many(100_000, 10)));
        assert!(read(&mut recent, &many(0, MOST_KNOWN as u64)), "there may be observations");
        let known = recent.known().injections;
        assert_eq!(known.len(), MOST_KNOWN);
        assert_eq!((known[0].entry, known[MOST_KNOWN - 1].entry), (10, 100_009));
    }

    #[test]
    fn recent_injections_are_read_back_and_older_segments_are_skipped() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let mut head = Head::empty("", 1, 1, "");
        assert!(RecentInputs::of(&head, None).is_none());
        head.last_injection = Some((7, now - INJECTION_RETENTION.as_secs_f64() - 1.0));
        assert!(RecentInputs::of(&head, None).is_none());
        head.last_injection = Some((7, now));
        let mut recent = RecentInputs::of(&head, None).unwrap();
        let scale = Input::Scale(Scale { from: 1, p: 2 });
        let newer = [entry(6, now - 20.0, &scale), entry(7, now - 10.0, &input(&event("b")))];
        assert!(read(&mut recent, &newer));
        assert!(
            !read(&mut recent, &[entry(5, now - 4_000.0, &input(&event("a")))]),
            "nothing before that matters"
        );
        let known = recent.known().injections;
        assert_eq!(known.iter().map(|it| it.entry).collect::<Vec<_>>(), [5, 7]);
        assert_eq!(known[1].event, event("b"));
        assert!((9..12).contains(&known[1].age.as_secs()), "{:?}", known[1].age);
    }

    #[test]
    fn setting_the_clock_back_ages_no_injection() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let mut head = Head::empty("", 1, 1, "");
        head.last_injection = Some((1, now + 86_400.0));
        let mut recent = RecentInputs::of(&head, None).unwrap();
        let segment =
            [entry(0, now + 86_400.0, &input(&event("a"))), entry(1, now - 4_000.0, &input(&event("b")))];
        assert!(read(&mut recent, &segment), "its newest entry is young");
        assert_eq!(recent.known().injections[0].age, Duration::ZERO);
    }

    #[test]
    fn observations_are_read_back_beside_injections() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let mut head = Head::empty("", 1, 1, "");
        head.last_sense = Some((2, now));
        let mut recent = RecentInputs::of(&head, None).unwrap();
        let sense = |subject: &str| {
            Input::Sense(Sense {
                anoms: 2,
                kind: "restart".into(),
                subject: subject.into(),
                ..Sense::default()
            })
        };
        let suppressed =
            Input::Sense(Sense { suppressed: true, subject: "p/c/2".into(), ..Sense::default() });
        let entries = [
            entry(1, now - 5.0, &sense("p/c/1")),
            entry(2, now - 4.0, &suppressed),
            entry(3, now, &input(&event("a"))),
        ];
        assert!(read(&mut recent, &entries));
        let known = recent.known();
        let subjects: Vec<_> = known.senses.iter().map(|it| (it.subject.as_str(), it.entry)).collect();
        assert_eq!(subjects, [("p/c/1", 1), ("p/c/2", 2)]);
        assert_eq!(known.injections.len(), 1);
    }
}
