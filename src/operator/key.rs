//! The namespaced name of an Organism.

use std::fmt;
use std::sync::Arc;

use kube::ResourceExt;

use crate::api;

/// Namespace and name of an Organism.
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
        Self::new(&organism.namespace().unwrap_or_default(), &organism.name_any())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
