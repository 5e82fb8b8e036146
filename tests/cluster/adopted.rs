//! Workloads that somebody else runs, adopted as bodies: how they are found, what is sensed of them, what decisions do
//! around them, and that everything is afterwards as it was.
//!
//! There is no kubelet here: the tests write the statuses of pods. e2e/suite/shop.rs has real ones.
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, PropagationPolicy};
use kube::core::ApiResource;
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};
use venom::api::Organism;

use crate::harness::{eventually, within};
use crate::response::{QUARANTINE, applied};
use crate::sensing::{ago, running};
use crate::world::{World, condition, in_world, message};

const ADOPTABLE: &str = "genesis.venom.dev/adoptable-by";

/// Everything of a user's that a response may touch, and the workload, without what every write changes.
type Owned = Vec<Value>;

impl World {
    async fn make<K: Resource<DynamicType = ()>>(&self, name: &str, annotations: Value, spec: Value) {
        let kind = ApiResource::erase::<K>(&());
        let mut object = DynamicObject::new(name, &kind).data(json!({"spec": spec}));
        object.metadata.annotations = serde_json::from_value(annotations).unwrap();
        self.dynamic(&kind).create(&PostParams::default(), &object).await.unwrap();
    }

    /// A workload `name` of a user with two pods, which carry the label `app`, with a Service and an autoscaler of the
    /// same name. It may be adopted by `organism`.
    pub async fn shop<K: Resource<DynamicType = ()>>(&self, name: &str, organism: Option<&str>) {
        let adoptable = organism.map(|it| json!({(ADOPTABLE): it, "team": "a"})).unwrap_or_default();
        let mut spec = json!({
            "replicas": 2, "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name, "tier": "web"}},
                "spec": {"containers": [{
                    "name": "node", "image": "a", "resources": {"requests": {"cpu": "10m"}},
                }]},
            },
        });
        if K::kind(&()) == "StatefulSet" {
            spec["serviceName"] = name.into();
            spec["podManagementPolicy"] = "Parallel".into();
        }
        self.make::<K>(name, adoptable.clone(), spec).await;
        let ports = json!([{"port": 80, "targetPort": 8080}]);
        self.make::<Service>(
            name,
            Value::Null,
            json!({"selector": {"tier": "web", "app": name}, "ports": ports}),
        )
        .await;
        let scaler = json!({
            "maxReplicas": 4, "minReplicas": 2,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": K::kind(&()), "name": name},
            "metrics": [{"type": "Resource", "resource": {
                "name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60},
            }}],
        });
        self.make::<HorizontalPodAutoscaler>(name, adoptable, scaler).await;
        let labels = ListParams::default().labels(&format!("app={name}"));
        eventually("two pods", async || {
            let found = self.of::<Pod>().list(&labels).await.map_err(|error| error.to_string())?.items.len();
            if found == 2 { Ok(()) } else { Err(found.to_string()) }
        })
        .await;
    }

    /// What a kubelet says of the pods of `name` once they are ready.
    async fn started(&self, name: &str) -> Vec<Pod> {
        let pods =
            self.of::<Pod>().list(&ListParams::default().labels(&format!("app={name}"))).await.unwrap();
        for pod in &pods.items {
            let ready = |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": ago(0)});
            let status =
                json!({"phase": "Running", "conditions": [ready("Ready"), ready("ContainersReady")]});
            self.pod_status(&pod.name_any(), status).await;
        }
        pods.items
    }

    async fn owned<K: Resource<DynamicType = ()>>(&self, name: &str) -> Owned {
        vec![
            self.plain::<K>(name).await,
            self.plain::<Service>(name).await,
            self.plain::<HorizontalPodAutoscaler>(name).await,
        ]
    }

    pub async fn adopts(&self, organism: &str, kind: &str, workload: &str, more: Value) {
        let mut spec = json!({
            "workloadRef": {"kind": kind, "name": workload}, "pulse": {"minPeriod": "50ms"},
            "response": {"mode": "Enforce", "releaseAfter": "1s"},
        });
        for (name, part) in more.as_object().into_iter().flatten() {
            spec[name] = part.clone();
        }
        self.create::<Organism>(organism, spec).await;
        self.beating(organism).await;
    }

    /// Names of the objects that the operator has made for `organism`, apart from its ledger.
    async fn made(&self, organism: &str) -> Vec<String> {
        let mut found = vec![];
        let labels = ListParams::default().labels(&format!("genesis.venom.dev/organism={organism}"));
        for kind in [
            ApiResource::erase::<Deployment>(&()),
            ApiResource::erase::<Service>(&()),
            ApiResource::erase::<NetworkPolicy>(&()),
            ApiResource::erase::<HorizontalPodAutoscaler>(&()),
        ] {
            let all = self.dynamic(&kind).list(&labels).await.unwrap();
            found.extend(all.items.iter().map(|it| format!("{} {}", kind.kind, it.name_any())));
        }
        found
    }
}

