//! Loss of segments and heads while an organism beats or is stopped.
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::time::sleep;
use venom::api::{Organism, OrganismStatus};
use venom::store::{Head, SegmentRef};

use crate::harness::eventually;
use crate::ledger::Live;
use crate::world::{World, condition, in_world, message};

/// A period that is long enough for checking to keep up with beating.
const SLOW: &str = "20ms";

async fn head(world: &World, name: &str) -> Head {
    world.store(name).await.head().await.unwrap().unwrap().head.unwrap()
}

/// Deletes a segment that is neither first nor last and is still listed afterwards. With `instead`, creates another
/// object of the same name.
async fn remove_segment(world: &World, name: &str, instead: bool) -> SegmentRef {
    let store = world.store(name).await;
    eventually("a segment in the middle to remove", async || {
        let before = head(world, name).await;
        if before.segments.len() < 4 {
            return Err(format!("{} segments", before.segments.len()));
        }
        let listed = before.segments[before.segments.len() / 2].clone();
        let object = store.name_of(&listed);
        world.maps.delete(&object, &DeleteParams::default()).await.map_err(|error| error.to_string())?;
        if instead {
            let labels = head_labels(world, name).await;
            let metadata = ObjectMeta { name: Some(object), labels: Some(labels), ..ObjectMeta::default() };
            let data = Some([("head".to_owned(), "{}".to_owned())].into());
            let other = ConfigMap { metadata, data, ..ConfigMap::default() };
            world.maps.create(&PostParams::default(), &other).await.unwrap();
        }
        // It may have been merged at the same time: then nothing is lost.
        sleep(Duration::from_millis(500)).await;
        let still = head(world, name).await.segments.contains(&listed);
        if still { Ok(listed) } else { Err("merged meanwhile".into()) }
    })
    .await
}

async fn head_labels(world: &World, name: &str) -> std::collections::BTreeMap<String, String> {
    world.maps.get(&format!("{name}-ledger")).await.unwrap().labels().clone()
}

fn lost(status: &OrganismStatus, listed: &SegmentRef) -> bool {
    let range = format!("Entries {} to {} ", listed.first, listed.end() - 1);
    condition(status, "LedgerIntact") == ("False".into(), "SegmentLost".into())
        && message(status, "LedgerIntact").starts_with(&range)
}

/// A lost segment is reported with its range. Beating continues, and a replay can start after the gap.
#[tokio::test]
async fn a_lost_segment_is_reported_and_beating_continues() {
    in_world(async |world| {
        let mut operator = world.operator("alpha");
        let spec = json!({"pulse": {"minPeriod": SLOW}, "ledger": {"commitInterval": "400ms"}});
        for (name, instead) in [("deleted", false), ("replaced", true)] {
            world.create::<Organism>(name, spec.clone()).await;
            world.beating(name).await;
            let gap = remove_segment(&world, name, instead).await;
            world.until(name, "the loss to be told", |it| lost(it, &gap)).await;
            let status = world.condition(name, "Ready", "True", "Beating").await;
            assert_eq!(condition(&status, "Beating").0, "True");
            let status = world
                .until(name, "a replay to start after the gap", |it| {
                    let from = it.ledger.as_ref().and_then(|it| it.replayable_from.as_ref());
                    from.is_some_and(|from| from.index >= gap.end())
                })
                .await;
            let from = status.ledger.unwrap().replayable_from.unwrap().index;
            world.beats_more(name, 30).await;
            let live = world.ledger(name).await;
            assert_eq!(live.gaps, [(gap.first, gap.end() - 1)]);
            assert_eq!(live.check().from, Some(from));
        }

        // A restarted operator reports the loss too, and continues.
        let before = head(&world, "deleted").await;
        let told = message(&world.status("deleted").await, "LedgerIntact");
        operator.kill();
        let _operator = world.operator("beta");
        eventually("beta to beat", async || {
            let now = head(&world, "deleted").await;
            if now.size > before.size && now.epoch == 2 { Ok(()) } else { Err(format!("{}", now.epoch)) }
        })
        .await;
        world.beats_more("deleted", 30).await;
        for name in ["deleted", "replaced"] {
            world.condition(name, "LedgerIntact", "False", "SegmentLost").await;
        }
        assert_eq!(message(&world.status("deleted").await, "LedgerIntact"), told);
        world.ledger("deleted").await.check();
    })
    .await;
}

