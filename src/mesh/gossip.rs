//! How injections get to the ledger, each once: the state of one peer, without clock, sockets or chance.
//!
//! Time comes in as an argument, messages come in by [`Gossip::receive`], and everything that is to be done
//! comes out of [`Gossip::poll_output`]. The network may lose, double and reorder messages, and peers may vanish.
//!
//! - An injection that a peer takes in or hears of is *pending* there until it hears what became of it. It goes
//!   to all other peers at once; to a peer whose link comes up; and again from time to time.
//! - A *collector* holds the ledger. It hands each injection to it once, and says what became of it. That
//!   spreads the same way, and a peer that still offers a settled injection is told.
//! - The collector's memory of ids outlasts every copy that may still be on its way. An injection lives
//!   [`INJECTION_TTL`] from the moment a peer took it in, so copies of an id whose first try was [`INJECTION_TTL`] ago are gone
//!   after twice that; the collector remembers [`INJECTION_RETENTION`]. A collector that starts again is told the ids of
//!   that time from its ledger ([`Gossip::restore_committed`]). It takes nobody's word on what is in the ledger.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::event::{Injectable, InjectionEvent, InjectionId, InjectionPayload, Outcome};
use super::name::Identity;
use super::wire::{Message, SettledEvent, WireEvent, truncate_reason};

/// Time since any fixed moment of this process.
pub type Now = Duration;

/// How long an injection that nobody acknowledged is kept and offered, and how long a client may try again.
pub const INJECTION_TTL: Duration = Duration::from_secs(600);
/// How long ids that are settled are known.
pub const INJECTION_RETENTION: Duration = Duration::from_secs(1800);
/// An id that says it will be made later than this from now has a wrong clock behind it.
const AHEAD: Duration = Duration::from_secs(300);
/// Pending injections are offered again after this; then the pause doubles, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(16);
/// At most so many are offered at once, oldest first.
const OFFERED: usize = 1000;

/// A link to a peer; a new link to the same peer is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Injections pending. A full store takes no more in.
    pub pending: usize,
    /// Injections settled. Beyond it a node forgets the oldest, a collector takes no more in.
    pub settled: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { pending: 10_000, settled: 200_000 }
    }
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Send this to one peer.
    Send(LinkId, Message),
    /// Send this to all peers but the one it came from.
    Broadcast(Option<LinkId>, Message),
    /// An injection for the ledger: comes once, only at a collector; [`Gossip::record_outcome`] is to follow.
    Collect(InjectionEvent),
    /// This peer hears of an injection for the first time.
    FirstSeen(InjectionEvent),
    /// What became of an injection.
    Settled(InjectionEvent, Outcome),
}

/// How an injection stands that was asked for at this peer's door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InjectionStatus {
    /// Under way.
    Pending,
    /// Settled before: a retry.
    Settled(Outcome),
}

/// Why an injection is not taken in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InjectError {
    /// It never will be as it stands.
    #[error("{0}")]
    Invalid(String),
    /// Too many are pending.
    #[error("too many injections wait for the ledger; try again with the same id")]
    Overloaded,
    /// Too old to be known for sure.
    #[error(
        "the id was made more than 10 minutes ago and is not known here: whether it is in the ledger, only the ledger says"
    )]
    IdExpired,
}

/// A peer said what no peer of this mesh says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ProtocolViolation(pub String);

#[derive(Clone, Debug)]
struct Pending {
    event: InjectionEvent,
    arrived: Now,
    age_then: Duration,
    /// Handed to the ledger, which will answer.
    collected: bool,
}

impl Pending {
    fn age(&self, now: Now) -> Duration {
        self.age_then + now.saturating_sub(self.arrived)
    }
}

/// What happened that a metric should show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Injections of peers that found no room; they are offered again.
    pub full: u64,
    /// Injections that nobody acknowledged in [`INJECTION_TTL`].
    pub expired: u64,
    /// Injections that were known already.
    pub known: u64,
}

