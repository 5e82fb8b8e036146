//! What decisions do to packets and pods, on a cluster whose NetworkPolicies are enforced.
use std::time::Instant;

use serde_json::{Value, json};
use venom::api::Organism;

use crate::harness::eventually;
use crate::site::{Site, TEAM_A, TEAM_B, on_site, run};
use crate::world::{World, condition};

/// A client beside the organism, and a Service of a user's.
const CLIENT: &str = "
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: client, image: CLIENT_IMAGE, command: [sleep, '3600'], imagePullPolicy: IfNotPresent}
---
apiVersion: v1
kind: Service
metadata: {name: shop}
spec:
  selector: {genesis.venom.dev/organism: venom}
  ports: [{port: 80, targetPort: 8000}]
";

/// A workload that takes all the memory that it may, again and again.
const HUNGRY: &str = "
apiVersion: apps/v1
kind: Deployment
metadata:
  name: hungry
  annotations: {genesis.venom.dev/adoptable-by: small}
spec:
  selector: {matchLabels: {app: hungry}}
  template:
    metadata: {labels: {app: hungry}}
    spec:
      containers:
      - name: hungry
        image: CLIENT_IMAGE
        imagePullPolicy: IfNotPresent
        command: [sh, -c, 'sleep 8; exec tail /dev/zero']
        resources: {limits: {memory: 24Mi, cpu: 500m}}
";

fn busybox() -> String {
    std::env::var("VENOM_E2E_BUSYBOX").unwrap_or_else(|_| "busybox:1.37".into())
}

/// A cluster without a plugin that enforces policies shows nothing here: kind's does, the development cluster's too.
#[tokio::test]
async fn a_quarantine_cuts_real_traffic_and_its_end_gives_it_back() {
    on_site(async |site| {
        site.release("install", &[]);
        let world = site.world(TEAM_A);
        let spec = json!({
            "pulse": {"minPeriod": "50ms"}, "nodes": {"replicas": 2}, "autoscaling": {"enabled": false},
            "response": {"releaseAfter": "5s"},
        });
        world.create::<Organism>("venom", spec).await;
        world.beating("venom").await;
        world.condition("venom", "BodyAvailable", "True", "Available").await;
        let manifest = CLIENT.replace("CLIENT_IMAGE", &busybox());
        run("kubectl", &["apply", "-n", TEAM_A, "-f", "-"], &manifest).unwrap();
        site.kubectl(&["wait", "-n", TEAM_A, "pod/client", "--for=condition=Ready", "--timeout=60s"]);
        let pod = site.kubectl(&[
            "get",
            "pods",
            "-n",
            TEAM_A,
            "-l",
            "genesis.venom.dev/organism=venom",
            "-o",
            "jsonpath={.items[0].status.podIP}",
        ]);
        let service =
            site.kubectl(&["get", "service", "shop", "-n", TEAM_A, "-o", "jsonpath={.spec.clusterIP}"]);
        let reach = |address: &str| {
            let url = format!("http://{address}/healthz");
            // Debian's busybox crashes with wget -T.
            let wget = ["exec", "-n", TEAM_A, "client", "--", "timeout", "2", "wget", "-q", "-O", "-", &*url];
            run("kubectl", &wget, "")
        };
        let by_pod = format!("{pod}:8000");
        until_reached(true, || reach(&by_pod)).await;
        until_reached(true, || reach(&service)).await;
        let before = objects(site);

        let decided = Instant::now();
        world.patch_genome("venom", json!({"risk": {"anoms": 20}})).await;
        world.condition("venom", "Quarantined", "True", "Isolated").await;
        println!("patch to Isolated {:?}", decided.elapsed());
        until_reached(false, || reach(&by_pod)).await;
        println!("patch to no packet {:?}", decided.elapsed());
        let refused = Instant::now();
        let error = reach(&service).unwrap_err();
        println!("by the Service: {error} after {:?}", refused.elapsed());
        // The mesh and the operator's link go on.
        assert_eq!(condition(&world.status("venom").await, "MeshReachable").0, "True");
        world.beats_more("venom", 100).await;
        assert_eq!(condition(&world.status("venom").await, "BodyAvailable").0, "True", "probes go on");

        world.patch_genome("venom", json!({"risk": {"anoms": 0}})).await;
        world.condition("venom", "Quarantined", "False", "Clear").await;
        until_reached(true, || reach(&by_pod)).await;
        until_reached(true, || reach(&service)).await;
        assert_eq!(objects(site), before);
        world.ledger("venom").await.check();
        site.assert_nothing_was_forbidden();
    })
    .await;
}

