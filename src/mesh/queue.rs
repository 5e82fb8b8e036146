//! Delivery: one first-in-first-out queue with the mission's adaptive delay, and a bounded outbox a link.
//!
//! Between two deliveries lies 0.3 ms where more than 100 wait, else 1 ms. A runtime's timers are too coarse
//! for that; a thread sleeps to deadlines, so that a late one makes the next pause shorter.
//!
//! A peer that does not read fills its own outbox and nobody else's. A full outbox is emptied, and what was in
//! it is offered again once the peer has read on: [`Outbox::next`] says when.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Notify;

use super::gossip::LinkId;

/// Deliveries that may wait; beyond it the peers that were to get more are behind.
const LONGEST_QUEUE: usize = 8_192;
/// Bytes that may wait in one outbox.
const FULL_OUTBOX: usize = 1024 * 1024;
/// Above so many waiting deliveries the shorter delay holds.
const CROWDED: usize = 100;
const CROWDED_DELAY: Duration = Duration::from_micros(300);
const DELAY: Duration = Duration::from_millis(1);
/// At most so much of a missed deadline is caught up with.
const CATCH_UP: Duration = Duration::from_millis(5);

/// The mission's pause between two deliveries while `waiting` wait.
#[must_use]
pub fn delay(waiting: usize) -> Duration {
    if waiting > CROWDED { CROWDED_DELAY } else { DELAY }
}

/// A panic elsewhere leaves what is behind a lock here as it was: whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The frames that wait for one link.
#[derive(Debug, Default)]
pub struct Outbox {
    state: Mutex<OutboxState>,
    ready: Notify,
}

#[derive(Debug, Default)]
struct OutboxState {
    frames: VecDeque<Bytes>,
    bytes: usize,
    behind: bool,
    closed: bool,
}

/// What a link's writer is to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Write these.
    Frames(VecDeque<Bytes>),
    /// The peer has read on after frames were dropped: all has to be offered again.
    Whole,
    /// Nothing more will come.
    Closed,
}

impl Outbox {
    /// Puts a frame in; false where it is full, which drops all that waits, or where the peer is behind.
    pub fn push(&self, frame: Bytes) -> bool {
        let mut state = lock(&self.state);
        if state.behind || state.closed {
            return false;
        }
        if state.bytes + frame.len() > FULL_OUTBOX {
            drop_all(&mut state);
        } else {
            state.bytes += frame.len();
            state.frames.push_back(frame);
        }
        let taken = !state.behind;
        drop(state);
        self.ready.notify_one();
        taken
    }

    /// Drops what waits: something that the peer was to get is lost.
    pub fn fall_behind(&self) {
        drop_all(&mut lock(&self.state));
        self.ready.notify_one();
    }

    /// What waits is still to be written, then the link is to end.
    pub fn close(&self) {
        lock(&self.state).closed = true;
        self.ready.notify_one();
    }

    /// Waits for something to do. Frames come all at once.
    pub async fn next(&self) -> Next {
        loop {
            {
                let mut state = lock(&self.state);
                if !state.frames.is_empty() {
                    state.bytes = 0;
                    return Next::Frames(std::mem::take(&mut state.frames));
                }
                if state.closed {
                    return Next::Closed;
                }
                if std::mem::take(&mut state.behind) {
                    return Next::Whole;
                }
            }
            self.ready.notified().await;
        }
    }
}

fn drop_all(state: &mut OutboxState) {
    state.frames.clear();
    state.bytes = 0;
    state.behind = true;
}

/// Outboxes of the links there are.
#[derive(Debug, Default)]
pub struct Outboxes(Mutex<BTreeMap<LinkId, Arc<Outbox>>>);

impl Outboxes {
    /// A link came up.
    pub fn add(&self, peer: LinkId, outbox: Arc<Outbox>) {
        lock(&self.0).insert(peer, outbox);
    }

    /// A link is gone.
    pub fn remove(&self, peer: LinkId) {
        lock(&self.0).remove(&peer);
    }

    fn each(&self, to: To, what: impl Fn(&Outbox)) {
        let outboxes = lock(&self.0);
        match to {
            To::One(peer) => outboxes.get(&peer).into_iter().for_each(|it| what(it)),
            To::AllBut(except) => {
                outboxes.iter().filter(|it| Some(*it.0) != except).for_each(|it| what(it.1));
            }
        }
    }
}

/// Who is to get a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// One peer.
    One(LinkId),
    /// All, except perhaps the one it came from.
    AllBut(Option<LinkId>),
}

/// The queue in front of all outboxes.
#[derive(Debug)]
pub struct Delivery {
    shared: Arc<Shared>,
    /// Nothing where frames are delivered at once.
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    outboxes: Arc<Outboxes>,
    queue: Mutex<Queue>,
    wake: Condvar,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<(To, Bytes)>,
    ended: bool,
}

/// One delivery.
struct Taken {
    to: To,
    frame: Bytes,
    /// How many wait behind it.
    behind: usize,
    /// The queue was empty before.
    waited: bool,
}