/// A gap does not prevent merges of other segments, so that the number of objects stays bounded.
#[tokio::test]
async fn segments_are_merged_despite_a_gap() {
    in_world(async |world| {
        let _operator = world.operator("alpha");
        let spec = json!({"pulse": {"minPeriod": "100ms"}, "ledger": {"commitInterval": "100ms"}});
        world.create::<Organism>("venom", spec).await;
        world.beating("venom").await;
        let gap = remove_segment(&world, "venom", false).await;
        world.until("venom", "the loss to be told", |it| lost(it, &gap)).await;
        let merged = eventually("segments after the gap to be merged", async || {
            let segments = head(&world, "venom").await.segments;
            let after: Vec<u8> =
                segments.iter().filter(|it| it.first >= gap.end()).map(|it| it.level).collect();
            if after.iter().any(|&level| level >= 1) { Ok(after) } else { Err(format!("{after:?}")) }
        })
        .await;
        println!("levels of the segments after the gap: {merged:?}");
        world.ledger("venom").await.check();
    })
    .await;
}

/// If the head is deleted while no operator runs, the published entries are reported as lost, and a new generation names
/// their range.
#[tokio::test]
async fn a_head_lost_without_an_operator_starts_a_new_generation() {
    in_world(async |world| {
        let mut operator = world.operator("alpha");
        let spec = json!({"pulse": {"minPeriod": SLOW}});
        world.create::<Organism>("venom", spec).await;
        world.beating("venom").await;
        world.beats_more("venom", 60).await;
        assert!(operator.terminate().await.success());
        let published = world.status("venom").await.ledger.unwrap();
        let before = world.ledger("venom").await;
        assert_eq!(published.size, before.head.size);
        world.maps.delete("venom-ledger", &DeleteParams::default()).await.unwrap();

        let mut operator = world.operator("beta");
        let status = world.condition("venom", "LedgerIntact", "False", "TailLost").await;
        let says = message(&status, "LedgerIntact");
        assert!(says.starts_with(&format!("Entries 0 to {} ", published.size - 1)), "{says}");
        world
            .until("venom", "generation 2", |it| it.ledger.as_ref().is_some_and(|it| it.generation == 2))
            .await;
        world.beating("venom").await;
        world.beats_more("venom", 30).await;
        let live = world.ledger("venom").await;
        let summary = live.check();
        let continues = &summary.inputs_of("genesis")[0]["continues"];
        assert_eq!(continues["root"], published.merkle_root);
        assert_eq!(continues["size"], published.size);
        assert_eq!(continues["origin"]["generation"], 1);
        assert!(live.head.epoch > before.head.epoch);

        // The segments of the lost head still exist. Only the user may delete them.
        operator.kill();
        let _operator = world.operator("gamma");
        eventually("gamma to beat", async || {
            let now = head(&world, "venom").await;
            if now.size > live.head.size && now.epoch > live.head.epoch {
                Ok(())
            } else {
                Err("not yet".into())
            }
        })
        .await;
        let store = world.store("venom").await;
        let old = Live::listed(&store, before.head.clone()).await.unwrap();
        println!("of generation 1: {} entries, gaps {:?}", old.entries.len(), old.gaps);
        assert!(old.gaps.is_empty(), "segments of generation 1 were removed");
        world.beats_more("venom", 10).await;
        let status = world.condition("venom", "LedgerIntact", "False", "TailLost").await;
        assert_eq!(message(&status, "LedgerIntact"), says, "a restart does not mend it");
    })
    .await;
}

/// A head that is put back to an older state while no operator runs: what was committed since is told as lost, a new
/// generation continues the old head, and the segments that it does not list are kept, also by later take-overs.
#[tokio::test]
async fn segments_that_a_head_put_back_does_not_list_are_kept() {
    in_world(async |world| {
        let mut operator = world.operator("alpha");
        world.create::<Organism>("venom", json!({"pulse": {"minPeriod": SLOW}})).await;
        world.beating("venom").await;
        world.beats_more("venom", 30).await;
        let old = world.maps.get("venom-ledger").await.unwrap().data.unwrap()["head"].clone();
        world.beats_more("venom", 60).await;
        assert!(operator.terminate().await.success());
        let before = world.ledger("venom").await;
        world.edit_head("venom", |head| *head = serde_json::from_str(&old).unwrap()).await;
        for (identity, epoch) in [("beta", before.head.epoch), ("gamma", before.head.epoch + 1)] {
            let mut operator = world.operator(identity);
            eventually("another take-over", async || {
                let now = head(&world, "venom").await;
                if now.generation == 2 && now.epoch > epoch && now.size > 0 {
                    Ok(())
                } else {
                    Err(format!("{now:?}"))
                }
            })
            .await;
            world.condition("venom", "LedgerIntact", "False", "TailLost").await;
            world.beats_more("venom", 20).await;
            operator.kill();
        }
        let store = world.store("venom").await;
        let kept = Live::listed(&store, before.head.clone()).await.unwrap();
        assert_eq!(kept.gaps, [], "segments that were committed are gone");
    })
    .await;
}

