//! Injections in a ledger: the input that records one from the mesh, and the recent ones against which the mesh
//! deduplicates retries.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Head;
use crate::ledger::Entry;
use crate::ledger::entry::Data;
use crate::mesh::INJECTION_RETENTION;
use crate::mesh::{CommittedInjection, InjectionEvent, InjectionPayload};
use crate::organism::Input;
use crate::organism::input::Injection;

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

/// Collects the injections of the last [`INJECTION_RETENTION`] from the segments of a ledger. Feed it the newest segment first, and
/// stop when [`RecentInjections::read`] returns false.
pub struct RecentInjections {
    /// Since the Unix epoch.
    now: Duration,
    /// Newest first.
    known: Vec<CommittedInjection>,
}

impl RecentInjections {
    /// A collector for the ledger of `head`; `None` if its last injection is older than [`INJECTION_RETENTION`].
    #[must_use]
    pub fn of(head: &Head) -> Option<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (_, time) = head.last_injection?;
        // A time in the future means that the clock was set back since. It counts as recent.
        is_recent(now, time).then_some(Self { now, known: vec![] })
    }

    /// Collects the injections of one segment. Returns whether the segment before it may contain recent ones too.
    pub fn read(&mut self, entries: &[Entry]) -> bool {
        for entry in entries.iter().rev() {
            // Searching is much faster than parsing millions of entries. No string within an entry can contain this
            // text, because JSON escapes its quotes.
            if !entry.data.contains("\"type\":\"injection\"") {
                continue;
            }
            let Ok(Data::Injection(injection)) = entry.data() else { continue };
            // Only injections from a mesh have both.
            let (Ok(id), Some(Ok(origin))) = (injection.id.parse(), injection.from.map(|it| it.parse()))
            else {
                continue;
            };
            let payload = InjectionPayload { anoms: injection.anoms, ml_weight: injection.ml_weight };
            let recorded = Duration::try_from_secs_f64(entry.timestamp).unwrap_or(self.now);
            let age = self.now.saturating_sub(recorded);
            self.known.push(CommittedInjection {
                event: InjectionEvent { id, origin, seq: 0, payload },
                entry: entry.index,
                age,
            });
        }
        // The newest time of the segment, not the last: the clock may have been set back within it.
        let newest = entries.iter().fold(0.0, |newest: f64, entry| newest.max(entry.timestamp));
        is_recent(self.now, newest)
    }

    /// The collected injections, oldest first.
    #[must_use]
    pub fn known(mut self) -> Vec<CommittedInjection> {
        self.known.reverse();
        self.known
    }
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

    #[test]
    fn recent_injections_are_read_back_and_older_segments_are_skipped() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let mut head = Head::empty("", 1, 1, "");
        assert!(RecentInjections::of(&head).is_none());
        head.last_injection = Some((7, now - INJECTION_RETENTION.as_secs_f64() - 1.0));
        assert!(RecentInjections::of(&head).is_none());
        head.last_injection = Some((7, now));
        let mut recent = RecentInjections::of(&head).unwrap();
        let scale = Input::Scale(Scale { from: 1, p: 2 });
        let newer = [entry(6, now - 20.0, &scale), entry(7, now - 10.0, &input(&event("b")))];
        assert!(recent.read(&newer));
        assert!(!recent.read(&[entry(5, now - 4_000.0, &input(&event("a")))]), "nothing before that matters");
        let known = recent.known();
        assert_eq!(known.iter().map(|it| it.entry).collect::<Vec<_>>(), [5, 7]);
        assert_eq!(known[1].event, event("b"));
        assert!((9..12).contains(&known[1].age.as_secs()), "{:?}", known[1].age);
    }

    #[test]
    fn setting_the_clock_back_ages_no_injection() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let mut head = Head::empty("", 1, 1, "");
        head.last_injection = Some((1, now + 86_400.0));
        let mut recent = RecentInjections::of(&head).unwrap();
        let segment =
            [entry(0, now + 86_400.0, &input(&event("a"))), entry(1, now - 4_000.0, &input(&event("b")))];
        assert!(recent.read(&segment), "its newest entry is young");
        assert_eq!(recent.known()[0].age, Duration::ZERO);
    }
}
