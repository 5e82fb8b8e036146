//! The four cores. Each is a pure function of the same [`CoreInput`].

pub mod balance;
pub mod entropy;
pub mod optimize;
pub mod regen;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

pub use balance::Balance;
pub use entropy::Entropy;
pub use optimize::Optimize;
pub use regen::Regen;

use super::genome::{Ml, PidGains, Weights};

/// The input of the cores: parameters and anomalies in force at the pulse.
#[derive(Clone, Debug)]
pub struct CoreInput {
    /// T_Λ: length of the beat in seconds.
    pub t_lambda: f64,
    /// `risk.anoms` plus the injected anomalies in the risk window.
    pub genome_anoms: u64,
    /// The sensed anomalies in the risk window.
    pub features_anoms: u64,
    /// The weights in force, as evolved.
    pub weights: Weights,
    /// The model in force.
    pub ml: Ml,
    /// The PID gains in force.
    pub gains: PidGains,
    /// Running mean of the Balance core.
    pub balance_state: f64,
    /// Version that the Entropy core reports.
    pub version: Arc<str>,
}

impl CoreInput {
    /// All anomalies: the input of the threat model.
    #[must_use]
    pub fn total_anoms(&self) -> u64 {
        self.genome_anoms.saturating_add(self.features_anoms)
    }
}

/// A core, by its name in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub enum Flow {
    /// Regen.
    R,
    /// Balance.
    B,
    /// Entropy.
    E,
    /// Optimize.
    O,
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::R => "Regen",
            Self::B => "Balance",
            Self::E => "Entropy",
            Self::O => "Optimize",
        })
    }
}

/// Reason for the failure of a core: the message of its panic, or that a number was not finite.
pub type Failure = Arc<str>;

/// The results of the four cores in one beat.
#[derive(Clone, Debug, PartialEq)]
pub struct Flows {
    /// Regen.
    pub regen: Result<Regen, Failure>,
    /// Balance.
    pub balance: Result<Balance, Failure>,
    /// Entropy.
    pub entropy: Result<Entropy, Failure>,
    /// Optimize.
    pub optimize: Result<Optimize, Failure>,
}

impl Flows {
    /// Returns the four results, or `None` if a core failed.
    #[must_use]
    pub fn results(&self) -> Option<(&Regen, &Balance, &Entropy, &Optimize)> {
        match (&self.regen, &self.balance, &self.entropy, &self.optimize) {
            (Ok(r), Ok(b), Ok(e), Ok(o)) => Some((r, b, e, o)),
            _ => None,
        }
    }

    /// The failed cores and their reasons, in the order of the ledger.
    pub fn failures(&self) -> impl Iterator<Item = (Flow, &Failure)> {
        [
            (Flow::R, self.regen.as_ref().err()),
            (Flow::B, self.balance.as_ref().err()),
            (Flow::E, self.entropy.as_ref().err()),
            (Flow::O, self.optimize.as_ref().err()),
        ]
        .into_iter()
        .filter_map(|(flow, failure)| failure.map(|failure| (flow, failure)))
    }
}

/// The functions that implement the four cores. The default is the mission's; tests inject failing ones.
#[derive(Clone, Copy, Debug)]
pub struct Cores {
    /// Regen.
    pub regen: fn(&CoreInput) -> Regen,
    /// Balance.
    pub balance: fn(&CoreInput) -> Balance,
    /// Entropy.
    pub entropy: fn(&CoreInput) -> Entropy,
    /// Optimize.
    pub optimize: fn(&CoreInput) -> Optimize,
}

impl Default for Cores {
    fn default() -> Self {
        Self {
            regen: regen::execute,
            balance: balance::execute,
            entropy: entropy::execute,
            optimize: optimize::execute,
        }
    }
}

impl Cores {
    /// Runs the four cores sequentially on this thread.
    #[must_use]
    pub fn run(&self, input: &CoreInput) -> Flows {
        Flows {
            regen: run_isolated(self.regen, input),
            balance: run_isolated(self.balance, input),
            entropy: run_isolated(self.entropy, input),
            optimize: run_isolated(self.optimize, input),
        }
    }
}

/// The result of a core, which the ledger can only record if its numbers are finite.
pub trait Finite {
    /// Returns whether every number of the result is finite.
    fn is_finite(&self) -> bool;
}

/// Runs one core and contains its failure: a panic or a number that is not finite becomes an error.
pub fn run_isolated<T: Finite>(core: fn(&CoreInput) -> T, input: &CoreInput) -> Result<T, Failure> {
    // Unwind safety: a core only has shared access to its input and leaves no state behind.
    match catch_unwind(AssertUnwindSafe(|| core(input))) {
        Ok(result) if result.is_finite() => Ok(result),
        Ok(_) => Err("a result is not a finite number".into()),
        Err(panic) => {
            let message = panic
                .downcast_ref::<&str>()
                .copied()
                .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
                .unwrap_or("panicked");
            Err(message.into())
        }
    }
}
