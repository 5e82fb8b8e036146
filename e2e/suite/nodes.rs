//! An Organism with its pods: certificates, scaling, and injections while pods and the operator are killed.
use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::time::sleep;
use venom::api::{Genome, Organism};
use venom::ledger::entry::Data;

use crate::harness::{eventually, within};
use crate::site::{SYSTEM, Site, TEAM_A, in_repository, on_site, run};
use crate::world::{World, condition};

/// Label selector of the pods of the Organism venom.
const PODS: &str = "genesis.venom.dev/organism=venom,app.kubernetes.io/component=node";
/// Number of injections, and of concurrent clients.
const INJECTIONS: usize = 1_000;
const CLIENTS: usize = 6;

/// The steps of the README with pods: they get certificates, connect to each other, and P follows. All objects are deleted
/// with the Organism.
#[tokio::test]
async fn nodes_get_certificates_and_form_a_mesh() {
    on_site(async |site| {
        site.kubectl(&[
            "label",
            "namespace",
            TEAM_A,
            "--overwrite",
            "pod-security.kubernetes.io/enforce=restricted",
        ]);
        site.release("install", &[]);
        let started = Instant::now();
        site.kubectl(&["apply", "-n", TEAM_A, "-f", &in_repository("examples/organism.yaml")]);
        let world = site.world(TEAM_A);
        world.beating("venom").await;
        let ready = started.elapsed();
        whole(site, &world, 5).await;
        println!("apply to Ready {ready:?}, to five linked nodes {:?}", started.elapsed());
        world
            .until("venom", "P of its nodes in T_Λ", |it| {
                it.t_lambda.is_some_and(|it| (it - 0.0042).abs() < 1e-4)
            })
            .await;

        let told = inject(&nodes()[0], &["--anoms", "20"]).unwrap();
        world
            .until("venom", "QUARANTINE", |it| {
                it.decision.as_ref().is_some_and(|it| it.action.as_str() == "QUARANTINE")
            })
            .await;
        let refused = inject(&nodes()[1], &["--ml-weight", "5"]).unwrap_err();
        assert!(refused.contains("mlWeight must be 0.01 to 1"), "{refused}");
        let live = world.ledger("venom").await;
        live.check();
        let entry = live.entries.iter().find(|it| it.index == told).expect("the entry that was told");
        assert!(entry.data.contains("/pod/"), "it names its sender: {}", entry.data);
        let grown = |it: &&venom::ledger::Entry| it.kind() == "scale" && it.data.contains("\"p\":5");
        assert!(live.entries.iter().any(|it| grown(&it)), "no scale entry");
        a_stranger_gets_no_certificate(site).await;

        world.patch_organism("venom", json!({"autoscaling": {"enabled": false}})).await;
        world.condition("venom", "AutoscalingActive", "False", "Disabled").await;
        site.kubectl(&["scale", "org/venom", "-n", TEAM_A, "--replicas=3"]);
        whole(site, &world, 3).await;
        site.assert_nothing_was_forbidden();

        world.delete_organism("venom").await;
        world.gone("venom").await;
        let kinds = "pods,deployments,replicasets,services,serviceaccounts,configmaps,poddisruptionbudgets,\
                     networkpolicies,horizontalpodautoscalers,endpointslices";
        eventually("nothing of it to be left", async || {
            let label = "genesis.venom.dev/organism=venom";
            let left = site.kubectl(&["get", kinds, "-n", TEAM_A, "-l", label, "-o", "name"]);
            if left.is_empty() { Ok(()) } else { Err(left) }
        })
        .await;
    })
    .await;
}

/// A foreign pod in the same namespace, with a token for the same audience.
async fn a_stranger_gets_no_certificate(site: &Site) {
    let printed = site.kubectl(&["get", "deployment", "venom", "-n", TEAM_A, "-o", "json"]);
    let mut pod: Value = serde_json::from_str::<Value>(&printed).unwrap()["spec"]["template"].take();
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    // Not of this Organism, so that the pod is neither counted nor deleted; of one by its label, because the operator's
    // NetworkPolicy lets no other pod ask.
    let labels = json!({"genesis.venom.dev/organism": "stranger"});
    pod["metadata"] = json!({"name": "stranger", "namespace": TEAM_A, "labels": labels});
    pod["spec"]["restartPolicy"] = json!("Never");
    run("kubectl", &["create", "-f", "-"], &pod.to_string()).unwrap();
    eventually("the stranger to be told", async || {
        let log = run("kubectl", &["logs", "stranger", "-n", TEAM_A], "")?;
        if log.contains("403") { Ok(()) } else { Err(log) }
    })
    .await;
    let ready = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
    assert_eq!(site.kubectl(&["get", "pod", "stranger", "-n", TEAM_A, "-o", ready]), "False");
    site.kubectl(&["delete", "pod", "stranger", "-n", TEAM_A, "--now"]);
}

