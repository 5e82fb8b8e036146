//! The body: which objects exist, how drift is corrected, and how P follows the ready pods.
//!
//! There is no kubelet: the controllers of the cluster create the pods of a Deployment, and the tests set the Ready
//! condition of each pod as a kubelet would.
use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::{ApiResource, NamespaceResourceScope};
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};
use venom::api::{Organism, OrganismStatus};

use crate::harness::eventually;
use crate::world::{World, condition, in_world, message};

const PATIENCE: Duration = Duration::from_secs(10);

/// Every object of the body of the Organism venom.
pub fn objects() -> [(ApiResource, &'static str); 9] {
    [
        (ApiResource::erase::<ConfigMap>(&()), "venom-mesh-ca"),
        (ApiResource::erase::<ServiceAccount>(&()), "venom"),
        (ApiResource::erase::<Service>(&()), "venom-mesh"),
        (ApiResource::erase::<Service>(&()), "venom-metrics"),
        (ApiResource::erase::<NetworkPolicy>(&()), "venom-body"),
        (ApiResource::erase::<NetworkPolicy>(&()), "venom-quarantine"),
        (ApiResource::erase::<Deployment>(&()), "venom"),
        (ApiResource::erase::<PodDisruptionBudget>(&()), "venom"),
        (ApiResource::erase::<HorizontalPodAutoscaler>(&()), "venom"),
    ]
}

impl World {
    pub fn of<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub fn dynamic(&self, resource: &ApiResource) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.namespace, resource)
    }

    /// The existing objects of the body, by kind and name.
    pub async fn body(&self) -> BTreeMap<(String, String), DynamicObject> {
        let mut found = BTreeMap::new();
        for (resource, name) in objects() {
            if let Some(object) = self.dynamic(&resource).get_opt(name).await.unwrap() {
                found.insert((resource.kind, name.to_owned()), object);
            }
        }
        found
    }

    pub async fn whole(&self, count: usize) -> BTreeMap<(String, String), DynamicObject> {
        eventually("the body to be made", async || {
            let body = self.body().await;
            let settled = |it: &DynamicObject| {
                let entries = it.metadata.managed_fields.as_deref().unwrap_or_default();
                entries.iter().any(|it| {
                    it.manager.as_deref() == Some("venom") && it.operation.as_deref() == Some("Apply")
                })
            };
            let done = body.len() == count && body.values().all(settled);
            if done { Ok(body) } else { Err(format!("{:?}", body.keys())) }
        })
        .await
    }

    pub async fn pods(&self) -> Vec<Pod> {
        let all =
            self.of::<Pod>().list(&ListParams::default().labels("genesis.venom.dev/organism=venom")).await;
        all.unwrap().items.into_iter().filter(|it| it.metadata.deletion_timestamp.is_none()).collect()
    }

    /// Marks `count` pods as ready and the others as not ready.
    pub async fn ready(&self, count: usize) {
        for (number, pod) in self.pods().await.into_iter().enumerate() {
            let status = if number < count { "True" } else { "False" };
            let at = "2026-01-01T00:00:00Z";
            let patch = Patch::Strategic(json!({"status": {"phase": "Running", "conditions": [
                {"type": "Ready", "status": status, "lastTransitionTime": at},
            ]}}));
            self.of::<Pod>().patch_status(&pod.name_any(), &PatchParams::default(), &patch).await.unwrap();
        }
    }

    /// Waits until the autoscaler is active. There are no CPU metrics in this cluster, which the condition reports.
    pub async fn autoscaled(&self) -> OrganismStatus {
        let reasons =
            ["Active", "FailedGetContainerResourceMetric", "FailedGetResourceMetric", "FailedGetScale"];
        let holds = |it: &OrganismStatus| reasons.contains(&&*condition(it, "AutoscalingActive").1);
        self.until("venom", "an autoscaler", holds).await
    }

    pub async fn there_are_pods(&self, count: usize) {
        eventually(&format!("{count} pods"), async || {
            let pods = self.pods().await.len();
            if pods == count { Ok(()) } else { Err(format!("{pods}")) }
        })
        .await;
    }

    pub async fn nodes_are(&self, ready: u32, replicas: u32) {
        self.until("venom", &format!("{ready} of {replicas} nodes ready"), |it| {
            it.nodes.as_ref().is_some_and(|nodes| (nodes.ready, nodes.replicas) == (ready, replicas))
        })
        .await;
    }

    pub async fn patch<K>(&self, name: &str, patch: Value) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned,
    {
        let params = PatchParams { field_manager: Some("kubectl-edit".into()), ..PatchParams::default() };
        self.of::<K>().patch(name, &params, &Patch::Merge(patch)).await.unwrap()
    }

    pub async fn deployment(&self) -> Value {
        serde_json::to_value(self.of::<Deployment>().get("venom").await.unwrap()).unwrap()
    }
}

