//! The gossip protocol: delivers each injection to the ledger exactly once.
//!
//! [`Gossip`] is the state machine of one peer, without clock, I/O or randomness: time is an argument, messages
//! come in through [`Gossip::receive`], and [`Gossip::poll_output`] returns what the caller has to do. The
//! network may lose, duplicate and reorder messages, and peers may crash at any time.
//!
//! - An injection that a peer accepts or receives is *pending* there until its outcome arrives. The peer sends it
//!   to all other peers at once, to each peer whose link comes up, and again at growing intervals.
//! - The *collector* holds the ledger. It hands each injection to the ledger once and broadcasts the outcome,
//!   which spreads the same way. A peer that still offers a settled injection gets its outcome as the reply.
//! - The collector remembers settled ids for longer than any copy can exist. A peer drops a pending injection
//!   [`INJECTION_TTL`] after its origin accepted it, and a client retries an id for at most [`INJECTION_TTL`], so
//!   no copy exists after twice that; the collector remembers ids for [`INJECTION_RETENTION`]. A restarted
//!   collector restores the ids of that period from its ledger ([`Gossip::restore_committed`]). It never trusts a
//!   peer's statement about the ledger.

mod settled;
mod types;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::event::{Injectable, InjectionEvent, InjectionId, InjectionPayload, Outcome};
use super::shares::{Bucket, CollectorMemory, Kind, MemoryShare, PENDING_BYTES, Rate, Source, has_share};
use super::spiffe::Identity;
use super::wire::{Message, SettledEvent, WireEvent, shorten};

pub use types::{Counters, InjectError, InjectionStatus, Limits, LinkId, Output, Violation};

/// Time since a fixed moment of this process.
pub type MonotonicTime = Duration;

/// How long an injection without an outcome is kept and offered, and how long a client may retry it.
pub const INJECTION_TTL: Duration = Duration::from_secs(600);
/// How long the ids of settled injections are remembered.
pub const INJECTION_RETENTION: Duration = Duration::from_secs(1800);
/// An id created further in the future than this is refused: the client's clock is wrong.
const MAX_CLOCK_SKEW: Duration = Duration::from_secs(300);
/// Pending injections are offered again after this interval, which doubles up to [`MAX_OFFER_INTERVAL`].
const MIN_OFFER_INTERVAL: Duration = Duration::from_secs(1);
const MAX_OFFER_INTERVAL: Duration = Duration::from_secs(16);
/// Maximum number of injections in one offer.
const MAX_OFFERED: usize = 1000;
/// Items of messages, known or not, from one peer. An honest peer stays far below; one that exceeds it is dropped.
const FLOOD: Rate = Rate { interval: Duration::from_micros(250), burst: 40_000 };

#[derive(Clone, Debug)]
struct Pending {
    event: InjectionEvent,
    arrived: MonotonicTime,
    age_at_arrival: Duration,
    source: Source,
    /// Handed to the ledger, which will report the outcome.
    collected: bool,
}

#[derive(Clone, Debug)]
struct Settled {
    payload: InjectionPayload,
    outcome: Outcome,
}

impl Pending {
    fn age(&self, now: MonotonicTime) -> Duration {
        self.age_at_arrival + now.saturating_sub(self.arrived)
    }
}

/// The protocol state of one peer.
#[derive(Debug)]
pub struct Gossip {
    identity: Identity,
    organism: String,
    /// Only a collector has it.
    memory: Option<MemoryShare>,
    injectable: Injectable,
    limits: Limits,
    peers: BTreeMap<LinkId, Identity>,
    /// By number of arrival, so that the oldest come first.
    pending: BTreeMap<u64, Pending>,
    /// Key of each pending injection in `pending`.
    arrivals: BTreeMap<InjectionId, u64>,
    /// Number of pending injections from each source.
    sources: BTreeMap<Source, usize>,
    /// Those that are not full.
    buckets: BTreeMap<(Identity, Kind), Bucket>,
    settled: BTreeMap<InjectionId, Settled>,
    /// What a collector has refused, oldest first. At a node, `expirations` has them.
    refused: VecDeque<InjectionId>,
    /// When to forget each settled id, soonest first.
    expirations: VecDeque<(MonotonicTime, InjectionId)>,
    last_seq: u64,
    last_arrival: u64,
    next_offer: MonotonicTime,
    offer_interval: Duration,
    offer_round: u64,
    counters: Counters,
    outputs: VecDeque<Output>,
}