/// Under CPU load the autoscaler adds nodes, P and T_Λ follow, and each step is recorded.
#[tokio::test]
async fn load_scales_the_nodes_up() {
    on_site(async |site| {
        site.release("install", &[]);
        let world = site.world(TEAM_A);
        let spec = json!({"nodes": {"replicas": 2}, "autoscaling": {"maxReplicas": 6}, "pulse": {"minPeriod": "50ms"}});
        world.create::<Organism>("venom", spec).await;
        world.beating("venom").await;
        whole(site, &world, 2).await;
        let started = Instant::now();
        let burning: Vec<Load> = nodes().iter().map(|pod| Load::on(pod)).collect();
        within(Duration::from_secs(240), "six nodes", async || {
            let status = world.status("venom").await;
            let ready = status.nodes.as_ref().map_or(0, |it| it.ready);
            if ready == 6 { Ok(()) } else { Err(site.kubectl(&["get", "hpa", "-n", TEAM_A])) }
        })
        .await;
        println!("2 to 6 nodes in {:?}", started.elapsed());
        drop(burning);
        let status = world.status("venom").await;
        assert_eq!(condition(&status, "AutoscalingActive").0, "True");
        // The status shows the nodes at once, the ledger after the next beat and its commit.
        within(Duration::from_secs(30), "the last step in the ledger", async || {
            let live = world.ledger("venom").await;
            let checked = live.check();
            let scales = checked.inputs_of("scale");
            let steps: Vec<_> = scales.iter().map(|it| (it["from"].clone(), it["p"].clone())).collect();
            assert!(steps.windows(2).all(|pair| pair[0].1 == pair[1].0), "{steps:?}");
            let is_last = steps.last().is_some_and(|it| it.1 == 6);
            if is_last { Ok(()) } else { Err(format!("{steps:?}")) }
        })
        .await;
        // The autoscaler's Events refer to the Organism.
        let events = site.kubectl(&["get", "events", "-n", TEAM_A, "--field-selector", "reason=SuccessfulRescale"]);
        assert!(events.contains("cpu container resource utilization"), "{events}");
        site.assert_nothing_was_forbidden();
    })
    .await;
}

/// Nodes are killed at random, then the operator is restarted, while clients inject through any node. Each acknowledged
/// injection is in the ledger exactly once, and the mesh of the nodes stays connected without the operator.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_pods_lose_no_injection() {
    on_site(async |site| {
        site.release("install", &[]);
        let world = site.world(TEAM_A);
        world.create::<Genome>("venom", json!({"risk": {"window": "1s"}})).await;
        let spec = json!({"autoscaling": {"enabled": false}, "pulse": {"minPeriod": "50ms"}});
        world.create::<Organism>("venom", spec).await;
        world.beating("venom").await;
        whole(site, &world, 5).await;
        let started = Instant::now();
        let sent = Arc::new(AtomicUsize::new(0));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let sent = sent.clone();
                tokio::task::spawn_blocking(move || client(&sent))
            })
            .collect();
        let mut killed = 0;
        while !clients.iter().all(tokio::task::JoinHandle::is_finished) {
            let pods = nodes();
            if let Some(pod) = pods.get(killed % pods.len().max(1)) {
                // Without a grace period.
                let _ =
                    run("kubectl", &["delete", "pod", pod, "-n", TEAM_A, "--grace-period=0", "--force"], "");
                killed += 1;
            }
            if killed == 5 {
                site.kubectl(&["rollout", "restart", "deployment/venom", "-n", SYSTEM]);
            }
            sleep(Duration::from_secs(5)).await;
        }
        let mut told = BTreeMap::new();
        for client in clients {
            told.extend(client.await.unwrap());
        }
        println!("{} injections in {:?}; {killed} nodes killed", told.len(), started.elapsed());
        assert_eq!(told.len(), INJECTIONS);
        assert!(killed > 5, "too few nodes were killed for that to show anything");

        let live = world.ledger("venom").await;
        let summary = live.check();
        assert_eq!(summary.inputs_of("resume").len(), 1, "the operator's gap is recorded");
        let mut found = BTreeMap::new();
        for entry in live.entries.iter().filter(|it| it.kind() == "injection") {
            let Data::Injection(injection) = entry.data().unwrap() else { panic!("{}", entry.data) };
            assert_eq!(found.insert(injection.id, entry.index), None, "twice in the ledger");
        }
        assert_eq!(found, told);
        eventually("injectedTotal", async || {
            let status = world.genomes.get("venom").await.unwrap().status.unwrap_or_default();
            if status.injected_total == Some(INJECTIONS as u64) {
                Ok(())
            } else {
                Err(json!(status).to_string())
            }
        })
        .await;
        whole(site, &world, 5).await;
    })
    .await;
}

