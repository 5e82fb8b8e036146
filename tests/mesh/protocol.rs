//! Rules of the gossip protocol, one per test.

use std::sync::Arc;
use std::time::Duration;

use venom::mesh::event::{Injectable, InjectionEvent, InjectionId, InjectionPayload, MAX_ANOMS, Outcome};
use venom::mesh::gossip::{
    Gossip, INJECTION_RETENTION, INJECTION_TTL, InjectError, InjectionStatus, Limits, LinkId, Output,
    Violation,
};
use venom::mesh::shares::{CollectorMemory, Rate};
use venom::mesh::spiffe::Identity;
use venom::mesh::wire::{Message, SettledEvent, WireEvent};

const WALL: Duration = Duration::from_secs(1_800_000_000);
const NOW: Duration = Duration::from_secs(100);

fn pod(name: &str) -> Identity {
    Identity::pod("venom", "uid", name).unwrap()
}

fn operator() -> Identity {
    Identity::operator("venom").unwrap()
}

fn peer(collector: bool, limits: Limits) -> Gossip {
    let identity = if collector { operator() } else { pod("me") };
    let memory = collector.then(|| Arc::new(CollectorMemory::default()));
    let mut gossip = Gossip::new(identity, "uid", memory, Injectable::default(), limits);
    for (at, name) in [(1, pod("a")), (2, pod("b")), (3, pod("c"))] {
        gossip.connected(NOW, LinkId(at), &name);
    }
    assert_eq!(outputs(&mut gossip), []);
    gossip
}

fn outputs(gossip: &mut Gossip) -> Vec<Output> {
    std::iter::from_fn(|| gossip.poll_output()).collect()
}

fn id(text: &str) -> InjectionId {
    text.parse().unwrap()
}

fn anoms(anoms: u64) -> InjectionPayload {
    InjectionPayload { anoms: Some(anoms), ml_weight: None }
}

fn sent(text: &str, origin: Option<Identity>) -> WireEvent {
    WireEvent { id: id(text), origin, seq: 1, age: 5, payload: anoms(3) }
}

fn id_created_at(time: Duration) -> InjectionId {
    let millis = u64::try_from(time.as_millis()).unwrap();
    uuid::Builder::from_unix_timestamp_millis(millis, &[7; 10]).into_uuid().to_string().parse().unwrap()
}

#[test]
fn an_injection_goes_to_all_but_the_sender() {
    let mut gossip = peer(false, Limits::default());
    gossip.receive(NOW, LinkId(2), Message::Events(vec![sent("x", None)])).unwrap();
    let outputs = outputs(&mut gossip);
    // The sender is the origin; the forwarded event names it.
    let event = InjectionEvent { id: id("x"), origin: pod("b"), seq: 1, payload: anoms(3) };
    let forwarded = Message::Events(vec![sent("x", Some(pod("b")))]);
    assert_eq!(outputs, [Output::FirstSeen(event), Output::Broadcast(Some(LinkId(2)), forwarded)]);
    // A copy from another peer is a duplicate.
    gossip.receive(NOW, LinkId(1), Message::Events(vec![sent("x", Some(pod("b")))])).unwrap();
    assert_eq!(self::outputs(&mut gossip), []);
}

#[test]
fn events_with_a_false_origin_or_payload_violate_the_protocol() {
    for origin in [pod("b"), Identity::pod("venom", "other", "x").unwrap(), Identity::operator("x").unwrap()]
    {
        let mut gossip = peer(false, Limits::default());
        let message = Message::Events(vec![sent("x", Some(origin))]);
        assert!(gossip.receive(NOW, LinkId(2), message).is_err());
        assert_eq!(outputs(&mut gossip), []);
    }
    let mut gossip = peer(false, Limits::default());
    let excessive = WireEvent { payload: anoms(MAX_ANOMS + 1), ..sent("x", None) };
    assert!(gossip.receive(NOW, LinkId(2), Message::Events(vec![excessive])).is_err());
}