#[tokio::test]
async fn a_workload_is_adopted_only_with_its_owners_permission_and_by_one_organism() {
    in_world(async |world| {
        let _operator = world.operator_with_bodies("alpha", &[]);
        world.adopts("shop", "Deployment", "web", json!({})).await;
        let status = world.condition("shop", "Adopted", "False", "NotFound").await;
        assert!(message(&status, "Adopted").contains("Deployment web does not exist"));
        world.shop::<Deployment>("web", None).await;
        let status = world.condition("shop", "Adopted", "False", "NotPermitted").await;
        let told = message(&status, "Adopted");
        assert!(told.contains(&format!("kubectl annotate deployment web {ADOPTABLE}=shop")), "{told}");
        assert_eq!(condition(&status, "Sensing"), ("False".into(), "NotAdopted".into()));
        assert_eq!(condition(&status, "BodyAvailable"), ("False".into(), "NotAdopted".into()));
        assert_eq!(world.made("shop").await, Vec::<String>::new());

        // A decision finds nothing that it may touch.
        world.patch_genome("shop", json!({"risk": {"anoms": QUARANTINE}})).await;
        world.condition("shop", "Quarantined", "False", "NotAdopted").await;
        world.patch_genome("shop", json!({"risk": {"anoms": 0}})).await;
        world.condition("shop", "Quarantined", "False", "Clear").await;

        let annotate =
            |organism: Value| Patch::Merge(json!({"metadata": {"annotations": {(ADOPTABLE): organism}}}));
        let deployments = world.of::<Deployment>();
        let set = async |organism: Value| {
            deployments.patch("web", &PatchParams::default(), &annotate(organism)).await.unwrap()
        };
        set(json!("../../other")).await;
        world.until("shop", "another name", |it| message(it, "Adopted").contains("../../other")).await;
        let before = set(json!("shop")).await;
        world.condition("shop", "Adopted", "True", "Adopted").await;
        world.started("web").await;
        let status = world.until("shop", "two ready pods", |it| it.nodes.as_ref().unwrap().ready == 2).await;
        assert_eq!(status.nodes.unwrap().selector, "app=web");
        world.condition("shop", "BodyAvailable", "True", "Available").await;
        world.condition("shop", "Sensing", "True", "Sensing").await;
        assert_eq!(world.made("shop").await, ["NetworkPolicy shop-quarantine"]);
        let after = deployments.get("web").await.unwrap();
        assert_eq!((&after.spec, after.metadata.generation), (&before.spec, before.metadata.generation));
        assert!(after.managed_fields().iter().all(|it| it.manager.as_deref() != Some("venom")));

        // A second one, of the workload and of what the operator has made.
        world.adopts("other", "Deployment", "web", json!({})).await;
        let status = world.condition("other", "Adopted", "False", "InUse").await;
        assert!(message(&status, "Adopted").contains("Organism shop"));
        world.create::<Organism>("venom", json!({"pulse": {"minPeriod": "50ms"}})).await;
        world.whole(9).await;
        world.adopts("third", "Deployment", "venom", json!({})).await;
        world.condition("third", "Adopted", "False", "InUse").await;

        // Handed over.
        set(json!("other")).await;
        world.condition("other", "Adopted", "True", "Adopted").await;
        world.condition("shop", "Adopted", "False", "InUse").await;
        eventually("nothing to be left of the first", async || {
            let made = world.made("shop").await;
            if made.is_empty() { Ok(()) } else { Err(format!("{made:?}")) }
        })
        .await;
        world.venom_ledger("replay", "shop").unwrap();
    })
    .await;
}