impl Gossip {
    /// A peer of the mesh of the organism with the UID `organism`: a collector if `memory` is given.
    #[must_use]
    pub fn new(
        identity: Identity,
        organism: &str,
        memory: Option<Arc<CollectorMemory>>,
        injectable: Injectable,
        limits: Limits,
    ) -> Self {
        Self {
            identity,
            organism: organism.to_owned(),
            memory: memory.map(MemoryShare::new),
            injectable,
            limits,
            peers: BTreeMap::new(),
            pending: BTreeMap::new(),
            arrivals: BTreeMap::new(),
            sources: BTreeMap::new(),
            buckets: BTreeMap::new(),
            settled: BTreeMap::new(),
            refused: VecDeque::new(),
            expirations: VecDeque::new(),
            last_seq: 0,
            last_arrival: 0,
            next_offer: Duration::ZERO,
            offer_interval: MIN_OFFER_INTERVAL,
            offer_round: 0,
            counters: Counters::default(),
            outputs: VecDeque::new(),
        }
    }

    /// Returns the next action. Poll until `None` after every other call.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Totals since the start.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Number of pending injections.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Returns the status of an injection; `None` if the id is unknown to this peer.
    #[must_use]
    pub fn status(&self, id: &InjectionId) -> Option<InjectionStatus> {
        match self.settled.get(id) {
            Some(settled) => Some(InjectionStatus::Settled(settled.outcome.clone())),
            None => self.arrivals.contains_key(id).then_some(InjectionStatus::Pending),
        }
    }

    /// A link came up: offers all pending injections to the peer.
    pub fn connected(&mut self, now: MonotonicTime, link: LinkId, identity: &Identity) {
        self.peers.insert(link, identity.clone());
        self.reset_offer_interval(now);
        self.offer(now, link);
    }

    /// A link that had dropped messages delivers again: offers all pending injections to the peer.
    pub fn caught_up(&mut self, now: MonotonicTime, link: LinkId) {
        if self.peers.contains_key(&link) {
            self.offer(now, link);
        }
    }

    /// A link went down.
    pub fn disconnected(&mut self, link: LinkId) {
        self.peers.remove(&link);
    }

    /// Number of links that are up.
    #[must_use]
    pub fn links(&self) -> usize {
        self.peers.len()
    }

    /// Accepts an injection from a client. `wall` is the time since the Unix epoch.
    ///
    /// A retry of a known id returns its status; nothing is injected twice.
    ///
    /// # Errors
    /// [`InjectError`]: the injection was not accepted.
    pub fn inject(
        &mut self,
        now: MonotonicTime,
        wall: Duration,
        id: InjectionId,
        payload: InjectionPayload,
    ) -> Result<InjectionStatus, InjectError> {
        payload.validate(self.injectable).map_err(InjectError::Invalid)?;
        let pending = self.arrivals.get(&id).and_then(|at| self.pending.get(at)).map(|it| it.event.payload);
        let known = pending.or_else(|| self.settled.get(&id).map(|it| it.payload));
        if known.is_some_and(|known| known != payload) {
            return Err(InjectError::Invalid("the id was used for another injection; use a new id".into()));
        }
        if let Some(status) = self.status(&id) {
            return Ok(status);
        }
        if let Some(created) = id.created_at() {
            if wall.saturating_sub(created) > INJECTION_TTL {
                return Err(InjectError::IdExpired);
            }
            if created.saturating_sub(wall) > MAX_CLOCK_SKEW {
                return Err(InjectError::Invalid(
                    "the id's timestamp is in the future; correct the client's clock".into(),
                ));
            }
        }
        if !self.has_room(&Source::Client) {
            return Err(InjectError::Overloaded);
        }
        self.last_seq += 1;
        let event = InjectionEvent { id, origin: self.identity.clone(), seq: self.last_seq, payload };
        let sent = WireEvent::new(&event, 0, &self.identity);
        self.add_pending(now, event, Duration::ZERO, Source::Client);
        self.outputs.push_back(Output::Broadcast(None, Message::Events(vec![sent])));
        Ok(InjectionStatus::Pending)
    }

