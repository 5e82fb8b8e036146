use serde_json::{Value, json};

use super::*;

fn organism(enabled: bool, entries: Value) -> api::Organism {
    serde_json::from_value(json!({
        "apiVersion": "genesis.venom.dev/v1alpha1", "kind": "Organism",
        "metadata": {"name": "venom", "managedFields": entries},
        "spec": {"autoscaling": {"enabled": enabled}},
    }))
    .unwrap()
}

fn entry(operation: &str, subresource: Option<&str>, fields: Value) -> Value {
    json!({
        "manager": "argocd", "operation": operation, "subresource": subresource, "fieldsType": "FieldsV1",
        "fieldsV1": {"f:spec": fields},
    })
}

#[test]
fn who_applies_replicas_is_named() {
    let replicas = || json!({"f:nodes": {"f:replicas": {}}});
    let contested = Autoscaling::Contested("argocd".into());
    for (entry, expected) in [
        (entry("Apply", None, replicas()), contested),
        (entry("Apply", None, json!({"f:nodes": {"f:resources": {}}})), Autoscaling::Active),
        (entry("Update", None, replicas()), Autoscaling::Active),
        (entry("Update", Some("scale"), replicas()), Autoscaling::Active),
    ] {
        assert_eq!(Autoscaling::of(&organism(true, json!([entry])), true), expected);
        assert_eq!(Autoscaling::of(&organism(false, json!([entry])), true), Autoscaling::Disabled);
        assert_eq!(Autoscaling::of(&organism(true, json!([entry])), false), Autoscaling::NoBody);
    }
    let (status, reason, message) = Autoscaling::Contested("argocd".into()).condition();
    assert_eq!((status, reason), ("False", "ReplicasContested"));
    assert!(message.contains("argocd") && message.contains("Remove that field"), "{message}");
}