/// Containers that the kernel kills because they are out of memory, and pods that are replaced on purpose.
#[tokio::test]
async fn an_oom_kill_is_sensed_and_what_is_done_on_purpose_is_not() {
    on_site(async |site| {
        site.release("install", &[]);
        let world = site.world(TEAM_B);
        let spec = json!({
            "pulse": {"minPeriod": "50ms"}, "nodes": {"replicas": 2}, "autoscaling": {"enabled": false},
            "response": {"mode": "Observe"},
        });
        world.create::<Organism>("venom", spec.clone()).await;
        world.beating("venom").await;
        world.condition("venom", "BodyAvailable", "True", "Available").await;
        let template = json!({"nodes": {"podTemplate": {"annotations": {"round": "2"}}}});
        world.patch_organism("venom", template).await;
        site.kubectl(&["rollout", "status", "deployment/venom", "-n", TEAM_B, "--timeout=120s"]);
        site.kubectl(&[
            "delete",
            "pod",
            "-n",
            TEAM_B,
            "-l",
            "genesis.venom.dev/organism=venom",
            "--wait=true",
        ]);
        world.condition("venom", "BodyAvailable", "True", "Available").await;
        drain(site, TEAM_B).await;
        world.condition("venom", "BodyAvailable", "True", "Available").await;
        world.patch_organism("venom", json!({"nodes": {"replicas": 1}})).await;
        world.beats_more("venom", 100).await;
        assert_eq!(senses(&world, "venom").await, Vec::<Value>::new());

        let manifest = HUNGRY.replace("CLIENT_IMAGE", &busybox());
        run("kubectl", &["apply", "-n", TEAM_B, "-f", "-"], &manifest).unwrap();
        let mut small = spec;
        small.as_object_mut().unwrap().remove("nodes");
        small["workloadRef"] = json!({"kind": "Deployment", "name": "hungry"});
        world.create::<Organism>("small", small).await;
        world.beating("small").await;
        let found = eventually("an OOM kill to be sensed", async || {
            let found = senses(&world, "small").await;
            let kills = found.iter().filter(|it| it["kind"] == "oomKill").count();
            if kills >= 2 { Ok(found) } else { Err(format!("{found:?}")) }
        })
        .await;
        println!("sensed: {found:?}");
        let mut subjects: Vec<_> = found.iter().map(|it| it["subject"].to_string()).collect();
        let count = subjects.len();
        subjects.sort();
        subjects.dedup();
        assert_eq!(subjects.len(), count, "each once");
        site.assert_nothing_was_forbidden();
    })
    .await;
}

/// Drains a node of the Organism's two pods. Where it is the only one they wait, cordoned off, for its return: the second
/// may not be evicted before the first is back.
async fn drain(site: &Site, namespace: &str) {
    const PODS: &str = "genesis.venom.dev/organism=venom";
    let list = |what: &str| site.kubectl(&["get", "pods", "-n", namespace, "-l", PODS, "-o", what]);
    let uids = "jsonpath={.items[*].metadata.uid}";
    let node = list("jsonpath={.items[0].spec.nodeName}");
    let on_node = format!("jsonpath={{.items[?(@.spec.nodeName==\"{node}\")].metadata.uid}}");
    let before = list(&on_node);
    let drained = {
        let node = node.clone();
        tokio::task::spawn_blocking(move || {
            let selector = format!("--pod-selector={PODS}");
            let more = ["--ignore-daemonsets", "--delete-emptydir-data", "--timeout=120s"];
            run("kubectl", &[&["drain", &*node, &*selector], &more[..]].concat(), "")
        })
    };
    eventually("an evicted pod to be replaced", async || {
        let (now, phases) = (list(&on_node), list("jsonpath={.items[*].status.phase}"));
        if now != before && phases.contains("Pending") { Ok(()) } else { Err(phases) }
    })
    .await;
    site.kubectl(&["uncordon", &node]);
    println!("{}", drained.await.unwrap().unwrap());
    let now = list(uids);
    assert!(before.split(' ').all(|uid| !now.contains(uid)), "{before} before, {now} now");
}

pub async fn senses(world: &World, name: &str) -> Vec<Value> {
    world.ledger(name).await.check().inputs_of("sense").into_iter().cloned().collect()
}

pub async fn until_reached(wanted: bool, reach: impl Fn() -> Result<String, String>) {
    eventually(if wanted { "an answer" } else { "no answer" }, async || match reach() {
        Ok(_) if wanted => Ok(()),
        Err(_) if !wanted => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

/// The policies and Services of the namespace, without what every write changes.
pub fn objects(site: &Site) -> Value {
    let kinds = "networkpolicies,services,horizontalpodautoscalers";
    let text = site.kubectl(&["get", kinds, "-n", TEAM_A, "-o", "json"]);
    let mut list: Value = serde_json::from_str(&text).unwrap();
    for object in list["items"].as_array_mut().unwrap() {
        object.as_object_mut().unwrap().remove("status");
        for field in ["resourceVersion", "generation", "managedFields"] {
            object["metadata"].as_object_mut().unwrap().remove(field);
        }
    }
    list["items"].take()
}
