//! The condition Sensing: whether everything that the spec asks for is sensed. Pure.

use crate::printable::{QUOTE, line};

/// How sensing goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sensing {
    /// All sensors work.
    Sensing,
    /// The organism does not beat, so nothing is recorded.
    NotBeating,
    /// The workload in spec.workloadRef is not the body, or cannot be seen.
    NotAdopted,
    /// The spec has queries, and the operator knows no Prometheus server.
    NoPrometheus,
    /// The last evaluation of a query failed.
    QueryFailed {
        /// Its name.
        query: String,
        /// What is wrong.
        why: String,
    },
}

impl Sensing {
    /// Status, reason and message of the condition.
    #[must_use]
    pub fn condition(&self) -> (&'static str, &'static str, String) {
        match self {
            Self::Sensing => ("True", "Sensing", "All sensors work.".into()),
            Self::NotBeating => (
                "Unknown",
                "NotBeating",
                "The organism does not beat, and senses nothing meanwhile; see the condition Beating.".into(),
            ),
            Self::NotAdopted => (
                "False",
                "NotAdopted",
                "Events of pods are not sensed: there is no body, or it cannot be seen; see the condition Adopted."
                    .into(),
            ),
            Self::NoPrometheus => (
                "False",
                "NoPrometheus",
                "spec.sensing.prometheus has queries, and the operator has no Prometheus server: start it with \
                 --prometheus-url, or remove them."
                    .into(),
            ),
            Self::QueryFailed { query, why } => (
                "False",
                "QueryFailed",
                format!("The query {query} gives no anomalies: {}.", line(why, QUOTE)),
            ),
        }
    }
}
