//! Other clients that change what the operator writes, again and again: noticed, named and not fought.
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{Service, ServiceAccount};
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use venom::api::Organism;

use crate::body::becomes;
use crate::harness::within;
use crate::world::{in_world, message};

/// How long the other clients go on. The operator reverts three times, after 10 s and after 20 s more.
const FIGHT: Duration = Duration::from_secs(20);
/// More reverts than that in this time are a fight.
const FEW: i64 = 8;

/// A field manager that sets a limit of the Deployment as fast as it can.
#[tokio::test]
async fn a_field_that_another_manager_sets_again_and_again_is_named_and_left_to_it() {
    in_world(async |world| {
        let _operator = world.operator_with_bodies("alpha", &[]);
        world.create::<Organism>("venom", Value::Null).await;
        world.whole(9).await;
        let deployments = world.of::<Deployment>();
        let generation =
            async || deployments.get_metadata("venom").await.unwrap().metadata.generation.unwrap();
        let before = generation().await;
        let (start, mut changes) = (Instant::now(), 0);
        while start.elapsed() < FIGHT {
            changes += 1;
            let limit = format!("{}m", 600 + changes);
            let applied = json!({
                "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "venom"},
                "spec": {"template": {"spec": {"containers": [
                    {"name": "node", "resources": {"limits": {"cpu": limit}}},
                ]}}},
            });
            let params = PatchParams::apply("hostile").force();
            deployments.patch("venom", &params, &Patch::Apply(&applied)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let reverts = generation().await - before - changes;
        println!("{changes} changes, {reverts} reverts");
        assert!(reverts >= 3, "{reverts} reverts: it is not left to the other one at once");
        assert!(reverts <= FEW, "{reverts} reverts of {changes} changes");
        let status = world.condition("venom", "BodyAvailable", "False", "Contested").await;
        let says = message(&status, "BodyAvailable");
        let field = r#"spec.template.spec.containers[name="node"].resources.limits.cpu"#;
        assert!(says.contains("Deployment venom: field manager hostile") && says.contains(field), "{says}");
        assert!(world.event("Warning", "Contested").await.contains("hostile"));
        world.beating("venom").await;

        // The other one has stopped: the next revert holds, and after a minute nothing is said of it any more.
        let pointer = "/spec/template/spec/containers/0/resources/limits/cpu";
        becomes::<Deployment>(&world, "venom", "the limit", pointer, json!("500m")).await;
        within(Duration::from_secs(150), "the end of the fight", async || {
            let says = message(&world.status("venom").await, "BodyAvailable");
            if says.contains("again and again") { Err(says) } else { Ok(()) }
        })
        .await;
    })
    .await;
}

/// An object that is deleted as soon as it exists, a label that is taken away, and an ownerReference.
#[tokio::test]
async fn deletions_and_metadata_are_contested_as_well() {
    in_world(async |world| {
        let _operator = world.operator_with_bodies("alpha", &[]);
        world.create::<Organism>("venom", Value::Null).await;
        world.whole(9).await;
        let (services, accounts) = (world.of::<Service>(), world.of::<ServiceAccount>());
        let budgets = world.of::<k8s_openapi::api::policy::v1::PodDisruptionBudget>();
        let params = PatchParams { field_manager: Some("cleaner".into()), ..PatchParams::default() };
        let (start, mut deletions) = (Instant::now(), 0);
        while start.elapsed() < FIGHT {
            if services.delete("venom-mesh", &DeleteParams::default()).await.is_ok() {
                deletions += 1;
            }
            let label = Patch::Merge(json!({"metadata": {"labels": {"app.kubernetes.io/name": "theirs"}}}));
            accounts.patch("venom", &params, &label).await.unwrap();
            let none = Patch::Merge(json!({"metadata": {"ownerReferences": null}}));
            budgets.patch("venom", &params, &none).await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        println!("{deletions} deletions");
        assert!((3..=FEW).contains(&deletions), "{deletions} times it was there to be deleted");
        let status = world.condition("venom", "BodyAvailable", "False", "Contested").await;
        let says = message(&status, "BodyAvailable");
        for part in [
            "Service venom-mesh is deleted again and again",
            r#"ServiceAccount venom: field manager cleaner changes metadata.labels["app.kubernetes.io/name"]"#,
            "PodDisruptionBudget venom: another client changes metadata.ownerReferences[uid=",
        ] {
            assert!(says.contains(part), "{part} is not in: {says}");
        }
    })
    .await;
}

/// An autoscaler of the user's on the Deployment: named, and its number stays, across a restart of the operator too.
#[tokio::test]
async fn a_foreign_autoscaler_is_named_and_not_fought() {
    in_world(async |world| {
        let operator = world.operator_with_bodies("alpha", &[]);
        world.create::<Organism>("venom", json!({"autoscaling": {"enabled": false}})).await;
        world.there_are_pods(5).await;
        // It acts without metrics while there are fewer pods than its minimum.
        let spec = json!({
            "minReplicas": 8, "maxReplicas": 9,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "venom"},
        });
        world.create::<HorizontalPodAutoscaler>("web", spec).await;
        let status = world.condition("venom", "AutoscalingActive", "False", "ForeignAutoscaler").await;
        let says = message(&status, "AutoscalingActive");
        assert!(says.starts_with("HorizontalPodAutoscaler web scales Deployment venom"), "{says}");
        becomes::<Deployment>(&world, "venom", "its 8", "/spec/replicas", json!(8)).await;
        let deployments = world.of::<Deployment>();
        let seen = async || deployments.get("venom").await.unwrap();
        tokio::time::sleep(Duration::from_secs(5)).await;
        let before = seen().await;
        assert_eq!(before.spec.replicas, Some(8), "it was left as it is");

        drop(operator);
        let _operator = world.operator_with_bodies("beta", &[]);
        world.beats_more("venom", 100).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(seen().await.metadata.generation, before.metadata.generation, "a restart changes nothing");
        world.condition("venom", "AutoscalingActive", "False", "ForeignAutoscaler").await;

        world.of::<HorizontalPodAutoscaler>().delete("web", &DeleteParams::default()).await.unwrap();
        within(Duration::from_secs(120), "the Organism's own number", async || {
            let replicas = seen().await.spec.replicas;
            if replicas == Some(5) { Ok(()) } else { Err(format!("{replicas:?}")) }
        })
        .await;
        world.condition("venom", "AutoscalingActive", "False", "Disabled").await;
        assert!(seen().await.managed_fields().iter().any(|it| it.manager.as_deref() == Some("venom")));
    })
    .await;
}
