//! Printer columns and the scale subresource.
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::Request;
use kube::{Api, Client, Resource};
use serde_json::{Value, json};
use venom::api::{Genome, GenomeSpec, Organism, OrganismSpec};

use crate::harness::{API_VERSION, eventually, in_namespace};

#[tokio::test]
async fn organisms_print_their_columns() {
    in_namespace(async |client, namespace| {
        let organisms = Api::<Organism>::namespaced(client.clone(), namespace);
        let made = Organism::new("venom", OrganismSpec::default());
        organisms.create(&PostParams::default(), &made).await.unwrap();
        let status = json!({
            "conditions": [condition("Beating", "False"), condition("Ready", "True")],
            "beats": 1234, "tLambda": 0.0042,
            "decision": {"action": "NOOP", "threat": 0.5, "since": "2026-11-23T00:00:00Z", "entry": 6},
            "response": {"mode": "Enforce"},
            "nodes": {"ready": 4, "replicas": 5, "selector": "a=b"},
            "ledger": {"generation": 1, "size": 8639, "merkleRoot": "ab12", "lastHash": "cd34", "segments": 2, "bytes": 99, "holder": "venom-0"},
            "observedGeneration": 1,
        });
        let shown = publish::<Organism>(&organisms, &status).await;
        assert_eq!(serde_json::to_value(shown.status).unwrap(), status, "nothing is filled in or dropped");
        assert_eq!(
            table::<Organism>(&client, namespace).await,
            [
                ("Name", 0, json!("venom")),
                ("Ready", 0, json!("True")),
                ("Beats", 0, json!(1234)),
                ("T_Λ", 0, json!(0.0042)),
                ("Nodes", 0, json!(4)),
                ("Action", 0, json!("NOOP")),
                ("Entries", 0, json!(8639)),
                ("Age", 0, Value::Null),
                ("Root", 1, json!("ab12")),
                ("Mode", 1, json!("Enforce")),
                ("Holder", 1, json!("venom-0")),
            ]
            .map(|(name, priority, cell)| (name.to_owned(), priority, cell))
        );
    })
    .await;
}

#[tokio::test]
async fn genomes_print_their_columns() {
    in_namespace(async |client, namespace| {
        let genomes = Api::<Genome>::namespaced(client.clone(), namespace);
        genomes.create(&PostParams::default(), &Genome::new("venom", GenomeSpec::default())).await.unwrap();
        // Rounded weights need not sum to 1: the rule applies to the spec only.
        let weights = json!({"regen": 0.1999, "balance": 0.2, "entropy": 0.05, "optimize": 0.55});
        let status = json!({
            "weights": weights, "threat": 0.6225, "anoms": 7, "injectedTotal": 3, "action": "ALERT",
            "boundTo": {"name": "shop", "uid": "1f0e"}, "observedGeneration": 2,
        });
        let shown = publish::<Genome>(&genomes, &status).await;
        assert_eq!(serde_json::to_value(shown.status).unwrap(), status, "nothing is filled in or dropped");
        assert_eq!(
            table::<Genome>(&client, namespace).await,
            [
                ("Name", json!("venom")),
                ("Organism", json!("shop")),
                ("R", json!(0.1999)),
                ("B", json!(0.2)),
                ("E", json!(0.05)),
                ("O", json!(0.55)),
                ("Anoms", json!(7)),
                ("Threat", json!(0.6225)),
                ("Action", json!("ALERT")),
                ("Age", Value::Null),
            ]
            .map(|(name, cell)| (name.to_owned(), 0, cell))
        );
    })
    .await;
}

/// Server-side apply merges the conditions of several field managers.
#[tokio::test]
async fn conditions_are_merged_by_type() {
    in_namespace(async |client, namespace| {
        let organisms = Api::<Organism>::namespaced(client, namespace);
        let made = Organism::new("venom", OrganismSpec::default());
        organisms.create(&PostParams::default(), &made).await.unwrap();
        for (manager, kind) in [("one", "Ready"), ("two", "Quarantined")] {
            let applied = json!({
                "apiVersion": API_VERSION, "kind": "Organism",
                "metadata": {"name": "venom"}, "status": {"conditions": [condition(kind, "True")]},
            });
            let params = PatchParams::apply(manager);
            organisms.patch_status("venom", &params, &Patch::Apply(&applied)).await.unwrap();
        }
        let status = organisms.get("venom").await.unwrap().status.unwrap();
        let kinds: Vec<_> = status.conditions.iter().map(|condition| condition.type_.as_str()).collect();
        assert_eq!(kinds, ["Ready", "Quarantined"]);
    })
    .await;
}

