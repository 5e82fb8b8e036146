//! Organisms across restarts of the operator: a deleted pod, an upgrade, an uninstallation and a new installation.
use std::collections::BTreeMap;

use serde_json::json;
use venom::api::Organism;

use crate::harness::eventually;
use crate::ledger::Live;
use crate::site::{SYSTEM, Site, TEAM_A, on_site, run};
use crate::world::{World, owner_among};

#[tokio::test]
async fn a_deleted_pod_is_replaced() {
    on_site(async |site| {
        site.release("install", &[]);
        let world = organism(site).await;
        let mut live = world.ledger("venom").await;
        // With a grace period to commit; then without one, so that the old pod may still run beside the one that takes over.
        for how in [&["--wait=true"][..], &["--grace-period=0", "--force"][..]] {
            let old = world.status("venom").await.ledger.unwrap().holder;
            assert!(site.pods().await.contains(&old), "{old} holds it");
            site.kubectl(&[&["delete", "pod", &old, "-n", SYSTEM][..], how].concat());
            live = taken_over(&world, &live).await;
            assert!(!site.pods().await.contains(&old));
        }
        site.assert_nothing_was_forbidden();
    })
    .await;
}

#[tokio::test]
async fn ledgers_survive_upgrades_and_uninstallation() {
    on_site(async |site| {
        site.release("install", &[]);
        let world = organism(site).await;
        let live = world.ledger("venom").await;

        site.release("upgrade", &["--set", "budgets.writes=40/s", "--set", "logFormat=json"]);
        site.pods().await;
        let live = taken_over(&world, &live).await;
        let first = site.log().lines().next().unwrap_or_default().to_owned();
        assert!(first.starts_with('{'), "the new settings are in force: {first}");
        site.assert_nothing_was_forbidden();

        let before = world.organisms.get("venom").await.unwrap();
        site.helm(&["uninstall", "venom", "-n", SYSTEM, "--wait", "--timeout=60s"]);
        eventually("the pods to be gone", async || {
            let pods = site.kubectl(&["get", "pods", "-n", SYSTEM, "-o", "name"]);
            if pods.is_empty() { Ok(()) } else { Err(pods) }
        })
        .await;
        let kept = world.organisms.get("venom").await.unwrap();
        assert_eq!((kept.metadata.uid, kept.spec), (before.metadata.uid, before.spec));
        assert!(kept.metadata.deletion_timestamp.is_none());
        let kept = world.ledger("venom").await;
        kept.continues(&live);
        kept.check();

        site.release("install", &[]);
        taken_over(&world, &kept).await;
        site.assert_nothing_was_forbidden();
    })
    .await;
}

/// Organisms that are shared by the pods of the operator.
const SHARED: usize = 12;

/// A rolling update, and a pod that is evicted as a drain does it: the Organisms go on at the other pods.
#[tokio::test]
async fn organisms_move_between_pods_and_nothing_is_lost() {
    on_site(async |site| {
        site.release("install", &[]);
        let world = site.world(TEAM_A);
        let names: Vec<_> = (0..SHARED).map(|at| format!("o{at}")).collect();
        for name in &names {
            let spec = json!({
                "pulse": {"minPeriod": "100ms"}, "nodes": {"replicas": 1}, "autoscaling": {"enabled": false},
            });
            world.create::<Organism>(name, spec).await;
        }
        let mut ledgers = held_by_pods(site, &world, &names).await;

        let deployment = ["deployment/venom", "-n", SYSTEM];
        site.kubectl(&[&["rollout", "restart"][..], &deployment].concat());
        site.kubectl(&[&["rollout", "status", "--timeout=120s"][..], &deployment].concat());
        let after = held_by_pods(site, &world, &names).await;
        goes_on(&ledgers, &after);
        ledgers = after;

        let pods = site.pods().await;
        evict(&pods[0]).unwrap();
        let refused = evict(&pods[1]).unwrap_err();
        assert!(refused.contains("disruption budget"), "one at a time: {refused}");
        let after = held_by_pods(site, &world, &names).await;
        assert!(!after.values().any(|it| it.head.holder == pods[0]), "{} is gone", pods[0]);
        goes_on(&ledgers, &after);
        site.assert_nothing_was_forbidden();
    })
    .await;
}

/// Asks for the eviction of a pod of the operator. The error is the API server's.
fn evict(pod: &str) -> Result<String, String> {
    let path = format!("/api/v1/namespaces/{SYSTEM}/pods/{pod}/eviction");
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}});
    run("kubectl", &["create", "--raw", &path, "-f", "-"], &eviction.to_string())
}

/// Waits until each Organism beats at that pod of the operator that is to hold it. Returns their ledgers.
async fn held_by_pods(site: &Site, world: &World, names: &[String]) -> BTreeMap<String, Live> {
    let pods = site.pods().await;
    let operators: Vec<&str> = pods.iter().map(String::as_str).collect();
    let mut ledgers = BTreeMap::new();
    for name in names {
        let uid = world.organisms.get(name).await.unwrap().metadata.uid.unwrap();
        let owner = owner_among(&operators, &uid);
        world.until(name, &owner, |it| it.ledger.as_ref().is_some_and(|it| it.holder == owner)).await;
        world.beats_more(name, 3).await;
        let live = world.ledger(name).await;
        live.check();
        ledgers.insert(name.clone(), live);
    }
    ledgers
}

fn goes_on(before: &BTreeMap<String, Live>, after: &BTreeMap<String, Live>) {
    for (name, live) in after {
        live.continues(&before[name]);
    }
}

/// Creates an Organism and waits until it beats.
async fn organism(site: &Site) -> World {
    let world = site.world(TEAM_A);
    // Slower than T_Λ, so that checking keeps up with beating.
    let spec = json!({"pulse": {"minPeriod": "100ms"}, "ledger": {"commitInterval": "100ms"}});
    world.create::<Organism>("venom", spec).await;
    world.beating("venom").await;
    world.beats_more("venom", 10).await;
    world
}

/// Waits until another operator has continued the ledger `before`, and checks that nothing committed is lost. Returns the
/// current ledger.
async fn taken_over(world: &World, before: &Live) -> Live {
    let epoch = before.head.epoch + 1;
    eventually(&format!("entries of an epoch from {epoch} on"), async || {
        let head = world.store("venom").await.head().await.unwrap().unwrap().head.unwrap();
        let goes_on = !head.released && head.segments.last().is_some_and(|it| it.epoch >= epoch);
        if goes_on { Ok(()) } else { Err(format!("epoch {}", head.epoch)) }
    })
    .await;
    let live = world.ledger("venom").await;
    live.continues(before);
    let summary = live.check();
    let resumes = summary.inputs_of("resume");
    assert_eq!(resumes.last().unwrap()["epoch"], live.head.epoch, "one epoch a take-over");
    world.beats_more("venom", 10).await;
    world.beating("venom").await;
    live
}