/// Injects until [`INJECTIONS`] are sent, each with its own id and through one node after the other until one acknowledges
/// it. Returns the indices of the entries by id.
fn client(sent: &AtomicUsize) -> BTreeMap<String, u64> {
    let mut told = BTreeMap::new();
    while sent.fetch_add(1, Ordering::Relaxed) < INJECTIONS {
        let id = venom::node::http::new_injection_id();
        let began = Instant::now();
        let entry = loop {
            assert!(began.elapsed() < Duration::from_secs(300), "{id} was not acknowledged in time");
            let pods = try_nodes().unwrap_or_default();
            let Some(pod) = pods.get(told.len() % pods.len().max(1)) else { continue };
            match inject(pod, &["--anoms", "1", "--id", &id]) {
                Ok(entry) => break entry,
                Err(why) => assert!(!why.contains("mlWeight"), "{why}"),
            }
        };
        told.insert(id, entry);
    }
    told
}

/// Runs `venom inject` in a pod. Returns the acknowledged index.
fn inject(pod: &str, args: &[&str]) -> Result<u64, String> {
    let exec = ["exec", "-n", TEAM_A, pod, "--", "/usr/bin/venom", "inject"];
    let printed = run("kubectl", &[&exec[..], args].concat(), "")?;
    let entry = printed.rsplit(' ').next().and_then(|it| it.parse().ok());
    entry.ok_or(printed)
}

/// Names of the node pods that are ready and not being deleted.
fn nodes() -> Vec<String> {
    try_nodes().unwrap_or_else(|why| panic!("{why}"))
}

fn try_nodes() -> Result<Vec<String>, String> {
    let printed = run("kubectl", &["get", "pods", "-n", TEAM_A, "-l", PODS, "-o", "json"], "")?;
    let list: Value = serde_json::from_str(&printed).map_err(|error| error.to_string())?;
    let ready = |pod: &Value| {
        let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        pod["metadata"]["deletionTimestamp"].is_null()
            && conditions.iter().any(|it| it["type"] == "Ready" && it["status"] == "True")
    };
    let pods = list["items"].as_array().cloned().unwrap_or_default();
    Ok(pods
        .iter()
        .filter(|it| ready(it))
        .map(|it| it["metadata"]["name"].as_str().unwrap().to_owned())
        .collect())
}

/// Waits until `count` nodes are ready and connected to all others, and P is `count`.
async fn whole(site: &Site, world: &World, count: usize) {
    within(Duration::from_secs(120), &format!("{count} nodes, linked"), async || {
        let status = world.status("venom").await;
        let ready = status.nodes.as_ref().map_or(0, |it| it.ready);
        let pods = nodes();
        if ready as usize != count || pods.len() != count {
            return Err(site.kubectl(&["get", "pods", "-n", TEAM_A, "-o", "wide"]));
        }
        let mut links = vec![];
        for pod in &pods {
            let path = format!("/api/v1/namespaces/{TEAM_A}/pods/{pod}:8000/proxy/metrics");
            let metrics = run("kubectl", &["get", "--raw", &path], "")?;
            let line = metrics.lines().find_map(|line| line.strip_prefix("venom_mesh_links "));
            links.push(line.and_then(|it| it.parse::<usize>().ok()).unwrap_or_default());
        }
        // One node is connected to the operator as well.
        let all = count * (count - 1) + 1;
        if links.iter().sum::<usize>() == all { Ok(()) } else { Err(format!("links {links:?}")) }
    })
    .await;
}

/// CPU load in a pod: `venom run` at full pace. It ends with the pod at the latest.
struct Load(Child);

impl Load {
    fn on(pod: &str) -> Self {
        let mut command = Command::new("kubectl");
        command.args(["exec", "-n", TEAM_A, pod, "--", "/usr/bin/venom", "run"]);
        // /dev/shm: the root file system of the pod is read-only.
        command.args(["--t1", "0.00001", "--ledger", "/dev/shm/load"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
