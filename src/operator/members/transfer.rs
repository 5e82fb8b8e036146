//! What follows for one organism from the replicas that are alive and what its head says. Pure.

use super::view::View;

/// What the head of an organism's ledger says of who writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder<'a> {
    /// The replica that has taken it over last.
    pub identity: &'a str,
    /// Whether that replica has given it back.
    pub released: bool,
}

/// Why an organism may be taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It has no ledger yet.
    New,
    /// An earlier process of this replica held it.
    Restart,
    /// Its holder has given it back.
    Released,
    /// Its holder is no longer alive.
    Expired,
}

impl Why {
    /// Label of the metric.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Restart => "restart",
            Self::Released => "released",
            Self::Expired => "expired",
        }
    }
}

/// What this replica does about an organism.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Take it over.
    Take(Why),
    /// Go on with it.
    Keep,
    /// Commit what is pending, and give it back: another replica is to hold it.
    Release,
    /// Say in its head that an earlier process of this replica no longer holds it.
    Disown,
    /// Stop without another write: another replica has taken it over.
    Lose,
    /// Another replica is to hold it.
    Leave,
    /// Its holder has to give it back first.
    Wait,
}

/// What follows for the Organism with this UID, which this replica runs or not, from its head if there is one.
#[must_use]
pub fn step(view: &View, uid: &str, runs: bool, head: Option<Holder<'_>>) -> Step {
    let owns = view.owns(uid);
    match (runs, head) {
        (true, Some(head)) if is_held_elsewhere(view, head) => Step::Lose,
        // Without another one that takes organisms there is nobody to give it to.
        (true, _) if view.accepts() && !owns => Step::Release,
        (true, _) => Step::Keep,
        (false, None) if owns => Step::Take(Why::New),
        (false, Some(head)) if owns => match may_take(view, head) {
            Some(why) => Step::Take(why),
            None => Step::Wait,
        },
        (false, Some(head)) if view.accepts() && head.identity == &**view.own() && !head.released => {
            Step::Disown
        }
        (false, _) => Step::Leave,
    }
}

/// Why an organism with this head may be taken over; none while it may not.
#[must_use]
pub fn may_take(view: &View, head: Holder<'_>) -> Option<Why> {
    if head.released {
        Some(Why::Released)
    } else if head.identity == &**view.own() {
        Some(Why::Restart)
    } else if is_held_elsewhere(view, head) {
        None
    } else {
        Some(Why::Expired)
    }
}

/// Whether another replica that is alive holds an organism with this head.
#[must_use]
pub fn is_held_elsewhere(view: &View, head: Holder<'_>) -> bool {
    !head.released && head.identity != &**view.own() && view.is_live(head.identity)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::view::{Observer, Stated};
    use super::*;

    /// The view of alpha, where these others are alive and take organisms or not.
    fn view(others: &[(&str, bool)], accepts: bool) -> View {
        let stated = |(identity, accepts): &(&str, bool)| Stated {
            identity: (*identity).into(),
            version: "1".into(),
            accepts: *accepts,
        };
        let leases: Vec<_> = others.iter().map(stated).collect();
        Observer::new("alpha").observe(Duration::ZERO, Duration::ZERO, true, &leases).view(accepts)
    }

    fn head(identity: &str, released: bool) -> Option<Holder<'_>> {
        Some(Holder { identity, released })
    }

    /// An Organism that alpha is to hold among these, and one that it is not.
    fn organisms(view: &View) -> (String, String) {
        let uid = |owned| (0..).map(|it| format!("uid-{it}")).find(|it| view.owns(it) == owned).unwrap();
        (uid(true), uid(false))
    }

    #[test]
    fn an_organism_is_taken_over_from_nobody_who_is_alive() {
        let both = view(&[("beta", true)], true);
        let (mine, others) = organisms(&both);
        assert_eq!(step(&both, &mine, false, None), Step::Take(Why::New));
        assert_eq!(step(&both, &mine, false, head("alpha", false)), Step::Take(Why::Restart));
        assert_eq!(step(&both, &mine, false, head("beta", true)), Step::Take(Why::Released));
        assert_eq!(step(&both, &mine, false, head("gone", false)), Step::Take(Why::Expired));
        assert_eq!(step(&both, &mine, false, head("beta", false)), Step::Wait);
        for found in [None, head("beta", true), head("beta", false), head("gone", false), head("alpha", true)]
        {
            assert_eq!(step(&both, &others, false, found), Step::Leave, "{found:?}");
        }
        assert_eq!(step(&both, &others, false, head("alpha", false)), Step::Disown);
    }

    #[test]
    fn a_running_organism_is_given_back_to_its_owner_and_lost_to_whoever_took_it() {
        let both = view(&[("beta", true)], true);
        let (mine, others) = organisms(&both);
        assert_eq!(step(&both, &mine, true, head("alpha", false)), Step::Keep);
        assert_eq!(step(&both, &others, true, head("alpha", false)), Step::Release);
        assert_eq!(step(&both, &mine, true, head("beta", false)), Step::Lose);
        // What is seen of the head may be older than the take-over.
        for seen in [None, head("beta", true), head("gone", false)] {
            assert_eq!(step(&both, &mine, true, seen), Step::Keep, "{seen:?}");
        }
    }

    #[test]
    fn a_replica_that_starts_or_stops_takes_nothing_and_gives_nothing_back() {
        let stopping = view(&[("beta", true)], false);
        for uid in ["a", "b", "c"] {
            assert_eq!(step(&stopping, uid, true, head("alpha", false)), Step::Keep);
            assert_eq!(step(&stopping, uid, false, head("alpha", false)), Step::Leave);
            assert_eq!(step(&stopping, uid, false, None), Step::Leave);
        }
        let alone = view(&[("beta", false)], true);
        assert_eq!(step(&alone, "a", false, None), Step::Take(Why::New));
        assert_eq!(step(&alone, "a", false, head("beta", false)), Step::Wait);
        assert_eq!(step(&View::unknown("alpha"), "a", false, None), Step::Leave);
    }
}
