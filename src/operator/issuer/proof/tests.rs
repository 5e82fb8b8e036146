use serde_json::{Value, json};

use super::*;

fn review() -> Value {
    json!({
        "authenticated": true,
        "audiences": [TOKEN_AUDIENCE],
        "user": {
            "username": "system:serviceaccount:team-a:venom",
            "extra": {POD_NAME: ["venom-1-2"], POD_UID: ["pod-uid"]},
        },
    })
}

fn pod() -> Value {
    json!({"name": "venom-1-2", "uid": "pod-uid", "ownerReferences": [
        {"apiVersion": "v1", "kind": "ConfigMap", "name": "other", "uid": "other-uid"},
        {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "venom-1", "uid": "set-uid", "controller": true},
    ]})
}

fn replica_set() -> Value {
    json!({"name": "venom-1", "uid": "set-uid", "ownerReferences": [
        {"apiVersion": "apps/v1", "kind": "Deployment", "name": "venom", "uid": "deployment-uid", "controller": true},
    ]})
}

/// Runs all three checks on the chain of objects after replacing one value in it.
fn check(mut chain: Value, pointer: &str, with: Value) -> Result<PodClaim, Refusal> {
    *chain.pointer_mut(pointer).unwrap() = with;
    let metadata = |name: &str| serde_json::from_value::<Option<ObjectMeta>>(chain[name].clone()).unwrap();
    let review: Option<TokenReviewStatus> = serde_json::from_value(chain["review"].clone()).unwrap();
    let (pod, replica_set) = (metadata("pod"), metadata("replicaSet"));
    let claim = pod_claim(review.as_ref())?;
    let reference = controlling_replica_set(&claim, pod.as_ref())?;
    check_deployment(reference, replica_set.as_ref(), "deployment-uid")?;
    Ok(claim)
}

fn chain() -> Value {
    json!({"review": review(), "pod": pod(), "replicaSet": replica_set()})
}

#[test]
fn pod_of_the_organisms_deployment_is_accepted() {
    let organism = Key { namespace: "team-a".into(), name: "venom".into() };
    let claim = PodClaim { organism, pod: "venom-1-2".into(), pod_uid: "pod-uid".into() };
    assert_eq!(check(chain(), "/pod/name", json!("venom-1-2")), Ok(claim));
}

#[test]
fn any_broken_link_in_the_chain_is_refused() {
    use Refusal::{Pod, Token, Unbound, Workload};
    let pod_uid = format!("/review/user/extra/{}", POD_UID.replace('/', "~1"));
    let pod_name = format!("/review/user/extra/{}", POD_NAME.replace('/', "~1"));
    for (pointer, with, refusal) in [
        ("/review", Value::Null, Token),
        ("/review/authenticated", json!(false), Token),
        ("/review/authenticated", Value::Null, Token),
        ("/review/audiences", json!(["https://kubernetes.default.svc"]), Token),
        ("/review/audiences", Value::Null, Token),
        ("/review/user", Value::Null, Token),
        ("/review/user/username", json!("admin"), Unbound),
        ("/review/user/username", json!("system:serviceaccount:team-a"), Unbound),
        ("/review/user/extra", Value::Null, Unbound),
        (&pod_uid, json!([]), Unbound),
        (&pod_uid, json!([""]), Unbound),
        (&pod_uid, json!(["pod-uid", "another"]), Unbound),
        (&pod_name, json!([]), Unbound),
        (&pod_uid, json!(["another"]), Pod),
        ("/pod", Value::Null, Pod),
        ("/pod/uid", json!("another"), Pod),
        ("/pod/ownerReferences", json!([]), Workload),
        ("/pod/ownerReferences/1/controller", json!(false), Workload),
        ("/pod/ownerReferences/1/kind", json!("Job"), Workload),
        ("/pod/ownerReferences/1/apiVersion", json!("example.org/v1"), Workload),
        ("/replicaSet", Value::Null, Workload),
        ("/replicaSet/uid", json!("another"), Workload),
        ("/replicaSet/ownerReferences", Value::Null, Workload),
        ("/replicaSet/ownerReferences/0/uid", json!("another"), Workload),
        ("/replicaSet/ownerReferences/0/kind", json!("StatefulSet"), Workload),
    ] {
        assert_eq!(check(chain(), pointer, with.clone()), Err(refusal), "{pointer}: {with}");
    }
    let mut terminating = chain();
    terminating["pod"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert_eq!(check(terminating, "/pod/uid", json!("pod-uid")), Err(Pod));
}
