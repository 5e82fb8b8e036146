//! What BodyAvailable tells: refused objects, refused pods, pods that do not become ready. None of it touches Ready.
//!
//! There is no kubelet and no scheduler: the tests write what these would say into the status of the pods.
use k8s_openapi::api::core::v1::{LimitRange, Pod, ResourceQuota, Service};
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};
use venom::api::Organism;

use crate::harness::eventually;
use crate::world::{World, condition, in_world, message};

impl World {
    /// Waits for an Event of the Organism venom with this type and reason. Returns its note.
    pub async fn event(&self, type_: &str, reason: &str) -> String {
        let events: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        eventually(&format!("an Event {type_} {reason}"), async || {
            let all = events.list(&ListParams::default()).await.map_err(|error| error.to_string())?.items;
            let is = |it: &&Event| it.reason.as_deref() == Some(reason) && it.type_.as_deref() == Some(type_);
            let found = all.iter().find(is).and_then(|it| it.note.clone());
            found.ok_or_else(|| format!("{:?}", all.iter().map(|it| &it.reason).collect::<Vec<_>>()))
        })
        .await
    }

    /// Merges `status` into the status of all pods.
    async fn pods_say(&self, status: Value) {
        for pod in self.pods().await {
            let patch = Patch::Merge(json!({"status": status}));
            self.of::<Pod>().patch_status(&pod.name_any(), &PatchParams::default(), &patch).await.unwrap();
        }
    }
}

/// A LoadBalancer over the quota: the body says so in the API server's words, and the organism beats and is Ready.
#[tokio::test]
async fn a_refused_service_is_told_by_the_body_and_retried() {
    in_world(async |world| {
        let _operator = world.operator_with_bodies("alpha", &[]);
        world.create::<ResourceQuota>("balancers", json!({"hard": {"services.loadbalancers": "0"}})).await;
        world.create::<Organism>("venom", Value::Null).await;
        let status = world.condition("venom", "BodyAvailable", "False", "ObjectRefused").await;
        let says = message(&status, "BodyAvailable");
        assert!(
            says.contains("Service venom-metrics") && says.contains("exceeded quota: balancers"),
            "{says}"
        );
        world.beating("venom").await;
        world.there_are_pods(5).await;
        assert!(world.event("Warning", "ObjectRefused").await.contains("exceeded quota"));

        world.of::<ResourceQuota>().delete("balancers", &DeleteParams::default()).await.unwrap();
        world.whole(9).await;
        world.ready(5).await;
        let status = world.condition("venom", "BodyAvailable", "True", "Available").await;
        assert_eq!(message(&status, "BodyAvailable"), "5 of 5 nodes are ready.");
        assert!(world.event("Normal", "Available").await.contains("5 of 5"));
    })
    .await;
}

/// Waits until pods are refused with these words, by a policy that `create` makes.
async fn pods_are_refused<K: Resource<DynamicType = ()>>(policy: Value, nodes: Value, words: &str) {
    in_world(async |world| {
        let _operator = world.operator_with_bodies("alpha", &[]);
        if !policy.is_null() {
            world.create::<K>("policy", policy).await;
        }
        world.create::<Organism>("venom", json!({"nodes": nodes})).await;
        let status = world.condition("venom", "BodyAvailable", "False", "PodsRefused").await;
        let says = message(&status, "BodyAvailable");
        assert!(says.contains(words), "{says}");
        world.beating("venom").await;
        assert!(world.event("Warning", "PodsRefused").await.contains(words));
    })
    .await;
}

#[tokio::test]
async fn pods_over_a_quota_are_told() {
    let quota = json!({"hard": {"pods": "2"}});
    pods_are_refused::<ResourceQuota>(quota, json!({}), "exceeded quota: policy").await;
}

#[tokio::test]
async fn pods_over_a_limit_range_are_told() {
    let limits = json!({"limits": [{"type": "Container", "max": {"cpu": "100m"}}]});
    pods_are_refused::<LimitRange>(limits, json!({}), "maximum cpu usage per Container is 100m").await;
}

#[tokio::test]
async fn pods_of_a_missing_priority_class_are_told() {
    let nodes = json!({"priorityClassName": "none-such"});
    pods_are_refused::<ResourceQuota>(Value::Null, nodes, "no PriorityClass with name none-such").await;
}

