//! A running peer: the [`Gossip`] state machine with sockets and a clock.
//!
//! One task owns the state. Links, clients and the ledger talk to it through channels. The channels of links and
//! clients are bounded by their capacity, those to and from the ledger by the number of pending injections.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::dial::{self, DialPolicy};
use super::event::{Injectable, InjectionEvent, InjectionId, InjectionPayload, Outcome};
use super::gossip::{Counters, Gossip, InjectError, InjectionStatus, Limits, Output, Violation};
use super::identity::Credentials;
use super::link::{LinkEvent, LinkLimits, Links};
use super::metrics::{Metrics, RefusalReason};
use super::queue::{DeliveryQueue, Outboxes, Recipients};
use super::shares::CollectorMemory;
use super::wire::Message;

/// Capacity of the channel from links. A full channel makes links stop reading. A message of a hostile peer takes some
/// hundred KiB in memory.
const LINK_EVENTS: usize = 32;
/// The same of a collector, which an operator has a thousand of.
const COLLECTOR_LINK_EVENTS: usize = 4;
/// Capacity of the channel from clients.
const REQUESTS: usize = 256;
/// Maximum number of ids whose outcome clients wait for.
const MAX_AWAITED: usize = 10_000;
/// With this many queued deliveries the peer accepts no more injections.
const OVERLOAD_THRESHOLD: usize = 4_096;
const TICK: Duration = Duration::from_millis(250);
/// Longer for collectors: an operator runs up to a thousand of them, and they have nothing to offer.
const COLLECTOR_TICK: Duration = Duration::from_secs(1);
/// How long a stopping peer tries to deliver what is queued.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

/// Configuration of a peer.
pub struct Options {
    /// The peer's credentials. A new value, with the same identity, is used for new links.
    pub credentials: watch::Receiver<Credentials>,
    /// Addresses of the mesh's peers. The peer's own address may be among them.
    pub addresses: watch::Receiver<Vec<SocketAddr>>,
    /// Which of the addresses to dial.
    pub dial: DialPolicy,
    /// Listener for inbound links; `None` to dial only.
    pub listener: Option<TcpListener>,
    /// Weights that clients may inject here.
    pub injectable: Injectable,
    /// Metrics, possibly shared with other meshes.
    pub metrics: Arc<Metrics>,
    /// Limits and timeouts of links.
    pub limits: LinkLimits,
    /// Whether deliveries have the mission's delays.
    pub paced: bool,
}

/// An injection that is in the ledger.
#[derive(Clone, Debug)]
pub struct CommittedInjection {
    /// The injection.
    pub event: InjectionEvent,
    /// Index of its ledger entry.
    pub entry: u64,
    /// Time since it was recorded.
    pub age: Duration,
}

enum Request {
    Inject(InjectionId, InjectionPayload, oneshot::Sender<Result<Ticket, InjectError>>),
    Status(InjectionId, oneshot::Sender<Option<InjectionStatus>>),
    Stop(oneshot::Sender<()>),
}

/// The state of an injection that a peer accepted.
#[derive(Debug)]
pub enum Ticket {
    /// A retry of an injection whose outcome is known.
    Settled(Outcome),
    /// The channel receives the outcome. It closes without one when the injection expires or the peer stops.
    Pending(oneshot::Receiver<Outcome>),
}

/// Handle of a running peer. The peer ends on [`Mesh::stop`], or when all handles are dropped.
#[derive(Clone, Debug)]
pub struct Mesh {
    requests: mpsc::Sender<Request>,
    local_addr: Option<SocketAddr>,
    links: watch::Receiver<usize>,
    dial_failure: watch::Receiver<String>,
}

/// The ledger's end of a collector: yields each injection once.
#[derive(Debug)]
pub struct InjectionReceiver {
    injections: mpsc::UnboundedReceiver<InjectionEvent>,
    outcomes: OutcomeSender,
}

/// Reports the outcomes of injections from the ledger to the mesh.
#[derive(Clone, Debug)]
pub struct OutcomeSender(mpsc::UnboundedSender<(InjectionEvent, Outcome)>);

impl OutcomeSender {
    /// A sender and its receiving end.
    #[must_use]
    pub fn channel() -> (Self, mpsc::UnboundedReceiver<(InjectionEvent, Outcome)>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }

    /// Reports an outcome; `Committed` only once the entry is durable. Ignored if the peer has ended.
    pub fn send(&self, event: InjectionEvent, outcome: Outcome) {
        let _ = self.0.send((event, outcome));
    }
}

impl InjectionReceiver {
    /// Waits for the next injection to record; `None` once the peer has ended.
    pub async fn next(&mut self) -> Option<InjectionEvent> {
        self.injections.recv().await
    }

    /// The sender for the outcomes of these injections.
    #[must_use]
    pub fn outcomes(&self) -> OutcomeSender {
        self.outcomes.clone()
    }
}

impl Mesh {
    /// Joins a mesh as a node. Needs a tokio runtime.
    ///
    /// # Errors
    /// The listener has no address, or the system cannot start a thread.
    pub fn join(options: Options) -> std::io::Result<Self> {
        Ok(start(options, None)?.0)
    }

    /// Joins a mesh as the collector, which holds the ledger. Needs a tokio runtime.
    ///
    /// `committed` are all injections that the ledger recorded within the last
    /// [`INJECTION_RETENTION`](super::INJECTION_RETENTION), oldest first. Without them a retry would be recorded
    /// a second time. All collectors of a process share `memory`.
    ///
    /// # Errors
    /// The listener has no address, or the system cannot start a thread.
    pub fn join_as_collector(
        options: Options,
        committed: Vec<CommittedInjection>,
        memory: Arc<CollectorMemory>,
    ) -> std::io::Result<(Self, InjectionReceiver)> {
        let (sender, injections) = mpsc::unbounded_channel();
        let (mesh, outcomes) = start(options, Some(LedgerSide { injections: sender, committed, memory }))?;
        Ok((mesh, InjectionReceiver { injections, outcomes }))
    }

    /// The address of the listener, if the peer has one.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.local_addr
    }

    /// The number of links that are up.
    #[must_use]
    pub fn links(&self) -> watch::Receiver<usize> {
        self.links.clone()
    }

    /// Address and reason of the last dial that failed, for [`DialPolicy::OnePeer`]; empty before one.
    #[must_use]
    pub fn dial_failure(&self) -> String {
        self.dial_failure.borrow().clone()
    }

    /// Injects through this peer.
    ///
    /// # Errors
    /// [`InjectError`]; `Overloaded` also if the peer has stopped, since a retry at another one can succeed.
    pub async fn inject(&self, id: InjectionId, payload: InjectionPayload) -> Result<Ticket, InjectError> {
        let (reply, response) = oneshot::channel();
        let sent = self.requests.send(Request::Inject(id, payload, reply)).await;
        sent.map_err(|_| InjectError::Overloaded)?;
        response.await.unwrap_or(Err(InjectError::Overloaded))
    }

    /// Returns the status of an injection; `None` if the id is unknown to this peer.
    pub async fn status(&self, id: InjectionId) -> Option<InjectionStatus> {
        let (reply, response) = oneshot::channel();
        self.requests.send(Request::Status(id, reply)).await.ok()?;
        response.await.ok().flatten()
    }

    /// Delivers what is queued, closes all links and ends the peer.
    pub async fn stop(&self) {
        let (reply, stopped) = oneshot::channel();
        if self.requests.send(Request::Stop(reply)).await.is_ok() {
            let _ = stopped.await;
        }
    }
}

/// What makes a peer a collector.
struct LedgerSide {
    injections: mpsc::UnboundedSender<InjectionEvent>,
    committed: Vec<CommittedInjection>,
    memory: Arc<CollectorMemory>,
}

