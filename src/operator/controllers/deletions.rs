//! Organisms that are gone: their actors end at once, and the Genomes that they had claimed are reconciled. Nothing
//! keeps an Organism from going, so the watch is the only one to tell.

use std::sync::Arc;

use futures::Stream;
use kube::ResourceExt;
use kube::core::ObjectMeta;
use kube::core::{DeserializeGuard, Resource};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher::Event;
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
        if let Some(actor) = self.registry.get(&Key::of_metadata(metadata))
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

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use kube::runtime::reflector;
    use serde_json::json;
    use tokio::sync::oneshot;

    use super::*;
    use crate::operator::actor::mailbox::Message;

    fn organism(uid: &str) -> Organism {
        let object = json!({
            "apiVersion": "genesis.venom.dev/v1alpha1", "kind": "Organism",
            "metadata": {"name": "venom", "namespace": "a", "uid": uid}, "spec": {"genomeRef": {"name": "lent"}},
        });
        DeserializeGuard(Ok(serde_json::from_value(object).unwrap()))
    }

    /// A registry with an actor for the Organism `a/venom` of this UID, which tells when it has to end.
    fn registry(uid: &str) -> (Arc<Registry>, oneshot::Receiver<End>) {
        let registry = Arc::new(Registry::default());
        let (ended, receiver) = oneshot::channel();
        let started = registry.get_or_start(&Key::new("a", "venom"), uid, |mut mailbox| async move {
            while let Some(message) = mailbox.recv().await {
                if let Message::End(end, _) = message {
                    let _ = ended.send(end);
                    return;
                }
            }
        });
        assert!(started.is_ok());
        (registry, receiver)
    }

    fn all() -> Scope {
        Scope::of(&[]).remove(0)
    }

    #[tokio::test]
    async fn the_actor_of_a_deleted_organism_ends_and_its_genome_is_reconciled() {
        let (registry, ended) = registry("1");
        let (store, _writer) = reflector::store();
        let (mut deletions, released) = Deletions::new(registry, store, all());
        deletions.observe(&Event::Delete(organism("0")));
        deletions.observe(&Event::Delete(organism("1")));
        assert_eq!(ended.await, Ok(End::Deleted));
        let genomes: Vec<_> = std::pin::pin!(released).take(2).collect().await;
        assert!(genomes.iter().all(|it| it.name == "lent" && it.namespace.as_deref() == Some("a")));
    }

    #[tokio::test]
    async fn an_organism_that_was_deleted_while_nobody_watched_is_missed_in_the_next_list() {
        for (listed, ends) in [(Some("1"), false), (Some("2"), true), (None, true)] {
            let (registry, mut ended) = registry("1");
            let (store, mut writer) = reflector::store();
            let (mut deletions, _released) = Deletions::new(registry, store, all());
            let list = listed.map(|uid| Event::InitApply(organism(uid)));
            for event in [Some(Event::Init), list, Some(Event::InitDone)].into_iter().flatten() {
                writer.apply_watcher_event(&event);
                deletions.observe(&event);
            }
            let end = tokio::time::timeout(std::time::Duration::from_millis(200), &mut ended).await;
            assert_eq!(end.is_ok(), ends, "{listed:?}");
        }
    }
}