#[test]
fn an_offer_of_a_settled_injection_is_answered_with_its_outcome() {
    let mut gossip = peer(false, Limits::default());
    let outcome = Outcome::Committed { entry: 7 };
    let settled = SettledEvent { event: sent("x", Some(pod("c"))), outcome: outcome.clone() };
    gossip.receive(NOW, LinkId(1), Message::Settled(vec![settled.clone()])).unwrap();
    let event = InjectionEvent { id: id("x"), origin: pod("c"), seq: 1, payload: anoms(3) };
    let forwarded =
        SettledEvent { event: WireEvent { age: 0, ..settled.event.clone() }, outcome: outcome.clone() };
    assert_eq!(
        outputs(&mut gossip),
        [
            Output::FirstSeen(event.clone()),
            Output::Settled(event, outcome.clone()),
            Output::Broadcast(Some(LinkId(1)), Message::Settled(vec![forwarded.clone()])),
        ]
    );
    gossip.receive(NOW, LinkId(3), Message::Events(vec![sent("x", None)])).unwrap();
    assert_eq!(outputs(&mut gossip), [Output::Send(LinkId(3), Message::Settled(vec![forwarded]))]);
    // Once, however often a message names it.
    gossip.receive(NOW, LinkId(3), Message::Events(vec![sent("x", None); 500])).unwrap();
    let replies = self::outputs(&mut gossip);
    let [Output::Send(LinkId(3), Message::Settled(answers))] = &replies[..] else { panic!("{replies:?}") };
    assert_eq!(answers.len(), 1);
    // A client's retry returns at once.
    assert_eq!(gossip.inject(NOW, WALL, id("x"), anoms(3)), Ok(InjectionStatus::Settled(outcome)));
    // A known outcome is not forwarded again.
    gossip.receive(NOW, LinkId(1), Message::Settled(vec![settled])).unwrap();
    assert_eq!(outputs(&mut gossip), []);
}

#[test]
fn a_collector_ignores_outcomes_from_peers_and_collects_once() {
    let mut gossip = peer(true, Limits::default());
    let outcome = Outcome::Committed { entry: 7 };
    let settled = SettledEvent { event: sent("x", None), outcome };
    gossip.receive(NOW, LinkId(1), Message::Settled(vec![settled])).unwrap();
    assert_eq!(outputs(&mut gossip), []);
    assert_eq!(gossip.status(&id("x")), None);
    // Copies of an injection from several peers are handed to the ledger once.
    for peer in [1, 2, 3, 1] {
        let origin = (peer != 1).then(|| pod("a"));
        gossip.receive(NOW, LinkId(peer), Message::Events(vec![sent("x", origin)])).unwrap();
    }
    let collected = outputs(&mut gossip).into_iter().filter(|it| matches!(it, Output::Collect(_))).count();
    assert_eq!(collected, 1);
}

#[test]
fn an_id_identifies_one_injection() {
    let mut gossip = peer(false, Limits::default());
    assert_eq!(gossip.inject(NOW, WALL, id("x"), anoms(3)), Ok(InjectionStatus::Pending));
    assert_eq!(gossip.inject(NOW, WALL, id("x"), anoms(3)), Ok(InjectionStatus::Pending));
    assert!(matches!(gossip.inject(NOW, WALL, id("x"), anoms(4)), Err(InjectError::Invalid(_))));
    let weight = InjectionPayload { ml_weight: Some(2.0), anoms: None };
    assert!(matches!(gossip.inject(NOW, WALL, id("y"), weight), Err(InjectError::Invalid(_))));
    assert_eq!(gossip.pending(), 1);
}

#[test]
fn an_old_id_is_rejected_unless_its_outcome_is_known() {
    let mut gossip = peer(false, Limits::default());
    let old = id_created_at(WALL - INJECTION_TTL - Duration::from_secs(1));
    assert_eq!(gossip.inject(NOW, WALL, old.clone(), anoms(3)), Err(InjectError::IdExpired));
    let event = InjectionEvent { id: old.clone(), origin: pod("a"), seq: 1, payload: anoms(3) };
    gossip.restore_committed(NOW, event, 9, INJECTION_TTL);
    let committed = InjectionStatus::Settled(Outcome::Committed { entry: 9 });
    assert_eq!(gossip.inject(NOW, WALL, old, anoms(3)), Ok(committed));
    let recent = id_created_at(WALL - INJECTION_TTL + Duration::from_secs(1));
    assert_eq!(gossip.inject(NOW, WALL, recent, anoms(3)), Ok(InjectionStatus::Pending));
    let ahead = id_created_at(WALL + Duration::from_secs(301));
    assert!(matches!(gossip.inject(NOW, WALL, ahead, anoms(3)), Err(InjectError::Invalid(_))));
}

