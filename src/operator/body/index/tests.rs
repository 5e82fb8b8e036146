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
    Key::new("team-a", "venom")
}

fn id() -> ObjectId {
    (Kind::Deployment, "venom".into())
}

#[test]
fn a_field_that_another_manager_takes_is_drift_and_one_that_it_adds_is_not() {
    let ours = || entry(FIELD_MANAGER, "Apply", json!({"f:spec": {"f:replicas": {}}}));
    let before = ObservedObject::of(&metadata(1, json!([ours()])));
    let added = entry("kubectl", "Update", json!({"f:metadata": {"f:labels": {"f:theirs": {}}}}));
    assert_eq!(before, ObservedObject::of(&metadata(2, json!([added, ours()]))));
    let taken = entry("kubectl", "Update", json!({"f:spec": {"f:replicas": {}}}));
    let left = entry(FIELD_MANAGER, "Apply", json!({"f:spec": {}}));
    assert_ne!(before, ObservedObject::of(&metadata(3, json!([taken, left]))));
    assert_ne!(before, ObservedObject::of(&metadata(4, json!([]))));
}

#[test]
fn fields_owned_by_the_creation_become_applied_fields() {
    let created: Vec<ManagedFieldsEntry> = serde_json::from_value(json!([
        entry(FIELD_MANAGER, "Update", json!({"f:spec": {}})),
        entry("kubectl", "Update", json!({"f:metadata": {}})),
    ]))
    .unwrap();
    let applied = as_applied(&created);
    let of = |it: &ManagedFieldsEntry| (it.manager.clone().unwrap(), it.operation.clone().unwrap());
    let expected = [(FIELD_MANAGER.to_owned(), "Apply".to_owned()), ("kubectl".into(), "Update".into())];
    assert_eq!(applied.iter().map(of).collect::<Vec<_>>(), expected);
    // There cannot be two applied ones: that of the creation goes.
    let both = [created, applied].concat();
    assert_eq!(as_applied(&both).iter().filter(|it| is_ours(it, "Apply")).count(), 1);
    assert!(!as_applied(&both).iter().any(|it| is_ours(it, "Update")));
}

#[test]
fn put_reports_a_change_only_of_what_matters() {
    let index = Index::new(0);
    let nodes = |count| ObservedStatus {
        nodes: Nodes { ready: count, replicas: count },
        ..ObservedStatus::default()
    };
    let (none, five) = (Some(nodes(0)), Some(nodes(5)));
    assert!(index.put(&key(), id(), &metadata(10, json!([])), none.clone()));
    assert!(!index.put(&key(), id(), &metadata(11, json!([])), none.clone()), "a version alone");
    assert!(index.put(&key(), id(), &metadata(12, json!([])), five.clone()));
    assert!(!index.put(&key(), id(), &metadata(9, json!([])), none.clone()), "an older state");
    assert!(!index.put(&key(), id(), &metadata(13, json!([])), None), "metadata alone");
    assert_eq!(index.status(&key(), "organism"), nodes(5));
    assert_eq!(index.status(&key(), "another"), nodes(0), "the Deployment of an Organism that is gone");
    index.remove(&key(), &id(), "b");
    assert!(index.object(&key(), &id()).is_some(), "another object of that name is gone");
    index.remove(&key(), &id(), "a");
    assert_eq!(index.object(&key(), &id()), None);
}

#[test]
fn a_new_list_replaces_the_old_one() {
    let index = Index::new(0);
    let account: ObjectId = (Kind::ServiceAccount, "venom".into());
    let other = Key::new("team-b", "venom");
    for (key, id) in [(key(), id()), (key(), account.clone()), (other.clone(), id())] {
        index.put(&key, id, &metadata(1, json!([])), None);
    }
    let same = vec![(key(), id(), metadata(2, json!([])), ObservedStatus::default())];
    assert_eq!(index.replace(Kind::Deployment, Some("team-a"), same), []);
    assert_eq!(index.replace(Kind::Deployment, Some("team-a"), vec![]), [key()]);
    assert_eq!(index.object(&key(), &id()), None);
    assert!(index.object(&key(), &account).is_some(), "of another kind");
    assert!(index.object(&other, &id()).is_some(), "in another namespace");
}

#[test]
fn what_lost_its_owner_is_an_orphan_only_with_the_operators_labels_and_field_manager() {
    let ours = entry(FIELD_MANAGER, "Apply", json!({"f:spec": {}}));
    let theirs = entry("kubectl", "Update", json!({"f:spec": {}}));
    let labels = json!({"genesis.venom.dev/organism": "venom", "app.kubernetes.io/managed-by": "venom"});
    for (labels, entries, orphan) in [
        (labels.clone(), json!([ours]), true),
        (labels.clone(), json!([theirs]), false),
        (json!({"genesis.venom.dev/organism": "venom"}), json!([ours]), false),
        (json!({}), json!([ours]), false),
    ] {
        let mut metadata = metadata(1, entries);
        metadata.labels = serde_json::from_value(labels).unwrap();
        assert!(!ObservedObject::of(&metadata).orphan, "the Organism owns it");
        assert_eq!(ObservedObject::of(&metadata).organism, None, "its API version is another one");
        metadata.owner_references = None;
        assert_eq!(ObservedObject::of(&metadata).orphan, orphan, "{:?}", metadata.labels);
    }
}

#[test]
fn replicas_that_were_set_through_scale_are_noticed() {
    let replicas = json!({"f:spec": {"f:replicas": {}}});
    let mut scale = entry("kube-controller-manager", "Update", replicas.clone());
    scale["subresource"] = json!("scale");
    assert!(ObservedObject::of(&metadata(1, json!([scale]))).scaled);
    let mut status = entry("kube-controller-manager", "Update", json!({"f:status": {"f:replicas": {}}}));
    status["subresource"] = json!("status");
    let edit = entry("kubectl-edit", "Update", replicas);
    assert!(!ObservedObject::of(&metadata(1, json!([status, edit]))).scaled);
}
