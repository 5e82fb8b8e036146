//! Rules of the protocol, one at a time.

use std::time::Duration;

use venom::mesh::event::{Injectable, InjectionEvent, InjectionId, InjectionPayload, MAX_ANOMS, Outcome};
use venom::mesh::gossip::{
    Gossip, INJECTION_RETENTION, INJECTION_TTL, InjectError, InjectionStatus, Limits, LinkId, Output,
};
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
    let me = if collector { operator() } else { pod("me") };
    let mut gossip = Gossip::new(me, "uid", collector, Injectable::default(), limits);
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

fn made(at: Duration) -> InjectionId {
    let millis = u64::try_from(at.as_millis()).unwrap();
    uuid::Builder::from_unix_timestamp_millis(millis, &[7; 10]).into_uuid().to_string().parse().unwrap()
}

#[test]
fn an_injection_goes_to_all_but_the_sender() {
    let mut me = peer(false, Limits::default());
    me.receive(NOW, LinkId(2), Message::Events(vec![sent("x", None)])).unwrap();
    let outputs = outputs(&mut me);
    // Its sender is its origin; passed on, it carries that name.
    let event = InjectionEvent { id: id("x"), origin: pod("b"), seq: 1, payload: anoms(3) };
    let onward = Message::Events(vec![sent("x", Some(pod("b")))]);
    assert_eq!(outputs, [Output::FirstSeen(event), Output::Broadcast(Some(LinkId(2)), onward)]);
    // Again, from another one: nothing new.
    me.receive(NOW, LinkId(1), Message::Events(vec![sent("x", Some(pod("b")))])).unwrap();
    assert_eq!(self::outputs(&mut me), []);
}

#[test]
fn nobody_names_itself_or_a_stranger() {
    for origin in [pod("b"), Identity::pod("venom", "other", "x").unwrap(), Identity::operator("x").unwrap()]
    {
        let mut me = peer(false, Limits::default());
        let message = Message::Events(vec![sent("x", Some(origin))]);
        assert!(me.receive(NOW, LinkId(2), message).is_err());
        assert_eq!(outputs(&mut me), []);
    }
    let mut me = peer(false, Limits::default());
    let too_much = WireEvent { payload: anoms(MAX_ANOMS + 1), ..sent("x", None) };
    assert!(me.receive(NOW, LinkId(2), Message::Events(vec![too_much])).is_err());
}

#[test]
fn who_offers_what_is_settled_is_told() {
    let mut me = peer(false, Limits::default());
    let outcome = Outcome::Committed { entry: 7 };
    let news = SettledEvent { event: sent("x", Some(pod("c"))), outcome: outcome.clone() };
    me.receive(NOW, LinkId(1), Message::Settled(vec![news.clone()])).unwrap();
    let event = InjectionEvent { id: id("x"), origin: pod("c"), seq: 1, payload: anoms(3) };
    let onward = SettledEvent { event: WireEvent { age: 0, ..news.event.clone() }, outcome: outcome.clone() };
    assert_eq!(
        outputs(&mut me),
        [
            Output::FirstSeen(event.clone()),
            Output::Settled(event, outcome.clone()),
            Output::Broadcast(Some(LinkId(1)), Message::Settled(vec![onward.clone()])),
        ]
    );
    me.receive(NOW, LinkId(3), Message::Events(vec![sent("x", None)])).unwrap();
    assert_eq!(outputs(&mut me), [Output::Send(LinkId(3), Message::Settled(vec![onward]))]);
    // A retry at this door is answered at once.
    assert_eq!(me.inject(NOW, WALL, id("x"), anoms(3)), Ok(InjectionStatus::Settled(outcome)));
    // News that is known goes no further.
    me.receive(NOW, LinkId(1), Message::Settled(vec![news])).unwrap();
    assert_eq!(outputs(&mut me), []);
}

#[test]
fn a_collector_takes_nobodys_word() {
    let mut me = peer(true, Limits::default());
    let outcome = Outcome::Committed { entry: 7 };
    let news = SettledEvent { event: sent("x", None), outcome };
    me.receive(NOW, LinkId(1), Message::Settled(vec![news])).unwrap();
    assert_eq!(outputs(&mut me), []);
    assert_eq!(me.status(&id("x")), None);
    // And hands an injection over once.
    for peer in [1, 2, 3, 1] {
        let origin = (peer != 1).then(|| pod("a"));
        me.receive(NOW, LinkId(peer), Message::Events(vec![sent("x", origin)])).unwrap();
    }
    let collected = outputs(&mut me).into_iter().filter(|it| matches!(it, Output::Collect(_))).count();
    assert_eq!(collected, 1);
}

#[test]
fn an_id_means_one_injection() {
    let mut me = peer(false, Limits::default());
    assert_eq!(me.inject(NOW, WALL, id("x"), anoms(3)), Ok(InjectionStatus::Pending));
    assert_eq!(me.inject(NOW, WALL, id("x"), anoms(3)), Ok(InjectionStatus::Pending));
    assert!(matches!(me.inject(NOW, WALL, id("x"), anoms(4)), Err(InjectError::Invalid(_))));
    let weight = InjectionPayload { ml_weight: Some(2.0), anoms: None };
    assert!(matches!(me.inject(NOW, WALL, id("y"), weight), Err(InjectError::Invalid(_))));
    assert_eq!(me.pending(), 1);
}