#[test]
fn pending_injections_expire_and_settled_ones_are_forgotten() {
    let mut gossip = peer(false, Limits::default());
    gossip.inject(NOW, WALL, id("x"), anoms(3)).unwrap();
    // The time spent at other peers counts.
    let aged = WireEvent { age: 590_000, ..sent("y", None) };
    gossip.receive(NOW, LinkId(1), Message::Events(vec![aged])).unwrap();
    gossip.tick(NOW + Duration::from_secs(11));
    assert_eq!((gossip.pending(), gossip.counters().expired), (1, 1));
    gossip.tick(NOW + INJECTION_TTL);
    assert_eq!((gossip.pending(), gossip.counters().expired), (0, 2));
    let settled = SettledEvent { event: sent("x", None), outcome: Outcome::Committed { entry: 1 } };
    gossip.receive(NOW, LinkId(1), Message::Settled(vec![settled])).unwrap();
    gossip.tick(NOW + INJECTION_RETENTION - Duration::from_secs(1));
    assert!(gossip.status(&id("x")).is_some());
    gossip.tick(NOW + INJECTION_RETENTION);
    assert_eq!(gossip.status(&id("x")), None);
}

#[test]
fn a_full_peer_accepts_no_more_injections() {
    let limits = Limits { pending: 4, ..Limits::default() };
    let mut gossip = peer(false, limits);
    for name in ["x", "y"] {
        gossip.inject(NOW, WALL, id(name), anoms(3)).unwrap();
    }
    // Clients of this peer have as much as is left; a source that has nothing yet still finds room.
    assert_eq!(gossip.inject(NOW, WALL, id("z"), anoms(3)), Err(InjectError::Overloaded));
    gossip.receive(NOW, LinkId(1), Message::Events(vec![sent("v", None), sent("w", None)])).unwrap();
    assert_eq!((gossip.pending(), gossip.counters().full), (3, 1));
    let event = InjectionEvent { id: id("x"), origin: pod("a"), seq: 1, payload: anoms(3) };
    gossip.record_outcome(NOW, event, Outcome::Committed { entry: 0 });
    assert_eq!(gossip.inject(NOW, WALL, id("z"), anoms(3)), Ok(InjectionStatus::Pending));
}

/// Collectors never forget what they have committed: without memory for more they take no more.
#[test]
fn collectors_share_their_memory() {
    let memory = Arc::new(CollectorMemory::new(100_000));
    let fill = |organism: &str| {
        let limits = Limits::default();
        let mut gossip =
            Gossip::new(operator(), organism, Some(memory.clone()), Injectable::default(), limits);
        let mut accepted = 0;
        for number in 0..1_000_u64 {
            let event = id(&format!("{organism}-{number}"));
            if gossip.inject(NOW, WALL, event.clone(), anoms(1)).is_ok() {
                accepted += 1;
                let event = InjectionEvent { id: event, origin: operator(), seq: number, payload: anoms(1) };
                gossip.record_outcome(NOW, event, Outcome::Committed { entry: number });
            }
        }
        outputs(&mut gossip);
        (gossip, accepted)
    };
    let (greedy, first) = fill("greedy");
    let (modest, second) = fill("modest");
    assert!((150..250).contains(&first) && (70..130).contains(&second), "{first} {second}");
    assert!(memory.used() <= 100_000, "{}", memory.used());
    drop((greedy, modest));
    assert_eq!(memory.used(), 0);
}

