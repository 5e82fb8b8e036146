//! The four cores. Each is a pure function of the same [`Reading`]; each has a file.

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

/// What the cores read: the genome as it stands at the pulse.
#[derive(Clone, Debug)]
pub struct Reading {
    /// Length of the beat in seconds.
    pub t_lambda: f64,
    /// risk.anoms and what was injected and still counts.
    pub genome_anoms: u64,
    /// What was sensed and still counts.
    pub features_anoms: u64,
    /// The evolved weights.
    pub weights: Weights,
    /// The model in force.
    pub ml: Ml,
    /// The gains in force.
    pub gains: PidGains,
    /// The Balance core's memory.
    pub balance_state: f64,
    /// Version that the Entropy core reports.
    pub version: Arc<str>,
}

impl Reading {
    /// What the Entropy core scores: all anomalies.
    #[must_use]
    pub fn total_anoms(&self) -> u64 {
        self.genome_anoms.saturating_add(self.features_anoms)
    }
}

/// A core's name in the ledger.
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

/// Why a core gave no result: its panic's message, or that a number was not finite.
pub type Failure = Arc<str>;

/// What the four cores gave in one beat.
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
    /// The four results, or nothing when a core failed.
    #[must_use]
    pub fn all(&self) -> Option<(&Regen, &Balance, &Entropy, &Optimize)> {
        match (&self.regen, &self.balance, &self.entropy, &self.optimize) {
            (Ok(r), Ok(b), Ok(e), Ok(o)) => Some((r, b, e, o)),
            _ => None,
        }
    }

    /// The cores that failed, with their reasons, in the ledger's order.
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

/// The functions that stand for the four cores. The default is the mission's; tests put failing ones in.
#[derive(Clone, Copy, Debug)]
pub struct Cores {
    /// Regen.
    pub regen: fn(&Reading) -> Regen,
    /// Balance.
    pub balance: fn(&Reading) -> Balance,
    /// Entropy.
    pub entropy: fn(&Reading) -> Entropy,
    /// Optimize.
    pub optimize: fn(&Reading) -> Optimize,
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
    /// All four, one after the other on this thread.
    #[must_use]
    pub fn run(&self, reading: &Reading) -> Flows {
        Flows {
            regen: guard(self.regen, reading),
            balance: guard(self.balance, reading),
            entropy: guard(self.entropy, reading),
            optimize: guard(self.optimize, reading),
        }
    }
}

/// A core's result, which must be numbers.
pub trait Finite {
    /// Whether every number of the result is finite.
    fn is_finite(&self) -> bool;
}

/// Runs one core so that its failure stays its own: a panic or a number that is not finite becomes an error.
pub fn guard<T: Finite>(core: fn(&Reading) -> T, reading: &Reading) -> Result<T, Failure> {
    // A core is a function of its reading alone: nothing it could leave half done is seen afterwards.
    match catch_unwind(AssertUnwindSafe(|| core(reading))) {
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
