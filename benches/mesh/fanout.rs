//! One publisher and nine receivers. Each receiver is a thread with a runtime of its own, as each would be a
//! process of its own: within one runtime a message would pass without a switch from one to the other.

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
/// Messages of the latency run, and the time between two. The mission's pace is 1 ms: at that a paced queue
/// would be full, and its length is not what is measured here.
const SINGLE: usize = 1_000;
const BEAT: Duration = Duration::from_millis(2);
/// Messages of the throughput run.
pub const MANY: usize = 200_000;
/// As many are handed over at once.
const BATCH: usize = 100;
/// As many may be on their way: an outbox of the mesh holds a mebibyte, past which a peer is behind. A broker's
/// socket would hold its publisher back, but not before this.
const ON_THEIR_WAY: usize = 6_000;
/// Longer than any run.
const PATIENCE: Duration = Duration::from_secs(60);
/// A message begins with the time at which it was sent, in nanoseconds, with so many digits.
const DIGITS: usize = 20;

/// What a run gave.
pub struct Figures {
    /// How late each message was at each receiver, the least first.
    micros: Vec<u64>,
    /// 0 where that was not measured.
    pub deliveries_a_second: f64,
}

impl Figures {
    pub fn quantile(&self, part: f64) -> f64 {
        self.micros[((self.micros.len() - 1) as f64 * part) as usize] as f64
    }
}

/// A run.
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

/// When a message was sent, where it is one.
pub fn sent(message: &[u8]) -> Option<u64> {
    std::str::from_utf8(message.get(..DIGITS)?).ok()?.parse().ok()
}

impl Fanout {
    /// With `many` messages in its throughput run.
    pub fn new(many: usize) -> Self {
        let connected = Arc::new(Barrier::new(RECEIVERS + 1));
        Self { started: Instant::now(), many, connected, receivers: vec![] }
    }

    /// Starts a receiver, which reads messages of what `connect` gives; `sent` says when one was sent.
    pub fn receive<S>(
        &mut self,
        connect: impl AsyncFnOnce() -> Fallible<S> + Send + 'static,
        sent: fn(&[u8]) -> Option<u64>,
    ) where
        S: Stream<Item = std::io::Result<BytesMut>> + Unpin,
    {
        let (started, all, connected) = (self.started, SINGLE + self.many, self.connected.clone());
        let taken = Arc::new(AtomicUsize::new(0));
        let count = taken.clone();
        let receive = async move || {
            let mut messages = connect().await?;
            connected.wait().await;
            let mut micros = Vec::with_capacity(SINGLE);
            let mut got = 0;
            while got < all {
                let message = messages.next().await.ok_or("the other end has gone")??;
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
        self.receivers.push((thread, taken));
    }

    /// Publishes by `send`, which sends a message so many times.
    pub async fn publish(self, mut send: impl AsyncFnMut(Bytes, usize) -> Fallible<()>) -> Fallible<Figures> {
        let connected = timeout(PATIENCE, self.connected.wait()).await;
        connected.map_err(|_| "not all receivers are connected")?;
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for _ in 0..SINGLE {
            beat.tick().await;
            send(self.message(), 1).await?;
        }
        self.until_taken(SINGLE).await?;

        let began = Instant::now();
        for at in (0..self.many).step_by(BATCH) {
            self.until_taken((SINGLE + at + BATCH).saturating_sub(ON_THEIR_WAY)).await?;
            send(self.message(), BATCH).await?;
            tokio::task::yield_now().await;
        }
        self.until_taken(SINGLE + self.many).await?;

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
        let mut message = format!("{:0DIGITS$}", self.started.elapsed().as_nanos()).into_bytes();
        message.resize(BYTES, b'x');
        message.into()
    }

    /// Waits until every receiver has so many.
    async fn until_taken(&self, count: usize) -> Fallible<()> {
        let all = || self.receivers.iter().all(|it| it.1.load(Ordering::Relaxed) >= count);
        let began = Instant::now();
        while !all() {
            if began.elapsed() > PATIENCE {
                return Err("messages were lost".into());
            }
            sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }
}