#[tokio::test]
async fn the_scale_subresource_sets_replicas() {
    in_namespace(async |client, namespace| {
        let organisms = Api::<Organism>::namespaced(client, namespace);
        let made = Organism::new("venom", OrganismSpec::default());
        organisms.create(&PostParams::default(), &made).await.unwrap();
        publish(&organisms, &json!({"nodes": {"ready": 5, "replicas": 5, "selector": "a=b"}})).await;

        let to = |replicas: u32| Patch::Merge(json!({"spec": {"replicas": replicas}}));
        let scale = organisms.patch_scale("venom", &PatchParams::default(), &to(8)).await.unwrap();
        let status = scale.status.unwrap();
        assert_eq!((status.replicas, status.selector.as_deref()), (5, Some("a=b")));
        assert_eq!(organisms.get("venom").await.unwrap().spec.nodes.replicas, 8);

        let refused = organisms.patch_scale("venom", &PatchParams::default(), &to(1001)).await.unwrap_err();
        assert!(refused.to_string().contains("spec.nodes.replicas must be 0 to 1000"), "{refused}");
    })
    .await;
}

/// A real HorizontalPodAutoscaler scales an Organism through /scale.
#[tokio::test]
async fn a_horizontal_pod_autoscaler_scales_an_organism() {
    in_namespace(async |client, namespace| {
        let organisms = Api::<Organism>::namespaced(client.clone(), namespace);
        let made = Organism::new("venom", OrganismSpec::default());
        organisms.create(&PostParams::default(), &made).await.unwrap();
        publish(&organisms, &json!({"nodes": {"ready": 5, "replicas": 5, "selector": "a=b"}})).await;

        // Without metrics it still enforces minReplicas.
        let autoscaler: HorizontalPodAutoscaler = serde_json::from_value(json!({
            "metadata": {"name": "venom"},
            "spec": {
                "scaleTargetRef": {"apiVersion": API_VERSION, "kind": "Organism", "name": "venom"},
                "minReplicas": 7, "maxReplicas": 10,
            },
        }))
        .unwrap();
        let autoscalers = Api::<HorizontalPodAutoscaler>::namespaced(client, namespace);
        autoscalers.create(&PostParams::default(), &autoscaler).await.unwrap();
        eventually("the autoscaler to set 7 replicas", async || {
            let seen = organisms.get("venom").await.map_err(|error| error.to_string())?.spec.nodes.replicas;
            if seen == 7 { Ok(()) } else { Err(format!("{seen} replicas")) }
        })
        .await;
    })
    .await;
}

/// Merges `status` into the status and returns the object.
async fn publish<K>(api: &Api<K>, status: &Value) -> K
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let patch = Patch::Merge(json!({"status": status}));
    api.patch_status("venom", &PatchParams::default(), &patch).await.unwrap()
}

/// The only row of `kubectl get -o wide`, without the age: column, priority and cell.
async fn table<K: Resource<DynamicType = ()>>(client: &Client, namespace: &str) -> Vec<(String, u64, Value)> {
    let mut request = Request::new(K::url_path(&(), Some(namespace))).list(&Default::default()).unwrap();
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io".parse().unwrap();
    request.headers_mut().insert("accept", accept);
    let table: Value = client.request(request).await.unwrap();
    let columns = table["columnDefinitions"].as_array().unwrap().iter();
    let cells = table["rows"][0]["cells"].as_array().unwrap().iter();
    columns
        .zip(cells)
        .map(|(column, cell)| {
            let name = column["name"].as_str().unwrap().to_owned();
            let cell = if name == "Age" { Value::Null } else { cell.clone() };
            (name, column["priority"].as_u64().unwrap(), cell)
        })
        .collect()
}

fn condition(kind: &str, status: &str) -> Value {
    json!({
        "type": kind, "status": status, "reason": "Test", "message": "",
        "lastTransitionTime": "2026-11-23T00:00:00Z",
    })
}
