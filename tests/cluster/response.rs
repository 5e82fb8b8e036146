//! What decisions do to the cluster: quarantine, autoscaler, Services of others, and how all of it is undone.
//!
//! There is no kubelet and no traffic here; e2e/suite/response.rs tries what packets do.
use std::time::Duration;

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::ApiResource;
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};
use venom::api::{Organism, OrganismStatus};

use crate::harness::{eventually, free_port, within};
use crate::world::{World, condition, in_world, message};

/// Anomalies for a threat of 0.9168 with the default model, and for 0.6457.
pub const QUARANTINE: u64 = 20;
const ALERT: u64 = 5;

const RESTORE: &str = "genesis.venom.dev/restore";
const FINALIZER: &str = "genesis.venom.dev/response";

impl World {
    /// An Organism venom whose quarantine ends two seconds after the last decision for it.
    pub async fn responsive(&self, spec: Value) {
        let mut whole = json!({"pulse": {"minPeriod": "50ms"}, "response": {"releaseAfter": "2s"}});
        for (name, part) in spec.as_object().unwrap() {
            whole[name] = part.clone();
        }
        self.create::<Organism>("venom", whole).await;
        self.beating("venom").await;
        self.whole(9).await;
        self.condition("venom", "Quarantined", "False", "Clear").await;
    }

    pub async fn annotate(&self, name: &str, annotations: Value) {
        let patch = Patch::Merge(json!({"metadata": {"annotations": annotations}}));
        self.organisms.patch(name, &PatchParams::default(), &patch).await.unwrap();
    }

    pub async fn anoms(&self, anoms: u64) {
        self.patch_genome("venom", json!({"risk": {"anoms": anoms}})).await;
    }

    /// A Service of a user that selects the pods of the organism venom.
    pub async fn service(&self, name: &str) -> Value {
        self.service_for(name, "venom").await
    }

    /// A Service of a user that selects the pods of this organism.
    pub async fn service_for(&self, name: &str, organism: &str) -> Value {
        let kind = ApiResource::erase::<Service>(&());
        let data = json!({"spec": {
            "selector": {"genesis.venom.dev/organism": organism}, "ports": [{"port": 80, "targetPort": 8000}],
        }});
        let mut object = DynamicObject::new(name, &kind).data(data);
        object.metadata.annotations = Some([("team".to_owned(), "a".to_owned())].into());
        let api = self.dynamic(&kind);
        plain(&api.create(&PostParams::default(), &object).await.unwrap())
    }

    /// The object without what every write changes.
    pub async fn plain<K: Resource<DynamicType = ()>>(&self, name: &str) -> Value {
        plain(&self.dynamic(&ApiResource::erase::<K>(&())).get(name).await.unwrap())
    }

    pub async fn finalizers(&self) -> Vec<String> {
        self.organisms.get_metadata("venom").await.unwrap().finalizers().to_vec()
    }

    /// The enforcement entries: action's index is left out, change, mode and refusal stay.
    pub async fn enforcements(&self, name: &str) -> Vec<(String, String, String)> {
        let live = self.ledger(name).await;
        let text = |it: &Value| it.as_str().unwrap_or_default().to_owned();
        let all = live.entries.iter().map(|it| serde_json::from_str::<Value>(&it.data).unwrap());
        all.filter(|it| it["type"] == "enforcement")
            .map(|it| (text(&it["change"]), text(&it["mode"]), text(&it["refused"])))
            .collect()
    }

    pub async fn enforced(&self, name: &str, expected: &[(&str, &str, &str)]) {
        let expected: Vec<_> =
            expected.iter().map(|it| (it.0.to_owned(), it.1.to_owned(), it.2.to_owned())).collect();
        eventually(&format!("{name}: the enforcements {expected:?}"), async || {
            let found = self.enforcements(name).await;
            if found == expected { Ok(()) } else { Err(format!("{found:?}")) }
        })
        .await;
        self.ledger(name).await.check();
    }
}

