//! The workload that an Organism adopts, and the condition Adopted. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use kube::core::Selector;

use super::body::Workload;
use crate::api::{WorkloadKind, WorkloadRef};
use crate::printable::{QUOTE, line};

/// Annotation of a workload, or of an autoscaler: the name of the Organism that may adopt it.
pub const ADOPTABLE_BY: &str = "genesis.venom.dev/adoptable-by";

/// Whether the workload in spec.workloadRef is the body of the Organism.
#[derive(Clone, Debug, PartialEq)]
pub enum Adoption {
    /// It has not been looked at.
    Looking,
    /// It is.
    Adopted(Arc<Adopted>),
    /// It, or its pods, cannot be seen, for this reason. What it was when it was seen last stays.
    Unreadable(String, Option<Arc<Adopted>>),
    /// It does not exist.
    NotFound,
    /// It does not name this Organism as the one that may adopt it; the name that it has instead.
    NotPermitted(Option<String>),
    /// It is the body of this other Organism.
    InUse(String),
}

/// An adopted workload.
#[derive(Clone, Debug, PartialEq)]
pub struct Adopted {
    /// Its kind.
    pub kind: WorkloadKind,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Selects its pods.
    pub selector: LabelSelector,
    /// Labels of the pods that it makes.
    pub labels: BTreeMap<String, String>,
    /// Pods that are ready.
    pub ready: u64,
    /// Pods that exist.
    pub replicas: u64,
    /// How it goes.
    pub workload: Workload,
}

impl Adopted {
    /// The selector of its pods as a list takes it.
    #[must_use]
    pub fn selector(&self) -> String {
        Selector::try_from(self.selector.clone()).map(|it| it.to_string()).unwrap_or_default()
    }
}

impl Adoption {
    /// The workload, if it is the body, as far as is known.
    #[must_use]
    pub fn adopted(&self) -> Option<&Arc<Adopted>> {
        match self {
            Self::Adopted(adopted) => Some(adopted),
            Self::Unreadable(_, last) => last.as_ref(),
            Self::Looking | Self::NotFound | Self::NotPermitted(_) | Self::InUse(_) => None,
        }
    }

    /// Whether it is known whether the workload is the body.
    #[must_use]
    pub fn is_known(&self) -> bool {
        !matches!(self, Self::Looking | Self::Unreadable(_, None))
    }

    /// Status, reason and message of the condition for the Organism `organism` with this spec.workloadRef.
    #[must_use]
    pub fn condition(
        &self,
        organism: &str,
        workload: &WorkloadRef,
    ) -> Option<(&'static str, &'static str, String)> {
        let kind = workload.kind.as_str().to_lowercase();
        let annotate =
            format!("kubectl annotate {kind} {} {ADOPTABLE_BY}={organism} --overwrite", workload.name);
        Some(match self {
            Self::Looking => return None,
            Self::Adopted(_) => {
                ("True", "Adopted", format!("{workload} is the body. Nothing of it is written."))
            }
            Self::Unreadable(why, _) => {
                ("Unknown", "Unreadable", format!("{workload} cannot be seen: {}.", line(why, QUOTE)))
            }
            Self::NotFound => (
                "False",
                "NotFound",
                format!(
                    "{workload} does not exist in this namespace. Create it, or correct spec.workloadRef."
                ),
            ),
            Self::NotPermitted(None) => (
                "False",
                "NotPermitted",
                format!("{workload} does not say that it may be adopted. If it may: {annotate}"),
            ),
            Self::NotPermitted(Some(other)) => (
                "False",
                "NotPermitted",
                format!(
                    "{workload} may be adopted by {} only, which does not do so. To hand it over: {annotate}",
                    line(other, QUOTE)
                ),
            ),
            Self::InUse(other) => (
                "False",
                "InUse",
                format!(
                    "{workload} is the body of Organism {}. A workload has one Organism at a time.",
                    line(other, QUOTE)
                ),
            ),
        })
    }
}