async fn is_isolated_and_released<K>(kind: &'static str)
where
    K: Resource<DynamicType = ()>,
{
    in_world(async |world| {
        let _operator = world.operator_with_bodies("alpha", &[]);
        world.shop::<K>("shop", Some("shop")).await;
        world.started("shop").await;
        world.adopts("shop", kind, "shop", json!({})).await;
        world.condition("shop", "Adopted", "True", "Adopted").await;
        world.condition("shop", "Quarantined", "False", "Clear").await;
        let before = world.owned::<K>("shop").await;
        for round in 0..2 {
            world.patch_genome("shop", json!({"risk": {"anoms": QUARANTINE}})).await;
            let status = world.condition("shop", "Quarantined", "True", "Isolated").await;
            let what = status.response.unwrap().applied.unwrap().what.join("; ");
            assert!(what.contains("HorizontalPodAutoscaler shop may neither add nor remove pods"), "{what}");
            assert!(what.contains("Service shop selects no pod"), "{what}");
            let policy = world.plain::<NetworkPolicy>("shop-quarantine").await;
            assert_eq!(policy["spec"]["podSelector"], json!({"matchLabels": {"app": "shop"}}));
            let [workload, service, scaler] = &world.owned::<K>("shop").await[..] else { panic!() };
            assert_eq!(*workload, before[0]);
            assert_eq!(service["spec"]["selector"]["genesis.venom.dev/quarantine"], "isolated");
            for way in ["scaleUp", "scaleDown"] {
                assert_eq!(scaler["spec"]["behavior"][way]["selectPolicy"], "Disabled");
            }
            assert_eq!(world.of::<Organism>().get("shop").await.unwrap().finalizers().len(), 1);
            world.patch_genome("shop", json!({"risk": {"anoms": 0}})).await;
            world.condition("shop", "Quarantined", "False", "Clear").await;
            assert_eq!(world.owned::<K>("shop").await, before, "round {round}");
            let policy = world.plain::<NetworkPolicy>("shop-quarantine").await;
            assert_ne!(policy["spec"]["podSelector"], json!({"matchLabels": {"app": "shop"}}));
        }
        assert!(world.of::<Organism>().get("shop").await.unwrap().finalizers().is_empty());
        let pair = [("apply", "Enforce", ""), ("release", "Enforce", "")];
        world.enforced("shop", &pair.repeat(2)).await;
        world.venom_ledger("replay", "shop").unwrap();
    })
    .await;
}

#[tokio::test]
async fn an_adopted_deployment_is_isolated_and_released() {
    is_isolated_and_released::<Deployment>("Deployment").await;
}

#[tokio::test]
async fn an_adopted_stateful_set_is_isolated_and_released() {
    is_isolated_and_released::<StatefulSet>("StatefulSet").await;
}

/// Whatever ends the adoption while the pods are isolated: all is as it was found.
#[tokio::test]
async fn an_adoption_that_ends_leaves_everything_as_it_was_found() {
    in_world(async |world| {
        let mut operator = world.operator_with_bodies("alpha", &[]);
        world.shop::<Deployment>("shop", Some("shop")).await;
        world.shop::<StatefulSet>("db", Some("shop")).await;
        let (shop, db) = (world.owned::<Deployment>("shop").await, world.owned::<StatefulSet>("db").await);
        world.adopts("shop", "Deployment", "shop", json!({})).await;
        world.patch_genome("shop", json!({"risk": {"anoms": QUARANTINE}})).await;
        world.condition("shop", "Quarantined", "True", "Isolated").await;

        // It is another workload that the Organism adopts.
        let other = json!({"workloadRef": {"kind": "StatefulSet", "name": "db"}});
        world.patch_organism("shop", other).await;
        eventually("the first to be as it was, and the second isolated", async || {
            let now = world.owned::<Deployment>("shop").await;
            let selector = world.plain::<Service>("db").await["spec"]["selector"].clone();
            let isolated = !selector["genesis.venom.dev/quarantine"].is_null();
            if now == shop && isolated { Ok(()) } else { Err(format!("{selector} {now:?}")) }
        })
        .await;
        world.condition("shop", "Quarantined", "True", "Isolated").await;
        let policy = world.plain::<NetworkPolicy>("shop-quarantine").await;
        assert_eq!(policy["spec"]["podSelector"], json!({"matchLabels": {"app": "db"}}));

        // The permission is taken away.
        let sets = world.of::<StatefulSet>();
        let annotate =
            |organism: Value| Patch::Merge(json!({"metadata": {"annotations": {(ADOPTABLE): organism}}}));
        sets.patch("db", &PatchParams::default(), &annotate(Value::Null)).await.unwrap();
        world.condition("shop", "Quarantined", "False", "NotAdopted").await;
        assert_eq!(world.owned::<StatefulSet>("db").await[1..], db[1..]);
        eventually("the policy to be gone", async || {
            let made = world.made("shop").await;
            if made.is_empty() { Ok(()) } else { Err(format!("{made:?}")) }
        })
        .await;
        sets.patch("db", &PatchParams::default(), &annotate(json!("shop"))).await.unwrap();
        world.condition("shop", "Quarantined", "True", "Isolated").await;

        // The Organism is deleted, and nobody collects its objects; no operator runs at that time.
        operator.kill();
        let orphan =
            DeleteParams { propagation_policy: Some(PropagationPolicy::Orphan), ..DeleteParams::default() };
        world.organisms.delete("shop", &orphan).await.unwrap();
        let _operator = world.operator_with_bodies("beta", &[]);
        world.gone("shop").await;
        assert_eq!(world.owned::<StatefulSet>("db").await, db);
        assert_eq!(world.made("shop").await, Vec::<String>::new(), "no policy isolates pods that stay");
    })
    .await;
}

/// The default: what would be done is recorded, and nothing of the user's is written.
#[tokio::test]
async fn by_default_an_adopted_workload_is_only_observed() {
    in_world(async |world| {
        let _operator = world.operator_with_bodies("alpha", &[]);
        world.shop::<Deployment>("shop", Some("shop")).await;
        let before = world.owned::<Deployment>("shop").await;
        world.adopts("shop", "Deployment", "shop", json!({"response": {"releaseAfter": "1s"}})).await;
        world.condition("shop", "Adopted", "True", "Adopted").await;
        world.patch_genome("shop", json!({"risk": {"anoms": QUARANTINE}})).await;
        let status = world.condition("shop", "Quarantined", "False", "Observed").await;
        assert_eq!(applied(&status), None);
        let would = status.response.unwrap().would_apply.unwrap().what;
        let expected = [
            "NetworkPolicy shop-quarantine selects the pods",
            "Service shop selects no pod",
            "HorizontalPodAutoscaler shop may neither add nor remove pods",
        ];
        assert_eq!(would, expected);
        assert_eq!(world.owned::<Deployment>("shop").await, before);
        assert_eq!(world.made("shop").await, Vec::<String>::new());
        assert!(world.of::<Organism>().get("shop").await.unwrap().finalizers().is_empty());
        world.enforced("shop", &[("apply", "Observe", "")]).await;
    })
    .await;
}

#[tokio::test]
async fn pods_that_carry_the_workloads_labels_by_accident_are_not_cut_off() {
    in_world(async |world| {
        let _operator = world.operator_with_bodies("alpha", &[]);
        world.shop::<StatefulSet>("shop", Some("shop")).await;
        world.adopts("shop", "StatefulSet", "shop", json!({})).await;
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "next-door", "labels": {"app": "shop"}},
            "spec": {"containers": [{"name": "a", "image": "a"}]},
        });
        let pods = world.of::<Pod>();
        pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
        let before = world.owned::<StatefulSet>("shop").await;
        world.patch_genome("shop", json!({"risk": {"anoms": QUARANTINE}})).await;
        let status = world.condition("shop", "Quarantined", "False", "SelectorOverlap").await;
        assert!(message(&status, "Quarantined").contains("Pod next-door"));
        assert_eq!(world.owned::<StatefulSet>("shop").await, before);
        pods.delete("next-door", &DeleteParams::default().grace_period(0)).await.unwrap();
        world.condition("shop", "Quarantined", "True", "Isolated").await;
    })
    .await;
}