fn start(options: Options, ledger: Option<LedgerSide>) -> std::io::Result<(Mesh, OutcomeSender)> {
    let local_addr = options.listener.as_ref().map(TcpListener::local_addr).transpose()?;
    let outboxes = Arc::new(Outboxes::default());
    let delivery = match options.paced {
        true => DeliveryQueue::paced(outboxes.clone())?,
        false => DeliveryQueue::immediate(outboxes.clone()),
    };
    let capacity = if ledger.is_some() { COLLECTOR_LINK_EVENTS } else { LINK_EVENTS };
    let (event_sender, link_events) = mpsc::channel(capacity);
    let credentials = options.credentials.borrow().clone();
    let listen_port = local_addr.map(|it| it.port());
    let metrics = options.metrics.clone();
    let links = Links::new(options.credentials, options.limits, metrics, listen_port, outboxes, event_sender);
    let links = Arc::new(links);
    let mut gossip = Gossip::new(
        credentials.identity,
        &credentials.organism,
        ledger.as_ref().map(|it| it.memory.clone()),
        options.injectable,
        Limits::default(),
    );
    let started = Instant::now();
    let (injections, committed) = ledger.map_or((None, vec![]), |it| (Some(it.injections), it.committed));
    for CommittedInjection { event, entry, age } in committed {
        gossip.restore_committed(Duration::ZERO, event, entry, age);
    }
    // What was restored is not news to anyone.
    while gossip.poll_output().is_some() {}
    if let Some(listener) = options.listener {
        tokio::spawn(dial::accept_loop(links.clone(), listener));
    }
    let (failure, dial_failure) = watch::channel(String::new());
    tokio::spawn(dial::dial_loop(links.clone(), options.dial, options.addresses, failure));
    let (requests, request_receiver) = mpsc::channel(REQUESTS);
    let (outcome_sender, outcomes) = OutcomeSender::channel();
    let (link_count, link_counts) = watch::channel(0);
    let task = PeerTask {
        gossip,
        started,
        delivery,
        links,
        metrics: options.metrics,
        injections,
        awaited: BTreeMap::new(),
        reported: Reported::default(),
        links_up: link_count,
    };
    tokio::spawn(task.run(link_events, request_receiver, outcomes));
    let mesh = Mesh { requests, local_addr, links: link_counts, dial_failure };
    Ok((mesh, outcome_sender))
}

struct PeerTask {
    gossip: Gossip,
    started: Instant,
    delivery: DeliveryQueue,
    links: Arc<Links>,
    metrics: Arc<Metrics>,
    /// To the ledger; only at a collector.
    injections: Option<mpsc::UnboundedSender<InjectionEvent>>,
    /// Clients that wait for the outcome of an id.
    awaited: BTreeMap<InjectionId, Vec<(InjectionPayload, oneshot::Sender<Outcome>)>>,
    reported: Reported,
    /// Number of links that are up.
    links_up: watch::Sender<usize>,
}

/// This peer's share of metrics that other meshes may share: only differences can be added.
#[derive(Default)]
struct Reported {
    pending: i64,
    queue: i64,
    counters: Counters,
    dropped: u64,
}

impl PeerTask {
    async fn run(
        mut self,
        mut link_events: mpsc::Receiver<LinkEvent>,
        mut requests: mpsc::Receiver<Request>,
        mut outcomes: mpsc::UnboundedReceiver<(InjectionEvent, Outcome)>,
    ) {
        let mut tick = interval(if self.injections.is_some() { COLLECTOR_TICK } else { TICK });
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut stopped = None;
        loop {
            let now = self.started.elapsed();
            tokio::select! {
                Some(event) = link_events.recv() => self.handle_link_event(event),
                Some((event, outcome)) = outcomes.recv() => self.gossip.record_outcome(now, event, outcome),
                request = requests.recv() => match request {
                    Some(Request::Stop(reply)) => {
                        stopped = Some(reply);
                        break;
                    }
                    Some(request) => self.handle_request(request),
                    None => break,
                },
                _ = tick.tick() => {
                    self.gossip.tick(now);
                    self.remove_closed_tickets();
                    self.report_metrics();
                }
            }
            self.process_outputs();
        }
        self.shut_down(link_events).await;
        // Ends the wait in `Mesh::stop`.
        drop(stopped);
    }

    fn handle_link_event(&mut self, event: LinkEvent) {
        let now = self.started.elapsed();
        match event {
            LinkEvent::Up(link, identity) => self.gossip.connected(now, link, &identity),
            LinkEvent::CaughtUp(link) => self.gossip.caught_up(now, link),
            LinkEvent::Down(link) => self.gossip.disconnected(link),
            LinkEvent::Message(link, source, message) => {
                if let Err(violation) = self.gossip.receive(now, link, message) {
                    let reason = match violation {
                        Violation::Protocol(_) => RefusalReason::ProtocolViolation,
                        Violation::Flood => RefusalReason::Flood,
                    };
                    self.links.abort(link, source, reason, &violation.to_string());
                    // What it sent before its link is down is ignored.
                    self.gossip.disconnected(link);
                }
            }
        }
        let count = self.gossip.links();
        self.links_up.send_if_modified(|before| std::mem::replace(before, count) != count);
    }