fn plain(object: &DynamicObject) -> Value {
    let mut object = object.clone();
    object.metadata.managed_fields = None;
    object.metadata.resource_version = None;
    object.metadata.generation = None;
    let mut object = serde_json::to_value(object).unwrap();
    object.as_object_mut().unwrap().remove("status");
    object
}

pub fn applied(status: &OrganismStatus) -> Option<String> {
    Some(status.response.as_ref()?.applied.as_ref()?.action.as_str().to_owned())
}

#[tokio::test]
async fn a_quarantine_cuts_off_the_body_and_its_end_restores_every_object() {
    in_world(async |world| {
        let _operator = world.operator_with_bodies("alpha", &[]);
        world.responsive(json!({})).await;
        let service = world.service("shop").await;
        let policies = async || {
            (
                world.plain::<NetworkPolicy>("venom-body").await,
                world.plain::<NetworkPolicy>("venom-quarantine").await,
            )
        };
        let before = (policies().await, world.plain::<HorizontalPodAutoscaler>("venom").await);

        world.anoms(QUARANTINE).await;
        let status = world.condition("venom", "Quarantined", "True", "Isolated").await;
        assert_eq!(applied(&status).as_deref(), Some("QUARANTINE"));
        let (body, quarantine) = policies().await;
        assert_eq!(quarantine["spec"]["podSelector"], body["spec"]["podSelector"]);
        assert_eq!(body["spec"]["ingress"].as_array().unwrap().len(), 1, "no metrics for anyone");
        let scaler = world.plain::<HorizontalPodAutoscaler>("venom").await;
        for way in ["scaleUp", "scaleDown"] {
            assert_eq!(scaler["spec"]["behavior"][way]["selectPolicy"], "Disabled");
        }
        let detached = world.plain::<Service>("shop").await;
        assert_eq!(detached["spec"]["selector"]["genesis.venom.dev/quarantine"], "isolated");
        assert!(detached["metadata"]["annotations"][RESTORE].is_string());
        assert_eq!(world.finalizers().await, [FINALIZER]);
        let metrics = world.plain::<Service>("venom-metrics").await;
        assert!(metrics["spec"]["selector"]["genesis.venom.dev/quarantine"].is_null(), "ours stay");
        world.enforced("venom", &[("apply", "Enforce", "")]).await;

        // It outlasts the decision for as long as the spec says.
        world.anoms(ALERT).await;
        world.until("venom", "ALERT", |it| it.decision.as_ref().unwrap().action.as_str() == "ALERT").await;
        world.condition("venom", "Quarantined", "False", "Clear").await;
        world.enforced("venom", &[("apply", "Enforce", ""), ("release", "Enforce", "")]).await;
        assert_eq!((policies().await, world.plain::<HorizontalPodAutoscaler>("venom").await), before);
        assert_eq!(world.plain::<Service>("shop").await, service);
        assert_eq!(world.finalizers().await, [""; 0]);
        assert_eq!(applied(&world.status("venom").await), None);
        world.venom_ledger("replay", "venom").unwrap();
    })
    .await;
}

/// Everything that an organism that is told to observe leaves alone.
#[tokio::test]
async fn observe_records_what_would_be_done_and_touches_nothing() {
    in_world(async |world| {
        let _operator = world.operator_with_bodies("alpha", &[]);
        world.responsive(json!({"response": {"mode": "Observe", "releaseAfter": "1s"}})).await;
        world.service("shop").await;
        let versions = async || {
            let objects = world.body().await;
            let service = world.of::<Service>().get_metadata("shop").await.unwrap();
            let of = |it: &kube::core::ObjectMeta| (it.name.clone(), it.resource_version.clone());
            let mut all: Vec<_> = objects.values().map(|it| of(&it.metadata)).collect();
            all.push(of(&service.metadata));
            all
        };
        let before = versions().await;
        world.anoms(QUARANTINE).await;
        let status = world.condition("venom", "Quarantined", "False", "Observed").await;
        let would = status.response.unwrap().would_apply.unwrap();
        assert_eq!(would.action.as_str(), "QUARANTINE");
        assert!(would.what[0].contains("venom-quarantine selects the pods"), "{:?}", would.what);
        world.enforced("venom", &[("apply", "Observe", "")]).await;
        world.anoms(0).await;
        world.condition("venom", "Quarantined", "False", "Clear").await;
        world.enforced("venom", &[("apply", "Observe", ""), ("release", "Observe", "")]).await;
        // The autoscaler's own controller writes its status.
        let left = |mut all: Vec<(Option<String>, Option<String>)>| {
            all.retain(|it| it.0.as_deref() != Some("venom"));
            all
        };
        assert_eq!(left(versions().await), left(before));
        assert_eq!(world.finalizers().await, [""; 0]);
    })
    .await;
}