/// An autoscaler that a GitOps tool puts back, and one that was not handed over.
#[tokio::test]
async fn an_autoscaler_is_limited_only_where_it_is_handed_over_and_nobody_fights_for_it() {
    in_world(async |world| {
        let _operator = world.operator_with_bodies("alpha", &[]);
        world.shop::<Deployment>("shop", Some("shop")).await;
        let private = json!({
            "maxReplicas": 4, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "shop"},
        });
        world.make::<HorizontalPodAutoscaler>("private", Value::Null, private).await;
        let others = world.plain::<HorizontalPodAutoscaler>("private").await;
        world.adopts("shop", "Deployment", "shop", json!({})).await;
        world.patch_genome("shop", json!({"risk": {"anoms": QUARANTINE}})).await;
        world.condition("shop", "Quarantined", "True", "Isolated").await;
        assert_eq!(world.plain::<HorizontalPodAutoscaler>("private").await, others);

        let scalers = world.of::<HorizontalPodAutoscaler>();
        // Its controller writes the status, and with that the resourceVersion.
        let ours = |it: &HorizontalPodAutoscaler| {
            let entries = it.managed_fields().iter().filter(|it| it.manager.as_deref() == Some("venom"));
            entries.map(|it| format!("{it:?}")).collect::<Vec<_>>()
        };
        let frozen = async || {
            let found = scalers.get("shop").await.unwrap();
            let behaviour = found.spec.behavior.as_ref().unwrap();
            let policy = behaviour.scale_up.as_ref().unwrap().select_policy.clone().unwrap();
            (policy == "Disabled", ours(&found))
        };
        let argo = PatchParams { field_manager: Some("argocd".into()), ..PatchParams::default() };
        let put_back = Patch::Merge(json!({"spec": {"behavior": {"scaleUp": {"selectPolicy": "Max"}}}}));
        for _ in 0..10 {
            scalers.patch("shop", &argo, &put_back).await.unwrap();
            let left = async || condition(&world.status("shop").await, "Quarantined").1 == "PartiallyIsolated";
            let _ = within(Duration::from_secs(12), "a second write, or that it is left", async || {
                if left().await || frozen().await.0 { Ok(()) } else { Err("neither".into()) }
            })
            .await;
            if left().await {
                break;
            }
        }
        let status = world.condition("shop", "Quarantined", "True", "PartiallyIsolated").await;
        let told = message(&status, "Quarantined");
        assert!(told.contains("HorizontalPodAutoscaler shop: field manager argocd"), "{told}");
        let (is_frozen, entries) = frozen().await;
        assert!(!is_frozen);
        world.beats_more("shop", 240).await;
        assert_eq!(frozen().await, (false, entries), "it is left alone");
    })
    .await;
}

