//! One peer of a mesh: [`Gossip`] with sockets and a clock.
//!
//! One task owns the state; links, doors and the ledger talk to it over channels, all of them bounded: links
//! by the channel, answers and collected injections by what may be pending.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::dial::{self, DialPolicy};
use super::event::{Injectable, InjectionEvent, InjectionId, InjectionPayload, Outcome};
use super::gossip::{Counters, Gossip, InjectError, InjectionStatus, Limits, Output};
use super::identity::Credentials;
use super::link::{Bounds, LinkEvent, Links};
use super::metrics::Metrics;
use super::queue::{Delivery, Outboxes, To};
use super::wire::Message;

/// Messages of links that may wait for the peer; then the links wait.
const MESSAGES: usize = 1024;
/// Requests at the door that may wait.
const REQUESTS: usize = 256;
/// Clients that may wait for an outcome.
const WAITING: usize = 10_000;
/// Above so many waiting deliveries this peer takes no more in.
const CROWDED: usize = 4_096;
const TICK: Duration = Duration::from_millis(250);
/// An operator holds a thousand ledgers, and has nothing to offer.
const COLLECTOR_TICK: Duration = Duration::from_secs(1);
/// How long a peer that stops goes on delivering.
const FAREWELL: Duration = Duration::from_secs(3);

/// How a peer takes part in a mesh.
pub struct Options {
    /// Who it is; a new value is a new certificate of the same name, and is used for new links.
    pub credentials: watch::Receiver<Credentials>,
    /// Addresses of peers, its own may be among them.
    pub addresses: watch::Receiver<Vec<SocketAddr>>,
    /// Whom of these to dial.
    pub dial: DialPolicy,
    /// Where peers are let in.
    pub listener: Option<TcpListener>,
    /// Weights that may be injected.
    pub injectable: Injectable,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Bounds of links.
    pub bounds: Bounds,
    /// Whether the mission's delays lie between deliveries.
    pub paced: bool,
}

/// An injection that a ledger holds already.
#[derive(Clone, Debug)]
pub struct CommittedInjection {
    /// The injection.
    pub event: InjectionEvent,
    /// Its entry.
    pub entry: u64,
    /// How long ago it was recorded.
    pub age: Duration,
}

enum Request {
    Inject(InjectionId, InjectionPayload, oneshot::Sender<Result<Ticket, InjectError>>),
    Status(InjectionId, oneshot::Sender<Option<InjectionStatus>>),
    Stop(oneshot::Sender<()>),
}

/// How an injection stands that was just asked for.
#[derive(Debug)]
pub enum Ticket {
    /// Settled before: a retry.
    Settled(Outcome),
    /// Under way; the outcome will come here, unless it takes so long that nobody knows of it any more.
    Pending(oneshot::Receiver<Outcome>),
}

/// A peer of a mesh, to be asked. It ends when told to, or when all of these are gone.
#[derive(Clone, Debug)]
pub struct Mesh {
    requests: mpsc::Sender<Request>,
    listening: Option<SocketAddr>,
}

/// The ledger's side of a peer that is a collector.
#[derive(Debug)]
pub struct InjectionReceiver {
    events: mpsc::UnboundedReceiver<InjectionEvent>,
    answers: OutcomeSender,
}

/// Where the ledger says what became of injections.
#[derive(Clone, Debug)]
pub struct OutcomeSender(mpsc::UnboundedSender<(InjectionEvent, Outcome)>);

impl OutcomeSender {
    /// Answers, and where they come out.
    #[must_use]
    pub fn channel() -> (Self, mpsc::UnboundedReceiver<(InjectionEvent, Outcome)>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }

    /// What became of an injection. `Committed` only once the entry is in the ledger for good.
    pub fn send(&self, event: InjectionEvent, outcome: Outcome) {
        // Where the peer has gone there is nobody to tell.
        let _ = self.0.send((event, outcome));
    }
}

impl InjectionReceiver {
    /// The next injection for the ledger; each comes once. Nothing when the peer has ended.
    pub async fn next(&mut self) -> Option<InjectionEvent> {
        self.events.recv().await
    }

    /// Where to answer.
    #[must_use]
    pub fn outcomes(&self) -> OutcomeSender {
        self.answers.clone()
    }
}

impl Mesh {
    /// Joins as a node. Needs a tokio runtime.
    ///
    /// # Errors
    /// When the system gives no thread or socket.
    pub fn join(options: Options) -> std::io::Result<Self> {
        Ok(start(options, None)?.0)
    }

