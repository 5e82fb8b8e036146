//! Organisms across restarts of the operator: a deleted pod, an upgrade, an uninstallation and a new installation.
use serde_json::json;
use venom::api::Organism;

use crate::harness::eventually;
use crate::ledger::Live;
use crate::site::{SYSTEM, on_site};
use crate::site::{Site, TEAM_A};
use crate::world::World;

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
