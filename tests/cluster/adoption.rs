//! Objects that a deleted Organism has left behind.
use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, PropagationPolicy};
use serde_json::{Value, json};
use venom::api::{Genome, Organism};

use crate::harness::eventually;
use crate::world::{World, condition, in_world, message};

async fn uids(world: &World) -> BTreeMap<(String, String), Option<String>> {
    world.body().await.into_iter().map(|(which, object)| (which, object.uid())).collect()
}

/// Waits until the garbage collector knows all objects of these kinds that are there, by one more of each that it has to
/// delete. What it does not know it takes for no orphan, but for what the deleted Organism has left behind; and it looks for new
/// kinds, such as Genomes, every 30 s only.
async fn the_collector_knows_the_body(world: &World) {
    let labels = json!({"matchLabels": {"left": "behind"}});
    let template = json!({
        "metadata": {"labels": {"left": "behind"}}, "spec": {"containers": [{"name": "left", "image": "left"}]},
    });
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "left"});
    world.left_behind::<Genome>(json!({})).await;
    world.left_behind::<ConfigMap>(Value::Null).await;
    world.left_behind::<ServiceAccount>(Value::Null).await;
    world.left_behind::<Service>(json!({"ports": [{"port": 80}]})).await;
    world.left_behind::<NetworkPolicy>(json!({"podSelector": labels})).await;
    world.left_behind::<PodDisruptionBudget>(json!({"minAvailable": 0, "selector": labels})).await;
    world.left_behind::<HorizontalPodAutoscaler>(json!({"maxReplicas": 1, "scaleTargetRef": target})).await;
    world.left_behind::<Deployment>(json!({"replicas": 0, "selector": labels, "template": template})).await;
}

/// `kubectl delete org venom --cascade=orphan`, then apply: body and Genome are taken up again, none is made anew.
#[tokio::test]
async fn orphans_are_adopted() {
    in_world(async |world| {
        let _operator = world.operator_with_bodies("alpha", &[]);
        world.create::<Organism>("venom", Value::Null).await;
        world.whole(9).await;
        world.there_are_pods(5).await;
        world.beating("venom").await;
        the_collector_knows_the_body(&world).await;
        let (before, genome) = (uids(&world).await, world.genomes.get("venom").await.unwrap().uid());

        let orphan =
            DeleteParams { propagation_policy: Some(PropagationPolicy::Orphan), ..DeleteParams::default() };
        world.organisms.delete("venom", &orphan).await.unwrap();
        world.gone("venom").await;
        assert!(world.body().await.values().all(|it| it.owner_references().is_empty()), "they are orphans");
        assert_eq!(uids(&world).await, before, "nobody has collected them");

        world.create::<Organism>("venom", Value::Null).await;
        let uid = world.organisms.get("venom").await.unwrap().uid().unwrap();
        let owned = |owners: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference]| {
            owners.len() == 1 && owners[0].uid == uid && owners[0].controller == Some(true)
        };
        eventually("all of them to be adopted", async || {
            let body = world.body().await;
            let left: Vec<_> =
                body.iter().filter(|(_, it)| !owned(it.owner_references())).map(|(which, _)| which).collect();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        })
        .await;
        assert_eq!(uids(&world).await, before, "none was made anew");
        world.beating("venom").await;
        let adopted = world.genomes.get("venom").await.unwrap();
        assert_eq!(adopted.uid(), genome);
        assert!(owned(adopted.owner_references()), "{:?}", adopted.owner_references());
        world.ready(5).await;
        world.condition("venom", "BodyAvailable", "True", "Available").await;
    })
    .await;
}

/// An orphaned autoscaler goes when the new Organism wants none.
#[tokio::test]
async fn an_orphan_that_is_not_wanted_is_deleted() {
    in_world(async |world| {
        let _operator = world.operator_with_bodies("alpha", &[]);
        world.create::<Organism>("venom", Value::Null).await;
        world.whole(9).await;
        let orphan =
            DeleteParams { propagation_policy: Some(PropagationPolicy::Orphan), ..DeleteParams::default() };
        world.organisms.delete("venom", &orphan).await.unwrap();
        world.gone("venom").await;
        world.create::<Organism>("venom", json!({"autoscaling": {"enabled": false}})).await;
        world.whole(8).await;
    })
    .await;
}

/// An object whose owner is an Organism of this name that is gone: the garbage collector is about to delete it, so it
/// is waited for and not called a stranger's.
#[tokio::test]
async fn what_the_garbage_collector_is_about_to_delete_is_waited_for() {
    in_world(async |world| {
        // The finalizer keeps it from being collected for the time of the test.
        let left = json!({
            "metadata": {
                "name": "venom", "finalizers": ["example.com/keep"],
                "ownerReferences": [{
                    "apiVersion": "genesis.venom.dev/v1alpha1", "kind": "Organism", "name": "venom",
                    "uid": "00000000-0000-0000-0000-000000000001", "controller": true,
                }],
            },
        });
        let accounts = world.of::<ServiceAccount>();
        let left = serde_json::from_value(left).unwrap();
        accounts.create(&PostParams::default(), &left).await.unwrap();
        let _operator = world.operator_with_bodies("alpha", &[]);
        world.create::<Organism>("venom", Value::Null).await;
        world.beating("venom").await;
        let left = "the garbage collector to delete what a deleted Organism of this name has left: ServiceAccount venom";
        world.until("venom", left, |it| message(it, "BodyAvailable").contains(left)).await;
        assert_eq!(condition(&world.status("venom").await, "BodyAvailable").1, "Progressing");
        let none = Patch::Merge(json!({"metadata": {"finalizers": null}}));
        accounts.patch("venom", &PatchParams::default(), &none).await.unwrap();
        world.whole(9).await;
        let taken = ("False".to_owned(), "NameTaken".to_owned());
        assert_ne!(condition(&world.status("venom").await, "BodyAvailable"), taken);
    })
    .await;
}
