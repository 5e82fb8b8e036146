//! One publisher and nine receivers. Each receiver is a thread with a runtime of its own, like a separate process:
//! within one runtime a message would arrive without a context switch.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use tokio::sync::Barrier;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::Fallible;

pub const RECEIVERS: usize = 9;
pub const BYTES: usize = 128;
/// Messages of the latency run, and the interval between them. The paced queue delivers one message a millisecond:
/// with a shorter interval the run would measure the queue's length.
const SINGLE: usize = 1_000;
const INTERVAL: Duration = Duration::from_millis(2);
/// Messages of the throughput run.
pub const MANY: usize = 200_000;
/// Messages sent at once.
const BATCH: usize = 100;
/// Maximum number of messages in flight. An outbox of the mesh drops frames beyond one mebibyte; a broker would only
/// slow its publisher down, and not before this many.
const MAX_IN_FLIGHT: usize = 6_000;
/// Time limit of a run.
const TIMEOUT: Duration = Duration::from_secs(60);
/// A message starts with the time at which it was sent, in nanoseconds, with this many digits.
const TIMESTAMP_DIGITS: usize = 20;

/// The measurements of a run.
pub struct Figures {
    /// Latency of each message at each receiver, sorted.
    micros: Vec<u64>,
    /// 0 if not measured.
    pub deliveries_a_second: f64,
}

impl Figures {
    pub fn quantile(&self, part: f64) -> f64 {
        self.micros[((self.micros.len() - 1) as f64 * part) as usize] as f64
    }
}

/// A run: one publisher, [`RECEIVERS`] receivers.
pub struct Fanout {
    started: Instant,
    many: usize,
    connected: Arc<Barrier>,
    receivers: Vec<(JoinHandle<Fallible<Received>>, Arc<AtomicUsize>)>,
}

struct Received {
    micros: Vec<u64>,
    ended: Instant,
}

/// When the message was sent; `None` if it is not a message of a run.
pub fn sent(message: &[u8]) -> Option<u64> {
    std::str::from_utf8(message.get(..TIMESTAMP_DIGITS)?).ok()?.parse().ok()
}

impl Fanout {
    /// A run with `many` messages for throughput; 0 measures latency only.
    pub fn new(many: usize) -> Self {
        let connected = Arc::new(Barrier::new(RECEIVERS + 1));
        Self { started: Instant::now(), many, connected, receivers: vec![] }
    }

    /// Starts a receiver that reads the stream from `connect`. `sent` extracts the time at which a message was sent.
    pub fn receive<S>(
        &mut self,
        connect: impl AsyncFnOnce() -> Fallible<S> + Send + 'static,
        sent: fn(&[u8]) -> Option<u64>,
    ) where
        S: Stream<Item = std::io::Result<BytesMut>> + Unpin,
    {
        let (started, all, connected) = (self.started, SINGLE + self.many, self.connected.clone());
        let received = Arc::new(AtomicUsize::new(0));
        let count = received.clone();
        let receive = async move || {
            let mut messages = connect().await?;
            connected.wait().await;
            let mut micros = Vec::with_capacity(SINGLE);
            let mut got = 0;
            while got < all {
                let message = messages.next().await.ok_or("the publisher closed the connection")??;
                let now = started.elapsed().as_nanos() as u64;
                let Some(sent) = sent(&message) else { continue };
                if got < SINGLE {
                    micros.push(now.saturating_sub(sent) / 1_000);
                }
                got += 1;
                count.store(got, Ordering::Relaxed);
            }
            Ok(Received { micros, ended: Instant::now() })
        };
        let thread = std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(receive())
        });
        self.receivers.push((thread, received));
    }

    /// Publishes with `send`, which sends a message the given number of times.
    pub async fn publish(self, mut send: impl AsyncFnMut(Bytes, usize) -> Fallible<()>) -> Fallible<Figures> {
        let connected = timeout(TIMEOUT, self.connected.wait()).await;
        connected.map_err(|_| "not all receivers have connected")?;
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for _ in 0..SINGLE {
            ticks.tick().await;
            send(self.message(), 1).await?;
        }
        self.until_received(SINGLE).await?;

        let began = Instant::now();
        for at in (0..self.many).step_by(BATCH) {
            self.until_received((SINGLE + at + BATCH).saturating_sub(MAX_IN_FLIGHT)).await?;
            send(self.message(), BATCH).await?;
            tokio::task::yield_now().await;
        }
        self.until_received(SINGLE + self.many).await?;

        let (mut micros, mut ended) = (vec![], began);
        for (thread, _) in self.receivers {
            let received = thread.join().map_err(|_| "a receiver panicked")??;
            micros.extend(received.micros);
            ended = ended.max(received.ended);
        }
        micros.sort_unstable();
        let deliveries = (self.many * RECEIVERS) as f64;
        let seconds = ended.duration_since(began).as_secs_f64();
        Ok(Figures { micros, deliveries_a_second: if self.many == 0 { 0.0 } else { deliveries / seconds } })
    }

    fn message(&self) -> Bytes {
        let mut message = format!("{:0TIMESTAMP_DIGITS$}", self.started.elapsed().as_nanos()).into_bytes();
        message.resize(BYTES, b'x');
        message.into()
    }

    /// Waits until every receiver has `count` messages.
    async fn until_received(&self, count: usize) -> Fallible<()> {
        let all = || self.receivers.iter().all(|it| it.1.load(Ordering::Relaxed) >= count);
        let began = Instant::now();
        while !all() {
            if began.elapsed() > TIMEOUT {
                return Err("messages were lost".into());
            }
            sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }
}
