//! Which replicas are alive, from what their Leases show. Pure: time is time since the machine booted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::LEASE_DURATION;
use super::owner::{Candidate, owner};

/// After a longer time without a list nothing is known about who has renewed meanwhile: everybody gets a new chance.
const BLIND_AFTER: Duration = Duration::from_secs(3);
/// Who renews its Lease does so more often than this.
const STILL_AFTER: Duration = Duration::from_secs(2);
/// A replica that takes no organisms is starting or stopping. One that does so for this long holds nothing up any more.
const UNWILLING_FOR: Duration = Duration::from_secs(30);
/// A Lease that has not changed for this long is deleted.
const EXPIRED_AFTER: Duration = Duration::from_secs(60);

/// A replica as its Lease states it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stated {
    /// Its name.
    pub identity: Arc<str>,
    /// Differs after each renewal: the resourceVersion of the Lease.
    pub version: String,
    /// Whether it takes organisms.
    pub accepts: bool,
}

/// Remembers what the Leases of others showed.
#[derive(Debug)]
pub struct Observer {
    own: Arc<str>,
    others: BTreeMap<Arc<str>, Seen>,
    last_list: Option<Duration>,
    acquainted: bool,
}

#[derive(Debug)]
struct Seen {
    version: String,
    /// When it was last seen to change.
    changed: Duration,
    /// Whether it was seen to change at all.
    renewed: bool,
    /// Whether it has taken organisms. One that no longer does is stopping.
    has_taken: bool,
    /// Until when it counts as alive.
    alive_until: Duration,
    /// Whether that was so at the last list.
    alive: bool,
    /// Since when it takes no organisms.
    unwilling_since: Option<Duration>,
}

/// What a list shows.
#[derive(Debug)]
pub struct Shown {
    own: Arc<str>,
    others: BTreeMap<Arc<str>, bool>,
    /// Whether no other Lease changes. Who cannot renew its own Lease then knows that nobody else can, as with a full
    /// etcd, and that nobody takes over.
    pub nobody_moves: bool,
}

impl Observer {
    /// The observer of the replica `own`.
    #[must_use]
    pub fn new(own: &str) -> Self {
        Self { own: own.into(), others: BTreeMap::new(), last_list: None, acquainted: false }
    }

    /// Takes in a list that was asked for at `asked` and answered at `answered`. Whoever could not renew its own Lease in
    /// the same round, or has not listed for a while, declares nobody dead: the cause may be the same for all. A Lease that
    /// is gone was deleted by hand, unless its replica had said before that it takes no more organisms.
    pub fn observe(
        &mut self,
        asked: Duration,
        answered: Duration,
        renewed: bool,
        leases: &[Stated],
    ) -> Shown {
        let blind = self.last_list.is_none_or(|last| asked.saturating_sub(last) > BLIND_AFTER);
        self.last_list = Some(asked);
        for lease in leases.iter().filter(|it| it.identity != self.own) {
            let seen = self.others.entry(lease.identity.clone()).or_insert_with(|| Seen {
                version: lease.version.clone(),
                changed: answered,
                renewed: false,
                has_taken: false,
                alive_until: answered + LEASE_DURATION,
                alive: true,
                unwilling_since: None,
            });
            if seen.version != lease.version {
                seen.version.clone_from(&lease.version);
                seen.renewed = true;
                // The list may show a renewal that began after it was asked for.
                (seen.changed, seen.alive_until) = (answered, answered + LEASE_DURATION);
            }
            seen.has_taken |= lease.accepts;
            seen.unwilling_since = if lease.accepts { None } else { seen.unwilling_since.or(Some(asked)) };
        }
        self.others.retain(|name, seen| {
            if seen.alive && (blind || !renewed) {
                seen.alive_until = seen.alive_until.max(answered + LEASE_DURATION);
            }
            seen.alive = asked < seen.alive_until;
            let listed = leases.iter().any(|it| it.identity == *name);
            let leaves = seen.has_taken && seen.unwilling_since.is_some();
            listed || (seen.alive && !leaves)
        });
        let still = |it: &Seen| asked.saturating_sub(it.changed) >= STILL_AFTER;
        let nobody_moves = self.others.values().all(still);
        let alive = self.others.iter().filter(|(_, it)| {
            let unwilling =
                it.unwilling_since.is_some_and(|since| asked.saturating_sub(since) > UNWILLING_FOR);
            it.alive && !unwilling
        });
        let others = alive.map(|(name, it)| (name.clone(), it.unwilling_since.is_none())).collect();
        self.acquainted |= self.others.values().all(|it| it.renewed || !it.alive);
        Shown { own: self.own.clone(), others, nobody_moves }
    }