/// One peer.
#[derive(Clone, Debug)]
pub struct Gossip {
    me: Identity,
    organism: String,
    collector: bool,
    injectable: Injectable,
    limits: Limits,
    peers: BTreeMap<LinkId, Identity>,
    /// By order of arrival.
    pending: BTreeMap<u64, Pending>,
    arrivals: BTreeMap<InjectionId, u64>,
    settled: BTreeMap<InjectionId, (InjectionEvent, Outcome)>,
    /// When each is to be forgotten, soonest first.
    forget: VecDeque<(Now, InjectionId)>,
    seq: u64,
    arrival: u64,
    offer_at: Now,
    pause: Duration,
    turn: u64,
    counters: Counters,
    out: VecDeque<Output>,
}

impl Gossip {
    /// A peer of the mesh of `organism`.
    #[must_use]
    pub fn new(
        me: Identity,
        organism: &str,
        collector: bool,
        injectable: Injectable,
        limits: Limits,
    ) -> Self {
        Self {
            me,
            organism: organism.to_owned(),
            collector,
            injectable,
            limits,
            peers: BTreeMap::new(),
            pending: BTreeMap::new(),
            arrivals: BTreeMap::new(),
            settled: BTreeMap::new(),
            forget: VecDeque::new(),
            seq: 0,
            arrival: 0,
            offer_at: Duration::ZERO,
            pause: FIRST_PAUSE,
            turn: 0,
            counters: Counters::default(),
            out: VecDeque::new(),
        }
    }

    /// The next thing to be done.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// How many injections are pending.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// How an injection stands, where it is known.
    #[must_use]
    pub fn status(&self, id: &InjectionId) -> Option<InjectionStatus> {
        match self.settled.get(id) {
            Some((_, outcome)) => Some(InjectionStatus::Settled(outcome.clone())),
            None => self.arrivals.contains_key(id).then_some(InjectionStatus::Pending),
        }
    }

    /// A link came up: what is pending is offered.
    pub fn connected(&mut self, now: Now, peer: LinkId, identity: &Identity) {
        self.peers.insert(peer, identity.clone());
        self.hurry(now);
        self.offer(now, peer);
    }

    /// A link that had lost messages of ours is whole again.
    pub fn caught_up(&mut self, now: Now, peer: LinkId) {
        if self.peers.contains_key(&peer) {
            self.offer(now, peer);
        }
    }

    /// A link is gone.
    pub fn disconnected(&mut self, peer: LinkId) {
        self.peers.remove(&peer);
    }

    /// A client injects through this peer. `wall` is the time since 1970.
    ///
    /// # Errors
    /// [`InjectError`]: then nothing was taken in.
    pub fn inject(
        &mut self,
        now: Now,
        wall: Duration,
        id: InjectionId,
        payload: InjectionPayload,
    ) -> Result<InjectionStatus, InjectError> {
        payload.validate(self.injectable).map_err(InjectError::Invalid)?;
        let known = self.arrivals.get(&id).and_then(|at| self.pending.get(at)).map(|it| it.event.payload);
        if known
            .or_else(|| self.settled.get(&id).map(|it| it.0.payload))
            .is_some_and(|known| known != payload)
        {
            return Err(InjectError::Invalid("the id was used for another injection; make a new one".into()));
        }
        if let Some(standing) = self.status(&id) {
            return Ok(standing);
        }
        if let Some(made) = id.created_at() {
            if wall.saturating_sub(made) > INJECTION_TTL {
                return Err(InjectError::IdExpired);
            }
            if made.saturating_sub(wall) > AHEAD {
                return Err(InjectError::Invalid(
                    "the id was made in the future; set the clock right".into(),
                ));
            }
        }
        if self.full() {
            return Err(InjectError::Overloaded);
        }
        self.seq += 1;
        let event = InjectionEvent { id, origin: self.me.clone(), seq: self.seq, payload };
        let sent = WireEvent::new(&event, 0, &self.me);
        self.take(now, event, Duration::ZERO);
        self.out.push_back(Output::Broadcast(None, Message::Events(vec![sent])));
        Ok(InjectionStatus::Pending)
    }

    /// A message came in.
    ///
    /// # Errors
    /// [`ProtocolViolation`]: the link is to be closed.
    pub fn receive(&mut self, now: Now, peer: LinkId, message: Message) -> Result<(), ProtocolViolation> {
        // A message of a link that is gone already may still come in.
        let Some(sender) = self.peers.get(&peer).cloned() else { return Ok(()) };
        match message {
            Message::Hello(_) => Err(ProtocolViolation("said hello twice".into())),
            Message::Ping => Ok(()),
            Message::Events(events) => self.events(now, peer, &sender, events),
            Message::Settled(settled) => self.news(now, peer, &sender, settled),
        }
    }