    fn handle_request(&mut self, request: Request) {
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
        if self.awaited.len() >= MAX_AWAITED || self.delivery.queued() >= OVERLOAD_THRESHOLD {
            return Err(InjectError::Overloaded);
        }
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        match self.gossip.inject(self.started.elapsed(), wall, id.clone(), payload)? {
            InjectionStatus::Settled(outcome) => Ok(Ticket::Settled(outcome)),
            InjectionStatus::Pending => {
                let (sender, ticket) = oneshot::channel();
                self.awaited.entry(id).or_default().push((payload, sender));
                Ok(Ticket::Pending(ticket))
            }
        }
    }

    fn process_outputs(&mut self) {
        while let Some(output) = self.gossip.poll_output() {
            match output {
                Output::Send(link, message) => self.send(Recipients::One(link), &message),
                Output::Broadcast(except, message) => self.send(Recipients::AllExcept(except), &message),
                Output::Collect(event) => {
                    // If the ledger's end is gone, this process is about to stop. The injection stays pending at
                    // other peers, and the next collector gets it.
                    if let Some(ledger) = &self.injections {
                        let _ = ledger.send(event);
                    }
                }
                Output::FirstSeen(event) => self.metrics.injection_seen(event.payload),
                Output::Settled(event, outcome) => {
                    self.metrics.injection_settled(&outcome);
                    self.notify_clients(&event, &outcome);
                }
            }
        }
    }

    fn notify_clients(&mut self, event: &InjectionEvent, outcome: &Outcome) {
        for (payload, ticket) in self.awaited.remove(&event.id).into_iter().flatten() {
            // Two clients can use one id at two peers at the same time. Only one payload was recorded.
            let outcome = if payload == event.payload {
                outcome.clone()
            } else {
                Outcome::Refused { reason: "the id was used for another injection; use a new id".into() }
            };
            let _ = ticket.send(outcome);
        }
    }

    fn send(&self, recipients: Recipients, message: &Message) {
        self.delivery.send(recipients, message.encode());
    }

    fn remove_closed_tickets(&mut self) {
        self.awaited.retain(|_, tickets| {
            tickets.retain(|(_, ticket)| !ticket.is_closed());
            !tickets.is_empty()
        });
    }

    fn report_metrics(&mut self) {
        let to_gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let current = Reported {
            pending: to_gauge(self.gossip.pending()),
            queue: to_gauge(self.delivery.queued()),
            counters: self.gossip.counters(),
            dropped: self.delivery.dropped(),
        };
        let previous = std::mem::replace(&mut self.reported, current);
        let current = &self.reported;
        self.metrics.pending.add(current.pending - previous.pending);
        self.metrics.queue.add(current.queue - previous.queue);
        self.metrics.full.inc_by(current.counters.full - previous.counters.full);
        self.metrics.limited.inc_by(current.counters.limited - previous.counters.limited);
        self.metrics.expired.inc_by(current.counters.expired - previous.counters.expired);
        self.metrics.dropped.inc_by(current.dropped - previous.dropped);
        let expiry = self.links.credentials.borrow().not_after;
        let expiry = expiry.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.metrics.certificate.set(expiry.as_secs_f64());
    }

    /// Delivers what is queued and closes all links. Messages that still come in are ignored.
    async fn shut_down(self, mut link_events: mpsc::Receiver<LinkEvent>) {
        self.links.stop.cancel();
        let deadline = Instant::now() + SHUTDOWN_TIMEOUT;
        while self.delivery.queued() > 0 && Instant::now() < deadline {
            sleep(Duration::from_millis(1)).await;
        }
        self.links.close_all();
        while self.links.count() > 0 && Instant::now() < deadline {
            tokio::select! {
                _ = link_events.recv() => {}
                () = sleep(Duration::from_millis(10)) => {}
            }
        }
        self.metrics.pending.sub(self.reported.pending);
        self.metrics.queue.sub(self.reported.queue);
    }
}