    /// Whether each of the others was seen to renew its Lease, or to be gone. Some may have died before this replica started,
    /// and would be given what is to be its own.
    #[must_use]
    pub fn is_acquainted(&self) -> bool {
        self.acquainted
    }

    /// Those of `leases`, the last list, that have not changed for a minute.
    #[must_use]
    pub fn expired(&self, at: Duration, leases: Vec<Stated>) -> Vec<Stated> {
        let expired = |it: &Seen| !it.alive && at.saturating_sub(it.changed) >= EXPIRED_AFTER;
        leases.into_iter().filter(|it| self.others.get(&it.identity).is_some_and(expired)).collect()
    }
}

impl Shown {
    /// The replicas for one that itself takes organisms, or does not.
    #[must_use]
    pub fn view(self, accepts: bool) -> View {
        let mut live = self.others;
        live.insert(self.own.clone(), accepts);
        View::new(self.own, live)
    }
}

/// The replicas as one of them sees them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    own: Arc<str>,
    /// Those that are alive, and whether they take organisms.
    live: BTreeMap<Arc<str>, bool>,
    candidates: Vec<Candidate>,
}

impl View {
    fn new(own: Arc<str>, live: BTreeMap<Arc<str>, bool>) -> Self {
        let candidates = live.iter().filter(|(_, accepts)| **accepts);
        let candidates = candidates.map(|(name, _)| Candidate::new(name.clone())).collect();
        Self { own, live, candidates }
    }

    /// The view of a replica that has not listed yet: it takes nothing.
    #[must_use]
    pub fn unknown(own: &str) -> Self {
        Self::new(own.into(), BTreeMap::new())
    }

    /// The name of the replica whose view it is.
    #[must_use]
    pub fn own(&self) -> &Arc<str> {
        &self.own
    }

    /// Names of those that are alive.
    #[must_use]
    pub fn live(&self) -> Vec<&str> {
        self.live.keys().map(|it| &**it).collect()
    }

    /// Names of those that take organisms.
    #[must_use]
    pub fn owners(&self) -> Vec<&str> {
        self.candidates.iter().map(|it| &*it.name).collect()
    }

    /// Whether this replica is alive.
    #[must_use]
    pub fn is_live(&self, identity: &str) -> bool {
        self.live.contains_key(identity)
    }

    /// Whether another replica is alive.
    #[must_use]
    pub fn has_others(&self) -> bool {
        self.live.keys().any(|it| *it != self.own)
    }

    /// Whether this replica takes organisms.
    #[must_use]
    pub fn accepts(&self) -> bool {
        self.live.get(&self.own) == Some(&true)
    }

    /// Whether this replica is to hold the Organism with this UID.
    #[must_use]
    pub fn owns(&self, uid: &str) -> bool {
        owner(&self.candidates, uid) == Some(&self.own)
    }