/// One peer sends as many of its own and, in the name of others, as many more as it can; another's single injection is
/// taken at once and offered among the first.
#[test]
fn a_hostile_peer_does_not_keep_the_others_injections_out() {
    for collector in [false, true] {
        let limits = Limits::default();
        let mut gossip = peer(collector, limits);
        let (mut number, mut closed) = (0, false);
        let invented = Identity::pod("venom", "uid", "nobody").unwrap();
        while !closed {
            let events = (0..400_u64).map(|it| {
                number += 1;
                sent(&format!("junk-{number}"), (it % 2 == 0).then(|| invented.clone()))
            });
            closed = gossip.receive(NOW, LinkId(1), Message::Events(events.collect())).is_err();
            outputs(&mut gossip);
        }
        assert!(number > 20_000, "an honest peer may send as many: {number}");
        let taken = gossip.pending();
        assert!(taken <= 2 * limits.new.burst as usize, "{taken}");
        assert!(gossip.counters().limited > 0);

        gossip.receive(NOW, LinkId(2), Message::Events(vec![sent("honest", None)])).unwrap();
        assert_eq!(gossip.pending(), taken + 1);
        outputs(&mut gossip);
        gossip.connected(NOW, LinkId(9), &operator());
        let first = outputs(&mut gossip).into_iter().find_map(|output| match output {
            Output::Send(LinkId(9), Message::Events(events)) => Some(events),
            _ => None,
        });
        let place = first.unwrap().iter().position(|it| it.id == id("honest"));
        assert!(place.is_some_and(|place| place < 4), "{place:?}");
    }
}

/// Over hours, without a pause: what a peer holds is bounded, and room is left for others.
#[test]
fn no_peer_fills_what_is_pending() {
    let mut gossip = peer(false, Limits::default());
    for second in 0..500_u64 {
        let now = NOW + Duration::from_secs(second);
        for (link, number) in (1..=2).flat_map(|link| (0..200).map(move |number| (link, number))) {
            let event = sent(&format!("{link}-{second}-{number}"), None);
            gossip.receive(now, LinkId(link), Message::Events(vec![event])).unwrap();
        }
        outputs(&mut gossip);
    }
    assert!(gossip.pending() < 7_000, "{}", gossip.pending());
    let now = NOW + Duration::from_secs(500);
    gossip.receive(now, LinkId(3), Message::Events(vec![sent("honest", None)])).unwrap();
    assert_eq!(gossip.status(&id("honest")), Some(InjectionStatus::Pending));
    assert_eq!(gossip.inject(now, WALL, id("own"), anoms(1)), Ok(InjectionStatus::Pending));
}

#[test]
fn outcomes_of_peers_are_shortened_and_bounded() {
    let limits = Limits { new: Rate { interval: Duration::from_secs(1), burst: 9 }, ..Limits::default() };
    let mut gossip = peer(false, limits);
    gossip.inject(NOW, WALL, id("mine"), anoms(3)).unwrap();
    let refused = |name: &str| {
        let reason = "\u{1b}[2J".repeat(10_000);
        SettledEvent { event: sent(name, Some(pod("c"))), outcome: Outcome::Refused { reason } }
    };
    for number in 0..100 {
        gossip.receive(NOW, LinkId(1), Message::Settled(vec![refused(&format!("x-{number}"))])).unwrap();
    }
    assert_eq!(gossip.counters().limited, 91);
    // What this peer waits for is never turned away.
    gossip.receive(NOW, LinkId(1), Message::Settled(vec![refused("mine")])).unwrap();
    for name in ["x-0", "mine"] {
        let Some(InjectionStatus::Settled(Outcome::Refused { reason })) = gossip.status(&id(name)) else {
            panic!()
        };
        assert!(reason.len() <= 200 && !reason.contains('\u{1b}'), "{reason:?}");
    }
    assert_eq!(gossip.status(&id("x-9")), None);
}