#[tokio::test]
async fn hands_off_undoes_everything_at_once_and_the_decisions_go_on() {
    in_world(async |world| {
        let _operator = world.operator_with_bodies("alpha", &[]);
        world.responsive(json!({})).await;
        let service = world.service("shop").await;
        world.anoms(QUARANTINE).await;
        world.condition("venom", "Quarantined", "True", "Isolated").await;
        world.annotate("venom", json!({"genesis.venom.dev/hands-off": "true"})).await;
        let status = world.condition("venom", "Quarantined", "False", "HandsOff").await;
        assert_eq!(status.decision.unwrap().action.as_str(), "QUARANTINE");
        assert_eq!(world.plain::<Service>("shop").await, service);
        world.beats_more("venom", 20).await;
        assert_eq!(world.finalizers().await, Vec::<String>::new());
        world.annotate("venom", json!({"genesis.venom.dev/hands-off": null})).await;
        world.condition("venom", "Quarantined", "True", "Isolated").await;
        assert_eq!(world.finalizers().await, [FINALIZER], "again");
        let done = [("apply", "Enforce", ""), ("release", "Enforce", ""), ("apply", "Enforce", "HandsOff")];
        world.enforced("venom", &[&done[..], &[("apply", "Enforce", "")]].concat()).await;
    })
    .await;
}

#[tokio::test]
async fn pods_of_others_are_never_cut_off() {
    in_world(async |world| {
        let _operator = world.operator_with_bodies("alpha", &[]);
        world.responsive(json!({})).await;
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "stranger", "labels": {"genesis.venom.dev/organism": "venom"}},
            "spec": {"containers": [{"name": "a", "image": "a"}]},
        });
        let pods = world.of::<Pod>();
        pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
        let before = world.plain::<NetworkPolicy>("venom-quarantine").await;
        world.anoms(QUARANTINE).await;
        let status = world.condition("venom", "Quarantined", "False", "SelectorOverlap").await;
        assert!(message(&status, "Quarantined").contains("Pod stranger"));
        assert_eq!(world.plain::<NetworkPolicy>("venom-quarantine").await, before);
        world.enforced("venom", &[("apply", "Enforce", "SelectorOverlap")]).await;
        // It follows when the reason is gone.
        pods.delete("stranger", &DeleteParams::default().grace_period(0)).await.unwrap();
        world.condition("venom", "Quarantined", "True", "Isolated").await;
        world.enforced("venom", &[("apply", "Enforce", "SelectorOverlap"), ("apply", "Enforce", "")]).await;
    })
    .await;
}

#[tokio::test]
async fn what_still_lets_traffic_through_is_named() {
    in_world(async |world| {
        let _operator = world.operator_with_bodies("alpha", &[]);
        world.responsive(json!({})).await;
        let policy = |name: &str, spec: Value| {
            serde_json::from_value::<NetworkPolicy>(json!({"metadata": {"name": name}, "spec": spec}))
                .unwrap()
        };
        let policies = world.of::<NetworkPolicy>();
        for policy in [
            policy("open", json!({"podSelector": {}, "ingress": [{}]})),
            policy("closed", json!({"podSelector": {}, "policyTypes": ["Ingress"]})),
            policy("others", json!({"podSelector": {"matchLabels": {"app": "other"}}, "ingress": [{}]})),
        ] {
            policies.create(&PostParams::default(), &policy).await.unwrap();
        }
        world.anoms(QUARANTINE).await;
        let status = world.condition("venom", "Quarantined", "True", "PartiallyIsolated").await;
        let message = message(&status, "Quarantined");
        assert!(message.contains("NetworkPolicy open lets traffic in"), "{message}");
        assert!(!message.contains("closed") && !message.contains("others"), "{message}");
        policies.delete("open", &DeleteParams::default()).await.unwrap();
        world.condition("venom", "Quarantined", "True", "Isolated").await;
    })
    .await;
}

