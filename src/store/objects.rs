//! Names and metadata of a ledger's objects.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;

use crate::api::labels::{MANAGED_BY_LABEL, MANAGER, ORGANISM_LABEL, UID_LABEL};

/// An object of a ledger, without its content.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LedgerObject {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// UID of the Organism that has written it, from its label.
    pub organism: String,
    /// UID of the Organism in its ownerReferences.
    pub owner: Option<String>,
}

impl LedgerObject {
    /// The object that `metadata` describes.
    #[must_use]
    pub fn of(metadata: &ObjectMeta) -> Self {
        Self {
            name: metadata.name.clone().unwrap_or_default(),
            uid: metadata.uid.clone().unwrap_or_default(),
            organism: metadata.labels.as_ref().and_then(|it| it.get(UID_LABEL)).cloned().unwrap_or_default(),
            owner: owner(metadata),
        }
    }
}

/// Objects of a ledger by name.
pub type Objects = BTreeMap<String, LedgerObject>;

/// Whether an object has the labels of a ledger's head. The chart's admission policy selects by the second of them: an
/// object without it may have been written by anyone.
#[must_use]
pub fn is_ledger_object(object: &ConfigMap) -> bool {
    let labels = object.labels();
    labels.get(MANAGED_BY_LABEL).is_some_and(|it| it == MANAGER) && labels.contains_key(ORGANISM_LABEL)
}

/// UID of the Organism that owns an object, where one does.
pub(super) fn owner(metadata: &ObjectMeta) -> Option<String> {
    let owners = metadata.owner_references.as_deref().unwrap_or_default();
    owners.iter().find(|it| it.kind == "Organism").map(|it| it.uid.clone())
}

/// Parses the name of a segment, `<organism>-ledger-<epoch>-<first>-<count>`, into epoch, first index and count.
#[must_use]
pub fn parse_segment_name(organism: &str, name: &str) -> Option<(u64, u64, u64)> {
    let mut numbers = name.strip_prefix(organism)?.strip_prefix("-ledger-")?.split('-');
    let mut next = || numbers.next()?.parse().ok();
    let (epoch, first, count) = (next()?, next()?, next()?);
    numbers.next().is_none().then_some((epoch, first, count))
}

/// Name of the head of an Organism's ledger: `<organism>-ledger`.
#[must_use]
pub fn head_name(organism: &str) -> String {
    format!("{organism}-ledger")
}

/// Parses the name of an archived head, `<organism>-ledger-g<generation>`, into its generation.
#[must_use]
pub fn parse_archived_name(organism: &str, name: &str) -> Option<u64> {
    name.strip_prefix(organism)?.strip_prefix("-ledger-g")?.parse().ok()
}
