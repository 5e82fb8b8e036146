//! Message delivery: a first-in-first-out queue with the mission's adaptive delay, and a bounded outbox per link.
//!
//! Deliveries are 0.3 ms apart while more than 100 are queued, 1 ms apart otherwise. That is too fine for the
//! runtime's timers, so a thread sleeps to absolute deadlines: a late delivery shortens the next pause.
//!
//! A peer that stops reading fills its own outbox and blocks no other. An outbox that overflows is emptied and
//! closed to new frames until the peer reads again; [`OutboxItem::CaughtUp`] then tells the link to offer
//! everything anew.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Notify;

use super::gossip::LinkId;

/// Maximum number of queued deliveries. Beyond it, frames are dropped and their recipients marked as behind.
const MAX_QUEUED: usize = 8_192;
/// Maximum number of bytes in queued deliveries. Beyond it, the same.
const MAX_QUEUED_BYTES: usize = 8 * 1024 * 1024;
/// Maximum number of bytes in one outbox.
const MAX_OUTBOX_BYTES: usize = 1024 * 1024;
/// The shorter delay applies while more deliveries than this are queued.
const CONGESTION_THRESHOLD: usize = 100;
const CONGESTED_DELAY: Duration = Duration::from_micros(300);
const NORMAL_DELAY: Duration = Duration::from_millis(1);
/// How far deliveries may lag behind their deadlines and still catch up; more would make a burst.
const MAX_CATCH_UP: Duration = Duration::from_millis(5);

/// The mission's delay between two deliveries while `queued` are in the queue.
#[must_use]
pub fn delivery_delay(queued: usize) -> Duration {
    if queued > CONGESTION_THRESHOLD { CONGESTED_DELAY } else { NORMAL_DELAY }
}

/// Ignores poisoning: no critical section here leaves its data inconsistent when it panics.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The frames to be written to one link.
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

/// The next task of a link's writer.
#[derive(Debug, PartialEq, Eq)]
pub enum OutboxItem {
    /// Write these frames, in order.
    Frames(VecDeque<Bytes>),
    /// The writer has caught up after frames were dropped: the peer needs a new offer of everything.
    CaughtUp,
    /// No more frames will come: end the link.
    Closed,
}

impl Outbox {
    /// Queues a frame. Returns false if the peer does not get it: the outbox is closed, behind, or overflowed
    /// just now, which drops its other frames too.
    pub fn push(&self, frame: Bytes) -> bool {
        let mut state = lock(&self.state);
        if state.behind || state.closed {
            return false;
        }
        if state.bytes + frame.len() > MAX_OUTBOX_BYTES {
            drop_frames(&mut state);
        } else {
            state.bytes += frame.len();
            state.frames.push_back(frame);
        }
        let queued = !state.behind;
        drop(state);
        self.ready.notify_one();
        queued
    }

    /// Drops all frames, because the peer misses one anyway.
    pub fn mark_behind(&self) {
        drop_frames(&mut lock(&self.state));
        self.ready.notify_one();
    }

    /// Accepts no more frames. Those queued are still written, then the link ends.
    pub fn close(&self) {
        lock(&self.state).closed = true;
        self.ready.notify_one();
    }

    /// Waits for the writer's next task. Returns all queued frames at once.
    pub async fn next(&self) -> OutboxItem {
        loop {
            {
                let mut state = lock(&self.state);
                if !state.frames.is_empty() {
                    state.bytes = 0;
                    return OutboxItem::Frames(std::mem::take(&mut state.frames));
                }
                if state.closed {
                    return OutboxItem::Closed;
                }
                if std::mem::take(&mut state.behind) {
                    return OutboxItem::CaughtUp;
                }
            }
            self.ready.notified().await;
        }
    }
}

fn drop_frames(state: &mut OutboxState) {
    state.frames.clear();
    state.bytes = 0;
    state.behind = true;
}

/// The outboxes of all links that are up.
#[derive(Debug, Default)]
pub struct Outboxes(Mutex<BTreeMap<LinkId, Arc<Outbox>>>);

impl Outboxes {
    /// Adds the outbox of a new link.
    pub fn add(&self, link: LinkId, outbox: Arc<Outbox>) {
        lock(&self.0).insert(link, outbox);
    }