/// As a GitOps tool that puts the Service's selector back, however often it is changed.
#[tokio::test]
async fn a_service_that_another_manager_changes_back_is_left_after_two_writes() {
    in_world(async |world| {
        let _operator = world.operator_with_bodies("alpha", &[]);
        world.responsive(json!({})).await;
        world.service("shop").await;
        world.anoms(QUARANTINE).await;
        world.condition("venom", "Quarantined", "True", "Isolated").await;
        let detached = async || {
            let service = world.of::<Service>().get("shop").await.unwrap();
            let selector = service.spec.as_ref().unwrap().selector.clone().unwrap();
            (selector.contains_key("genesis.venom.dev/quarantine"), service.resource_version().unwrap())
        };
        let argo = PatchParams { field_manager: Some("argocd".into()), ..PatchParams::default() };
        let put_back = Patch::Merge(json!({"spec": {"selector": {"genesis.venom.dev/quarantine": null}}}));
        for _ in 0..10 {
            world.of::<Service>().patch("shop", &argo, &put_back).await.unwrap();
            let status = world.status("venom").await;
            if condition(&status, "Quarantined").1 == "PartiallyIsolated" {
                break;
            }
            // The operator looks every few seconds.
            let _ = within(Duration::from_secs(12), "a second write, or that it is left", async || {
                let left = condition(&world.status("venom").await, "Quarantined").1 == "PartiallyIsolated";
                if left || detached().await.0 { Ok(()) } else { Err("neither".into()) }
            })
            .await;
        }
        let status = world.condition("venom", "Quarantined", "True", "PartiallyIsolated").await;
        let message = message(&status, "Quarantined");
        assert!(message.contains("Service shop: field manager argocd"), "{message}");
        let (is_detached, version) = detached().await;
        assert!(!is_detached);
        world.beats_more("venom", 240).await;
        assert_eq!(detached().await.1, version, "it is left alone");
    })
    .await;
}

#[tokio::test]
async fn an_organism_deleted_while_it_is_isolated_restores_what_belongs_to_others() {
    in_world(async |world| {
        let mut operator = world.operator_with_bodies("alpha", &[]);
        world.responsive(json!({})).await;
        let service = world.service("shop").await;
        world.anoms(QUARANTINE).await;
        world.condition("venom", "Quarantined", "True", "Isolated").await;
        // Also where no operator runs at that time.
        operator.kill();
        world.delete_organism("venom").await;
        let _operator = world.operator_with_bodies("beta", &[]);
        world.gone("venom").await;
        assert_eq!(world.plain::<Service>("shop").await, service);
    })
    .await;
}