#[test]
fn an_old_id_is_gone_unless_it_is_known() {
    let mut me = peer(false, Limits::default());
    let old = made(WALL - INJECTION_TTL - Duration::from_secs(1));
    assert_eq!(me.inject(NOW, WALL, old.clone(), anoms(3)), Err(InjectError::IdExpired));
    let event = InjectionEvent { id: old.clone(), origin: pod("a"), seq: 1, payload: anoms(3) };
    me.restore_committed(NOW, event, 9, INJECTION_TTL);
    let committed = InjectionStatus::Settled(Outcome::Committed { entry: 9 });
    assert_eq!(me.inject(NOW, WALL, old, anoms(3)), Ok(committed));
    let recent = made(WALL - INJECTION_TTL + Duration::from_secs(1));
    assert_eq!(me.inject(NOW, WALL, recent, anoms(3)), Ok(InjectionStatus::Pending));
    let ahead = made(WALL + Duration::from_secs(301));
    assert!(matches!(me.inject(NOW, WALL, ahead, anoms(3)), Err(InjectError::Invalid(_))));
}

#[test]
fn what_nobody_acknowledges_is_given_up_and_what_is_settled_forgotten() {
    let mut me = peer(false, Limits::default());
    me.inject(NOW, WALL, id("x"), anoms(3)).unwrap();
    // One that travelled for a while already has less time left.
    let travelled = WireEvent { age: 590_000, ..sent("y", None) };
    me.receive(NOW, LinkId(1), Message::Events(vec![travelled])).unwrap();
    me.tick(NOW + Duration::from_secs(11));
    assert_eq!((me.pending(), me.counters().expired), (1, 1));
    me.tick(NOW + INJECTION_TTL);
    assert_eq!((me.pending(), me.counters().expired), (0, 2));
    let news = SettledEvent { event: sent("x", None), outcome: Outcome::Committed { entry: 1 } };
    me.receive(NOW, LinkId(1), Message::Settled(vec![news])).unwrap();
    me.tick(NOW + INJECTION_RETENTION - Duration::from_secs(1));
    assert!(me.status(&id("x")).is_some());
    me.tick(NOW + INJECTION_RETENTION);
    assert_eq!(me.status(&id("x")), None);
}

#[test]
fn a_full_store_takes_no_more_in() {
    for (collector, limits) in
        [(false, Limits { pending: 2, settled: 9 }), (true, Limits { pending: 9, settled: 2 })]
    {
        let mut me = peer(collector, limits);
        for name in ["x", "y"] {
            me.inject(NOW, WALL, id(name), anoms(3)).unwrap();
        }
        assert_eq!(me.inject(NOW, WALL, id("z"), anoms(3)), Err(InjectError::Overloaded));
        me.receive(NOW, LinkId(1), Message::Events(vec![sent("z", None)])).unwrap();
        assert_eq!((me.pending(), me.counters().full), (2, 1));
        // A collector forgets nothing to make room: not even what it has committed.
        let event = InjectionEvent { id: id("x"), origin: pod("a"), seq: 1, payload: anoms(3) };
        me.record_outcome(NOW, event, Outcome::Committed { entry: 0 });
        let taken = me.inject(NOW, WALL, id("z"), anoms(3));
        assert_eq!(taken == Err(InjectError::Overloaded), collector, "{taken:?}");
    }
}

#[test]
fn a_weight_that_may_not_be_injected_is_refused_by_the_collector() {
    let mut me = peer(true, Limits::default());
    let heavy =
        WireEvent { payload: InjectionPayload { anoms: None, ml_weight: Some(5.0) }, ..sent("x", None) };
    me.receive(NOW, LinkId(1), Message::Events(vec![heavy])).unwrap();
    let outputs = outputs(&mut me);
    assert!(matches!(&outputs[0], Output::Settled(_, Outcome::Refused { .. })), "{outputs:?}");
    assert!(matches!(&outputs[1], Output::Broadcast(None, Message::Settled(_))), "{outputs:?}");
}

/// What is pending is offered again, to one peer after the other, and to the operator every time.
#[test]
fn what_is_pending_is_offered_again() {
    let mut me = peer(false, Limits::default());
    me.connected(NOW, LinkId(9), &operator());
    me.inject(NOW, WALL, id("x"), anoms(3)).unwrap();
    outputs(&mut me);
    let mut offered = vec![];
    for second in 0..8 {
        me.tick(NOW + Duration::from_secs(second));
        for output in outputs(&mut me) {
            let Output::Send(peer, Message::Events(_)) = output else { panic!() };
            offered.push((second, peer.0));
        }
    }
    let seconds: Vec<u64> = offered.iter().filter(|it| it.1 == 9).map(|it| it.0).collect();
    assert_eq!(seconds, [1, 2, 4]);
    let others: std::collections::BTreeSet<u64> = offered.iter().map(|it| it.1).collect();
    assert_eq!(others.len(), 4, "{offered:?}");
    // A link that comes up gets all at once.
    me.connected(NOW, LinkId(10), &pod("d"));
    assert!(matches!(&outputs(&mut me)[..], [Output::Send(LinkId(10), Message::Events(_))]));
}
