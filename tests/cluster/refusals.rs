//! What an Organism says when the cluster refuses its writes.
use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::core::v1::ResourceQuota;
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams};
use serde_json::{Value, json};
use venom::api::Organism;

use crate::harness::eventually;
use crate::world::{World, in_world, message};

/// Refuses every further ConfigMap of the namespace.
async fn forbid_configmaps(world: &World) -> Api<ResourceQuota> {
    let quotas: Api<ResourceQuota> = Api::namespaced(world.client.clone(), &world.namespace);
    let quota = json!({"metadata": {"name": "none"}, "spec": {"hard": {"count/configmaps": "0"}}});
    quotas.create(&PostParams::default(), &serde_json::from_value(quota).unwrap()).await.unwrap();
    quotas
}

/// Waits for a Warning Event about the Organism with this reason.
async fn warned(world: &World, reason: &str) {
    let events: Api<Event> = Api::namespaced(world.client.clone(), &world.namespace);
    eventually(&format!("a Warning Event {reason}"), async || {
        let found = events.list(&ListParams::default()).await.map_err(|error| error.to_string())?.items;
        let of = |it: &&Event| it.reason.as_deref() == Some(reason) && it.type_.as_deref() == Some("Warning");
        if found.iter().any(|it| of(&it)) {
            return Ok(());
        }
        Err(format!("{:?}", found.iter().map(|it| &it.reason).collect::<Vec<_>>()))
    })
    .await;
}

/// A quota on ConfigMaps. The commits fail, beats go on until too much is pending, and everything goes by itself.
#[tokio::test]
async fn an_exhausted_quota_is_told_and_passes() {
    in_world(async |world| {
        let operator = world.operator_with("alpha", &["--pending-bytes", "1Mi"]);
        world.create::<Organism>("venom", Value::Null).await;
        world.beating("venom").await;
        let quotas = forbid_configmaps(&world).await;
        let status = world.condition("venom", "Ready", "False", "CommitFailing").await;
        let says = message(&status, "Ready");
        for part in [
            "Nothing has been committed since 20",
            "exceeded quota: none",
            "Raise the namespace's ResourceQuota",
        ] {
            assert!(says.contains(part), "{says}");
        }
        warned(&world, "CommitFailing").await;
        let status = world.condition("venom", "Beating", "False", "LedgerBlocked").await;
        assert!(
            message(&status, "Beating").contains("exceeded quota: none"),
            "{}",
            message(&status, "Beating")
        );
        warned(&world, "LedgerBlocked").await;
        let lines = operator.log().lines().filter(|it| it.contains("commit failed")).count();
        assert!(lines <= 4, "once, and a count each minute:\n{}", operator.log());

        quotas.delete("none", &DeleteParams::default()).await.unwrap();
        world.beating("venom").await;
        world.until("venom", "beats again", |it| message(it, "Beating").starts_with("Beats")).await;
        world.beats_more("venom", 100).await;
        let live = world.ledger("venom").await;
        live.check();
        assert_eq!(live.gaps, []);
    })
    .await;
}

/// An admission policy that refuses ledger objects: the same, in its own words.
#[tokio::test]
async fn an_admission_policy_that_refuses_segments_is_told() {
    in_world(async |world| {
        let _operator = world.operator("alpha");
        world.create::<Organism>("venom", Value::Null).await;
        world.beating("venom").await;
        let name = format!("no-ledgers-{}", world.namespace);
        let policies: Api<ValidatingAdmissionPolicy> = Api::all(world.client.clone());
        let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(world.client.clone());
        let policy = json!({"metadata": {"name": name}, "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": world.namespace}},
                "resourceRules": [{
                    "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"],
                }],
            },
            "validations": [{"expression": "false", "message": "ConfigMaps need the label cost-centre"}],
        }});
        let binding = json!({"metadata": {"name": name}, "spec": {"policyName": name, "validationActions": ["Deny"]}});
        policies.create(&PostParams::default(), &serde_json::from_value(policy).unwrap()).await.unwrap();
        bindings.create(&PostParams::default(), &serde_json::from_value(binding).unwrap()).await.unwrap();
        let status = world.condition("venom", "Ready", "False", "CommitFailing").await;
        bindings.delete(&name, &DeleteParams::default()).await.unwrap();
        policies.delete(&name, &DeleteParams::default()).await.unwrap();
        let says = message(&status, "Ready");
        assert!(says.contains("need the label cost-centre"), "{says}");
        assert!(says.contains("Change the policy"), "{says}");
        world.beating("venom").await;
        world.ledger("venom").await.check();
    })
    .await;
}

/// A head that was broken by hand is named, with the cure.
#[tokio::test]
async fn a_broken_head_is_told_with_its_cure() {
    in_world(async |world| {
        let _operator = world.operator("alpha");
        world.create::<Organism>("venom", Value::Null).await;
        world.beating("venom").await;
        let before = world.maps.get("venom-ledger").await.unwrap().data.unwrap()["head"].clone();
        world.edit_head("venom", |head| *head = json!("broken")).await;
        let status = world.condition("venom", "Ready", "False", "HeadUnreadable").await;
        let says = message(&status, "Ready");
        let cure = format!("venom ledger repair organism/venom -n {}", world.namespace);
        assert!(says.contains("venom-ledger") && says.contains(&cure), "{says}");
        warned(&world, "HeadUnreadable").await;
        let back: Value = serde_json::from_str(&before).unwrap();
        let broken = json!("broken");
        world
            .edit_head("venom", |head| {
                if *head == broken {
                    *head = back.clone()
                }
            })
            .await;
        world.beating("venom").await;
        world.ledger("venom").await.check();
    })
    .await;
}

/// An operator that has the processor half of the time. The status is of one commit, and says what is reached.
#[tokio::test]
async fn an_organism_that_misses_its_deadlines_says_so() {
    in_world(async |world| {
        let operator = world.operator_with("alpha", &["--write-bytes", "1Gi/s"]);
        world.create::<Organism>("venom", json!({"pulse": {"t1": 1e-9}})).await;
        world.beating("venom").await;
        let half_the_time = async {
            loop {
                operator.signal("STOP");
                tokio::time::sleep(Duration::from_millis(500)).await;
                operator.signal("CONT");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        };
        let overrun = world.until("venom", "an overrun", |it| {
            it.conditions.iter().any(|it| it.type_ == "Beating" && it.reason == "Overrun")
        });
        let status = tokio::select! {
            status = overrun => status,
            () = half_the_time => unreachable!(),
        };
        operator.signal("CONT");
        let says = message(&status, "Beating");
        assert!(says.contains("beats a second") && says.contains("minPeriod"), "{says}");
        for _ in 0..20 {
            let status = world.status("venom").await;
            let (beats, size) = (status.beats.unwrap(), status.ledger.unwrap().size);
            // Seven entries a beat; what else there is comes with a snapshot each ten thousand beats or so.
            let others = size - 7 * beats;
            assert!(others <= 100 + beats / 100, "{beats} beats in {size} entries");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        world.patch_organism("venom", json!({"pulse": {"t1": 0.001}})).await;
        world
            .until("venom", "its own pace", |it| {
                it.conditions.iter().any(|it| it.type_ == "Beating" && it.reason == "Beating")
            })
            .await;
    })
    .await;
}
