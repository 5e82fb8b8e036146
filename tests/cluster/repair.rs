//! `venom ledger repair`: a lost head is rebuilt from the segments.
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;
use venom::api::Organism;
use venom::api::labels::UID_LABEL;

use crate::harness::eventually;
use crate::world::{World, condition, in_world, message};

const HEAD: &str = "venom-ledger";

async fn set_head(world: &World, text: &str) {
    let patch = Patch::Merge(json!({"data": {"head": text}}));
    world.maps.patch(HEAD, &PatchParams::default(), &patch).await.unwrap();
}

/// The objects that keep what unreadable heads contained.
async fn kept(world: &World) -> Vec<ConfigMap> {
    let all = world.maps.list(&ListParams::default()).await.unwrap().items;
    all.into_iter().filter(|it| it.name_any().starts_with("venom-ledger-unreadable-")).collect()
}

/// Every object of the namespace's ledgers as it is.
async fn everything(world: &World) -> Vec<(String, Option<String>)> {
    let all = world.maps.list_metadata(&ListParams::default()).await.unwrap().items;
    all.iter().map(|it| (it.name_any(), it.resource_version())).collect()
}

/// The head is broken by hand while the operator beats. After the repair the ledger goes on in the same generation.
#[tokio::test]
async fn a_head_broken_under_a_running_operator_is_repaired() {
    in_world(async |world| {
        let mut operator = world.operator("alpha");
        let spec = json!({"pulse": {"minPeriod": "20ms"}, "ledger": {"commitInterval": "200ms"}});
        world.create::<Organism>("venom", spec).await;
        world.beating("venom").await;
        world.beats_more("venom", 60).await;
        let before = world.ledger("venom").await;
        let readable = world.venom_ledger_with("repair", "venom", &["--yes"]).unwrap_err();
        assert!(readable.contains("is readable and needs no repair"), "{readable}");

        const BROKEN: &str = r#"{"epoch":1,"floor":0,"generation":1,"#;
        set_head(&world, BROKEN).await;
        world.condition("venom", "Ready", "False", "HeadUnreadable").await;
        let as_it_was = everything(&world).await;
        let told = world.venom_ledger("repair", "venom").unwrap_err();
        println!("{told}");
        assert!(told.contains("nothing was written: stdin is not a terminal"), "{told}");
        assert_eq!(everything(&world).await, as_it_was);

        let told = world.venom_ledger_with("repair", "venom", &["--yes"]).unwrap();
        for line in [
            "ConfigMap venom-ledger is unreadable: EOF",
            "every hash; their Merkle root is the published one",
        ] {
            assert!(told.contains(line), "{line}: {told}");
        }
        let kept = kept(&world).await;
        assert_eq!((kept.len(), kept[0].immutable), (1, Some(true)));
        assert_eq!(kept[0].data.as_ref().unwrap()["head"], BROKEN);

        world.beating("venom").await;
        world.beats_more("venom", 60).await;
        assert!(operator.runs());
        let live = world.ledger("venom").await;
        assert_eq!((live.head.generation, live.head.holder.as_str()), (1, "alpha"));
        assert!(live.head.epoch > before.head.epoch);
        live.continues(&before);
        assert_eq!(live.check().from, Some(0));
        world.condition("venom", "LedgerIntact", "True", "Verified").await;
    })
    .await;
}