/// A message with more than a peer may send for minutes: the peer is dropped, not the injections that it had handed in.
#[test]
fn a_flood_ends_the_link() {
    let mut gossip = peer(false, Limits::default());
    let events: Vec<_> = (0..50_000).map(|number| sent(&format!("x-{number}"), None)).collect();
    assert_eq!(gossip.receive(NOW, LinkId(1), Message::Events(events)), Err(Violation::Flood));
    gossip.receive(NOW, LinkId(2), Message::Events(vec![sent("x", None)])).unwrap();
    assert_eq!(gossip.pending(), 1);
}

/// A collector remembers a bounded number of the refusals that its ledger gives, and none of its own.
#[test]
fn refusals_take_a_bounded_memory() {
    let memory = Arc::new(CollectorMemory::default());
    let limits = Limits::default();
    let mut gossip = Gossip::new(operator(), "uid", Some(memory.clone()), Injectable::default(), limits);
    gossip.connected(NOW, LinkId(1), &pod("a"));
    let heavy = InjectionPayload { anoms: None, ml_weight: Some(5.0) };
    let events = (0..30_000).map(|number| WireEvent { payload: heavy, ..sent(&format!("x-{number}"), None) });
    gossip.receive(NOW, LinkId(1), Message::Events(events.collect())).unwrap();
    outputs(&mut gossip);
    assert_eq!((memory.used(), gossip.pending()), (0, 0));
    for number in 0..5_000_u64 {
        let event = InjectionEvent {
            id: id(&format!("y-{number}")),
            origin: pod("a"),
            seq: number,
            payload: anoms(1),
        };
        gossip.record_outcome(NOW, event, Outcome::Refused { reason: "r".repeat(9_999) });
        outputs(&mut gossip);
    }
    assert!(memory.used() < 1_000 * 600, "{}", memory.used());
    assert_eq!(gossip.status(&id("y-0")), None);
    assert!(gossip.status(&id("y-4999")).is_some());
    // What was refused and is offered again may be committed, and is then remembered as such.
    let event = InjectionEvent { id: id("y-4999"), origin: pod("a"), seq: 1, payload: anoms(1) };
    gossip.record_outcome(NOW, event, Outcome::Committed { entry: 7 });
    gossip.tick(NOW + INJECTION_RETENTION - Duration::from_secs(1));
    assert!(gossip.status(&id("y-4999")).is_some());
    gossip.tick(NOW + INJECTION_RETENTION);
    assert_eq!(gossip.status(&id("y-4999")), None);
}

#[test]
fn a_weight_out_of_range_is_refused_by_the_collector() {
    let mut gossip = peer(true, Limits::default());
    let heavy =
        WireEvent { payload: InjectionPayload { anoms: None, ml_weight: Some(5.0) }, ..sent("x", None) };
    gossip.receive(NOW, LinkId(1), Message::Events(vec![heavy])).unwrap();
    let outputs = outputs(&mut gossip);
    assert!(matches!(&outputs[0], Output::Settled(_, Outcome::Refused { .. })), "{outputs:?}");
    assert!(matches!(&outputs[1], Output::Send(LinkId(1), Message::Settled(_))), "{outputs:?}");
}

/// To the operator every time, and to the other peers in turn.
#[test]
fn pending_injections_are_offered_again() {
    let mut gossip = peer(false, Limits::default());
    gossip.connected(NOW, LinkId(9), &operator());
    gossip.inject(NOW, WALL, id("x"), anoms(3)).unwrap();
    outputs(&mut gossip);
    let mut offered = vec![];
    for second in 0..8 {
        gossip.tick(NOW + Duration::from_secs(second));
        for output in outputs(&mut gossip) {
            let Output::Send(peer, Message::Events(_)) = output else { panic!() };
            offered.push((second, peer.0));
        }
    }
    let seconds: Vec<u64> = offered.iter().filter(|it| it.1 == 9).map(|it| it.0).collect();
    assert_eq!(seconds, [1, 2, 4]);
    let others: std::collections::BTreeSet<u64> = offered.iter().map(|it| it.1).collect();
    assert_eq!(others.len(), 4, "{offered:?}");
    // A new link gets all pending injections at once.
    gossip.connected(NOW, LinkId(10), &pod("d"));
    assert!(matches!(&outputs(&mut gossip)[..], [Output::Send(LinkId(10), Message::Events(_))]));
}
