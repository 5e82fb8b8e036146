use serde_json::{Value, json};

use super::*;

fn autoscaler(name: &str, api_version: &str, kind: &str, target: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {"maxReplicas": 9, "scaleTargetRef": {"apiVersion": api_version, "kind": kind, "name": target}},
    })
}

fn found(object: Value, with_own: bool) -> Option<String> {
    let organism = with_own.then_some("venom");
    find(&[serde_json::from_value(object).unwrap()], ("Deployment", "venom"), organism)
}

#[test]
fn an_autoscaler_of_the_deployment_is_named_with_what_has_made_it() {
    let mut keda = autoscaler("keda-hpa-web", "apps/v1", "Deployment", "venom");
    keda["metadata"]["ownerReferences"] = json!([
        {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "name": "web", "uid": "1", "controller": true},
    ]);
    let expected = "HorizontalPodAutoscaler keda-hpa-web of ScaledObject web scales Deployment venom";
    assert_eq!(found(keda, true).as_deref(), Some(expected));
    let plain = autoscaler("web", "apps/v1", "Deployment", "venom");
    let expected = "HorizontalPodAutoscaler web scales Deployment venom";
    assert_eq!(found(plain, false).as_deref(), Some(expected));
}

#[test]
fn an_autoscaler_of_something_else_is_not() {
    assert_eq!(found(autoscaler("web", "apps/v1", "Deployment", "other"), true), None);
    assert_eq!(found(autoscaler("web", "apps/v1", "StatefulSet", "venom"), true), None);
    let organism = || autoscaler("web", "genesis.venom.dev/v1alpha1", "Organism", "venom");
    assert_eq!(found(organism(), false), None, "instead of the operator's own");
    assert_eq!(found(organism(), true).as_deref(), Some("HorizontalPodAutoscaler web scales Organism venom"));
}

#[test]
fn a_sign_leads_to_a_look_at_once_and_without_one_they_are_rare() {
    let start = Instant::now();
    let mut foreign = ForeignAutoscalers::new(start);
    assert!(foreign.wait(false, start) <= CALM);
    assert_eq!(foreign.wait(true, start), Duration::ZERO);
    foreign.looked(None, start);
    assert_eq!(foreign.wait(true, start), ON_SIGN);
    assert_eq!(foreign.wait(false, start), CALM);
    foreign.looked(Some("it".into()), start);
    assert_eq!((foreign.wait(true, start), foreign.found()), (WHILE_FOUND, Some("it")));
}
