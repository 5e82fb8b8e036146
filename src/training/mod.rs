//! Training: fits the threat model to rows of one's own history, and measures how good it is.
//!
//! The model is the Entropy core's: threat = sigmoid(weight · anomalies + bias). A row is a number of anomalies and
//! whether there was an incident.
//!
//! | module | content |
//! |---|---|
//! | [`rows`] | rows, counted by their number of anomalies; the split, and balancing |
//! | [`columns`] | from the fields of a table to a row |
//! | [`history`] | from the entries of a ledger to rows |
//! | [`fit`] | weight and bias, by linfa and argmin |
//! | [`score`] | ROC, AUC, Brier score, calibration, confusion |
//! | [`decisions`] | the numbers of anomalies at which ALERT and QUARANTINE begin |
//! | [`report`] | all of that for one data set |
//! | [`picture`] | the report's curves as SVG |
//!
//! Architecture Invariant: rows in, model and report out; no clock, no I/O, no Kubernetes. The same rows, options and
//! seed give the same report, in whatever order the rows come. Memory is bounded by the different numbers of anomalies,
//! of which there are at most [`MOST_ANOMS`](rows::MOST_ANOMS) + 1, and not by the number of rows.

pub mod columns;
pub mod decisions;
pub mod fit;
pub mod history;
pub mod picture;
pub mod report;
pub mod rows;
pub mod score;
#[cfg(test)]
mod tests;

pub use columns::Columns;
pub use fit::Loss;
pub use history::{History, Incident};
pub use report::{Options, Report};
pub use rows::{DataError, Rows, Tally};