    /// Handles a message from a peer.
    ///
    /// # Errors
    /// [`Violation`]: the caller has to close the link.
    pub fn receive(&mut self, now: MonotonicTime, link: LinkId, message: Message) -> Result<(), Violation> {
        // A message can still be queued after its link went down.
        let Some(sender) = self.peers.get(&link).cloned() else { return Ok(()) };
        let items = match &message {
            Message::Hello(_) | Message::Ping => 1,
            Message::Events(events) => events.len(),
            Message::Settled(settled) => settled.len(),
        };
        // A frame has far fewer items than u32::MAX.
        let items = u32::try_from(items).unwrap_or(u32::MAX).max(1);
        if !self.take_tokens(now, &sender, Kind::All, items) {
            return Err(Violation::Flood);
        }
        match message {
            Message::Hello(_) => Err(Violation::Protocol("unexpected hello on an open link".into())),
            Message::Ping => Ok(()),
            Message::Events(events) => self.receive_events(now, link, &sender, events),
            Message::Settled(settled) => self.receive_settled(now, link, &sender, settled),
        }
    }

    /// Records the ledger's final result for an injection from [`Output::Collect`]. Only at a collector.
    ///
    /// A ledger without room must not refuse an injection but report its outcome later. If the collector dropped
    /// and forgot it, every copy in the mesh would come back as a new injection, over and over.
    pub fn record_outcome(&mut self, now: MonotonicTime, event: InjectionEvent, outcome: Outcome) {
        let outcome = shorten(outcome);
        let settled = self.settled_event(&event, &outcome);
        self.settle(now + INJECTION_RETENTION, event, outcome);
        self.outputs.push_back(Output::Broadcast(None, Message::Settled(vec![settled])));
    }

    /// Restores an injection that the ledger has held as `entry` for `age`. To be called oldest first.
    pub fn restore_committed(
        &mut self,
        now: MonotonicTime,
        event: InjectionEvent,
        entry: u64,
        age: Duration,
    ) {
        if let Some(remaining) = INJECTION_RETENTION.checked_sub(age) {
            self.settle(now + remaining, event, Outcome::Committed { entry });
        }
    }

    /// Drops expired injections and offers pending ones again. To be called about once a second or more often.
    pub fn tick(&mut self, now: MonotonicTime) {
        while self.expirations.front().is_some_and(|it| it.0 <= now) {
            self.forget_oldest();
        }
        self.buckets.retain(|_, bucket| !bucket.is_full(now));
        // A collected injection does not expire: the ledger will report its outcome, however long that takes.
        let expired: Vec<u64> = self
            .pending
            .iter()
            .filter_map(|(&at, it)| (!it.collected && it.age(now) >= INJECTION_TTL).then_some(at))
            .collect();
        for at in expired {
            self.counters.expired += 1;
            self.remove_pending(at);
        }
        if !self.pending.is_empty() && now >= self.next_offer {
            self.next_offer = now + self.offer_interval;
            self.offer_interval = (self.offer_interval * 2).min(MAX_OFFER_INTERVAL);
            self.offer_again(now);
        }
    }

    /// Offers pending injections to the operator, if linked, and to one other peer, round-robin.
    fn offer_again(&mut self, now: MonotonicTime) {
        let operators = self.peers.iter().filter(|it| it.1.is_operator()).map(|it| *it.0);
        let mut targets: Vec<LinkId> = operators.collect();
        let others: Vec<LinkId> =
            self.peers.iter().filter(|it| !it.1.is_operator()).map(|it| *it.0).collect();
        self.offer_round += 1;
        targets.extend(others.get((self.offer_round % (others.len() as u64).max(1)) as usize));
        for link in targets {
            self.offer(now, link);
        }
    }

