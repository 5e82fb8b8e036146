//! An etcd without free space, in a separate cluster.
use std::collections::BTreeMap;
use std::path::Path;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::Api;
use kube::api::{DeleteParams, ListParams, ObjectMeta, PostParams};
use serde_json::{Value, json};
use venom::api::Organism;

use crate::harness::{Cluster, eventually};
use crate::http::{free_address, metric_of, post};
use crate::world::World;

/// Name of the cluster and of the namespace in it.
const NAME: &str = "filled";
/// etcd's quota: room for the objects of the API server and some fillers.
const QUOTA: &str = "--quota-backend-bytes=33554432";
const FILLER: usize = 1_000_000;

/// Stops the cluster when dropped.
struct Own;

impl Drop for Own {
    fn drop(&mut self) {
        Cluster::stop(NAME);
    }
}

/// The etcd of a cluster, accessed directly.
struct Etcd(String);

impl Etcd {
    /// The etcd of the cluster of this kubeconfig.
    fn of(kubeconfig: &Path) -> Self {
        let settings = std::fs::read_to_string(kubeconfig.with_file_name("settings")).unwrap();
        let port = settings.lines().find_map(|line| line.strip_prefix("etcd_port=")).unwrap();
        Self(format!("127.0.0.1:{port}"))
    }

    fn ask(&self, path: &str, body: &Value) -> Value {
        let (code, text) = post(&self.0, path, &body.to_string()).unwrap();
        assert_eq!(code, 200, "{path}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    fn alarms(&self) -> Vec<Value> {
        let answer = self.ask("/v3/maintenance/alarm", &json!({"action": "GET"}));
        answer["alarms"].as_array().cloned().unwrap_or_default()
    }

    /// Compacts, defragments and clears the alarm, so that etcd accepts writes again.
    fn make_room(&self) {
        let revision = self.ask("/v3/kv/range", &json!({"key": "AA=="}))["header"]["revision"].clone();
        self.ask("/v3/kv/compaction", &json!({"revision": revision, "physical": true}));
        self.ask("/v3/maintenance/defragment", &json!({}));
        for mut alarm in self.alarms() {
            alarm["action"] = "DEACTIVATE".into();
            self.ask("/v3/maintenance/alarm", &alarm);
        }
    }
}

/// Creates ConfigMaps until etcd is full. Returns their number.
async fn fill(maps: &Api<ConfigMap>) -> usize {
    for made in 0.. {
        let filler = ConfigMap {
            metadata: ObjectMeta {
                name: Some(format!("filler-{made}")),
                labels: Some(BTreeMap::from([("filler".into(), "yes".into())])),
                ..ObjectMeta::default()
            },
            data: Some(BTreeMap::from([("x".into(), "x".repeat(FILLER))])),
            ..ConfigMap::default()
        };
        if let Err(error) = maps.create(&PostParams::default(), &filler).await {
            assert!(error.to_string().contains("database space exceeded"), "{error}");
            return made;
        }
    }
    unreachable!()
}

/// While etcd rejects writes, the organism keeps beating and the log states why nothing is committed. Once there is room,
/// every beat is committed.
#[tokio::test]
async fn beats_are_kept_while_etcd_is_full() {
    let cluster = Cluster::start(NAME, &[("VENOM_ETCD_FLAGS", QUOTA)]).await;
    let _own = Own;
    let etcd = Etcd::of(cluster.kubeconfig.as_deref().unwrap());
    let client = cluster.client();
    let metadata = ObjectMeta { name: Some(NAME.into()), ..ObjectMeta::default() };
    let namespace = Namespace { metadata, ..Namespace::default() };
    Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await.unwrap();
    let world = World::new(client, NAME, cluster.kubeconfig.clone());
    let address = free_address();
    let mut operator = world.operator_with("alpha", &["--metrics-addr", &address]);
    world.create::<Organism>("venom", json!({"pulse": {"minPeriod": "20ms"}})).await;
    world.beating("venom").await;
    world.beats_more("venom", 50).await;

    let fillers = fill(&world.maps).await;
    assert_eq!(etcd.alarms().len(), 1, "{fillers} fillers and no alarm");
    let said = |what: &str| operator.log().lines().filter(|line| line.contains(what)).count();
    eventually("the operator to say it", async || match said("etcd is full") {
        0 => Err(operator.log()),
        _ => Ok(()),
    })
    .await;
    let before = world.ledger("venom").await;
    let errors = || metric_of(&address, r#"venom_api_errors_total{what="ledger"}"#);
    let beaten = || metric_of(&address, "venom_beats_total");
    let (errors_before, beaten_before) = (errors(), beaten());
    eventually("another try, and beats all the same", async || {
        let (errors, beaten) = (errors() - errors_before, beaten() - beaten_before);
        if errors >= 1.0 && beaten >= 100.0 { Ok(()) } else { Err(format!("{errors}, {beaten}")) }
    })
    .await;
    assert_eq!(world.ledger("venom").await.head, before.head, "nothing was committed");
    assert_eq!((said("etcd is full"), said("commit delayed")), (1, 0), "{}", operator.log());
    assert!(said("status not written") <= 2, "Organism and Genome, once each: {}", operator.log());

    let (params, fillers_only) = (DeleteParams::default(), ListParams::default().labels("filler"));
    world.maps.delete_collection(&params, &fillers_only).await.unwrap();
    let pending = beaten();
    etcd.make_room();
    world
        .until("venom", "all that was beaten while etcd was full", |it| {
            it.beats.unwrap_or(0) as f64 >= pending
        })
        .await;
    let status = world.beats_more("venom", 50).await;
    let live = world.ledger("venom").await;
    let compared = live.continues(&before);
    let summary = live.check();
    live.check_status(&status);
    println!("{fillers} fillers, {compared} entries as before, {} since", live.head.size - before.head.size);
    assert_eq!(live.head.epoch, 1);
    assert_eq!(summary.inputs_of("resume").len(), 0, "beating never stopped");
    assert_eq!(said("etcd takes writes again"), 1, "{}", operator.log());
    assert_eq!(said("etcd is full"), 1, "{}", operator.log());
    assert!(operator.terminate().await.success());
}
