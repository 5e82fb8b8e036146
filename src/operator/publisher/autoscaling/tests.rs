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
    let (status, reason, message) = Autoscaling::Contested("argocd".into()).condition(None);
    assert_eq!((status, &*reason), ("False", "ReplicasContested"));
    assert!(message.contains("argocd") && message.contains("Remove that field"), "{message}");
}

fn status(desired: u64, cpu: u64, active: &str, reason: &str) -> Value {
    json!({
        "desiredReplicas": desired,
        "conditions": [
            {"type": "AbleToScale", "status": "True", "reason": "SucceededRescale", "message": "no"},
            {"type": "ScalingActive", "status": active, "reason": reason, "message": "in words"},
        ],
        "currentMetrics": [
            {"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "node", "current": {"averageUtilization": cpu}}},
        ],
    })
}

#[test]
fn what_the_autoscaler_wants_and_why_is_in_the_condition() {
    let condition = |scaling: &Option<Scaling>| Autoscaling::Active.condition(scaling.as_ref());
    assert_eq!(Scaling::of(&json!({})), None);
    assert_eq!(condition(&None).2, "A HorizontalPodAutoscaler sets spec.nodes.replicas.");
    let blind = Scaling::of(&status(5, 0, "False", "FailedGetResourceMetric"));
    let (holds, reason, message) = condition(&blind);
    assert_eq!((holds, &*reason), ("False", "FailedGetResourceMetric"));
    assert!(message.ends_with("cannot compute it: in words"), "{message}");
    let six = Scaling::after(blind, Scaling::of(&status(6, 120, "True", "ValidMetricFound")));
    let (holds, reason, message) = condition(&six);
    assert_eq!((holds, &*reason), ("True", "Active"));
    assert!(message.ends_with(": 6, at 120 % of the CPU that pods request."), "{message}");
    let still = Scaling::after(six.clone(), Scaling::of(&status(6, 60, "True", "ValidMetricFound")));
    assert_eq!(still, six, "no news");
    let less = Scaling::after(six, Scaling::of(&status(3, 20, "True", "ValidMetricFound")));
    assert!(condition(&less).2.ends_with(": 3, at 20 % of the CPU that pods request."));
}