    /// Joins as the collector, the one that holds the ledger, which knows the injections `known` already:
    /// all of the last [`INJECTION_RETENTION`](super::gossip::INJECTION_RETENTION), oldest first.
    ///
    /// # Errors
    /// When the system gives no thread or socket.
    pub fn join_as_collector(
        options: Options,
        known: Vec<CommittedInjection>,
    ) -> std::io::Result<(Self, InjectionReceiver)> {
        let (events, collected) = mpsc::unbounded_channel();
        let (mesh, answers) = start(options, Some((events, known)))?;
        Ok((mesh, InjectionReceiver { events: collected, answers }))
    }

    /// Where peers are let in.
    #[must_use]
    pub fn listening(&self) -> Option<SocketAddr> {
        self.listening
    }

    /// Injects.
    ///
    /// # Errors
    /// [`InjectError`].
    pub async fn inject(&self, id: InjectionId, payload: InjectionPayload) -> Result<Ticket, InjectError> {
        let (reply, told) = oneshot::channel();
        // A peer that has ended takes nothing in, and says so like a full one: try again elsewhere.
        self.requests.send(Request::Inject(id, payload, reply)).await.map_err(|_| InjectError::Overloaded)?;
        told.await.unwrap_or(Err(InjectError::Overloaded))
    }

    /// How an injection stands, where that is known.
    pub async fn status(&self, id: InjectionId) -> Option<InjectionStatus> {
        let (reply, told) = oneshot::channel();
        self.requests.send(Request::Status(id, reply)).await.ok()?;
        told.await.ok().flatten()
    }

    /// Delivers what waits, ends all links, and ends.
    pub async fn stop(&self) {
        let (reply, told) = oneshot::channel();
        if self.requests.send(Request::Stop(reply)).await.is_ok() {
            let _ = told.await;
        }
    }
}

type Ledger = (mpsc::UnboundedSender<InjectionEvent>, Vec<CommittedInjection>);

fn start(options: Options, ledger: Option<Ledger>) -> std::io::Result<(Mesh, OutcomeSender)> {
    let listening = options.listener.as_ref().map(TcpListener::local_addr).transpose()?;
    let outboxes = Arc::new(Outboxes::default());
    let delivery = match options.paced {
        true => Delivery::paced(outboxes.clone())?,
        false => Delivery::at_once(outboxes.clone()),
    };
    let (events, messages) = mpsc::channel(MESSAGES);
    let credentials = options.credentials.borrow().clone();
    let port = listening.map(|it| it.port());
    let metrics = options.metrics.clone();
    let links = Links::new(options.credentials, options.bounds, metrics, port, outboxes, events);
    let links = Arc::new(links);
    let mut gossip = Gossip::new(
        credentials.identity,
        &credentials.organism,
        ledger.is_some(),
        options.injectable,
        Limits::default(),
    );
    let started = Instant::now();
    let (collected, known) = ledger.map_or((None, vec![]), |(collected, known)| (Some(collected), known));
    for CommittedInjection { event, entry, age } in known {
        gossip.restore_committed(Duration::ZERO, event, entry, age);
    }
    while gossip.poll_output().is_some() {}
    if let Some(listener) = options.listener {
        tokio::spawn(dial::listen(links.clone(), listener));
    }
    tokio::spawn(dial::dial(links.clone(), options.dial, options.addresses));
    let (requests, asked) = mpsc::channel(REQUESTS);
    let (answers, answered) = OutcomeSender::channel();
    let peer = Peer {
        gossip,
        started,
        delivery,
        links,
        metrics: options.metrics,
        collected,
        waiting: BTreeMap::new(),
        shown: Shown::default(),
    };
    tokio::spawn(peer.run(messages, asked, answered));
    Ok((Mesh { requests, listening }, answers))
}

struct Peer {
    gossip: Gossip,
    started: Instant,
    delivery: Delivery,
    links: Arc<Links>,
    metrics: Arc<Metrics>,
    collected: Option<mpsc::UnboundedSender<InjectionEvent>>,
    waiting: BTreeMap<InjectionId, Vec<(InjectionPayload, oneshot::Sender<Outcome>)>>,
    shown: Shown,
}

/// What this peer has added to metrics that it may share with others.
#[derive(Default)]
struct Shown {
    pending: i64,
    queue: i64,
    counts: Counters,
    dropped: u64,
}

impl Peer {
    async fn run(
        mut self,
        mut messages: mpsc::Receiver<LinkEvent>,
        mut asked: mpsc::Receiver<Request>,
        mut answered: mpsc::UnboundedReceiver<(InjectionEvent, Outcome)>,
    ) {
        let mut tick = interval(if self.collected.is_some() { COLLECTOR_TICK } else { TICK });
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut told = None;
        loop {
            let now = self.started.elapsed();
            tokio::select! {
                Some(event) = messages.recv() => self.link(event),
                Some((event, outcome)) = answered.recv() => self.gossip.record_outcome(now, event, outcome),
                request = asked.recv() => match request {
                    Some(Request::Stop(reply)) => {
                        told = Some(reply);
                        break;
                    }
                    Some(request) => self.request(request),
                    None => break,
                },
                _ = tick.tick() => {
                    self.gossip.tick(now);
                    self.show();
                }
            }
            self.work();
        }
        self.farewell(messages).await;
        drop(told);
    }