/// Without an operator: the head is gone, a segment in the middle too, one is damaged by a stranger's object, and a fenced
/// writer has left a fork. What is proven goes on, the gap is told, and nothing is deleted.
#[tokio::test]
async fn a_missing_head_is_rebuilt_around_a_gap() {
    in_world(async |world| {
        let mut operator = world.operator("alpha");
        let spec = json!({"pulse": {"minPeriod": "20ms"}, "ledger": {"commitInterval": "200ms"}});
        world.create::<Organism>("venom", spec).await;
        world.beating("venom").await;
        world.beats_more("venom", 30).await;
        assert!(operator.terminate().await.success());
        let store = world.store("venom").await;
        // Each restart adds a snapshot, and eight segments become one: until two are before the newest snapshot.
        let (head, with_start) = eventually("two segments before a snapshot", async || {
            let mut operator = world.operator("alpha");
            world.beating("venom").await;
            world.beats_more("venom", 20).await;
            assert!(operator.terminate().await.success());
            let head = store.head().await.unwrap().unwrap().head.unwrap();
            match head.segments.iter().rposition(|it| it.start.is_some()) {
                Some(with_start) if with_start >= 2 => Ok((head, with_start)),
                _ => Err(format!("{:?}", head.segments)),
            }
        })
        .await;
        let gap = head.segments[with_start - 1].clone();
        // A leftover: the first segment again, by another writer's name.
        let first = world.maps.get(&store.name_of(&head.segments[0])).await.unwrap();
        let mut leftover = ConfigMap { metadata: Default::default(), ..first.clone() };
        leftover.metadata.labels = first.metadata.labels.clone();
        let listed = &head.segments[0];
        leftover.metadata.name = Some(format!("venom-ledger-0-{}-{}", listed.first, listed.count));
        world.maps.create(&PostParams::default(), &leftover).await.unwrap();
        for name in [store.name_of(&gap), HEAD.to_owned()] {
            world.maps.delete(&name, &DeleteParams::default()).await.unwrap();
        }
        let names =
            |all: Vec<(String, Option<String>)>| -> Vec<String> { all.into_iter().map(|it| it.0).collect() };
        let left = names(everything(&world).await);

        let told = world.venom_ledger_with("repair", "venom", &["--yes"]).unwrap();
        println!("{told}");
        let missing = format!("entries {} to {}", gap.first, gap.end() - 1);
        for line in ["ConfigMap venom-ledger is missing", &*missing] {
            assert!(told.contains(line), "{line}: {told}");
        }
        let now = names(everything(&world).await);
        assert!(left.iter().all(|it| now.contains(it)), "nothing is deleted: {left:?}, {now:?}");
        let rebuilt = store.head().await.unwrap().unwrap().head.unwrap();
        assert_eq!((rebuilt.size, rebuilt.root, rebuilt.generation), (head.size, head.root, 1));
        assert!(rebuilt.epoch > head.epoch);

        let _operator = world.operator("beta");
        world.beating("venom").await;
        let status = world.beats_more("venom", 30).await;
        assert_eq!(condition(&status, "LedgerIntact"), ("False".into(), "SegmentLost".into()));
        let says = message(&status, "LedgerIntact");
        assert!(says.starts_with(&format!("Entries {} to {} ", gap.first, gap.end() - 1)), "{says}");
        let leftover = world.maps.get_metadata(&leftover.name_any()).await.unwrap();
        assert!(!leftover.labels().contains_key(UID_LABEL));
        let live = world.ledger("venom").await;
        assert_eq!(live.head.generation, 1);
        live.check();
    })
    .await;
}

/// A head of a later version is left alone, by the operator and by the repair.
#[tokio::test]
async fn a_head_of_a_newer_version_is_not_overwritten() {
    in_world(async |world| {
        let mut operator = world.operator("alpha");
        world.create::<Organism>("venom", json!({"pulse": {"minPeriod": "20ms"}})).await;
        world.beating("venom").await;
        world.beats_more("venom", 30).await;
        let before = world.ledger("venom").await;
        for (field, value) in [("archivedUntil", json!(7)), ("format", json!(2))] {
            world.edit_head("venom", |head| head[field] = value.clone()).await;
            let status = world.condition("venom", "Ready", "False", "HeadUnreadable").await;
            let says = message(&status, "Ready");
            assert!(says.contains("written by a newer version of venom"), "{says}");
            let newer = world.maps.get(HEAD).await.unwrap();
            let told = world.venom_ledger_with("repair", "venom", &["--yes"]).unwrap_err();
            assert!(told.contains("is not replaced: it was written by a newer version"), "{told}");
            let told = world.venom_ledger("verify", "venom").unwrap_err();
            assert!(told.contains("written by a newer version of venom"), "{told}");
            // A restart does not overwrite it either.
            assert!(operator.terminate().await.success());
            operator = world.operator("alpha");
            world.condition("venom", "Ready", "False", "HeadUnreadable").await;
            assert_eq!(world.maps.get(HEAD).await.unwrap(), newer);
            world
                .edit_head("venom", |head| {
                    head.as_object_mut().unwrap().remove(field);
                })
                .await;
            world.beating("venom").await;
            world.beats_more("venom", 10).await;
        }
        let live = world.ledger("venom").await;
        live.continues(&before);
        live.check();
    })
    .await;
}