#[tokio::test]
async fn no_more_organisms_than_the_limit_are_isolated_and_others_follow() {
    in_world(async |world| {
        let _operator = world.operator_with_bodies("alpha", &["--quarantine-limit", "3"]);
        let names: Vec<String> = (0..10).map(|it| format!("o{it}")).collect();
        for name in &names {
            let spec = json!({
                "pulse": {"minPeriod": "100ms"}, "response": {"releaseAfter": "1s"}, "nodes": {"replicas": 0},
                "autoscaling": {"enabled": false},
            });
            world.create::<Organism>(name, spec).await;
        }
        for name in &names {
            world.beating(name).await;
            world.patch_genome(name, json!({"risk": {"anoms": QUARANTINE}})).await;
        }
        let by_reason = async |reason: &str| {
            let mut found = vec![];
            for name in &names {
                if condition(&world.status(name).await, "Quarantined").1 == reason {
                    found.push(name.clone());
                }
            }
            found
        };
        let counts = async |isolated: usize, refused: usize| {
            eventually(&format!("{isolated} isolated, {refused} refused"), async || {
                let found = (by_reason("Isolated").await.len(), by_reason("LimitReached").await.len());
                if found == (isolated, refused) { Ok(()) } else { Err(format!("{found:?}")) }
            })
            .await;
        };
        counts(3, 7).await;
        let first = by_reason("Isolated").await;
        for name in &first {
            world.patch_genome(name, json!({"risk": {"anoms": 0}})).await;
        }
        counts(3, 4).await;
        assert!(by_reason("Isolated").await.iter().all(|it| !first.contains(it)));
    })
    .await;
}

/// A holder that was stopped while another operator took over and released: when it goes on it undoes nothing of that.
#[tokio::test]
async fn a_stale_holder_changes_nothing() {
    in_world(async |world| {
        let first = world.operator_with_bodies("alpha", &[]);
        world.responsive(json!({})).await;
        let service = world.service("shop").await;
        // The other operator has another port, which is in the rules.
        let selects =
            async || world.plain::<NetworkPolicy>("venom-quarantine").await["spec"]["podSelector"].clone();
        let before = selects().await;
        world.anoms(QUARANTINE).await;
        world.condition("venom", "Quarantined", "True", "Isolated").await;
        first.signal("STOP");
        world.anoms(0).await;
        let url = format!("https://127.0.0.1:{}/v1/certificates", free_port());
        let second = ["--node-image", "localhost/venom:test", "--issuer-url", &*url];
        let _second = world.operator_with(&world.successor("venom", "alpha").await, &second);
        world.condition("venom", "Quarantined", "False", "Clear").await;
        assert_eq!(world.plain::<Service>("shop").await, service);
        first.signal("CONT");
        first.loses_to_another().await;
        world.beats_more("venom", 100).await;
        assert_eq!(selects().await, before);
        assert_eq!(world.plain::<Service>("shop").await, service);
        let done = [("apply", "Enforce", ""), ("release", "Enforce", "")];
        world.enforced("venom", &done).await;
    })
    .await;
}

/// Operators that are killed at any moment while they apply and release: the next one finishes what the last decision
/// asks for, and the ledger has each change once.
#[tokio::test]
async fn an_operator_killed_at_any_moment_leaves_the_rest_to_the_next() {
    in_world(async |world| {
        let mut operator = Some(world.operator_with_bodies("alpha", &[]));
        world.responsive(json!({"response": {"releaseAfter": "300ms"}})).await;
        let service = world.service("shop").await;
        let free = world.plain::<NetworkPolicy>("venom-quarantine").await;
        for round in 0..8_u64 {
            let isolate = round % 2 == 0;
            world.anoms(if isolate { QUARANTINE } else { 0 }).await;
            // From before the commit to after the last entry.
            tokio::time::sleep(Duration::from_millis(60 + 75 * round)).await;
            operator.take().unwrap().kill();
            operator = Some(world.operator_with_bodies("alpha", &[]));
            if isolate {
                world.condition("venom", "Quarantined", "True", "Isolated").await;
                let detached = world.plain::<Service>("shop").await;
                assert!(detached["metadata"]["annotations"][RESTORE].is_string(), "round {round}");
            } else {
                world.condition("venom", "Quarantined", "False", "Clear").await;
                assert_eq!(world.plain::<Service>("shop").await, service, "round {round}");
                assert_eq!(world.plain::<NetworkPolicy>("venom-quarantine").await, free, "round {round}");
            }
        }
        let once = [("apply", "Enforce", ""), ("release", "Enforce", "")];
        world.enforced("venom", &once.repeat(4)).await;
        world.venom_ledger("replay", "venom").unwrap();
    })
    .await;
}