/// Events of its pods, of no others', and those of a rollout not at all; once each, across operators.
#[tokio::test]
async fn what_happens_to_the_pods_of_an_adopted_workload_is_sensed() {
    in_world(async |world| {
        let mut operator = world.operator_with_bodies("alpha", &[]);
        world.shop::<Deployment>("shop", Some("venom")).await;
        let pods = world.started("shop").await;
        world.adopts("venom", "Deployment", "shop", json!({})).await;
        world.condition("venom", "Sensing", "True", "Sensing").await;
        world.condition("venom", "BodyAvailable", "True", "Available").await;
        let stranger = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "stranger", "labels": {"app": "shop"}},
            "spec": {"containers": [{"name": "node", "image": "a"}]},
        });
        let stranger: Pod = serde_json::from_value(stranger).unwrap();
        world.of::<Pod>().create(&PostParams::default(), &stranger).await.unwrap();
        world.ended("stranger", 1, running(), "Error").await;
        let (name, uid) = (pods[0].name_any(), pods[0].uid().unwrap());
        world.ended(&name, 1, running(), "Error").await;
        let mut expected = vec![("restart", format!("{uid}/node/1"), 2)];
        world.sensed(&expected).await;
        // What happened before there was the Organism is no news to the next operator, and times are in whole seconds.
        world.beats_more("venom", 60).await;
        operator.kill();
        world.ended(&name, 2, running(), "OOMKilled").await;
        let _operator = world.operator_with_bodies("beta", &[]);
        expected.push(("oomKill", format!("{uid}/node/2"), 5));
        world.sensed_and_no_more(&expected).await;
    })
    .await;
}

/// An autoscaler of the operator's aims at the workload, and gives way to the user's.
#[tokio::test]
async fn an_adopted_workload_gets_an_autoscaler_where_there_is_none() {
    in_world(async |world| {
        let _operator = world.operator_with_bodies("alpha", &[]);
        world.shop::<Deployment>("web", Some("shop")).await;
        world
            .adopts("shop", "Deployment", "web", json!({"autoscaling": {"enabled": true, "maxReplicas": 4}}))
            .await;
        let status = world.condition("shop", "AutoscalingActive", "False", "ForeignAutoscaler").await;
        let told = message(&status, "AutoscalingActive");
        assert!(told.contains("HorizontalPodAutoscaler web scales Deployment web"), "{told}");
        let scalers = world.of::<HorizontalPodAutoscaler>();
        assert!(scalers.get_opt("shop").await.unwrap().is_none());
        scalers.delete("web", &DeleteParams::default()).await.unwrap();
        let made = within(Duration::from_secs(90), "an autoscaler", async || {
            scalers.get_opt("shop").await.map_err(|error| error.to_string())?.ok_or_else(|| "none".into())
        })
        .await;
        assert_eq!(
            (&*made.spec.scale_target_ref.kind, &*made.spec.scale_target_ref.name),
            ("Deployment", "web")
        );
        assert_eq!(made.spec.metrics.unwrap()[0].type_, "Resource");
    })
    .await;
}