    /// The ledger's answer about an injection that was collected, for good. A ledger that has no room now
    /// answers later: an injection that was given up and forgotten would be taken in again from every copy on
    /// its way, and go round for ever. Only at a collector.
    pub fn record_outcome(&mut self, now: Now, event: InjectionEvent, outcome: Outcome) {
        let outcome = match outcome {
            Outcome::Refused { reason } => Outcome::Refused { reason: truncate_reason(reason) },
            committed @ Outcome::Committed { .. } => committed,
        };
        let news = SettledEvent { event: WireEvent::new(&event, 0, &self.me), outcome: outcome.clone() };
        self.settle(now + INJECTION_RETENTION, event, outcome);
        self.out.push_back(Output::Broadcast(None, Message::Settled(vec![news])));
    }

    /// An injection that the ledger holds as `entry` since `age`; oldest first.
    pub fn restore_committed(&mut self, now: Now, event: InjectionEvent, entry: u64, age: Duration) {
        if let Some(left) = INJECTION_RETENTION.checked_sub(age) {
            self.settle(now + left, event, Outcome::Committed { entry });
        }
    }

    /// Time passes. To be called several times a second.
    pub fn tick(&mut self, now: Now) {
        while self.forget.front().is_some_and(|it| it.0 <= now) {
            let over = self.forget.pop_front();
            over.and_then(|(_, id)| self.settled.remove(&id));
        }
        // The ledger answers about what it was handed, however long that takes.
        let over: Vec<u64> = self
            .pending
            .iter()
            .filter_map(|(&at, it)| (!it.collected && it.age(now) >= INJECTION_TTL).then_some(at))
            .collect();
        for at in over {
            self.counters.expired += 1;
            if let Some(gone) = self.pending.remove(&at) {
                self.arrivals.remove(&gone.event.id);
            }
        }
        if !self.pending.is_empty() && now >= self.offer_at {
            self.offer_at = now + self.pause;
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
            self.offer_again(now);
        }
    }

    /// To the operator, where it is linked, and to one other peer in turn.
    fn offer_again(&mut self, now: Now) {
        let operators = self.peers.iter().filter(|it| it.1.is_operator()).map(|it| *it.0);
        let mut targets: Vec<LinkId> = operators.collect();
        let others: Vec<LinkId> =
            self.peers.iter().filter(|it| !it.1.is_operator()).map(|it| *it.0).collect();
        self.turn += 1;
        targets.extend(others.get((self.turn % (others.len() as u64).max(1)) as usize));
        for peer in targets {
            self.offer(now, peer);
        }
    }

    fn hurry(&mut self, now: Now) {
        self.pause = FIRST_PAUSE;
        self.offer_at = self.offer_at.min(now + FIRST_PAUSE);
    }

    fn offer(&mut self, now: Now, peer: LinkId) {
        let sent = |it: &Pending| WireEvent::new(&it.event, millis(it.age(now)), &self.me);
        let events: Vec<WireEvent> = self.pending.values().take(OFFERED).map(sent).collect();
        self.out.extend(Message::events(events).into_iter().map(|message| Output::Send(peer, message)));
    }

    fn full(&self) -> bool {
        let known = self.pending.len() + self.settled.len();
        self.pending.len() >= self.limits.pending || (self.collector && known >= self.limits.settled)
    }

    fn take(&mut self, now: Now, event: InjectionEvent, age: Duration) {
        if self.pending.is_empty() {
            self.offer_at = now + FIRST_PAUSE;
        }
        self.arrival += 1;
        self.arrivals.insert(event.id.clone(), self.arrival);
        let collected = self.collector;
        let pending = Pending { event: event.clone(), arrived: now, age_then: age, collected };
        self.pending.insert(self.arrival, pending);
        self.hurry(now);
        self.out.push_back(Output::FirstSeen(event.clone()));
        if collected {
            self.out.push_back(Output::Collect(event));
        }
    }

