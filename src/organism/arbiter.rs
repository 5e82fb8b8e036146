//! The arbiter: runs the cores side by side, weighs what they say, decides.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};

use super::cores::{Balance, Cores, Entropy, Failure, Finite, Flows, Optimize, Reading, Regen, guard};
use super::genome::{Thresholds, Weights};

/// What an organism does about a beat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Action {
    /// Isolate the body.
    Quarantine,
    /// Tell somebody.
    Alert,
    /// Hold on to what there is.
    ApplyBalance,
    /// Run denser.
    ApplyOptimize,
    /// Nothing.
    #[default]
    Noop,
}

impl Action {
    /// All five, in the order in which they are tried.
    pub const ALL: [Self; 5] =
        [Self::Quarantine, Self::Alert, Self::ApplyBalance, Self::ApplyOptimize, Self::Noop];

    /// The name in the ledger.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Quarantine => "QUARANTINE",
            Self::Alert => "ALERT",
            Self::ApplyBalance => "APPLY_BALANCE",
            Self::ApplyOptimize => "APPLY_OPTIMIZE",
            Self::Noop => "NOOP",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The decision vector: each core's say times its weight, and as it came.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Details {
    /// expected_gain · O.
    pub opt_gain: f64,
    /// conserve.
    pub raw_conserve: f64,
    /// expected_gain.
    pub raw_gain: f64,
    /// threat_score.
    pub raw_threat: f64,
    /// urgency.
    pub raw_urgency: f64,
    /// urgency · R.
    pub repair_score: f64,
    /// conserve · B.
    pub stability: f64,
    /// threat_score · E.
    pub threat: f64,
}

/// Weighs the four results (mission, `aggregate_recommendations`; format 5).
#[must_use]
pub fn aggregate(weights: &Weights, r: &Regen, b: &Balance, e: &Entropy, o: &Optimize) -> Details {
    Details {
        opt_gain: o.expected_gain * weights.optimize,
        raw_conserve: b.conserve,
        raw_gain: o.expected_gain,
        raw_threat: e.threat_score,
        raw_urgency: r.urgency,
        repair_score: r.urgency * weights.regen,
        stability: b.conserve * weights.balance,
        threat: e.threat_score * weights.entropy,
    }
}

/// The first rule that holds (mission, "Decision Thresholds"; format 5).
#[must_use]
pub fn decide(details: &Details, thresholds: &Thresholds) -> Action {
    if details.raw_threat >= thresholds.quarantine {
        Action::Quarantine
    } else if details.raw_threat >= thresholds.alert {
        Action::Alert
    } else if details.stability > thresholds.stability && details.repair_score < thresholds.repair {
        Action::ApplyBalance
    } else if details.opt_gain > thresholds.gain {
        Action::ApplyOptimize
    } else {
        Action::Noop
    }
}

/// Runs the four cores of any number of organisms on four workers.
///
/// A beat's cores take less time than waking a thread does: whoever asks takes part, so that a batch never
/// waits for a worker that the system has not scheduled yet.
pub struct Arbiter {
    cores: Cores,
    workers: Vec<SyncSender<Arc<Batch>>>,
}

/// The system gave no thread.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no thread for a core: {0}")]
pub struct NoThread(String);

impl Arbiter {
    /// An arbiter with the given cores and four worker threads, which end with it.
    ///
    /// # Errors
    /// [`NoThread`].
    pub fn new(cores: Cores) -> Result<Self, NoThread> {
        let start = |worker: usize| {
            // One batch may wait. A worker that is behind is passed over: the batch is done without it.
            let (sender, batches) = sync_channel::<Arc<Batch>>(1);
            std::thread::Builder::new()
                .name(format!("venom-core-{worker}"))
                .spawn(move || batches.iter().for_each(|batch| batch.help(&cores)))
                .map_err(|error| NoThread(error.to_string()))?;
            Ok(sender)
        };
        Ok(Self { cores, workers: (0..4).map(start).collect::<Result<_, _>>()? })
    }

    /// The cores of all `readings`, in parallel: one worker takes Regen of all of them, one Balance, one
    /// Entropy, one Optimize, so that a batch costs one hand-over however many organisms are due.
    #[must_use]
    pub fn time_wrap(&self, readings: Vec<Reading>) -> Vec<Flows> {
        let batch = Arc::new(Batch { readings, ..Batch::default() });
        for worker in &self.workers {
            let _ = worker.try_send(batch.clone());
        }
        batch.help(&self.cores);
        let all = batch.regen.wait().iter().zip(batch.balance.wait());
        let all = all.zip(batch.entropy.wait().iter().zip(batch.optimize.wait()));
        all.map(|((regen, balance), (entropy, optimize))| Flows {
            regen: regen.clone(),
            balance: balance.clone(),
            entropy: entropy.clone(),
            optimize: optimize.clone(),
        })
        .collect()
    }
}

type Results<T> = OnceLock<Vec<Result<T, Failure>>>;

/// Four pieces of work, each taken by whoever comes first.
#[derive(Default)]
struct Batch {
    readings: Vec<Reading>,
    taken: AtomicUsize,
    regen: Results<Regen>,
    balance: Results<Balance>,
    entropy: Results<Entropy>,
    optimize: Results<Optimize>,
}

impl Batch {
    /// Does what nobody has taken yet.
    fn help(&self, cores: &Cores) {
        fn each<T: Finite>(results: &Results<T>, core: fn(&Reading) -> T, readings: &[Reading]) {
            results.get_or_init(|| readings.iter().map(|reading| guard(core, reading)).collect());
        }
        loop {
            match self.taken.fetch_add(1, Ordering::Relaxed) {
                0 => each(&self.regen, cores.regen, &self.readings),
                1 => each(&self.balance, cores.balance, &self.readings),
                2 => each(&self.entropy, cores.entropy, &self.readings),
                3 => each(&self.optimize, cores.optimize, &self.readings),
                _ => return,
            }
        }
    }
}