/// Waits until the value at `pointer` in the JSON of an object is `expected`.
pub async fn becomes<K>(world: &World, name: &str, what: &str, pointer: &str, expected: Value)
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + serde::Serialize,
{
    eventually(what, async || {
        let object = world.of::<K>().get_opt(name).await.map_err(|error| error.to_string())?;
        let json = serde_json::to_value(object).unwrap();
        let seen = json.pointer(pointer).cloned().unwrap_or(Value::Null);
        if seen == expected { Ok(()) } else { Err(seen.to_string()) }
    })
    .await;
}

/// All objects are created and owned by the Organism, are not written again, and are garbage-collected with it.
#[tokio::test]
async fn body_objects_are_created_kept_and_garbage_collected() {
    in_world(async |world| {
        let operator = world.operator_with_bodies("alpha", &[]);
        world.create::<Organism>("venom", Value::Null).await;
        let body = world.whole(9).await;
        let organism = world.organisms.get("venom").await.unwrap();
        for (which, object) in &body {
            let owner = &object.metadata.owner_references.as_ref().unwrap()[0];
            assert_eq!(
                (Some(&owner.uid), owner.controller),
                (organism.metadata.uid.as_ref(), Some(true)),
                "{which:?}"
            );
            let created = object.metadata.managed_fields.as_ref().unwrap().iter().any(|it| {
                it.manager.as_deref() == Some("venom") && it.operation.as_deref() == Some("Update")
            });
            assert!(!created, "{which:?}: fields of the creation would never be removed");
        }
        world.there_are_pods(5).await;
        world.beating("venom").await;
        let status = world.autoscaled().await;
        assert_eq!(status.nodes.unwrap().selector, "genesis.venom.dev/organism=venom");

        // Once the cluster's controllers have settled, nothing is written, across a restart of the operator too.
        world.nodes_are(0, 5).await;
        let versions = async || -> BTreeMap<_, _> {
            let body = world.body().await;
            // The autoscaler updates its own status every 15 s.
            let body = body.into_iter().filter(|((kind, _), _)| kind != "HorizontalPodAutoscaler");
            body.map(|(which, object)| (which, object.resource_version())).collect()
        };
        let mut before = versions().await;
        eventually("the cluster to come to rest", async || {
            tokio::time::sleep(Duration::from_secs(2)).await;
            let now = versions().await;
            let same = now == before;
            before = now;
            if same { Ok(()) } else { Err("still written".into()) }
        })
        .await;
        let autoscaler = world.of::<HorizontalPodAutoscaler>();
        let ours = async || {
            let entries = autoscaler.get("venom").await.unwrap().metadata.managed_fields.unwrap();
            entries.into_iter().filter(|it| it.manager.as_deref() == Some("venom")).collect::<Vec<_>>()
        };
        let owned = ours().await;
        tokio::time::sleep(PATIENCE).await;
        assert_eq!(versions().await, before);
        drop(operator);
        let _operator = world.operator_with_bodies("beta", &[]);
        world
            .until("venom", "a restart", |it| {
                it.beats.is_some_and(|beats| beats > organism_beats(&status.beats))
            })
            .await;
        tokio::time::sleep(PATIENCE).await;
        assert_eq!(versions().await, before, "a restart writes nothing");
        assert_eq!(ours().await, owned, "the autoscaler changes no owned field");

        world.delete_organism("venom").await;
        world.gone("venom").await;
        eventually("the body to be collected", async || {
            let left = world.body().await;
            let pods = world.pods().await.len();
            if left.is_empty() && pods == 0 { Ok(()) } else { Err(format!("{:?}, {pods} pods", left.keys())) }
        })
        .await;
    })
    .await;
}

fn organism_beats(beats: &Option<u64>) -> u64 {
    beats.unwrap_or_default() + 100
}

