//! The arbiter: runs the cores side by side, weighs what they say, decides.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::cores::{Balance, Cores, Entropy, Finite, Flows, Optimize, Reading, Regen, guard};
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
pub struct Arbiter {
    cores: Cores,
    workers: rayon::ThreadPool,
}

impl Arbiter {
    /// An arbiter with the given cores and four worker threads.
    ///
    /// # Errors
    /// When the system gives no threads.
    pub fn new(cores: Cores) -> Result<Self, rayon::ThreadPoolBuildError> {
        let workers = rayon::ThreadPoolBuilder::new()
            .num_threads(4)
            .thread_name(|worker| format!("venom-core-{worker}"))
            .build()?;
        Ok(Self { cores, workers })
    }

    /// The cores of all `readings`, in parallel: one worker takes Regen of all of them, one Balance, one
    /// Entropy, one Optimize, so that a batch costs one hand-over however many organisms are due.
    #[must_use]
    pub fn time_wrap(&self, readings: &[Reading]) -> Vec<Flows> {
        fn each<T: Finite>(
            core: fn(&Reading) -> T,
            readings: &[Reading],
        ) -> Vec<Result<T, super::cores::Failure>> {
            readings.iter().map(|reading| guard(core, reading)).collect()
        }
        let (mut regen, mut balance, mut entropy, mut optimize) = (vec![], vec![], vec![], vec![]);
        self.workers.in_place_scope(|scope| {
            scope.spawn(|_| regen = each(self.cores.regen, readings));
            scope.spawn(|_| balance = each(self.cores.balance, readings));
            scope.spawn(|_| entropy = each(self.cores.entropy, readings));
            scope.spawn(|_| optimize = each(self.cores.optimize, readings));
        });
        regen
            .into_iter()
            .zip(balance)
            .zip(entropy.into_iter().zip(optimize))
            .map(|((regen, balance), (entropy, optimize))| Flows { regen, balance, entropy, optimize })
            .collect()
    }
}
