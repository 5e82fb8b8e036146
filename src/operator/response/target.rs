//! The pods that a response concerns. Pure.

use kube::ResourceExt;
use kube::core::Selector;

use super::services::Labels;
use crate::api::{Organism, WorkloadKind};
use crate::operator::body::build;
use crate::operator::publisher::report::Report;

/// The pods of a body, and what makes them.
#[derive(Clone, Debug)]
pub struct Target {
    /// What the quarantine's policy selects them by.
    pub selector: Selector,
    /// Labels of the pods that are made.
    pub labels: Labels,
    /// Kind of the workload that makes them.
    pub kind: WorkloadKind,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Whether it is adopted.
    pub adopted: bool,
}

impl Target {
    /// The pods of the body of `organism`; none while it has none.
    #[must_use]
    pub fn of(organism: &Organism, report: &Report) -> Option<Self> {
        if organism.spec.workload_ref.is_some() {
            let adopted = report.adoption.as_ref()?.adopted()?;
            return Some(Self {
                selector: Selector::try_from(adopted.selector.clone()).ok()?,
                labels: adopted.labels.clone(),
                kind: adopted.kind,
                name: adopted.name.clone(),
                uid: adopted.uid.clone(),
                adopted: true,
            });
        }
        Some(Self {
            selector: build::selector(organism).into_iter().collect(),
            labels: build::pod_labels(organism),
            kind: WorkloadKind::Deployment,
            name: organism.name_any(),
            uid: report.body.as_ref()?.workload.clone()?,
            adopted: false,
        })
    }
}
