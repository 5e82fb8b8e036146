//! The namespaced name of an Organism or a Genome.

use std::fmt;
use std::sync::Arc;

use kube::core::ObjectMeta;

use crate::api;

/// Namespace and name of an Organism or a Genome.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl Key {
    /// A key of these parts.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The key of this Organism.
    #[must_use]
    pub fn of(organism: &api::Organism) -> Self {
        Self::of_metadata(&organism.metadata)
    }

    /// The key of the object that this describes.
    #[must_use]
    pub fn of_metadata(metadata: &ObjectMeta) -> Self {
        let text = |part: &Option<String>| part.as_deref().unwrap_or_default().into();
        Self { namespace: text(&metadata.namespace), name: text(&metadata.name) }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