    fn reset_offer_interval(&mut self, now: MonotonicTime) {
        self.offer_interval = MIN_OFFER_INTERVAL;
        self.next_offer = self.next_offer.min(now + MIN_OFFER_INTERVAL);
    }

    fn offer(&mut self, now: MonotonicTime, link: LinkId) {
        let to_wire = |it: &Pending| WireEvent::new(&it.event, millis(it.age(now)), &self.identity);
        // From each source in turn, oldest first: what comes first is what the other side still has room for.
        let mut turns: BTreeMap<&Source, u64> = BTreeMap::new();
        let mut fair: Vec<(u64, &Pending)> = vec![];
        for pending in self.pending.values() {
            let turn = turns.entry(&pending.source).or_default();
            *turn += 1;
            fair.push((*turn, pending));
        }
        fair.sort_by_key(|it| it.0);
        let events: Vec<WireEvent> = fair.into_iter().take(MAX_OFFERED).map(|it| to_wire(it.1)).collect();
        self.outputs.extend(Message::events(events).into_iter().map(|message| Output::Send(link, message)));
    }

    /// Whether there is room for one more pending injection from `source`.
    fn has_room(&self, source: &Source) -> bool {
        let own = self.sources.get(source).copied().unwrap_or_default();
        has_share(own, 1, self.pending.len(), self.limits.pending)
            && self.memory.as_ref().is_none_or(|memory| memory.has_room(PENDING_BYTES))
    }

    /// Takes tokens of `peer`; false if it has too few.
    fn take_tokens(&mut self, now: MonotonicTime, peer: &Identity, kind: Kind, count: u32) -> bool {
        let rate = if kind == Kind::All { FLOOD } else { self.limits.new };
        self.buckets.entry((peer.clone(), kind)).or_default().take(now, count, rate)
    }