/// Manual changes of managed fields are reverted. Additional fields are left alone.
#[tokio::test]
async fn drift_is_reverted() {
    in_world(async |world| {
        let _operator = world.operator_with_bodies("alpha", &[]);
        world.create::<Organism>("venom", Value::Null).await;
        world.whole(9).await;

        world.patch::<Deployment>("venom", json!({"spec": {"replicas": 9}})).await;
        becomes::<Deployment>(&world, "venom", "replicas", "/spec/replicas", json!(5)).await;
        let scale = Patch::Merge(json!({"spec": {"replicas": 8}}));
        world.of::<Deployment>().patch_scale("venom", &PatchParams::default(), &scale).await.unwrap();
        becomes::<Deployment>(&world, "venom", "replicas by /scale", "/spec/replicas", json!(5)).await;
        let image =
            json!({"spec": {"template": {"spec": {"containers": [{"name": "node", "image": "evil:1"}]}}}});
        let params = PatchParams::default();
        world.of::<Deployment>().patch("venom", &params, &Patch::Strategic(image)).await.unwrap();
        let pointer = "/spec/template/spec/containers/0/image";
        becomes::<Deployment>(&world, "venom", "image", pointer, json!("localhost/venom:test")).await;
        let labels = json!({"metadata": {"labels": {"app.kubernetes.io/name": null, "theirs": "yes"}}});
        world.patch::<ServiceAccount>("venom", labels).await;
        let pointer = "/metadata/labels/app.kubernetes.io~1name";
        becomes::<ServiceAccount>(&world, "venom", "a label", pointer, json!("venom")).await;
        becomes::<ServiceAccount>(&world, "venom", "their label", "/metadata/labels/theirs", json!("yes"))
            .await;
        // Also if the label is removed by which the operator finds its objects.
        let labels = json!({"metadata": {"labels": {"genesis.venom.dev/organism": null}}});
        world.patch::<Service>("venom-mesh", labels).await;
        let pointer = "/metadata/labels/genesis.venom.dev~1organism";
        becomes::<Service>(&world, "venom-mesh", "its own label", pointer, json!("venom")).await;
        world.patch::<NetworkPolicy>("venom-body", json!({"spec": {"ingress": [{}]}})).await;
        becomes::<NetworkPolicy>(
            &world,
            "venom-body",
            "the policy",
            "/spec/ingress/0/ports/0/port",
            json!(9000),
        )
        .await;
        world.patch::<HorizontalPodAutoscaler>("venom", json!({"spec": {"maxReplicas": 99}})).await;
        becomes::<HorizontalPodAutoscaler>(&world, "venom", "the limit", "/spec/maxReplicas", json!(10))
            .await;
        world.patch::<ConfigMap>("venom-mesh-ca", json!({"data": {"ca.pem": "evil"}})).await;
        eventually("the authority", async || {
            let found =
                world.of::<ConfigMap>().get("venom-mesh-ca").await.map_err(|error| error.to_string())?;
            let ca = found.data.unwrap_or_default().remove("ca.pem").unwrap_or_default();
            if ca.starts_with("-----BEGIN CERTIFICATE-----") { Ok(()) } else { Err(ca) }
        })
        .await;
        world.patch::<PodDisruptionBudget>("venom", json!({"metadata": {"ownerReferences": null}})).await;
        let pointer = "/metadata/ownerReferences/0/kind";
        becomes::<PodDisruptionBudget>(&world, "venom", "its owner", pointer, json!("Organism")).await;
        for (resource, name) in objects() {
            let api = world.dynamic(&resource);
            let before = api.get(name).await.unwrap();
            api.delete(name, &DeleteParams::default()).await.unwrap();
            eventually(&format!("{} {name} to be made again", resource.kind), async || {
                let now = api.get_metadata_opt(name).await.map_err(|error| error.to_string())?;
                let again = now.is_some_and(|now| now.uid() != before.uid());
                if again { Ok(()) } else { Err("not yet".into()) }
            })
            .await;
        }
        world.whole(9).await;
    })
    .await;
}