/// Unschedulable pods, an image that cannot be pulled, and nodes without a certificate, each in the words of the
/// cluster.
#[tokio::test]
async fn what_pods_say_is_shown_until_they_are_ready() {
    in_world(async |world| {
        let _operator = world.operator_with_bodies("alpha", &[]);
        let spec = json!({"nodes": {"replicas": 2}, "autoscaling": {"enabled": false}});
        world.create::<Organism>("venom", spec).await;
        world.there_are_pods(2).await;
        let words = "0/3 nodes are available: 3 Insufficient cpu.";
        let at = "2026-01-01T00:00:00Z";
        let scheduled = |status: &str, message: &str| {
            json!({
                "type": "PodScheduled", "status": status, "reason": "Unschedulable", "message": message,
                "lastTransitionTime": at,
            })
        };
        world.pods_say(json!({"conditions": [scheduled("False", words)]})).await;
        let status = world.condition("venom", "BodyAvailable", "False", "Unschedulable").await;
        let says = message(&status, "BodyAvailable");
        assert!(says.starts_with("0 of 2 nodes are ready. Pod venom-"), "{says}");
        assert!(says.contains("(and 1 other): 0/3 nodes are available"), "{says}");
        world.event("Warning", "Unschedulable").await;

        let container = |state: Value| {
            json!({
                "conditions": [scheduled("True", "")],
                "containerStatuses": [{
                    "name": "node", "ready": false, "restartCount": 0, "image": "x", "imageID": "x", "state": state,
                }],
            })
        };
        let back_off = "Back-off pulling image \"localhost/venom:test\"";
        let waiting = json!({"waiting": {"reason": "ImagePullBackOff", "message": back_off}});
        world.pods_say(container(waiting)).await;
        let status = world.condition("venom", "BodyAvailable", "False", "ImageUnavailable").await;
        assert!(message(&status, "BodyAvailable").contains(back_off), "{:?}", message(&status, "BodyAvailable"));
        world.pods_say(container(json!({"running": {"startedAt": at}}))).await;
        world.condition("venom", "BodyAvailable", "False", "NoCertificate").await;
        assert_eq!(condition(&world.status("venom").await, "Ready"), ("True".into(), "Beating".into()));

        world.ready(2).await;
        world.condition("venom", "BodyAvailable", "True", "Available").await;
    })
    .await;
}

/// Strangers' objects are listed all at once, with the command that removes them, and never touched. The other objects
/// are created, and the rest once the names are free.
#[tokio::test]
async fn foreign_objects_are_listed_at_once_and_not_touched() {
    in_world(async |world| {
        let _operator = world.operator_with_bodies("alpha", &[]);
        // The second has the operator's labels, but it is not the operator's.
        let labels = json!({
            "genesis.venom.dev/organism": "venom", "app.kubernetes.io/component": "node",
            "app.kubernetes.io/managed-by": "venom",
        });
        let services = world.of::<Service>();
        let mut made = vec![];
        for (name, labels) in [("venom-metrics", json!({})), ("venom-mesh", labels)] {
            let stranger =
                json!({"metadata": {"name": name, "labels": labels}, "spec": {"ports": [{"port": 80}]}});
            let stranger = serde_json::from_value(stranger).unwrap();
            made.push(services.create(&PostParams::default(), &stranger).await.unwrap());
        }
        world.create::<Organism>("venom", Value::Null).await;
        let status = world.condition("venom", "BodyAvailable", "False", "NameTaken").await;
        let says = message(&status, "BodyAvailable");
        assert!(says.contains("Service venom-mesh, Service venom-metrics exist and do not belong"), "{says}");
        let command =
            format!("kubectl delete service/venom-mesh service/venom-metrics -n {}", world.namespace);
        assert!(says.contains(&command), "{says}");
        assert!(world.event("Warning", "NameTaken").await.contains(&command));
        world.beating("venom").await;
        world.there_are_pods(5).await;
        for service in made {
            let there = services.get(&service.name_any()).await.unwrap();
            assert_eq!(there.resource_version(), service.resource_version(), "the object was changed");
            services.delete(&service.name_any(), &DeleteParams::default()).await.unwrap();
        }
        world.whole(9).await;
        world.ready(5).await;
        world.condition("venom", "BodyAvailable", "True", "Available").await;
    })
    .await;
}

/// A body whose nodes are all ready says so at once, and how many are not.
#[tokio::test]
async fn the_number_of_ready_nodes_is_told() {
    in_world(async |world| {
        let _operator = world.operator_with_bodies("alpha", &[]);
        world.create::<Organism>("venom", json!({"autoscaling": {"enabled": false}})).await;
        world.there_are_pods(5).await;
        world.ready(5).await;
        world.condition("venom", "BodyAvailable", "True", "Available").await;
        world.ready(3).await;
        // The pods change one after the other.
        let three = "3 of 5 nodes are ready.";
        let status = world.until("venom", three, |it| message(it, "BodyAvailable") == three).await;
        assert_eq!(condition(&status, "BodyAvailable"), ("False".into(), "Progressing".into()));
        // No node is asked for: that is as it should be.
        world.patch_organism("venom", json!({"nodes": {"replicas": 0}})).await;
        let none =
            |it: &venom::api::OrganismStatus| message(it, "BodyAvailable").starts_with("No node is wanted");
        world.until("venom", "a body without nodes", none).await;
        world.condition("venom", "BodyAvailable", "True", "Available").await;
        world.beating("venom").await;
    })
    .await;
}