impl Shared {
    fn deliver(&self, to: To, frame: &Bytes) {
        self.outboxes.each(to, |outbox| {
            if !outbox.push(frame.clone()) {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        });
    }

    /// The next delivery; waits for one.
    fn take(&self) -> Option<Taken> {
        let mut queue = lock(&self.queue);
        let mut waited = false;
        loop {
            if let Some((to, frame)) = queue.waiting.pop_front() {
                return Some(Taken { to, frame, behind: queue.waiting.len(), waited });
            }
            if queue.ended {
                return None;
            }
            waited = true;
            queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Delivery {
    /// With the mission's delays, on a thread of its own.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn paced(outboxes: Arc<Outboxes>) -> std::io::Result<Self> {
        let shared = Arc::new(Shared { outboxes, ..Shared::default() });
        let run = {
            let shared = shared.clone();
            move || pace(|| shared.take(), |to, frame| shared.deliver(to, frame))
        };
        let builder = std::thread::Builder::new().name("venom-delivery".into()).stack_size(256 * 1024);
        Ok(Self { thread: Some(builder.spawn(run)?), shared })
    }

    /// Without delay and without a thread: for a collector, which hardly sends anything.
    #[must_use]
    pub fn at_once(outboxes: Arc<Outboxes>) -> Self {
        Self { shared: Arc::new(Shared { outboxes, ..Shared::default() }), thread: None }
    }

    /// Puts a frame into the queue. Never blocks: where the queue is full, those who were to get the frame are
    /// behind.
    pub fn send(&self, to: To, frame: Bytes) {
        if self.thread.is_none() {
            return self.shared.deliver(to, &frame);
        }
        let mut queue = lock(&self.shared.queue);
        if queue.waiting.len() < LONGEST_QUEUE {
            queue.waiting.push_back((to, frame));
            drop(queue);
            self.shared.wake.notify_one();
        } else {
            drop(queue);
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            self.shared.outboxes.each(to, Outbox::fall_behind);
        }
    }

    /// Deliveries that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        lock(&self.shared.queue).waiting.len()
    }

    /// Frames that a peer did not get because it was behind.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for Delivery {
    /// What waits is delivered; not waited for here.
    fn drop(&mut self) {
        lock(&self.shared.queue).ended = true;
        self.shared.wake.notify_one();
    }
}

/// Takes and delivers at the mission's pace until there is nothing more to take.
fn pace(mut take: impl FnMut() -> Option<Taken>, deliver: impl Fn(To, &Bytes)) {
    let mut deadline = Instant::now();
    while let Some(Taken { to, frame, behind, waited }) = take() {
        let now = Instant::now();
        std::thread::sleep(deadline.saturating_duration_since(now));
        deliver(to, &frame);
        // Where nothing waited there is nothing to catch up with.
        let earliest = if waited { Some(now) } else { now.checked_sub(CATCH_UP) };
        deadline = deadline.max(earliest.unwrap_or(now)) + delay(behind);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    fn outboxes(count: u64) -> (Arc<Outboxes>, Vec<Arc<Outbox>>) {
        let outboxes = Arc::new(Outboxes::default());
        let each: Vec<_> = (0..count)
            .map(|at| {
                let outbox = Arc::new(Outbox::default());
                outboxes.add(LinkId(at), outbox.clone());
                outbox
            })
            .collect();
        (outboxes, each)
    }

    #[test]
    fn the_missions_delays() {
        let micros: Vec<u128> = [0, 100, 101, 5_000].map(|waiting| delay(waiting).as_micros()).into();
        assert_eq!(micros, [1000, 1000, 300, 300]);
    }

    #[tokio::test]
    async fn all_but_the_sender_get_it_in_order() {
        let (boxes, each) = outboxes(3);
        let delivery = Delivery::paced(boxes).unwrap();
        for text in ["a", "b"] {
            delivery.send(To::AllBut(Some(LinkId(1))), frame(text));
        }
        delivery.send(To::One(LinkId(1)), frame("c"));
        drop(delivery);
        for (at, expected) in [(0, vec!["a", "b"]), (2, vec!["a", "b"]), (1, vec!["c"])] {
            let mut got = vec![];
            while got.len() < expected.len() {
                let Next::Frames(frames) = each[at].next().await else { panic!() };
                got.extend(frames);
            }
            assert_eq!(got, expected.into_iter().map(frame).collect::<Vec<_>>());
        }
    }

    /// A stalled peer: its outbox stays bounded, it is told when it reads on, the others get everything.
    #[tokio::test]
    async fn a_stalled_peer_harms_itself_only() {
        let (boxes, each) = outboxes(2);
        let delivery = Delivery::at_once(boxes);
        let big = Bytes::from(vec![0; 64 * 1024]);
        let mut got = 0;
        for _ in 0..100 {
            delivery.send(To::AllBut(None), big.clone());
            let Next::Frames(frames) = each[0].next().await else { panic!() };
            got += frames.len();
            assert!(lock(&each[1].state).bytes <= FULL_OUTBOX);
        }
        assert_eq!(got, 100);
        assert!(delivery.dropped() > 0);
        // It was emptied; what comes before it is whole again is not for it.
        assert_eq!(each[1].next().await, Next::Whole);
        delivery.send(To::AllBut(None), frame("after"));
        assert_eq!(each[1].next().await, Next::Frames([frame("after")].into()));
        each[1].close();
        assert_eq!(each[1].next().await, Next::Closed);
    }

    #[tokio::test]
    async fn a_full_queue_leaves_peers_behind_and_never_blocks() {
        let (boxes, each) = outboxes(1);
        let delivery = Delivery::paced(boxes).unwrap();
        for _ in 0..LONGEST_QUEUE + 1_000 {
            delivery.send(To::AllBut(None), frame("x"));
        }
        assert!(delivery.waiting() <= LONGEST_QUEUE);
        assert!(delivery.dropped() > 0);
        while !matches!(each[0].next().await, Next::Whole) {}
    }
}
