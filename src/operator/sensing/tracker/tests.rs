use proptest::prelude::*;

use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn ended(kind: Kind, instance: u32, seconds: i64) -> Event {
    Event { kind, container: Some("c".into()), instance, at: Some(at(seconds)) }
}

fn pod(uid: &str, events: Vec<Event>) -> Pod {
    Pod { uid: uid.into(), events, ..Pod::default() }
}

fn subjects(news: Vec<New>) -> Vec<String> {
    news.into_iter().map(|it| format!("{} {}", it.kind.as_str(), it.subject)).collect()
}

/// Observes without a rollout, 100 s after the start.
fn observe(tracker: &mut Tracker, pods: &[Pod]) -> Vec<String> {
    subjects(tracker.observe(pods, false, at(100)))
}

#[test]
fn an_event_is_new_once() {
    let mut tracker = Tracker::default();
    let crash = [pod("p", vec![ended(Kind::CrashLoop, 2, 90)])];
    assert_eq!(observe(&mut tracker, &crash), ["crashLoop p/c/2"]);
    assert_eq!(observe(&mut tracker, &crash), [""; 0]);
    // It runs again: the same end of the same instance.
    assert_eq!(observe(&mut tracker, &[pod("p", vec![ended(Kind::Restart, 2, 90)])]), [""; 0]);
    assert_eq!(observe(&mut tracker, &[pod("p", vec![ended(Kind::Restart, 3, 95)])]), ["restart p/c/3"]);
    // Another pod of the same name has another UID.
    assert_eq!(observe(&mut tracker, &[pod("q", vec![ended(Kind::Restart, 1, 95)])]), ["restart q/c/1"]);
}

#[test]
fn what_nobody_saw_in_between_counts_as_well() {
    let mut tracker = Tracker::default();
    assert_eq!(observe(&mut tracker, &[pod("p", vec![])]), [""; 0]);
    let found = observe(&mut tracker, &[pod("p", vec![ended(Kind::OomKill, 3, 90)])]);
    assert_eq!(found, ["restart p/c/1", "restart p/c/2", "oomKill p/c/3"]);
    let flood = observe(&mut tracker, &[pod("p", vec![ended(Kind::Restart, 1_000_000, 90)])]);
    assert_eq!(flood.len(), MISSED as usize + 1, "a count of somebody's making is bounded");
    // What a pod had behind it when it was first seen is not counted one by one.
    let mut tracker = Tracker::default();
    assert_eq!(observe(&mut tracker, &[pod("p", vec![ended(Kind::Restart, 7, 90)])]), ["restart p/c/7"]);
}

#[test]
fn what_the_ledger_has_is_not_new() {
    let recorded = ["p/c/2".to_owned(), "p/ready/5".to_owned(), "gone/c/1".to_owned()];
    let mut tracker = Tracker::new(None, None, recorded);
    let lost =
        Event { kind: Kind::NotReady, container: None, instance: 0, at: Timestamp::from_second(5).ok() };
    let lost = Event { at: lost.at, ..lost };
    let pods = [pod("p", vec![ended(Kind::Restart, 2, 90), lost])];
    assert_eq!(observe(&mut tracker, &pods), [""; 0]);
    assert_eq!(observe(&mut tracker, &[pod("p", vec![ended(Kind::Restart, 3, 90)])]), ["restart p/c/3"]);
}

#[test]
fn what_happens_during_an_exclusion_is_never_new() {
    let crash = vec![ended(Kind::Restart, 1, 90)];
    for exclude in ["rollout", "leaving", "pulse", "creation", "future"] {
        let of = |what: &str, seconds| (exclude == what).then(|| at(seconds));
        let mut tracker = Tracker::new(of("creation", 95), of("pulse", 90 + 61), []);
        let now = if exclude == "future" { at(90 - 601) } else { at(100) };
        let excluded = Pod { leaving: exclude == "leaving", ..pod("p", crash.clone()) };
        assert_eq!(tracker.observe(&[excluded], exclude == "rollout", now), [], "{exclude}");
        assert_eq!(observe(&mut tracker, &[pod("p", crash.clone())]), [""; 0], "{exclude}");
    }
}

/// The subjects of the ledger outlast a restart; that something was excluded does not, but the time of the last pulse does.
#[test]
fn what_an_earlier_process_has_judged_is_not_new_and_what_it_missed_is() {
    let of = |kind, seconds| [pod("p", vec![ended(kind, 7, seconds)])];
    let mut tracker = Tracker::new(None, Some(at(50)), []);
    assert_eq!(observe(&mut tracker, &of(Kind::Restart, -11)), [""; 0], "long before the last pulse");
    let mut tracker = Tracker::new(None, Some(at(50)), []);
    assert_eq!(observe(&mut tracker, &of(Kind::Restart, -9)), ["restart p/c/7"], "right before it");
    let mut tracker = Tracker::new(None, Some(at(50)), ["p/c/7".to_owned()]);
    assert_eq!(observe(&mut tracker, &of(Kind::Restart, 49)), [""; 0], "recorded");
}

/// A pod that is seen for the first time between the end of a container and what follows.
#[test]
fn restarts_before_a_pod_was_seen_are_not_counted_one_by_one() {
    let mut tracker = Tracker::default();
    let undecided = Pod { restarts: [("c".to_owned(), 50)].into(), ..pod("p", vec![]) };
    assert_eq!(observe(&mut tracker, &[undecided]), [""; 0]);
    assert_eq!(observe(&mut tracker, &[pod("p", vec![ended(Kind::Restart, 51, 90)])]), ["restart p/c/51"]);
}

/// A kubelet whose clock is an hour behind, or ahead.
#[test]
fn a_wrong_clock_hides_nothing_that_happens_while_somebody_watches() {
    for seconds in [-3_600, 3_600] {
        let mut tracker = Tracker::default();
        observe(&mut tracker, &[pod("p", vec![])]);
        let found = observe(&mut tracker, &[pod("p", vec![ended(Kind::Restart, 1, seconds)])]);
        assert_eq!(found, ["restart p/c/1"], "{seconds}");
    }
}

proptest! {
    /// Whatever a status shows in which order, no subject is new twice.
    #[test]
    fn no_subject_is_new_twice(
        steps in prop::collection::vec((0..3_u8, 0..6_u32, 0..5_usize, any::<bool>(), any::<bool>()), 1..60),
    ) {
        let kinds = [Kind::Restart, Kind::OomKill, Kind::CrashLoop, Kind::NotReady, Kind::Eviction];
        let mut tracker = Tracker::default();
        let mut seen = BTreeSet::new();
        for (uid, instance, kind, rollout, leaving) in steps {
            let event = match kinds[kind] {
                kind @ (Kind::NotReady | Kind::Eviction) => {
                    Event { kind, container: None, instance: 0, at: Some(at(i64::from(instance))) }
                }
                kind => ended(kind, instance, 90),
            };
            // All pods are there all the time: what is forgotten with a pod has another UID the next time.
            let pods: Vec<_> = (0..3_u8)
                .map(|it| {
                    let events = if it == uid { vec![event.clone()] } else { vec![] };
                    Pod { leaving, ..pod(&it.to_string(), events) }
                })
                .collect();
            for new in tracker.observe(&pods, rollout, at(100)) {
                // Readiness that is lost at an earlier time than before does not happen.
                prop_assert!(new.kind == Kind::NotReady || seen.insert(new.subject.clone()), "{}", new.subject);
            }
        }
    }
}
