//! examples/shop, adopted on a cluster with a kubelet and enforced NetworkPolicies: from a crash to a quarantine and back.
use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::{Value, json};

use crate::harness::eventually;
use crate::response::{objects, senses, until_reached};
use crate::site::{Site, TEAM_A, in_repository, on_site, run};
use crate::world::condition;

/// An autoscaler of the shop's owner, handed over with the shop.
const AUTOSCALER: &str = "
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: shop
  annotations: {genesis.venom.dev/adoptable-by: shop}
spec:
  minReplicas: 3
  maxReplicas: 5
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: shop}
  metrics:
  - {type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 80}}}
";

fn get(site: &Site, args: &[&str]) -> Value {
    serde_json::from_str(&site.kubectl(&[&["get", "-n", TEAM_A, "-o", "json"], args].concat())).unwrap()
}

/// Restarts of each pod of the shop, by name.
fn restarts(site: &Site) -> BTreeMap<String, u64> {
    let pods = get(site, &["pods", "-l", "app.kubernetes.io/name=shop"]);
    let of = |pod: &Value| {
        let restarts = pod["status"]["containerStatuses"][0]["restartCount"].as_u64().unwrap();
        (pod["metadata"]["name"].as_str().unwrap().to_owned(), restarts)
    };
    pods["items"].as_array().unwrap().iter().map(of).collect()
}

fn shell(pod: &str, command: &str) -> Result<String, String> {
    run("kubectl", &["exec", "-n", TEAM_A, pod, "--", "timeout", "3", "sh", "-c", command], "")
}

#[tokio::test]
async fn a_shop_is_adopted_cut_off_when_it_crashes_and_given_back() {
    on_site(async |site| {
        site.release("install", &[]);
        let world = site.world(TEAM_A);
        let apply = |file: &str| {
            let file = in_repository(&format!("examples/shop/{file}"));
            site.kubectl(&["apply", "-n", TEAM_A, "-f", &file]);
        };
        apply("shop.yaml");
        run("kubectl", &["apply", "-n", TEAM_A, "-f", "-"], AUTOSCALER).unwrap();
        for name in ["shop", "visitor"] {
            let deployment = format!("deployment/{name}");
            site.kubectl(&["rollout", "status", &deployment, "-n", TEAM_A, "--timeout=120s"]);
        }
        let visit = || shell("deployment/visitor", "wget -q -O - http://shop/");
        until_reached(true, visit).await;
        let (pods, deployment) = (restarts(site), get(site, &["deployment", "shop"]));

        apply("organism.yaml");
        world.condition("shop", "Adopted", "True", "Adopted").await;
        world.condition("shop", "BodyAvailable", "True", "Available").await;
        world.condition("shop", "Sensing", "True", "Sensing").await;
        world.patch_organism("shop", json!({"response": {"releaseAfter": "5s"}})).await;
        assert_eq!(restarts(site), pods, "the same pods, and none has restarted");
        let now = get(site, &["deployment", "shop"]);
        for field in ["generation", "uid", "annotations"] {
            assert_eq!(now["metadata"][field], deployment["metadata"][field]);
        }
        assert_eq!(world.status("shop").await.nodes.unwrap().ready, 3);
        let before = objects(site);

        // Each crashes once: two anomalies each.
        let crash = |pod: &str| drop(run("kubectl", &["exec", "-n", TEAM_A, pod, "--", "kill", "1"], ""));
        pods.keys().for_each(|pod| crash(pod));
        let status =
            world.until("shop", "ALERT", |it| it.decision.as_ref().unwrap().action.as_str() == "ALERT").await;
        println!("ALERT at threat {}", status.decision.unwrap().threat);
        // And again, until it is enough.
        let decided = eventually("QUARANTINE", async || {
            pods.keys().for_each(|pod| crash(pod));
            let status = world.status("shop").await;
            let decision = status.decision.clone().unwrap();
            if decision.action.as_str() == "QUARANTINE" { Ok(status) } else { Err(format!("{decision:?}")) }
        })
        .await;
        let status = world.condition("shop", "Quarantined", "True", "Isolated").await;
        println!("QUARANTINE at threat {}", decided.decision.unwrap().threat);
        println!("applied: {:?}", status.response.unwrap().applied.unwrap().what);
        let asked = Instant::now();
        until_reached(false, visit).await;
        println!("by the Service: {} after {:?}", visit().unwrap_err(), asked.elapsed());
        let scaler = get(site, &["hpa", "shop"]);
        for way in ["scaleUp", "scaleDown"] {
            assert_eq!(scaler["spec"]["behavior"][way]["selectPolicy"], "Disabled");
        }
        // The kubelet's probes go on, and names resolve; nothing else is reached.
        site.kubectl(&["rollout", "status", "deployment/shop", "-n", TEAM_A, "--timeout=120s"]);
        let pod = pods.keys().next().unwrap();
        shell(pod, "nslookup kubernetes.default.svc.cluster.local").unwrap();
        shell(pod, "wget -q -O - http://shop/").unwrap_err();
        let open = "nc -w 2 kubernetes.default.svc.cluster.local 443 </dev/null";
        shell("deployment/visitor", open).unwrap();
        shell(pod, open).unwrap_err();

        // The crashes leave the window of a minute.
        world.condition("shop", "Quarantined", "False", "Clear").await;
        until_reached(true, visit).await;
        assert_eq!(objects(site), before);
        let now = get(site, &["deployment", "shop"]);
        assert_eq!(now["metadata"]["generation"], deployment["metadata"]["generation"]);
        assert!(restarts(site).keys().eq(pods.keys()), "the same pods");
        let sensed = senses(&world, "shop").await;
        let mut subjects: Vec<_> = sensed.iter().map(|it| it["subject"].to_string()).collect();
        println!("{} sense entries", subjects.len());
        subjects.sort();
        subjects.dedup();
        assert_eq!(subjects.len(), sensed.len(), "each once");
        world.ledger("shop").await.check();
        world.venom_ledger("replay", "shop").unwrap();
        assert_eq!(condition(&world.status("shop").await, "LedgerIntact").0, "True");
        world.delete_organism("shop").await;
        world.gone("shop").await;
        site.assert_nothing_was_forbidden();
    })
    .await;
}
