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

fn set() -> Value {
    json!({"name": "venom-1", "uid": "set-uid", "ownerReferences": [
        {"apiVersion": "apps/v1", "kind": "Deployment", "name": "venom", "uid": "deployment-uid", "controller": true},
    ]})
}

/// All three steps on the whole chain, one value of it replaced.
fn decide(mut chain: Value, pointer: &str, with: Value) -> Result<Claim, Refused> {
    *chain.pointer_mut(pointer).unwrap() = with;
    let metadata = |name: &str| serde_json::from_value::<Option<ObjectMeta>>(chain[name].clone()).unwrap();
    let review: Option<TokenReviewStatus> = serde_json::from_value(chain["review"].clone()).unwrap();
    let (pod, set) = (metadata("pod"), metadata("set"));
    let claim = claim(review.as_ref())?;
    let wanted = replica_set(&claim, pod.as_ref())?;
    of_workload(wanted, set.as_ref(), "deployment-uid")?;
    Ok(claim)
}

fn chain() -> Value {
    json!({"review": review(), "pod": pod(), "set": set()})
}

#[test]
fn a_pod_of_the_organisms_own_workload_is_a_node() {
    let organism = Key { namespace: "team-a".into(), name: "venom".into() };
    let claim = Claim { organism, pod: "venom-1-2".into(), pod_uid: "pod-uid".into() };
    assert_eq!(decide(chain(), "/pod/name", json!("venom-1-2")), Ok(claim));
}

#[test]
fn nobody_else_is() {
    use Refused::{Pod, Token, Unbound, Workload};
    let extra = format!("/review/user/extra/{}", POD_UID.replace('/', "~1"));
    let named = format!("/review/user/extra/{}", POD_NAME.replace('/', "~1"));
    for (pointer, with, refused) in [
        ("/review", Value::Null, Token),
        ("/review/authenticated", json!(false), Token),
        ("/review/authenticated", Value::Null, Token),
        ("/review/audiences", json!(["https://kubernetes.default.svc"]), Token),
        ("/review/audiences", Value::Null, Token),
        ("/review/user", Value::Null, Token),
        ("/review/user/username", json!("admin"), Unbound),
        ("/review/user/username", json!("system:serviceaccount:team-a"), Unbound),
        ("/review/user/extra", Value::Null, Unbound),
        (&extra, json!([]), Unbound),
        (&extra, json!([""]), Unbound),
        (&extra, json!(["pod-uid", "another"]), Unbound),
        (&named, json!([]), Unbound),
        (&extra, json!(["another"]), Pod),
        ("/pod", Value::Null, Pod),
        ("/pod/uid", json!("another"), Pod),
        ("/pod/ownerReferences", json!([]), Workload),
        ("/pod/ownerReferences/1/controller", json!(false), Workload),
        ("/pod/ownerReferences/1/kind", json!("Job"), Workload),
        ("/pod/ownerReferences/1/apiVersion", json!("example.org/v1"), Workload),
        ("/set", Value::Null, Workload),
        ("/set/uid", json!("another"), Workload),
        ("/set/ownerReferences", Value::Null, Workload),
        ("/set/ownerReferences/0/uid", json!("another"), Workload),
        ("/set/ownerReferences/0/kind", json!("StatefulSet"), Workload),
    ] {
        assert_eq!(decide(chain(), pointer, with.clone()), Err(refused), "{pointer}: {with}");
    }
    let mut going = chain();
    going["pod"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert_eq!(decide(going, "/pod/uid", json!("pod-uid")), Err(Pod));
}
