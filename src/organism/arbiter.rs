//! The arbiter: runs the cores of many organisms in parallel.
//!
//! What the mission calls the arbiter is split in two: the parallel execution is here, `aggregate_recommendations`
//! and `decide` are pure functions in [`decision`](super::decision).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};

use super::cores::{
    Balance, CoreInput, Cores, Entropy, Failure, Finite, Flows, Optimize, Regen, run_isolated,
};

/// Runs the four cores of any number of organisms on four worker threads.
///
/// The cores of one beat take less time than waking a thread. The calling thread therefore takes part in the work,
/// so that a batch never waits for a worker that has not been scheduled yet.
pub struct Arbiter {
    cores: Cores,
    workers: Vec<SyncSender<Arc<Batch>>>,
}

/// A worker thread could not be spawned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot spawn a worker thread: {0}")]
pub struct SpawnError(String);

impl Arbiter {
    /// Spawns four worker threads, which end when the arbiter is dropped.
    ///
    /// # Errors
    /// Returns [`SpawnError`] if the operating system refuses a thread.
    pub fn new(cores: Cores) -> Result<Self, SpawnError> {
        let start = |worker: usize| {
            // One batch may wait. A worker that is still busy is skipped; the batch completes without it.
            let (sender, batches) = sync_channel::<Arc<Batch>>(1);
            std::thread::Builder::new()
                .name(format!("venom-core-{worker}"))
                .spawn(move || batches.iter().for_each(|batch| batch.run(&cores)))
                .map_err(|error| SpawnError(error.to_string()))?;
            Ok(sender)
        };
        Ok(Self { cores, workers: (0..4).map(start).collect::<Result<_, _>>()? })
    }

    /// Runs the four cores on all `inputs` in parallel and returns the results in the same order.
    ///
    /// The unit of work is one core for all inputs, so that the cost of handing over a batch does not depend on the
    /// number of organisms that are due.
    #[must_use]
    pub fn time_wrap(&self, inputs: Vec<CoreInput>) -> Vec<Flows> {
        let batch = Arc::new(Batch { inputs, ..Batch::default() });
        for worker in &self.workers {
            let _ = worker.try_send(batch.clone());
        }
        batch.run(&self.cores);
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

/// The four units of work of a batch. Each is claimed by the first thread that is free.
#[derive(Default)]
struct Batch {
    inputs: Vec<CoreInput>,
    /// Number of claimed units.
    claimed: AtomicUsize,
    regen: Results<Regen>,
    balance: Results<Balance>,
    entropy: Results<Entropy>,
    optimize: Results<Optimize>,
}

impl Batch {
    /// Claims and runs units until none is left.
    fn run(&self, cores: &Cores) {
        fn run_core<T: Finite>(results: &Results<T>, core: fn(&CoreInput) -> T, inputs: &[CoreInput]) {
            results.get_or_init(|| inputs.iter().map(|input| run_isolated(core, input)).collect());
        }
        loop {
            match self.claimed.fetch_add(1, Ordering::Relaxed) {
                0 => run_core(&self.regen, cores.regen, &self.inputs),
                1 => run_core(&self.balance, cores.balance, &self.inputs),
                2 => run_core(&self.entropy, cores.entropy, &self.inputs),
                3 => run_core(&self.optimize, cores.optimize, &self.inputs),
                _ => return,
            }
        }
    }
}