    fn remove_pending(&mut self, at: u64) {
        let Some(Pending { event, source, .. }) = self.pending.remove(&at) else { return };
        self.arrivals.remove(&event.id);
        if let Some(count) = self.sources.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.sources.remove(&source);
            }
        }
        if let Some(memory) = &mut self.memory {
            memory.give_back(PENDING_BYTES);
        }
    }

    fn add_pending(&mut self, now: MonotonicTime, event: InjectionEvent, age: Duration, source: Source) {
        *self.sources.entry(source.clone()).or_default() += 1;
        if let Some(memory) = &mut self.memory {
            memory.take(PENDING_BYTES);
        }
        if self.pending.is_empty() {
            self.next_offer = now + MIN_OFFER_INTERVAL;
        }
        self.last_arrival += 1;
        self.arrivals.insert(event.id.clone(), self.last_arrival);
        let collected = self.memory.is_some();
        let pending = Pending { event: event.clone(), arrived: now, age_at_arrival: age, source, collected };
        self.pending.insert(self.last_arrival, pending);
        self.reset_offer_interval(now);
        self.outputs.push_back(Output::FirstSeen(event.clone()));
        if collected {
            self.outputs.push_back(Output::Collect(event));
        }
    }

    fn receive_events(
        &mut self,
        now: MonotonicTime,
        link: LinkId,
        sender: &Identity,
        events: Vec<WireEvent>,
    ) -> Result<(), Violation> {
        let (mut forward, mut replies) = (vec![], vec![]);
        // A message may name one id many times: it is answered once.
        let mut answered = BTreeSet::new();
        for event in events {
            let age = Duration::from_millis(event.age);
            let (source, kind) = match event.origin {
                None => (Source::Origin(sender.clone()), Kind::Own),
                Some(_) => (Source::Forwarded, Kind::Forwarded),
            };
            let event = self.authenticate(sender, event)?;
            if let Some(Settled { payload, outcome }) = self.settled.get(&event.id) {
                self.counters.known += 1;
                if answered.insert(event.id.clone()) {
                    let event = InjectionEvent { payload: *payload, ..event };
                    replies.push(self.settled_event(&event, outcome));
                }
            } else if self.arrivals.contains_key(&event.id) {
                self.counters.known += 1;
            } else if age >= INJECTION_TTL {
                self.counters.expired += 1;
            } else if self.memory.is_some()
                && let Err(reason) = event.payload.validate(self.injectable)
            {
                // Nothing to remember: the same rule refuses each copy, and its sender spreads the outcome.
                if answered.insert(event.id.clone()) {
                    let refused = Outcome::Refused { reason };
                    replies.push(self.settled_event(&event, &refused));
                    self.outputs.push_back(Output::Settled(event, refused));
                }
            } else if !self.has_room(&source) {
                self.counters.full += 1;
            } else if !self.take_tokens(now, sender, kind, 1) {
                self.counters.limited += 1;
            } else {
                forward.push(WireEvent::new(&event, millis(age), &self.identity));
                self.add_pending(now, event, age, source);
            }
        }
        self.outputs.extend(Message::settled(replies).into_iter().map(|message| Output::Send(link, message)));
        self.forward(link, Message::events(forward));
        Ok(())
    }

    fn receive_settled(
        &mut self,
        now: MonotonicTime,
        link: LinkId,
        sender: &Identity,
        settled: Vec<SettledEvent>,
    ) -> Result<(), Violation> {
        let mut forward = vec![];
        for SettledEvent { event, outcome } in settled {
            let event = self.authenticate(sender, event)?;
            // A collector learns outcomes from its ledger only.
            if self.memory.is_some() {
                continue;
            }
            let outcome = shorten(outcome);
            let pending = self.arrivals.contains_key(&event.id);
            let is_new = match (&outcome, self.settled.get(&event.id)) {
                (_, None) => true,
                // A collector may forget what it refused, and commit it on a retry.
                (Outcome::Committed { .. }, Some(before)) => {
                    matches!(before.outcome, Outcome::Refused { .. })
                }
                _ => false,
            };
            if !is_new {
                continue;
            }
            if !pending && !self.settled.contains_key(&event.id) {
                // Whoever still offers this injection gets its outcome as the reply.
                if !self.take_tokens(now, sender, Kind::Outcomes, 1) {
                    self.counters.limited += 1;
                    continue;
                }
                self.outputs.push_back(Output::FirstSeen(event.clone()));
            }
            forward.push(self.settled_event(&event, &outcome));
            self.settle(now + INJECTION_RETENTION, event, outcome);
            self.reset_offer_interval(now);
        }
        self.forward(link, Message::settled(forward));
        Ok(())
    }

    fn forward(&mut self, from: LinkId, messages: Vec<Message>) {
        self.outputs.extend(messages.into_iter().map(|message| Output::Broadcast(Some(from), message)));
    }

    fn settled_event(&self, event: &InjectionEvent, outcome: &Outcome) -> SettledEvent {
        SettledEvent { event: WireEvent::new(event, 0, &self.identity), outcome: outcome.clone() }
    }

    /// Fills in the origin and checks that `sender` may send this event.
    fn authenticate(&self, sender: &Identity, event: WireEvent) -> Result<InjectionEvent, Violation> {
        if event.origin.as_ref() == Some(sender) {
            // One form per event: the origin is absent when the certificate proves it.
            return Err(Violation::Protocol("event names its own sender as origin".into()));
        }
        let origin = event.origin.unwrap_or_else(|| sender.clone());
        let in_mesh = origin.organism().is_none_or(|organism| organism == self.organism)
            && origin.trust_domain() == self.identity.trust_domain();
        if !in_mesh {
            return Err(Violation::Protocol(format!("event of {origin}, which is not in this mesh")));
        }
        // Peers can have different injectable ranges while a change rolls out; only the collector's counts.
        let any = Injectable { min: f64::MIN, max: f64::MAX };
        event
            .payload
            .validate(any)
            .map_err(|reason| Violation::Protocol(format!("invalid injection: {reason}")))?;
        Ok(InjectionEvent { id: event.id, origin, seq: event.seq, payload: event.payload })
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
