//! What a reconciler that starts knows of the objects that an earlier process has applied.
//!
//! Each object says in an annotation what was applied to it last: that process may have ended right after the write. And
//! the status has a hash of them all, which covers which fields were the operator's afterwards: where another client has
//! changed one meanwhile it is no longer the operator's.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use super::{BodyReconciler, Tracked};
use crate::api;
use crate::operator::body::build::ChildObject;
use crate::operator::body::hash;
use crate::operator::body::index::{APPLIED_ANNOTATION, ObjectId, ObservedObject};
use crate::operator::body::plan::LastApplied;

/// How long the first pass waits for the ledger: without it everything is applied once.
const TIMEOUT: Duration = Duration::from_secs(10);

impl BodyReconciler {
    /// Recalls what an earlier process has applied, from the status. Returns a wait where that cannot be told yet: some
    /// objects depend on the decision in force, which the ledger tells.
    pub(super) fn recall(
        &mut self,
        organism: &api::Organism,
        children: &[ChildObject],
        held: bool,
    ) -> Option<Duration> {
        let nodes = organism.status.as_ref().and_then(|it| it.nodes.as_ref());
        let recorded = nodes.and_then(|it| it.applied_hash.as_ref()).filter(|_| self.objects.is_empty())?;
        if !held {
            let left = TIMEOUT.checked_sub(self.started.elapsed());
            return left.filter(|it| !it.is_zero());
        }
        let observed = |id: &ObjectId| self.resources.index.object(&self.key, id);
        let found = as_observed(children, observed)?;
        if hash_of(&found) == *recorded {
            let tracked = |applied| Tracked { applied: Some(applied), ..Tracked::default() };
            self.objects = found.into_iter().map(|(id, it)| (id, tracked(it))).collect();
        }
        None
    }

    /// The hash of the objects, if all are as they were applied.
    pub(super) fn applied(&self, children: &[ChildObject]) -> Option<String> {
        let found = as_observed(children, |id| self.resources.index.object(&self.key, id))?;
        let as_applied = |(id, it): (&ObjectId, &LastApplied)| {
            self.objects.get(id).is_some_and(|tracked| tracked.applied.as_ref() == Some(it))
        };
        found.iter().all(as_applied).then(|| hash_of(&found))
    }
}

/// Adds to each object the hash of what was built.
pub(super) fn annotate(children: &mut [ChildObject]) {
    for object in children.iter_mut().filter_map(|it| it.object.as_mut()) {
        let built = format!("{:016x}", hash(object));
        object.metadata.annotations.get_or_insert_default().insert(APPLIED_ANNOTATION.into(), built);
    }
}

/// The children as they were applied, if each of them is there and says so. `observed` is what is known of one.
fn as_observed(
    children: &[ChildObject],
    observed: impl Fn(&ObjectId) -> Option<ObservedObject>,
) -> Option<BTreeMap<ObjectId, LastApplied>> {
    let wanted = children.iter().filter_map(|it| Some((it, it.object.as_ref()?)));
    let applied = wanted.map(|(child, object)| {
        let id = (child.kind, child.name.clone());
        let ObservedObject { uid, owned, applied, created, .. } = observed(&id)?;
        let says = applied.as_ref() == object.metadata.annotations.as_ref()?.get(APPLIED_ANNOTATION);
        (says && !created).then(|| (id, LastApplied { uid, owned, desired: hash(object) }))
    });
    applied.collect()
}

/// The hash of all. That of another version of the operator may differ; its objects are applied once then.
fn hash_of(applied: &BTreeMap<ObjectId, LastApplied>) -> String {
    let mut hasher = DefaultHasher::new();
    for ((kind, name), LastApplied { uid, owned, desired }) in applied {
        (kind.plural(), name, uid, owned, desired).hash(&mut hasher);
    }
    format!("{:016x}", hasher.finish())
}

#[cfg(test)]
mod tests {
    use kube::core::DynamicObject;
    use serde_json::json;

    use super::*;
    use crate::operator::body::build::Kind;

    fn child(name: &str, spec: serde_json::Value) -> ChildObject {
        let mut object = DynamicObject::new(name, &Kind::Service.resource());
        object.data = json!({"spec": spec});
        let mut child = ChildObject { kind: Kind::Service, name: name.into(), object: Some(object) };
        annotate(std::slice::from_mut(&mut child));
        child
    }

    fn observed(child: &ChildObject, uid: &str, owned: u64) -> ObservedObject {
        let metadata = child.object.as_ref().unwrap().metadata.clone();
        ObservedObject { uid: uid.into(), owned, ..ObservedObject::of(&metadata) }
    }

    /// The hash of children that are as they were applied.
    fn of(children: &[ChildObject], uid: &str, owned: u64) -> Option<String> {
        let found = |id: &ObjectId| Some(observed(children.iter().find(|it| it.name == id.1)?, uid, owned));
        as_observed(children, found).map(|it| hash_of(&it))
    }

    #[test]
    fn it_tells_what_was_applied_to_what_and_whether_that_is_still_ours() {
        let children = [child("a", json!({"x": 1})), child("b", json!({}))];
        let known = of(&children, "u", 7);
        assert!(known.is_some());
        assert_eq!(of(&children, "u", 7), known);
        assert_ne!(of(&children, "another", 7), known);
        assert_ne!(of(&children, "u", 8), known);
        assert_ne!(of(&[child("a", json!({"x": 2})), child("b", json!({}))], "u", 7), known);
        assert_ne!(of(&children[..1], "u", 7), known);
    }

    #[test]
    fn an_object_to_which_something_else_was_applied_last_is_not_recalled() {
        let children = [child("a", json!({"x": 1}))];
        let later = child("a", json!({"x": 2}));
        assert_eq!(as_observed(&children, |_| Some(observed(&later, "u", 7))), None);
        let written = |_: &ObjectId| Some(ObservedObject { created: true, ..observed(&children[0], "u", 7) });
        assert_eq!(as_observed(&children, written), None, "changed, and not by an apply");
    }

    #[test]
    fn without_one_of_them_there_is_none_and_what_should_not_exist_does_not_count() {
        let mut children = vec![child("a", json!({})), child("b", json!({}))];
        let first = children[0].clone();
        let found = |id: &ObjectId| (id.1 == "a").then(|| observed(&first, "u", 7));
        assert_eq!(as_observed(&children, found), None);
        children[1].object = None;
        assert_eq!(as_observed(&children, found).unwrap().len(), 1);
    }
}