    fn link(&mut self, event: LinkEvent) {
        let now = self.started.elapsed();
        match event {
            LinkEvent::Up(peer, identity) => self.gossip.connected(now, peer, &identity),
            LinkEvent::Whole(peer) => self.gossip.caught_up(now, peer),
            LinkEvent::Down(peer) => self.gossip.disconnected(peer),
            LinkEvent::Message(peer, source, message) => {
                if let Err(violation) = self.gossip.receive(now, peer, message) {
                    self.links.break_off(peer, source, &violation.0);
                }
            }
        }
    }

    fn request(&mut self, request: Request) {
        match request {
            Request::Inject(id, payload, reply) => {
                let ticket = self.inject(id, payload);
                let _ = reply.send(ticket);
            }
            Request::Status(id, reply) => {
                let _ = reply.send(self.gossip.status(&id));
            }
            Request::Stop(_) => {}
        }
    }

    fn inject(&mut self, id: InjectionId, payload: InjectionPayload) -> Result<Ticket, InjectError> {
        let waiting: usize = self.waiting.len();
        if waiting >= WAITING || self.delivery.waiting() >= CROWDED {
            return Err(InjectError::Overloaded);
        }
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        match self.gossip.inject(self.started.elapsed(), wall, id.clone(), payload)? {
            InjectionStatus::Settled(outcome) => Ok(Ticket::Settled(outcome)),
            InjectionStatus::Pending => {
                let (outcome, ticket) = oneshot::channel();
                self.waiting.entry(id).or_default().push((payload, outcome));
                Ok(Ticket::Pending(ticket))
            }
        }
    }

    /// Does what the state says is to be done.
    fn work(&mut self) {
        while let Some(output) = self.gossip.poll_output() {
            match output {
                Output::Send(peer, message) => self.send(To::One(peer), &message),
                Output::Broadcast(except, message) => self.send(To::AllBut(except), &message),
                Output::Collect(event) => {
                    // Where the ledger has gone, the injection goes on being offered to others.
                    if let Some(ledger) = &self.collected {
                        let _ = ledger.send(event);
                    }
                }
                Output::FirstSeen(event) => self.metrics.hear(event.payload),
                Output::Settled(event, outcome) => {
                    self.metrics.settle(&outcome);
                    for (payload, ticket) in self.waiting.remove(&event.id).into_iter().flatten() {
                        let used = "the id was used for another injection; make a new one";
                        let other = || Outcome::Refused { reason: used.into() };
                        let _ = ticket.send(if payload == event.payload { outcome.clone() } else { other() });
                    }
                }
            }
        }
    }

    fn send(&self, to: To, message: &Message) {
        self.delivery.send(to, message.encode());
    }

    fn show(&mut self) {
        self.waiting.retain(|_, tickets| {
            tickets.retain(|(_, ticket)| !ticket.is_closed());
            !tickets.is_empty()
        });
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let now = Shown {
            pending: number(self.gossip.pending()),
            queue: number(self.delivery.waiting()),
            counts: self.gossip.counters(),
            dropped: self.delivery.dropped(),
        };
        let was = std::mem::replace(&mut self.shown, now);
        let now = &self.shown;
        self.metrics.pending.add(now.pending - was.pending);
        self.metrics.queue.add(now.queue - was.queue);
        self.metrics.full.inc_by(now.counts.full - was.counts.full);
        self.metrics.expired.inc_by(now.counts.expired - was.counts.expired);
        self.metrics.dropped.inc_by(now.dropped - was.dropped);
        let expiry = self.links.credentials.borrow().not_after;
        let expiry = expiry.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.metrics.certificate.set(expiry.as_secs_f64());
    }

    /// Delivers what waits and ends the links; what peers still say falls on deaf ears.
    async fn farewell(self, mut messages: mpsc::Receiver<LinkEvent>) {
        self.links.stop.cancel();
        let until = Instant::now() + FAREWELL;
        while self.delivery.waiting() > 0 && Instant::now() < until {
            sleep(Duration::from_millis(1)).await;
        }
        self.links.close_all();
        while self.links.count() > 0 && Instant::now() < until {
            tokio::select! {
                _ = messages.recv() => {}
                () = sleep(Duration::from_millis(10)) => {}
            }
        }
        self.metrics.pending.sub(self.shown.pending);
        self.metrics.queue.sub(self.shown.queue);
    }
}
