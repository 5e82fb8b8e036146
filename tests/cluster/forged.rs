//! A ledger that was forged while no operator ran is never taken for the published one.
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use venom::api::{Organism, OrganismStatus};
use venom::ledger::entry::{Origin, Record};
use venom::ledger::{Chain, SealedSegment};
use venom::store::head::{Contents, Head, SegmentRef};

use crate::ledger::Live;
use crate::world::{World, condition, in_world, message};

/// The entries of `live` with another message in the genesis, and `more` entries: every hash made anew, so that nothing
/// but what was published elsewhere can tell.
fn forge(live: &Live, origin: &Origin, more: usize) -> (Head, SealedSegment, Chain) {
    let mut records: Vec<Record> = live
        .entries
        .iter()
        .map(|it| Record::Other(it.timestamp, it.data.replace("\"message\":\"", "\"message\":\"not ").into()))
        .collect();
    let last = live.entries.last().unwrap().timestamp;
    records.extend((0..more).map(|_| Record::Other(last, r#"{"type":"note"}"#.into())));
    let (before, mut after) = (Chain::default(), Chain::default());
    for record in &records {
        after.record(record).unwrap();
    }
    let sealed = SealedSegment::seal(Some(origin), &before, &after, &records).unwrap();
    let head = Head { segments: vec![], size: 0, ..live.head.clone() };
    (head, sealed, after)
}

/// Puts a forged ledger in place of the one of `name`. Nothing of the real one is deleted.
async fn replace(world: &World, name: &str, more: usize) -> Head {
    let store = world.store(name).await;
    let live = world.ledger(name).await;
    assert_eq!(live.head.floor, 0, "the test forges a whole ledger");
    let uid = live.head.uid.clone();
    let origin = Origin { generation: 1, name: name.into(), namespace: world.namespace.clone(), uid };
    let (mut head, sealed, after) = forge(&live, &origin, more);
    let epoch = head.epoch + 1;
    let object = store.create_segment(&sealed, epoch).await.unwrap();
    head.epoch = epoch;
    head.append(SegmentRef::new(&sealed, epoch, object, 0), &after, Contents::default());
    let text = serde_json::to_value(&head).unwrap();
    world.edit_head(name, |it| *it = text.clone()).await;
    // It is consistent in itself: only the published root tells.
    let forged = world.ledger(name).await;
    forged.check();
    head
}

/// LedgerIntact=False with `reason`, and a second generation that continues what was published.
async fn continues_what_was_published(world: &World, name: &str, before: &OrganismStatus, reason: &str) {
    let status = world.condition(name, "LedgerIntact", "False", reason).await;
    world.condition(name, "Ready", "True", "Completed").await;
    let published = before.ledger.as_ref().unwrap();
    let said = message(&status, "LedgerIntact");
    if reason == "Forged" {
        assert!(said.contains(&published.merkle_root), "{said}");
        assert!(said.contains(&format!("with {} entries", published.size)), "{said}");
        assert!(said.contains("-ledger-g"), "{said}");
    }
    let live = world.ledger(name).await;
    let genesis = live.check().inputs_of("genesis")[0].clone();
    assert_eq!(genesis["continues"]["root"], json!(published.merkle_root), "{name}");
    assert_eq!(genesis["continues"]["size"], json!(published.size), "{name}");
    assert_eq!(genesis["continues"]["origin"]["generation"], json!(published.generation), "{name}");
}

/// Every way of forging at once: each Organism has another one.
#[tokio::test]
async fn a_forged_ledger_is_never_taken_over() {
    in_world(async |world| {
        let names = ["same-size", "longer", "started-over", "rerooted", "of-another", "untouched"];
        let mut operator = world.operator("alpha");
        for name in names {
            world.create::<Organism>(name, json!({"beats": 60})).await;
        }
        let mut before = vec![];
        for name in names {
            // All is published then: the status has every committed entry.
            world.condition(name, "Ready", "True", "Completed").await;
            before.push(world.until(name, "60 beats", |it| it.beats == Some(60)).await);
        }
        operator.kill();
        let mut kept = vec![];
        for name in names {
            kept.push(world.ledger_objects(name).await);
            world.patch_organism(name, json!({"beats": 120})).await;
        }

        let forged = replace(&world, "same-size", 0).await;
        assert_eq!(forged.size, before[0].ledger.as_ref().unwrap().size);
        replace(&world, "longer", 7).await;
        world
            .edit_head("started-over", |it| {
                let uid = it["uid"].as_str().unwrap().to_owned();
                *it = serde_json::to_value(Head::empty(&uid, 2, 9, "mallory")).unwrap();
            })
            .await;
        // A head that was made consistent with a root of its own, over the real segments.
        world
            .edit_head("rerooted", |it| {
                let peaks = it["peaks"].as_array().unwrap().len();
                it["peaks"] = vec![json!("00".repeat(32)); peaks].into();
                let head: Head = serde_json::from_value(it.clone()).unwrap();
                let tree = venom::ledger::merkle::Tree::from_peaks(head.size, vec![[0; 32]; peaks]).unwrap();
                it["root"] = json!(venom::ledger::hex(&tree.root()));
            })
            .await;
        world.edit_head("of-another", |it| it["uid"] = json!("00000000-0000-4000-8000-000000000000")).await;

        let mut operator = world.operator("beta");
        for (name, before) in names.iter().zip(&before) {
            match *name {
                "untouched" => {
                    let status = world.until(name, "120 beats", |it| it.beats == Some(120)).await;
                    assert_eq!(condition(&status, "LedgerIntact").1, "Verified");
                    assert_eq!(status.ledger.unwrap().generation, 1);
                }
                "of-another" => continues_what_was_published(&world, name, before, "TailLost").await,
                _ => continues_what_was_published(&world, name, before, "Forged").await,
            }
        }
        // Nothing that was there is gone, and it is said for as long as the new generation's genesis is stored.
        for (name, kept) in names.iter().zip(kept) {
            let now = world.ledger_objects(name).await;
            if *name != "untouched" {
                assert!(kept.iter().all(|it| now.contains(it)), "{name}: {kept:?} were there, {now:?} are");
            }
        }
        operator.kill();
        world.patch_organism("longer", json!({"beats": 200})).await;
        let _operator = world.operator("gamma");
        let status = world.condition("longer", "Ready", "True", "Completed").await;
        assert_eq!(condition(&status, "LedgerIntact"), ("False".into(), "Forged".into()));
        let live = world.ledger("longer").await;
        assert!(live.head.forged.is_some());
        assert_eq!(live.head.generation, 2, "one generation more, not one at each start");
    })
    .await;
}

/// An edited status cannot be had with the rights on ConfigMaps; but a head that counts too far can.
#[tokio::test]
async fn a_head_with_absurd_numbers_is_unreadable_and_can_be_repaired() {
    in_world(async |world| {
        let mut operator = world.operator("alpha");
        world.create::<Organism>("venom", json!({"beats": 20})).await;
        world.condition("venom", "Ready", "True", "Completed").await;
        operator.kill();
        let head = world.ledger("venom").await.head;
        let missing = |at: u64| json!([at, 1, 1, "gone", 1, 0, null]);
        let edits: [(&str, Value); 5] = [
            ("generation", json!(u64::MAX / 2)),
            ("epoch", json!(u64::MAX)),
            ("injectedTotal", json!(1_u64 << 40)),
            ("size", json!(1)),
            ("segments", (0..10_000).map(missing).collect()),
        ];
        let _operator = world.operator("beta");
        world.condition("venom", "LedgerIntact", "True", "Verified").await;
        for (field, value) in edits {
            let mut forged = serde_json::to_value(&head).unwrap();
            forged[field] = value;
            let bare = Patch::Merge(json!({"data": {"head": forged.to_string()}}));
            world.maps.patch("venom-ledger", &PatchParams::default(), &bare).await.unwrap();
            let found = world.maps.get("venom-ledger").await.unwrap();
            let error = Head::parse(&found.data.unwrap()["head"]).unwrap_err();
            assert!(!error.to_string().is_empty(), "{field}");
            world.venom_ledger_with("repair", "venom", &["--yes"]).unwrap();
            let found = world.maps.get("venom-ledger").await.unwrap();
            assert_eq!(Head::parse(&found.data.clone().unwrap()["head"]).unwrap().size, head.size, "{field}");
            assert!(found.uid().is_some());
        }
    })
    .await;
}