/// A head that is deleted while the operator holds the ledger is created again without a loss, while the organism beats
/// and while it is suspended.
#[tokio::test]
async fn a_head_lost_while_held_is_created_again() {
    in_world(async |world| {
        let mut operator = world.operator("alpha");
        let spec = json!({"pulse": {"minPeriod": SLOW}});
        world.create::<Organism>("venom", spec).await;
        world.beating("venom").await;
        world.beats_more("venom", 60).await;
        let before = world.ledger("venom").await;
        world.maps.delete("venom-ledger", &DeleteParams::default()).await.unwrap();
        made_again(&world).await;
        world.beats_more("venom", 60).await;
        let live = world.ledger("venom").await;
        assert_eq!(live.head.generation, 1);
        live.continues(&before);
        assert_eq!(live.check().from, Some(0));
        world.condition("venom", "LedgerIntact", "True", "Verified").await;

        world.patch_organism("venom", json!({"suspend": true})).await;
        world.condition("venom", "Ready", "True", "Suspended").await;
        sleep(Duration::from_secs(1)).await;
        world.maps.delete("venom-ledger", &DeleteParams::default()).await.unwrap();
        made_again(&world).await;
        operator.kill();
        let _operator = world.operator("beta");
        world.patch_organism("venom", json!({"suspend": false})).await;
        world.beating("venom").await;
        world.beats_more("venom", 60).await;
        let after = world.ledger("venom").await;
        assert_eq!(after.head.generation, 1);
        after.continues(&live);
        after.check();
    })
    .await;
}

/// If a foreign object replaces the head, it is not touched, nothing is committed, and the condition states the remedy.
/// Once the object is deleted, the ledger continues.
#[tokio::test]
async fn a_foreign_object_in_place_of_the_head_is_not_touched() {
    in_world(async |world| {
        let _operator = world.operator("alpha");
        world.create::<Organism>("venom", json!({"pulse": {"minPeriod": SLOW}})).await;
        world.beating("venom").await;
        world.beats_more("venom", 60).await;
        let before = world.ledger("venom").await;
        let patch = json!({"metadata": {"labels": null}, "data": {"head": null, "theirs": "1"}});
        world.maps.patch("venom-ledger", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
        let status = world.condition("venom", "Ready", "False", "NameTaken").await;
        let says = message(&status, "Ready");
        assert!(says.contains("venom-ledger") && says.contains("delete it"), "{says}");
        let theirs = world.maps.get("venom-ledger").await.unwrap();
        assert_eq!(theirs.data.unwrap(), [("theirs".to_owned(), "1".to_owned())].into());
        assert_eq!(status.ledger.unwrap().size, world.status("venom").await.ledger.unwrap().size);

        world.maps.delete("venom-ledger", &DeleteParams::default()).await.unwrap();
        world.beating("venom").await;
        world.beats_more("venom", 60).await;
        let live = world.ledger("venom").await;
        live.continues(&before);
        assert_eq!((live.head.generation, live.check().from), (1, Some(0)));
        assert!(live.gaps.is_empty());
    })
    .await;
}

/// A loss is reported until its range is pruned.
#[tokio::test]
async fn a_loss_is_reported_until_it_is_pruned() {
    in_world(async |world| {
        // The limit for all ledgers, small enough that pruning starts within seconds.
        let _operator = world.operator_with("alpha", &["--ledger-total-bytes", "16Ki"]);
        let spec = json!({"pulse": {"minPeriod": SLOW}, "ledger": {"commitInterval": "100ms"}});
        world.create::<Organism>("venom", spec).await;
        world.beating("venom").await;
        let gap = remove_segment(&world, "venom", false).await;
        world.until("venom", "the loss to be told", |it| lost(it, &gap)).await;
        world.condition("venom", "LedgerIntact", "True", "RetainReduced").await;
        let head = head(&world, "venom").await;
        assert!(head.floor >= gap.end(), "the floor {} has not passed the gap", head.floor);
        // Few entries are retained, and some are pruned while they are read.
        world.patch_organism("venom", json!({"suspend": true})).await;
        world.condition("venom", "Ready", "True", "Suspended").await;
        world.ledger("venom").await.check();
    })
    .await;
}

async fn made_again(world: &World) {
    eventually("the head to be made again", async || {
        let found = world.maps.get_metadata_opt("venom-ledger").await.map_err(|error| error.to_string())?;
        found.map(drop).ok_or_else(|| "it is not there".into())
    })
    .await;
}
