//! What the watch on Organisms tells besides which to reconcile: Organisms that are gone end their actors at once,
//! and a Genome that an Organism no longer refers to is reconciled. Nothing keeps an Organism from going, so the watch
//! is the only one to tell.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::Stream;
use kube::ResourceExt;
use kube::core::{DeserializeGuard, ObjectMeta, Resource};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher::Event;
use tokio::sync::mpsc;

use crate::api;
use crate::operator::actor::mailbox::End;
use crate::operator::key::Key;
use crate::operator::ownership::Ownership;
use crate::operator::registry::Registry;
use crate::operator::watches::Scope;

type Organism = DeserializeGuard<api::Organism>;
type Genome = DeserializeGuard<api::Genome>;

/// Follows the watch on the Organisms of one scope.
pub struct OrganismEvents {
    registry: Arc<Registry>,
    ownership: Arc<Ownership>,
    organisms: Store<Organism>,
    scope: Scope,
    /// The Genome that each Organism refers to.
    references: BTreeMap<Key, ObjectRef<Genome>>,
    /// Those of a list that is arriving.
    listed: BTreeMap<Key, ObjectRef<Genome>>,
    released: mpsc::UnboundedSender<ObjectRef<Genome>>,
}

impl OrganismEvents {
    /// Ends the actors in `registry` of Organisms that are not in `organisms` any more. The stream has the Genomes
    /// that are no longer referred to.
    pub fn new(
        registry: Arc<Registry>,
        ownership: Arc<Ownership>,
        organisms: Store<Organism>,
        scope: Scope,
    ) -> (Self, impl Stream<Item = ObjectRef<Genome>> + Send + 'static) {
        let (released, receiver) = mpsc::unbounded_channel();
        let stream = futures::stream::unfold(receiver, async |mut receiver: mpsc::UnboundedReceiver<_>| {
            receiver.recv().await.map(|genome| (genome, receiver))
        });
        let (references, listed) = (BTreeMap::new(), BTreeMap::new());
        (Self { registry, ownership, organisms, scope, references, listed, released }, stream)
    }

    /// Handles one event, after it has reached the store.
    pub fn observe(&mut self, event: &Event<Organism>) {
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(organism) => {
                if let Some((key, genome)) = reference(organism) {
                    self.listed.insert(key, genome);
                }
            }
            // What was deleted or changed while the watch was interrupted shows in the new list.
            Event::InitDone => {
                let before = std::mem::replace(&mut self.references, std::mem::take(&mut self.listed));
                for (key, genome) in before {
                    if self.references.get(&key) != Some(&genome) {
                        self.release(genome);
                    }
                }
                self.end_missing();
            }
            Event::Apply(organism) => {
                if let Some((key, genome)) = reference(organism)
                    && let Some(before) = self.references.insert(key, genome.clone())
                    && before != genome
                {
                    self.release(before);
                }
            }
            Event::Delete(organism) => {
                let key = Key::of_metadata(organism.meta());
                self.end(&key, organism.meta());
                self.ownership.forget(&key, organism.meta().uid.as_deref().unwrap_or_default());
                if let Some(genome) = self.references.remove(&key) {
                    self.release(genome);
                }
            }
        }
    }

    fn release(&self, genome: ObjectRef<Genome>) {
        // The stream ends with its controller, at a stop.
        let _ = self.released.send(genome);
    }

    fn end(&self, key: &Key, metadata: &ObjectMeta) {
        if let Some(actor) = self.registry.get(key)
            && Some(actor.uid()) == metadata.uid.as_deref()
        {
            actor.request_end(End::Deleted);
        }
    }

    fn end_missing(&self) {
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

/// The Genome that an Organism refers to.
fn reference(organism: &Organism) -> Option<(Key, ObjectRef<Genome>)> {
    let organism = organism.0.as_ref().ok()?;
    let namespace = organism.namespace().unwrap_or_default();
    Some((Key::of(organism), ObjectRef::new(organism.genome_name()).within(&namespace)))
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use kube::runtime::reflector;
    use serde_json::json;
    use tokio::sync::oneshot;

    use super::*;
    use crate::operator::actor::mailbox::Message;

    fn organism(uid: &str, genome: &str) -> Organism {
        let object = json!({
            "apiVersion": "genesis.venom.dev/v1alpha1", "kind": "Organism",
            "metadata": {"name": "venom", "namespace": "a", "uid": uid}, "spec": {"genomeRef": {"name": genome}},
        });
        DeserializeGuard(Ok(serde_json::from_value(object).unwrap()))
    }

    fn nobody() -> Arc<Ownership> {
        Arc::new(Ownership::new(crate::operator::members::Members::alone("alpha")))
    }

    /// A registry with an actor for the Organism `a/venom` of this UID, which tells when it has to end.
    fn registry(uid: &str) -> (Arc<Registry>, oneshot::Receiver<End>) {
        let registry = Arc::new(Registry::default());
        let (ended, receiver) = oneshot::channel();
        let started = registry.get_or_start(&Key::new("a", "venom"), uid, |mut mailbox| async move {
            while let Some(message) = mailbox.recv().await {
                if let Message::End(end, _) = message {
                    let _ = ended.send(end);
                    return false;
                }
            }
            false
        });
        assert!(started.is_ok());
        (registry, receiver)
    }

    async fn genomes(released: impl Stream<Item = ObjectRef<Genome>>, count: usize) -> Vec<String> {
        std::pin::pin!(released).take(count).map(|it| it.name).collect().await
    }

    fn all() -> Scope {
        Scope::of(&[]).remove(0)
    }

    #[tokio::test]
    async fn the_actor_of_a_deleted_organism_ends_and_its_genome_is_reconciled() {
        let (registry, ended) = registry("1");
        let (store, _writer) = reflector::store();
        let (mut events, released) = OrganismEvents::new(registry, nobody(), store, all());
        events.observe(&Event::Apply(organism("1", "lent")));
        events.observe(&Event::Delete(organism("1", "lent")));
        assert_eq!(ended.await, Ok(End::Deleted));
        assert_eq!(genomes(released, 1).await, ["lent"]);
    }

    #[tokio::test]
    async fn a_genome_that_is_no_longer_referred_to_is_reconciled() {
        let (registry, _ended) = registry("1");
        let (store, _writer) = reflector::store();
        let (mut events, released) = OrganismEvents::new(registry, nobody(), store, all());
        for genome in ["one", "one", "two"] {
            events.observe(&Event::Apply(organism("1", genome)));
        }
        // A change that the watch has missed.
        events.observe(&Event::Init);
        events.observe(&Event::InitApply(organism("1", "three")));
        events.observe(&Event::InitDone);
        assert_eq!(genomes(released, 2).await, ["one", "two"]);
    }

    #[tokio::test]
    async fn an_organism_that_was_deleted_while_nobody_watched_is_missed_in_the_next_list() {
        for (listed, ends) in [(Some("1"), false), (Some("2"), true), (None, true)] {
            let (registry, mut ended) = registry("1");
            let (store, mut writer) = reflector::store();
            let (mut events, _released) = OrganismEvents::new(registry, nobody(), store, all());
            let list = listed.map(|uid| Event::InitApply(organism(uid, "lent")));
            for event in [Some(Event::Init), list, Some(Event::InitDone)].into_iter().flatten() {
                writer.apply_watcher_event(&event);
                events.observe(&event);
            }
            let end = tokio::time::timeout(std::time::Duration::from_millis(200), &mut ended).await;
            assert_eq!(end.is_ok(), ends, "{listed:?}");
        }
    }
}