/// Changes of the spec are applied to the objects, and removed fields are removed from them.
#[tokio::test]
async fn a_changed_spec_is_applied() {
    in_world(async |world| {
        let _operator = world.operator_with_bodies("alpha", &[]);
        let spec = json!({
            "nodes": {"nodeSelector": {"disk": "ssd"}, "replicas": 2},
            "metrics": {"service": {"annotations": {"a": "b"}, "loadBalancerSourceRanges": ["10.0.0.0/8"]}},
        });
        world.create::<Organism>("venom", spec).await;
        world.whole(9).await;
        let selector = "/spec/template/spec/nodeSelector";
        becomes::<Deployment>(&world, "venom", "a selector", selector, json!({"disk": "ssd"})).await;
        becomes::<Service>(&world, "venom-metrics", "its type", "/spec/type", json!("LoadBalancer")).await;

        world
            .patch_organism(
                "venom",
                json!({
                    "nodes": {"nodeSelector": null, "resources": {"requests": {"cpu": 1, "memory": "64Mi"}, "limits": {"cpu": 2, "memory": null}}},
                    "metrics": {"port": 8100, "service": {
                        "type": "ClusterIP", "annotations": null, "loadBalancerSourceRanges": null,
                    }},
                    "mesh": {"port": 9100},
                }),
            )
            .await;
        becomes::<Service>(&world, "venom-metrics", "another type", "/spec/type", json!("ClusterIP")).await;
        becomes::<Service>(&world, "venom-metrics", "another port", "/spec/ports/0/port", json!(8100)).await;
        becomes::<Service>(&world, "venom-metrics", "no annotation", "/metadata/annotations/a", Value::Null).await;
        becomes::<Service>(&world, "venom-metrics", "no ranges", "/spec/loadBalancerSourceRanges", Value::Null).await;
        becomes::<Service>(&world, "venom-mesh", "the mesh's port", "/spec/ports/0/port", json!(9100)).await;
        becomes::<Deployment>(&world, "venom", "no selector", selector, Value::Null).await;
        let resources = json!({"requests": {"cpu": "1", "memory": "64Mi"}, "limits": {"cpu": "2"}});
        let pointer = "/spec/template/spec/containers/0/resources";
        becomes::<Deployment>(&world, "venom", "resources", pointer, resources).await;
        let ports = world.deployment().await["spec"]["template"]["spec"]["containers"][0]["ports"].clone();
        assert_eq!(ports.as_array().unwrap().len(), 2, "the old ports are gone: {ports}");
    })
    .await;
}

/// With autoscaling, the autoscaler sets the replicas through /scale; without it, the user does.
#[tokio::test]
async fn replicas_are_set_by_the_autoscaler_or_by_the_user() {
    in_world(async |world| {
        let _operator = world.operator_with_bodies("alpha", &[]);
        world.create::<Organism>("venom", Value::Null).await;
        world.whole(9).await;
        let scale = async |replicas: u32| {
            let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
            world.organisms.patch_scale("venom", &PatchParams::default(), &patch).await.unwrap();
        };
        // A write to /scale, as an autoscaler does it.
        scale(7).await;
        becomes::<Deployment>(&world, "venom", "7 replicas", "/spec/replicas", json!(7)).await;
        world.there_are_pods(7).await;
        world.nodes_are(0, 7).await;
        let seen = world.organisms.get_scale("venom").await.unwrap().status.unwrap();
        assert_eq!((seen.replicas, seen.selector.as_deref()), (7, Some("genesis.venom.dev/organism=venom")));
        // The real autoscaler: above maxReplicas it acts without metrics.
        world.patch_organism("venom", json!({"autoscaling": {"maxReplicas": 4}})).await;
        becomes::<Deployment>(&world, "venom", "the autoscaler's 4", "/spec/replicas", json!(4)).await;

        world.patch_organism("venom", json!({"autoscaling": {"enabled": false}})).await;
        eventually("the autoscaler to go", async || {
            let left = world.of::<HorizontalPodAutoscaler>().get_metadata_opt("venom").await;
            left.map_err(|error| error.to_string())?.map_or(Ok(()), |_| Err("it is there".into()))
        })
        .await;
        world.condition("venom", "AutoscalingActive", "False", "Disabled").await;
        scale(3).await;
        becomes::<Deployment>(&world, "venom", "3 replicas", "/spec/replicas", json!(3)).await;
        world.patch_organism("venom", json!({"autoscaling": {"enabled": true}})).await;
        world.whole(9).await;
        world.autoscaled().await;

        // What a client-side apply leaves behind: the next one sets the number again.
        let last = |spec: Value| {
            let last = json!({"spec": spec}).to_string();
            json!({"metadata": {"annotations": {"kubectl.kubernetes.io/last-applied-configuration": last}}})
        };
        let annotate = async |spec: Value| {
            let params = PatchParams::default();
            world.organisms.patch("venom", &params, &Patch::Merge(last(spec))).await.unwrap();
        };
        annotate(json!({"nodes": {"replicas": 4}})).await;
        let status = world.condition("venom", "AutoscalingActive", "False", "ReplicasContested").await;
        let says = message(&status, "AutoscalingActive");
        assert!(says.contains("kubectl apply set-last-applied"), "{says}");
        annotate(json!({})).await;
        world.autoscaled().await;

        // A user's manifest that sets replicas.
        let manifest = json!({
            "apiVersion": "genesis.venom.dev/v1alpha1", "kind": "Organism", "metadata": {"name": "venom"},
            "spec": {"nodes": {"replicas": 4}},
        });
        let params = PatchParams::apply("argocd").force();
        world.organisms.patch("venom", &params, &Patch::Apply(&manifest)).await.unwrap();
        let status = world.condition("venom", "AutoscalingActive", "False", "ReplicasContested").await;
        let says = message(&status, "AutoscalingActive");
        assert!(says.contains("argocd"), "{says}");
        let without = json!({
            "apiVersion": "genesis.venom.dev/v1alpha1", "kind": "Organism", "metadata": {"name": "venom"},
        });
        world.organisms.patch("venom", &params, &Patch::Apply(&without)).await.unwrap();
        world.autoscaled().await;
    })
    .await;
}

