//! Which changes of objects are worth a reconciliation.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use kube::core::{DeserializeGuard, ObjectMeta, Resource};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher::Event;

use crate::api;

/// Tells of the events of one watch which objects have to be reconciled: those in which something has changed that a
/// reconciliation reads. Almost all changes of Organisms and Genomes are statuses that this operator has written.
///
/// A store shows the objects of a list when all of them are there, and no sooner are they told here.
pub struct Changes<K: Resource<DynamicType: Hash + Eq>> {
    /// A hash of what is read, and the list that has brought the object last.
    seen: HashMap<ObjectRef<K>, (u64, u64)>,
    lists: u64,
    /// Changed objects of a list that is under way.
    listed: Vec<ObjectRef<K>>,
    hash: fn(&K) -> u64,
}

impl<K> Changes<K>
where
    K: Resource<DynamicType: Default + Eq + Hash + Clone>,
{
    /// `hash` is that of what a reconciliation reads.
    #[must_use]
    pub fn new(hash: fn(&K) -> u64) -> Self {
        Self { seen: HashMap::new(), lists: 0, listed: vec![], hash }
    }

    /// The objects to reconcile after this event.
    pub fn after(&mut self, event: &Event<K>) -> Vec<ObjectRef<K>> {
        match event {
            Event::Init => {
                self.lists += 1;
                vec![]
            }
            Event::InitApply(object) => {
                let changed = self.has_changed(object);
                self.listed.extend(changed);
                vec![]
            }
            Event::InitDone => {
                let lists = self.lists;
                let gone = self.seen.extract_if(|_, seen| seen.1 != lists).map(|(object, _)| object);
                std::mem::take(&mut self.listed).into_iter().chain(gone).collect()
            }
            Event::Apply(object) => self.has_changed(object).into_iter().collect(),
            Event::Delete(object) => {
                let object = ObjectRef::from_obj(object);
                self.seen.remove(&object);
                vec![object]
            }
        }
    }

    fn has_changed(&mut self, object: &K) -> Option<ObjectRef<K>> {
        let (name, next) = (ObjectRef::from_obj(object), ((self.hash)(object), self.lists));
        let before = self.seen.insert(name.clone(), next);
        before.is_none_or(|before| before.0 != next.0).then_some(name)
    }
}

/// Of an Organism: everything but its status.
#[must_use]
pub fn of_organism(organism: &DeserializeGuard<api::Organism>) -> u64 {
    hash(organism.meta(), None)
}

/// Of a Genome: everything but its status, and of that the claim.
#[must_use]
pub fn of_genome(genome: &DeserializeGuard<api::Genome>) -> u64 {
    let status = genome.0.as_ref().ok().and_then(|it| it.status.as_ref());
    hash(genome.meta(), status.and_then(|it| it.bound_to.as_ref()))
}

/// The generation stands for the spec, and for a deletion that has begun.
fn hash(metadata: &ObjectMeta, bound: Option<&api::BoundTo>) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&metadata.uid, metadata.generation, &metadata.labels, &metadata.annotations).hash(&mut hasher);
    metadata.finalizers.hash(&mut hasher);
    for owner in metadata.owner_references.iter().flatten() {
        owner.uid.hash(&mut hasher);
    }
    bound.map(|it| (&it.name, &it.uid)).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    type Guard = DeserializeGuard<api::Genome>;

    fn genome(metadata: serde_json::Value, status: serde_json::Value) -> Guard {
        let mut genome =
            json!({"metadata": {"name": "a", "namespace": "n", "uid": "u", "generation": 1}, "spec": {}});
        genome["metadata"].as_object_mut().unwrap().extend(metadata.as_object().unwrap().clone());
        genome["status"] = status;
        DeserializeGuard(Ok(serde_json::from_value(genome).unwrap()))
    }

    fn plain() -> Guard {
        genome(json!({}), json!({}))
    }

    fn is_one(changes: &mut Changes<Guard>, event: Event<Guard>) -> bool {
        !changes.after(&event).is_empty()
    }

    #[test]
    fn a_status_is_none_and_everything_else_is() {
        let mut changes = Changes::new(of_genome);
        assert!(is_one(&mut changes, Event::Apply(plain())), "the first");
        assert!(!is_one(&mut changes, Event::Apply(plain())));
        let status = genome(json!({"resourceVersion": "7"}), json!({"observedGeneration": 1}));
        assert!(!is_one(&mut changes, Event::Apply(status)));
        for (metadata, status) in [
            (json!({"generation": 2}), json!({})),
            (json!({"labels": {"a": "b"}}), json!({})),
            (json!({"annotations": {"a": "b"}}), json!({})),
            (json!({"finalizers": ["a/b"]}), json!({})),
            (json!({"uid": "another"}), json!({})),
            (json!({}), json!({"boundTo": {"name": "o", "uid": "v"}})),
        ] {
            let mut changes = Changes::new(of_genome);
            changes.after(&Event::Apply(plain()));
            assert!(is_one(&mut changes, Event::Apply(genome(metadata.clone(), status))), "{metadata}");
        }
    }

    #[test]
    fn a_deletion_is_one_and_so_is_what_comes_after_it() {
        let mut changes = Changes::new(of_genome);
        changes.after(&Event::Apply(plain()));
        assert!(is_one(&mut changes, Event::Delete(plain())));
        assert!(is_one(&mut changes, Event::Apply(plain())));
    }

    #[test]
    fn a_list_tells_at_its_end_what_has_changed_and_what_is_gone() {
        let mut changes = Changes::new(of_genome);
        let mut list = |items: Vec<Guard>| {
            let mut events = vec![Event::Init];
            events.extend(items.into_iter().map(Event::InitApply));
            assert!(events.iter().all(|it| changes.after(it).is_empty()));
            changes.after(&Event::InitDone).len()
        };
        assert_eq!(list(vec![plain()]), 1);
        assert_eq!(list(vec![plain()]), 0, "unchanged");
        assert_eq!(list(vec![genome(json!({"generation": 2}), json!({}))]), 1, "changed");
        assert_eq!(list(vec![]), 1, "gone");
        assert_eq!(list(vec![]), 0);
        assert_eq!(list(vec![plain()]), 1, "new");
    }
}