    /// Removes the outbox of a link, which gets no more frames.
    pub fn remove(&self, link: LinkId) {
        lock(&self.0).remove(&link);
    }

    fn for_each(&self, recipients: Recipients, action: impl Fn(&Outbox)) {
        let outboxes = lock(&self.0);
        match recipients {
            Recipients::One(link) => outboxes.get(&link).into_iter().for_each(|it| action(it)),
            Recipients::AllExcept(except) => {
                outboxes.iter().filter(|it| Some(*it.0) != except).for_each(|it| action(it.1));
            }
        }
    }
}

/// The links over which a frame is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipients {
    /// One link.
    One(LinkId),
    /// All links, except the one the message was received from.
    AllExcept(Option<LinkId>),
}

/// The queue in front of all outboxes.
#[derive(Debug)]
pub struct DeliveryQueue {
    inner: Arc<Inner>,
    /// `None` if frames are delivered immediately.
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Inner {
    outboxes: Arc<Outboxes>,
    queue: Mutex<Queue>,
    wake: Condvar,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Queue {
    deliveries: VecDeque<(Recipients, Bytes)>,
    bytes: usize,
    closed: bool,
}

/// A delivery that was taken out of the queue.
struct Dequeued {
    recipients: Recipients,
    frame: Bytes,
    /// Deliveries still in the queue.
    remaining: usize,
    /// The queue was empty before this delivery came.
    was_idle: bool,
}

impl Inner {
    fn deliver(&self, recipients: Recipients, frame: &Bytes) {
        self.outboxes.for_each(recipients, |outbox| {
            if !outbox.push(frame.clone()) {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        });
    }

    /// Waits for the next delivery; `None` once the queue is closed and empty.
    fn dequeue(&self) -> Option<Dequeued> {
        let mut queue = lock(&self.queue);
        let mut was_idle = false;
        loop {
            if let Some((recipients, frame)) = queue.deliveries.pop_front() {
                queue.bytes -= frame.len();
                return Some(Dequeued { recipients, frame, remaining: queue.deliveries.len(), was_idle });
            }
            if queue.closed {
                return None;
            }
            was_idle = true;
            queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl DeliveryQueue {
    /// A queue with the mission's delays, served by a thread of its own.
    ///
    /// # Errors
    /// The system cannot start a thread.
    pub fn paced(outboxes: Arc<Outboxes>) -> std::io::Result<Self> {
        let inner = Arc::new(Inner { outboxes, ..Inner::default() });
        let run = {
            let inner = inner.clone();
            move || deliver_paced(|| inner.dequeue(), |recipients, frame| inner.deliver(recipients, frame))
        };
        let builder = std::thread::Builder::new().name("venom-delivery".into()).stack_size(256 * 1024);
        Ok(Self { thread: Some(builder.spawn(run)?), inner })
    }

    /// A queue that delivers without delay and without a thread: for a collector, which sends little.
    #[must_use]
    pub fn immediate(outboxes: Arc<Outboxes>) -> Self {
        Self { inner: Arc::new(Inner { outboxes, ..Inner::default() }), thread: None }
    }

    /// Queues a frame. Never blocks: if the queue is full, the recipients are marked as behind instead.
    pub fn send(&self, recipients: Recipients, frame: Bytes) {
        if self.thread.is_none() {
            return self.inner.deliver(recipients, &frame);
        }
        let mut queue = lock(&self.inner.queue);
        if queue.deliveries.len() < MAX_QUEUED && queue.bytes + frame.len() <= MAX_QUEUED_BYTES {
            queue.bytes += frame.len();
            queue.deliveries.push_back((recipients, frame));
            drop(queue);
            self.inner.wake.notify_one();
        } else {
            drop(queue);
            self.inner.dropped.fetch_add(1, Ordering::Relaxed);
            self.inner.outboxes.for_each(recipients, Outbox::mark_behind);
        }
    }

    /// Number of queued deliveries.
    #[must_use]
    pub fn queued(&self) -> usize {
        lock(&self.inner.queue).deliveries.len()
    }

    /// Number of frames dropped because a peer was behind.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.inner.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for DeliveryQueue {
    /// The thread delivers what is queued, then ends. Nothing waits for it here.
    fn drop(&mut self) {
        lock(&self.inner.queue).closed = true;
        self.inner.wake.notify_one();
    }
}

/// Delivers at the mission's pace until `dequeue` returns `None`.
fn deliver_paced(mut dequeue: impl FnMut() -> Option<Dequeued>, deliver: impl Fn(Recipients, &Bytes)) {
    let mut deadline = Instant::now();
    while let Some(Dequeued { recipients, frame, remaining, was_idle }) = dequeue() {
        let now = Instant::now();
        std::thread::sleep(deadline.saturating_duration_since(now));
        deliver(recipients, &frame);
        // After an idle period there is no lag to catch up with.
        let earliest = if was_idle { Some(now) } else { now.checked_sub(MAX_CATCH_UP) };
        deadline = deadline.max(earliest.unwrap_or(now)) + delivery_delay(remaining);
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
    fn the_delay_depends_on_the_queue_length() {
        let micros: Vec<u128> = [0, 100, 101, 5_000].map(|queued| delivery_delay(queued).as_micros()).into();
        assert_eq!(micros, [1000, 1000, 300, 300]);
    }

    #[tokio::test]
    async fn a_broadcast_reaches_all_but_the_sender_in_order() {
        let (boxes, each) = outboxes(3);
        let delivery = DeliveryQueue::paced(boxes).unwrap();
        for text in ["a", "b"] {
            delivery.send(Recipients::AllExcept(Some(LinkId(1))), frame(text));
        }
        delivery.send(Recipients::One(LinkId(1)), frame("c"));
        drop(delivery);
        for (at, expected) in [(0, vec!["a", "b"]), (2, vec!["a", "b"]), (1, vec!["c"])] {
            let mut got = vec![];
            while got.len() < expected.len() {
                let OutboxItem::Frames(frames) = each[at].next().await else { panic!() };
                got.extend(frames);
            }
            assert_eq!(got, expected.into_iter().map(frame).collect::<Vec<_>>());
        }
    }

    /// The stalled peer's outbox stays bounded and reports when it has caught up; the other peer gets every frame.
    #[tokio::test]
    async fn a_stalled_peer_blocks_no_other_peer() {
        let (boxes, each) = outboxes(2);
        let delivery = DeliveryQueue::immediate(boxes);
        let big = Bytes::from(vec![0; 64 * 1024]);
        let mut got = 0;
        for _ in 0..100 {
            delivery.send(Recipients::AllExcept(None), big.clone());
            let OutboxItem::Frames(frames) = each[0].next().await else { panic!() };
            got += frames.len();
            assert!(lock(&each[1].state).bytes <= MAX_OUTBOX_BYTES);
        }
        assert_eq!(got, 100);
        assert!(delivery.dropped() > 0);
        // The outbox was emptied, and took no frame until its writer came back.
        assert_eq!(each[1].next().await, OutboxItem::CaughtUp);
        delivery.send(Recipients::AllExcept(None), frame("after"));
        assert_eq!(each[1].next().await, OutboxItem::Frames([frame("after")].into()));
        each[1].close();
        assert_eq!(each[1].next().await, OutboxItem::Closed);
    }

    #[tokio::test]
    async fn a_full_queue_never_blocks_and_marks_peers_as_behind() {
        let (boxes, each) = outboxes(1);
        let delivery = DeliveryQueue::paced(boxes).unwrap();
        for _ in 0..MAX_QUEUED + 1_000 {
            delivery.send(Recipients::AllExcept(None), frame("x"));
        }
        assert!(delivery.queued() <= MAX_QUEUED);
        assert!(delivery.dropped() > 0);
        while !matches!(each[0].next().await, OutboxItem::CaughtUp) {}
        // Few long frames fill it as well.
        let long = Bytes::from(vec![0; 64 * 1024]);
        for _ in 0..1_000 {
            delivery.send(Recipients::AllExcept(None), long.clone());
            assert!(lock(&delivery.inner.queue).bytes <= MAX_QUEUED_BYTES);
        }
        while !matches!(each[0].next().await, OutboxItem::CaughtUp) {}
    }
}