/// P is the number of ready nodes. Each change is recorded, and a restart does not change P.
#[tokio::test]
async fn p_follows_ready_nodes() {
    in_world(async |world| {
        let mut operator = world.operator_with_bodies("alpha", &[]);
        let spec = json!({"pulse": {"minPeriod": "20ms"}, "autoscaling": {"enabled": false}});
        world.create::<Organism>("venom", spec).await;
        world.beating("venom").await;
        world.there_are_pods(5).await;
        world.nodes_are(0, 5).await;
        world.ready(5).await;
        world.nodes_are(5, 5).await;
        world.beats_more("venom", 20).await;
        let status = world.status("venom").await;
        assert!((status.t_lambda.unwrap() - 0.004211).abs() < 1e-6, "T_Λ of 5 nodes: {:?}", status.t_lambda);
        world.ready(2).await;
        world.nodes_are(2, 5).await;
        world.beats_more("venom", 20).await;
        let scales = async |world: &World| -> Vec<(u64, u64)> {
            let summary = world.ledger("venom").await.check();
            let of = |it: &Value| (it["from"].as_u64().unwrap(), it["p"].as_u64().unwrap());
            summary.inputs_of("scale").into_iter().map(of).collect()
        };
        let before = scales(&world).await;
        println!("scale entries {before:?}");
        assert_eq!((before[0].0, before[before.len() - 1].1), (1, 2), "from the assumed one to two");
        assert!(before.iter().any(|&(_, p)| p == 5), "{before:?}");
        assert!(before.windows(2).all(|pair| pair[0].1 == pair[1].0), "{before:?}");

        operator.kill();
        let _operator = world.operator_with_bodies("beta", &[]);
        let beats = world.status("venom").await.beats.unwrap();
        world.until("venom", "a restart", |it| it.beats > Some(beats + 50)).await;
        assert_eq!(scales(&world).await, before, "P did not change");
        world.nodes_are(2, 5).await;

        // It beats without any ready node.
        let patch = Patch::Merge(json!({"spec": {"replicas": 0}}));
        world.organisms.patch_scale("venom", &PatchParams::default(), &patch).await.unwrap();
        world.nodes_are(0, 0).await;
        world.beats_more("venom", 20).await;
        assert_eq!(scales(&world).await.last(), Some(&(2, 1)));
    })
    .await;
}

/// Without a node image no objects are created, and the condition states the reason.
#[tokio::test]
async fn without_a_node_image_no_body_is_created() {
    in_world(async |world| {
        let _operator = world.operator("alpha");
        world.create::<Organism>("venom", Value::Null).await;
        let status = world.beating("venom").await;
        assert_eq!(condition(&status, "AutoscalingActive"), ("False".into(), "NoBody".into()));
        assert!(message(&status, "AutoscalingActive").contains("--node-image"));
        assert_eq!(condition(&status, "BodyAvailable"), ("False".into(), "NoBody".into()));
        assert!(world.body().await.is_empty());
    })
    .await;
}
