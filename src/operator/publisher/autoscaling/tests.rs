use serde_json::{Value, json};

use super::*;
use crate::operator::watches::trim_managers;

/// An Organism with these managers, as the watch keeps it.
fn organism(enabled: bool, entries: Value) -> api::Organism {
    let mut organism: api::Organism = serde_json::from_value(json!({
        "apiVersion": "genesis.venom.dev/v1alpha1", "kind": "Organism",
        "metadata": {"name": "venom", "managedFields": entries},
        "spec": {"autoscaling": {"enabled": enabled}},
    }))
    .unwrap();
    trim_managers(&mut organism.metadata);
    organism
}

fn entry(operation: &str, subresource: Option<&str>, fields: Value) -> Value {
    json!({
        "manager": "argocd", "operation": operation, "subresource": subresource, "fieldsType": "FieldsV1",
        "fieldsV1": {"f:spec": fields},
    })
}

fn scaled() -> Scaling {
    let mut status = status(6, 60, "True", "ValidMetricFound");
    status["lastScaleTime"] = json!("2026-01-01T00:00:00Z");
    Scaling::of(&status).unwrap()
}

#[test]
fn who_sets_replicas_again_and_again_is_named() {
    let replicas = || json!({"f:nodes": {"f:replicas": {}}});
    let contested = Autoscaling::Contested(Contestant::Applies("argocd".into()));
    for (entry, expected) in [
        (entry("Apply", None, replicas()), contested),
        (entry("Apply", None, json!({"f:nodes": {"f:resources": {}}})), Autoscaling::Active),
        (entry("Update", None, replicas()), Autoscaling::Active),
        (entry("Update", Some("scale"), replicas()), Autoscaling::Active),
    ] {
        assert_eq!(Autoscaling::of(&organism(true, json!([entry])), true, None), expected);
        assert_eq!(Autoscaling::of(&organism(false, json!([entry])), true, None), Autoscaling::Disabled);
        assert_eq!(Autoscaling::of(&organism(true, json!([entry])), false, None), Autoscaling::NoBody);
    }
    // The creation owns every default; only an update after the autoscaler's undoes something.
    let updated = organism(true, json!([entry("Update", None, replicas())]));
    let expected = Autoscaling::Contested(Contestant::Updated("argocd".into()));
    assert_eq!(Autoscaling::of(&updated, true, Some(&scaled())), expected);
    let by_scale = organism(true, json!([entry("Update", Some("scale"), replicas())]));
    assert_eq!(Autoscaling::of(&by_scale, true, Some(&scaled())), Autoscaling::Active);
    // The manager that the message proposes, for as long as the autoscaler has not scaled again.
    let mut handover = entry("Apply", None, replicas());
    handover["manager"] = json!(HANDOVER);
    assert_eq!(Autoscaling::of(&organism(true, json!([handover])), true, None), Autoscaling::Active);
}

#[test]
fn a_last_applied_configuration_with_replicas_will_set_them_again() {
    for (last, contested) in [
        (r#"{"spec":{"nodes":{"replicas":4}}}"#, true),
        (r#"{"spec":{"nodes":{}}}"#, false),
        (r#"{"spec":{"nodes":{"replicas":null}}}"#, false),
        ("{}", false),
        ("no JSON", false),
    ] {
        let mut organism = organism(true, json!([]));
        organism.metadata.annotations = Some([(LAST_APPLIED.to_owned(), last.to_owned())].into());
        let expected = match contested {
            true => Autoscaling::Contested(Contestant::LastApplied("kubectl apply".into())),
            false => Autoscaling::Active,
        };
        assert_eq!(Autoscaling::of(&organism, true, None), expected, "{last}");
    }
}

#[test]
fn the_advice_keeps_the_number_where_it_is() {
    for (contestant, advice) in [
        (Contestant::Applies("argocd".into()), "--server-side --field-manager=venom-handover"),
        (Contestant::LastApplied("argocd".into()), "kubectl apply set-last-applied -f FILE"),
        (Contestant::Updated("argocd".into()), "a replacement without the field sets the default"),
    ] {
        let (status, reason, message) = Autoscaling::Contested(contestant).condition(None, None);
        assert_eq!((status, &*reason), ("False", "ReplicasContested"));
        assert!(message.contains("argocd") && message.contains(advice), "{message}");
        assert!(!message.contains("  "), "{message}");
    }
}

#[test]
fn an_autoscaler_of_someone_else_is_named_whatever_the_setting() {
    let foreign = Some("HorizontalPodAutoscaler web scales Deployment venom");
    for autoscaling in [Autoscaling::Active, Autoscaling::Disabled] {
        let (status, reason, message) = autoscaling.condition(None, foreign);
        assert_eq!((status, &*reason), ("False", "ForeignAutoscaler"));
        assert!(message.starts_with("HorizontalPodAutoscaler web scales Deployment venom; "), "{message}");
    }
    assert_eq!(Autoscaling::NoBody.condition(None, foreign).1, "NoBody");
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
    let condition = |scaling: &Option<Scaling>| Autoscaling::Active.condition(scaling.as_ref(), None);
    assert_eq!(Scaling::of(&json!({})), None);
    assert_eq!(condition(&None).2, "A HorizontalPodAutoscaler sets the number of pods.");
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
