//! Organisms that are gone: their actors end at once, and the Genomes that they had claimed are reconciled. Nothing
//! keeps an Organism from going, so the watch is the only one to tell.

use std::sync::Arc;

use futures::Stream;
use kube::core::{DeserializeGuard, Resource};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher::Event;
use kube::{ResourceExt, core::ObjectMeta};
use tokio::sync::mpsc;

use crate::api;
use crate::operator::actor::mailbox::End;
use crate::operator::key::Key;
use crate::operator::registry::Registry;
use crate::operator::watches::Scope;

type Organism = DeserializeGuard<api::Organism>;
type Genome = DeserializeGuard<api::Genome>;

/// Follows the watch on the Organisms of one scope.
pub struct Deletions {
    registry: Arc<Registry>,
    organisms: Store<Organism>,
    scope: Scope,
    released: mpsc::UnboundedSender<ObjectRef<Genome>>,
}

impl Deletions {
    /// Ends the actors in `registry` of Organisms that are not in `organisms` any more. The stream has the Genomes
    /// that they referred to.
    pub fn new(
        registry: Arc<Registry>,
        organisms: Store<Organism>,
        scope: Scope,
    ) -> (Self, impl Stream<Item = ObjectRef<Genome>> + Send + 'static) {
        let (released, receiver) = mpsc::unbounded_channel();
        let stream = futures::stream::unfold(receiver, async |mut receiver: mpsc::UnboundedReceiver<_>| {
            receiver.recv().await.map(|genome| (genome, receiver))
        });
        (Self { registry, organisms, scope, released }, stream)
    }

    /// Handles one event, after it has reached the store.
    pub fn observe(&mut self, event: &Event<Organism>) {
        match event {
            Event::Delete(organism) => {
                self.gone(organism.meta());
                if let Ok(organism) = &organism.0 {
                    let namespace = organism.namespace().unwrap_or_default();
                    let genome = ObjectRef::new(organism.genome_name()).within(&namespace);
                    let _ = self.released.send(genome);
                }
            }
            // What was deleted while the watch was interrupted is missing from the new list. Its Genome comes with
            // the next list of Genomes.
            Event::InitDone => self.compare(),
            _ => {}
        }
    }

    fn gone(&self, metadata: &ObjectMeta) {
        let (namespace, name) = (metadata.namespace.as_deref(), metadata.name.as_deref());
        let key = Key::new(namespace.unwrap_or_default(), name.unwrap_or_default());
        if let Some(actor) = self.registry.get(&key)
            && Some(actor.uid()) == metadata.uid.as_deref()
        {
            actor.request_end(End::Deleted);
        }
    }

    fn compare(&self) {
        let within = |key: &Key| self.scope.namespace().is_none_or(|it| *key.namespace == *it);
        for key in self.registry.keys().into_iter().filter(within) {
            let found = self.organisms.get(&ObjectRef::new(&key.name).within(&key.namespace));
            let Some(actor) = self.registry.get(&key) else { continue };
            if found.is_none_or(|it| it.meta().uid.as_deref() != Some(actor.uid())) {
                actor.request_end(End::Deleted);
            }
        }
    }
}