    fn events(
        &mut self,
        now: Now,
        peer: LinkId,
        sender: &Identity,
        sent: Vec<WireEvent>,
    ) -> Result<(), ProtocolViolation> {
        let (mut onward, mut known) = (vec![], vec![]);
        for sent in sent {
            let age = Duration::from_millis(sent.age);
            let event = self.event(sender, sent)?;
            if let Some((event, outcome)) = self.settled.get(&event.id) {
                self.counters.known += 1;
                known.push(SettledEvent {
                    event: WireEvent::new(event, 0, &self.me),
                    outcome: outcome.clone(),
                });
            } else if self.arrivals.contains_key(&event.id) {
                self.counters.known += 1;
            } else if age >= INJECTION_TTL {
                self.counters.expired += 1;
            } else if self.full() {
                self.counters.full += 1;
            } else if self.collector
                && let Err(reason) = event.payload.validate(self.injectable)
            {
                self.record_outcome(now, event, Outcome::Refused { reason });
            } else {
                onward.push(WireEvent::new(&event, millis(age), &self.me));
                self.take(now, event, age);
            }
        }
        self.out.extend(Message::settled(known).into_iter().map(|message| Output::Send(peer, message)));
        self.pass_on(peer, Message::events(onward));
        Ok(())
    }

    fn news(
        &mut self,
        now: Now,
        peer: LinkId,
        sender: &Identity,
        news: Vec<SettledEvent>,
    ) -> Result<(), ProtocolViolation> {
        let mut onward = vec![];
        for SettledEvent { event, outcome } in news {
            let event = self.event(sender, event)?;
            // What is in the ledger, a collector knows from the ledger.
            if self.collector {
                continue;
            }
            let pending = self.arrivals.contains_key(&event.id);
            let new = match (&outcome, self.settled.get(&event.id)) {
                (_, None) => true,
                // A collector that started again may have forgotten that it refused.
                (Outcome::Committed { .. }, Some((_, Outcome::Refused { .. }))) => true,
                _ => false,
            };
            if !new {
                continue;
            }
            if !pending && !self.settled.contains_key(&event.id) {
                self.out.push_back(Output::FirstSeen(event.clone()));
            }
            onward
                .push(SettledEvent { event: WireEvent::new(&event, 0, &self.me), outcome: outcome.clone() });
            self.settle(now + INJECTION_RETENTION, event, outcome);
            self.hurry(now);
        }
        self.pass_on(peer, Message::settled(onward));
        Ok(())
    }

    fn pass_on(&mut self, from: LinkId, messages: Vec<Message>) {
        self.out.extend(messages.into_iter().map(|message| Output::Broadcast(Some(from), message)));
    }

    /// What `sender` sent, if it may send it.
    fn event(&self, sender: &Identity, sent: WireEvent) -> Result<InjectionEvent, ProtocolViolation> {
        if sent.origin.as_ref() == Some(sender) {
            return Err(ProtocolViolation("named itself as an origin: its certificate does that".into()));
        }
        let origin = sent.origin.unwrap_or_else(|| sender.clone());
        let ours = origin.organism().is_none_or(|organism| organism == self.organism)
            && origin.trust_domain() == self.me.trust_domain();
        if !ours {
            return Err(ProtocolViolation(format!(
                "passed on an injection of {origin}, which is not of this mesh"
            )));
        }
        // What may be injected can differ for a while where it is being changed; what is no payload cannot.
        let any = Injectable { min: f64::MIN, max: f64::MAX };
        sent.payload
            .validate(any)
            .map_err(|reason| ProtocolViolation(format!("sent an injection that {reason}")))?;
        Ok(InjectionEvent { id: sent.id, origin, seq: sent.seq, payload: sent.payload })
    }

    fn settle(&mut self, until: Now, event: InjectionEvent, outcome: Outcome) {
        if let Some(at) = self.arrivals.remove(&event.id) {
            self.pending.remove(&at);
        }
        if self.settled.insert(event.id.clone(), (event.clone(), outcome.clone())).is_none() {
            self.forget.push_back((until, event.id.clone()));
        }
        if !self.collector && self.settled.len() > self.limits.settled {
            let oldest = self.forget.pop_front();
            oldest.and_then(|(_, id)| self.settled.remove(&id));
        }
        self.out.push_back(Output::Settled(event, outcome));
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
