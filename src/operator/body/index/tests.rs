use serde_json::{Value, json};

use super::*;

fn metadata(version: u64, entries: Value) -> ObjectMeta {
    serde_json::from_value(json!({
        "name": "venom", "uid": "a", "resourceVersion": version.to_string(), "managedFields": entries,
        "ownerReferences": [{"apiVersion": "v1", "kind": "Organism", "name": "venom", "uid": "organism", "controller": true}],
    }))
    .unwrap()
}

fn entry(manager: &str, operation: &str, fields: Value) -> Value {
    json!({"manager": manager, "operation": operation, "fieldsType": "FieldsV1", "fieldsV1": fields})
}

fn key() -> Key {
    Key { namespace: "team-a".into(), name: "venom".into() }
}

fn id() -> Id {
    (Kind::Deployment, "venom".into())
}

#[test]
fn a_field_that_somebody_takes_is_drift_and_a_field_that_somebody_adds_is_not() {
    let ours = || entry(MANAGER, "Apply", json!({"f:spec": {"f:replicas": {}}}));
    let before = Seen::of(&metadata(1, json!([ours()])));
    let added = entry("kubectl", "Update", json!({"f:metadata": {"f:labels": {"f:theirs": {}}}}));
    assert_eq!(before, Seen::of(&metadata(2, json!([added, ours()]))));
    let taken = entry("kubectl", "Update", json!({"f:spec": {"f:replicas": {}}}));
    let left = entry(MANAGER, "Apply", json!({"f:spec": {}}));
    assert_ne!(before, Seen::of(&metadata(3, json!([taken, left]))));
    assert_ne!(before, Seen::of(&metadata(4, json!([]))));
}

#[test]
fn what_was_created_becomes_what_is_applied() {
    let created: Vec<ManagedFieldsEntry> = serde_json::from_value(json!([
        entry(MANAGER, "Update", json!({"f:spec": {}})),
        entry("kubectl", "Update", json!({"f:metadata": {}})),
    ]))
    .unwrap();
    let applied = as_applied(&created);
    let of = |it: &ManagedFieldsEntry| (it.manager.clone().unwrap(), it.operation.clone().unwrap());
    let expected = [(MANAGER.to_owned(), "Apply".to_owned()), ("kubectl".into(), "Update".into())];
    assert_eq!(applied.iter().map(of).collect::<Vec<_>>(), expected);
    // There cannot be two applied ones: that of the creation goes.
    let both = [created, applied].concat();
    assert_eq!(as_applied(&both).iter().filter(|it| is_ours(it, "Apply")).count(), 1);
    assert!(!as_applied(&both).iter().any(|it| is_ours(it, "Update")));
}

#[test]
fn only_what_matters_is_news() {
    let children = Children::new(0);
    let nodes = |count| Told { nodes: Nodes { ready: count, replicas: count }, scaling: None };
    let (none, five) = (Some(nodes(0)), Some(nodes(5)));
    assert!(children.put(&key(), id(), &metadata(10, json!([])), none.clone()));
    assert!(!children.put(&key(), id(), &metadata(11, json!([])), none.clone()), "a version alone");
    assert!(children.put(&key(), id(), &metadata(12, json!([])), five.clone()));
    assert!(!children.put(&key(), id(), &metadata(9, json!([])), none.clone()), "an older state");
    assert!(!children.put(&key(), id(), &metadata(13, json!([])), None), "metadata alone");
    assert_eq!(children.told(&key(), "organism"), nodes(5));
    assert_eq!(children.told(&key(), "another"), nodes(0), "the Deployment of an Organism that is gone");
    children.remove(&key(), &id(), "b");
    assert!(children.seen(&key(), &id()).is_some(), "another object of that name is gone");
    children.remove(&key(), &id(), "a");
    assert_eq!(children.seen(&key(), &id()), None);
}

#[test]
fn a_new_list_takes_the_place_of_the_old_one() {
    let children = Children::new(0);
    let account: Id = (Kind::ServiceAccount, "venom".into());
    let other = Key { namespace: "team-b".into(), name: "venom".into() };
    for (key, id) in [(key(), id()), (key(), account.clone()), (other.clone(), id())] {
        children.put(&key, id, &metadata(1, json!([])), None);
    }
    let same = vec![(key(), id(), metadata(2, json!([])), Told::default())];
    assert_eq!(children.relist(Kind::Deployment, Some("team-a"), same), []);
    assert_eq!(children.relist(Kind::Deployment, Some("team-a"), vec![]), [key()]);
    assert_eq!(children.seen(&key(), &id()), None);
    assert!(children.seen(&key(), &account).is_some(), "of another kind");
    assert!(children.seen(&other, &id()).is_some(), "in another namespace");
}