    /// This replica's place among those that take organisms, and their number; none while it takes none.
    #[must_use]
    pub fn place(&self) -> Option<(usize, usize)> {
        let place = self.candidates.iter().position(|it| it.name == self.own)?;
        Some((place, self.candidates.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    fn lease(identity: &str, version: u64, accepts: bool) -> Stated {
        Stated { identity: identity.into(), version: version.to_string(), accepts }
    }

    fn listed(observer: &mut Observer, second: f64, renewed: bool, leases: &[Stated]) -> Shown {
        observer.observe(at(second), at(second), renewed, leases)
    }

    #[test]
    fn a_deleted_lease_is_missed_only_after_its_duration_and_that_of_a_leaver_at_once() {
        for (accepts, alive) in [(true, true), (false, false)] {
            let mut observer = Observer::new("alpha");
            listed(&mut observer, 0.0, true, &[lease("beta", 1, true)]);
            listed(&mut observer, 0.5, true, &[lease("beta", 2, accepts)]);
            assert_eq!(listed(&mut observer, 1.0, true, &[]).view(true).is_live("beta"), alive);
            assert_eq!(listed(&mut observer, 2.0, true, &[]).view(true).is_live("beta"), alive);
            assert_eq!(listed(&mut observer, 4.5, true, &[]).view(true).is_live("beta"), alive);
            assert!(!listed(&mut observer, 5.5, true, &[]).view(true).is_live("beta"));
        }
    }

    /// The list takes two seconds, and shows a renewal at its end.
    #[test]
    fn a_lease_counts_from_the_answer_of_the_list_that_shows_it() {
        let mut observer = Observer::new("alpha");
        observer.observe(at(0.0), at(2.0), true, &[lease("beta", 1, true)]);
        let view = |observer: &mut Observer, second| {
            listed(observer, second, true, &[lease("beta", 1, true)]).view(true)
        };
        assert!(view(&mut observer, 3.0).is_live("beta"));
        assert!(view(&mut observer, 6.0).is_live("beta"));
        assert!(!view(&mut observer, 7.0).is_live("beta"));
    }

    #[test]
    fn a_replica_whose_lease_no_longer_changes_is_gone_after_its_duration() {
        let mut observer = Observer::new("alpha");
        for second in 0..10 {
            let live = [lease("alpha", second, true), lease("beta", second.min(3), true)];
            let view = listed(&mut observer, second as f64, true, &live).view(true);
            assert_eq!(
                view.is_live("beta"),
                second < 8,
                "its Lease has changed last at 3 s, and now is {second} s"
            );
            assert_eq!(view.owners().len(), if second < 8 { 2 } else { 1 });
        }
    }

    #[test]
    fn what_keeps_all_from_renewing_declares_nobody_dead() {
        let mut observer = Observer::new("alpha");
        let leases = |version| [lease("beta", version, true)];
        assert!(!listed(&mut observer, 0.0, true, &leases(1)).nobody_moves, "nothing to compare with");
        for second in 1..60 {
            let shown = listed(&mut observer, f64::from(second), false, &leases(1));
            assert_eq!(shown.nobody_moves, second > 1);
            assert!(shown.view(true).is_live("beta"));
        }
        // Both can write again, and the list is older than the other's write.
        let view = |observer: &mut Observer, second: f64, version| {
            listed(observer, second, true, &leases(version)).view(true)
        };
        assert!(view(&mut observer, 60.0, 1).is_live("beta"));
        assert!(view(&mut observer, 61.0, 2).is_live("beta"));
        // Nothing could be listed for a minute.
        assert!(view(&mut observer, 121.0, 2).is_live("beta"));
        assert!(view(&mut observer, 122.0, 3).is_live("beta"));
    }

    #[test]
    fn one_that_takes_no_organisms_is_alive_and_for_a_while_holds_what_it_has() {
        let mut observer = Observer::new("alpha");
        for second in 0..40 {
            let stopping = [lease("beta", second, second < 2)];
            let view = listed(&mut observer, second as f64, true, &stopping).view(true);
            assert_eq!(view.owners().contains(&"beta"), second < 2);
            assert_eq!(view.is_live("beta"), second <= 32);
        }
    }

    #[test]
    fn the_others_are_known_once_all_were_seen_to_renew_or_to_be_gone() {
        let mut observer = Observer::new("alpha");
        for second in 0..7 {
            let leases = [lease("beta", second, true), lease("gamma", 1, true)];
            listed(&mut observer, second as f64, true, &leases);
            assert_eq!(observer.is_acquainted(), second >= 5, "at {second} s");
        }
        // Whoever comes later is known to be new.
        let leases = [lease("beta", 7, true), lease("delta", 1, false)];
        listed(&mut observer, 7.0, true, &leases);
        assert!(observer.is_acquainted());
    }

    #[test]
    fn a_deleted_lease_of_a_replica_that_starts_is_missed_only_after_its_duration() {
        let mut observer = Observer::new("alpha");
        listed(&mut observer, 0.0, true, &[lease("beta", 1, false)]);
        for second in [1.0, 4.0] {
            assert!(listed(&mut observer, second, true, &[]).view(true).is_live("beta"));
        }
        assert!(!listed(&mut observer, 5.0, true, &[]).view(true).is_live("beta"));
    }

    #[test]
    fn a_lease_that_nobody_renews_is_deleted_after_a_minute() {
        let mut observer = Observer::new("alpha");
        let leases = [lease("alpha", 1, true), lease("beta", 1, true)];
        for second in 0..60 {
            listed(&mut observer, f64::from(second), true, &leases);
            assert_eq!(observer.expired(at(f64::from(second)), leases.to_vec()), []);
        }
        listed(&mut observer, 60.0, true, &leases);
        assert_eq!(observer.expired(at(60.0), leases.to_vec()), leases[1..]);
        listed(&mut observer, 61.0, true, &leases[..1]);
        assert_eq!(observer.expired(at(61.0), leases.to_vec()), []);
    }
}
