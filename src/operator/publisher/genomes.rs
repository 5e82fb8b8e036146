//! The Genomes that the controllers watch, for publishers that begin: a start of thousands reads none of them again.

use std::sync::{PoisonError, RwLock};

use kube::core::DeserializeGuard;
use kube::runtime::reflector::{ObjectRef, Store};

use crate::api;
use crate::operator::key::Key;

/// What the watches of all scopes show.
#[derive(Default)]
pub struct Genomes(RwLock<Vec<Store<DeserializeGuard<api::Genome>>>>);

impl Genomes {
    /// Adds those of a scope.
    pub fn add(&self, observed: Store<DeserializeGuard<api::Genome>>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).push(observed);
    }

    /// The Genome of this name, if it is observed and bound to the Organism `key` with this UID.
    #[must_use]
    pub fn bound_to(&self, key: &Key, name: &str, uid: &str) -> Option<api::Genome> {
        let reference = ObjectRef::new(name).within(&key.namespace);
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let found = all.iter().find_map(|it| it.get(&reference))?;
        let genome = found.0.as_ref().ok()?;
        let bound = genome.status.as_ref()?.bound_to.as_ref()?;
        (bound.uid == uid).then(|| genome.clone())
    }
}
