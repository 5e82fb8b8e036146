//! Evidence is never destroyed: a ledger whose Organism is gone is continued.
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams, PropagationPolicy};
use serde_json::{Value, json};
use venom::api::labels::{ORGANISM_LABEL, UID_LABEL};
use venom::api::{OnDelete, Organism, OrganismStatus};
use venom::store::configmap::ConfigMaps;
use venom::store::head::Head;

use crate::harness::eventually;
use crate::ledger::{Live, forged};
use crate::world::{World, in_world, message};

/// The objects of an Organism's ledger, with their contents.
async fn objects(world: &World, name: &str) -> Vec<ConfigMap> {
    let labelled = ListParams::default().labels(&format!("{ORGANISM_LABEL}={name},{UID_LABEL}"));
    world.maps.list(&labelled).await.unwrap().items
}

/// UID of the Organism that each object of a ledger is owned by.
async fn owners(world: &World, name: &str) -> Vec<Option<String>> {
    let owner = |it: &ConfigMap| it.owner_references().first().map(|owner| owner.uid.clone());
    objects(world, name).await.iter().map(owner).collect()
}

async fn archived(store: &ConfigMaps, generation: u64) -> Head {
    store.archived_head(generation).await.unwrap().and_then(|it| it.head).expect("no archived head")
}

/// Deletes an Organism whose ledger is retained. Returns the head that is left.
pub async fn delete_retained(world: &World, store: &ConfigMaps) -> Head {
    world.delete_organism("venom").await;
    eventually("the head to be marked", async || {
        let head = store.head().await.map_err(|error| error.to_string())?.unwrap().head.unwrap();
        if head.retained { Ok(head) } else { Err("not retained".into()) }
    })
    .await
}

/// Every segment of the archived head of `generation` is there, and the ledger proves itself.
async fn archived_is_whole(store: &ConfigMaps, generation: u64) -> Live {
    let live = Live::listed(store, archived(store, generation).await).await.expect("segments are gone");
    assert_eq!(live.gaps, []);
    live.check();
    live
}

/// A namespace that was exported and applied to another place: new UIDs, no ownerReferences, no status.
#[tokio::test]
async fn a_restored_ledger_is_continued_and_kept() {
    in_world(async |world| {
        let mut operator = world.operator("alpha");
        world.create::<Organism>("venom", Value::Null).await;
        world.beating("venom").await;
        world.beats_more("venom", 500).await;
        operator.kill();
        let saved = Live::read(&world.store("venom").await).await;
        let backup = objects(&world, "venom").await;
        world.delete_organism("venom").await;
        world.collected("venom").await;

        for mut object in backup {
            object.metadata = ObjectMeta {
                name: object.metadata.name,
                labels: object.metadata.labels,
                ..ObjectMeta::default()
            };
            world.maps.create(&PostParams::default(), &object).await.unwrap();
        }
        let verified = world.venom_ledger("verify", "venom").unwrap();
        assert!(verified.contains("verified"), "{verified}");
        let _operator = world.operator("beta");
        world.create::<Organism>("venom", Value::Null).await;
        let status = world.beating("venom").await;
        assert_eq!(status.ledger.unwrap().generation, 2);
        let store = world.store("venom").await;
        let old = archived_is_whole(&store, 1).await;
        assert_eq!((old.head.root, old.head.size), (saved.head.root, saved.head.size));
        let live = world.ledger("venom").await;
        assert!(live.head.epoch > saved.head.epoch);
        let genesis = live.check().inputs_of("genesis")[0].clone();
        assert_eq!(genesis["continues"]["root"], json!(saved.head.root_hex()));

        // Collected are the new generation's objects, and not those of an Organism that was gone before.
        let new_uid = world.organisms.get("venom").await.unwrap().uid().unwrap();
        world.delete_organism("venom").await;
        eventually("the new generation to be collected", async || {
            let left = objects(&world, "venom").await;
            let owned = left.iter().filter(|it| it.labels().get(UID_LABEL) == Some(&new_uid)).count();
            if owned == 0 { Ok(()) } else { Err(format!("{owned} are there")) }
        })
        .await;
        archived_is_whole(&store, 1).await;
        world.create::<Organism>("venom", Value::Null).await;
        world.beating("venom").await;
        let genesis = world.ledger("venom").await.check().inputs_of("genesis")[0].clone();
        assert_eq!(
            genesis["continues"]["root"],
            json!(saved.head.root_hex()),
            "the archived one is continued"
        );
        archived_is_whole(&store, 1).await;
    })
    .await;
}

/// `kubectl delete organism --cascade=orphan` leaves the ledger, whatever onDelete says. A segment that is written in that
/// moment names an owner, and the garbage collector may delete it: here nothing is due.
#[tokio::test]
async fn an_orphaned_ledger_is_continued() {
    in_world(async |world| {
        let _operator = world.operator("alpha");
        let spec = json!({"ledger": {"commitInterval": "1h"}});
        world.create::<Organism>("venom", spec).await;
        world.beating("venom").await;
        world.beats_more("venom", 100).await;
        world.left_behind::<ConfigMap>(Value::Null).await;
        let orphan =
            DeleteParams { propagation_policy: Some(PropagationPolicy::Orphan), ..DeleteParams::default() };
        world.organisms.delete("venom", &orphan).await.unwrap();
        world.gone("venom").await;
        world.create::<Organism>("venom", Value::Null).await;
        let status = world.beating("venom").await;
        assert_eq!(status.ledger.unwrap().generation, 2);
        archived_is_whole(&world.store("venom").await, 1).await;
    })
    .await;
}

/// Of the ledger of an Organism that is gone, forged segments are not taken for the listed ones: neither one that what
/// follows contradicts, nor one that nothing proves because what follows cannot be read. The others stay listed.
#[tokio::test]
async fn a_forged_segment_of_a_retained_ledger_is_not_adopted() {
    in_world(async |world| {
        let mut operator = world.operator("alpha");
        let spec = json!({"pulse": {"minPeriod": "20ms"}, "ledger": {"commitInterval": "500ms", "onDelete": "Retain"}});
        world.create::<Organism>("venom", spec).await;
        world.beating("venom").await;
        let store = world.store("venom").await;
        let segments = eventually("six segments", async || {
            let segments = store.head().await.unwrap().unwrap().head.unwrap().segments;
            if segments.len() >= 6 { Ok(segments) } else { Err(format!("{}", segments.len())) }
        })
        .await;
        // Before eight of them become one.
        operator.kill();
        let head = store.head().await.unwrap().unwrap().head.unwrap();
        assert_eq!(head.segments[0], segments[0]);
        // Up to an end before a power of two and up to one after it, the Merkle trees have no subtree in common.
        let apart = |at: &usize| head.segments[at - 1].end().ilog2() < head.segments[*at].end().ilog2();
        let unread = (1..head.segments.len() - 3).find(apart).expect("no power of two is crossed");
        let (unproven, contradicted) = (unread - 1, unread + 2);
        world.delete_organism("venom").await;
        world.gone("venom").await;
        let unreadable = |mut object: ConfigMap| {
            object.metadata = forged(object.clone()).metadata;
            object.data = Some([("head".to_owned(), "{}".to_owned())].into());
            object
        };
        let forging = &forged as &dyn Fn(ConfigMap) -> ConfigMap;
        for (at, forge) in [(unproven, forging), (unread, &unreadable), (contradicted, forging)] {
            let name = store.name_of(&head.segments[at]);
            let object = world.maps.get(&name).await.unwrap();
            world.maps.delete(&name, &DeleteParams::default()).await.unwrap();
            world.maps.create(&PostParams::default(), &forge(object)).await.unwrap();
        }
        let _operator = world.operator("beta");
        world.create::<Organism>("venom", Value::Null).await;
        world.beating("venom").await;
        let archived = archived(&store, 1).await;
        assert_eq!(archived.segments, head.segments, "what is listed");
        for (at, listed) in archived.segments.iter().enumerate() {
            let found = store.listed(listed).await.unwrap();
            assert_eq!(found.is_none(), [unproven, unread, contradicted].contains(&at), "segment {at}");
        }
    })
    .await;
}

/// Of a retained ledger whose head was deleted the segments are left. The next ledger of that name has another number, and
/// an epoch that no writer of the old one can have had.
#[tokio::test]
async fn the_number_of_a_ledger_without_its_head_is_not_used_again() {
    in_world(async |world| {
        let operator = world.operator("alpha");
        world.create::<Organism>("venom", json!({"ledger": {"onDelete": "Retain"}})).await;
        world.beating("venom").await;
        let store = world.store("venom").await;
        let head = async || store.head().await.unwrap().unwrap().head.unwrap();
        drop(operator);
        let operator = world.operator("beta");
        eventually("a take-over", async || {
            let epoch = head().await.epoch;
            if epoch == 2 { Ok(()) } else { Err(format!("{epoch}")) }
        })
        .await;
        drop(operator);
        let old = head().await;
        world.delete_organism("venom").await;
        world.gone("venom").await;
        world.maps.delete("venom-ledger", &DeleteParams::default()).await.unwrap();

        let _operator = world.operator("gamma");
        world.create::<Organism>("venom", Value::Null).await;
        let status = world.beating("venom").await;
        assert_eq!(status.ledger.unwrap().generation, 2);
        let live = world.ledger("venom").await;
        live.check();
        assert!(live.head.epoch > old.epoch + 1, "{} after {}", live.head.epoch, old.epoch);
        let kept = Live::listed(&world.store("venom").await, old).await.unwrap();
        assert_eq!(kept.gaps, [], "segments of the lost head are gone");
    })
    .await;
}

/// A changed spec.ledger.onDelete is followed on every object, and the status says when it is in force.
#[tokio::test]
async fn a_changed_on_delete_is_followed() {
    in_world(async |world| {
        let mut operator = world.operator("alpha");
        world.create::<Organism>("venom", Value::Null).await;
        world.beating("venom").await;
        let uid = world.organisms.get("venom").await.unwrap().uid().unwrap();
        let in_force = async |policy: OnDelete, owner: Option<&String>| {
            let what = format!("onDelete {policy:?} to be in force");
            world
                .until("venom", &what, |it| it.ledger.as_ref().is_some_and(|it| it.on_delete == Some(policy)))
                .await;
            world.beats_more("venom", 300).await;
            let owners = owners(&world, "venom").await;
            assert!(owners.len() >= 2);
            assert!(owners.iter().all(|it| it.as_ref() == owner), "{policy:?}: {owners:?}");
        };
        in_force(OnDelete::Delete, Some(&uid)).await;
        world.patch_organism("venom", json!({"ledger": {"onDelete": "Retain"}})).await;
        in_force(OnDelete::Retain, None).await;
        // While no operator runs.
        operator.kill();
        world.patch_organism("venom", json!({"ledger": {"onDelete": "Delete"}})).await;
        let _operator = world.operator("beta");
        in_force(OnDelete::Delete, Some(&uid)).await;
        world.ledger("venom").await.check();
    })
    .await;
}

/// A head that Kubernetes is about to collect is waited for.
#[tokio::test]
async fn a_ledger_that_is_being_collected_is_waited_for() {
    in_world(async |world| {
        let operator = world.operator("alpha");
        world.create::<Organism>("venom", Value::Null).await;
        world.beating("venom").await;
        drop(operator);
        let finalizers = |all: Value| Patch::Merge(json!({"metadata": {"finalizers": all}}));
        let hold = finalizers(json!(["venom.test/hold"]));
        world.maps.patch("venom-ledger", &PatchParams::default(), &hold).await.unwrap();
        world.delete_organism("venom").await;
        world.gone("venom").await;
        let _operator = world.operator("beta");
        world.create::<Organism>("venom", Value::Null).await;
        let waits = |it: &OrganismStatus| {
            message(it, "Ready").contains("waiting until ConfigMap venom-ledger is gone")
        };
        world.until("venom", "a wait for the old head", waits).await;
        world.maps.patch("venom-ledger", &PatchParams::default(), &finalizers(Value::Null)).await.unwrap();
        world.beating("venom").await;
        let live = world.ledger("venom").await;
        live.check();
        assert_eq!(live.head.generation, 1);
    })
    .await;
}

/// A head copied from an Organism that exists is not taken over.
#[tokio::test]
async fn the_head_of_a_living_organism_is_not_taken() {
    in_world(async |world| {
        let _operator = world.operator("alpha");
        world.create::<Organism>("one", Value::Null).await;
        world.beating("one").await;
        let head = world.maps.get("one-ledger").await.unwrap();
        let copy = ConfigMap {
            metadata: ObjectMeta {
                name: Some("two-ledger".into()),
                labels: head.metadata.labels.clone(),
                ..ObjectMeta::default()
            },
            ..head
        };
        world.maps.create(&PostParams::default(), &copy).await.unwrap();
        world.create::<Organism>("two", Value::Null).await;
        let status = world.condition("two", "Ready", "False", "NameTaken").await;
        assert!(message(&status, "Ready").contains("Organism one"), "{}", message(&status, "Ready"));
        world.maps.delete("two-ledger", &DeleteParams::default()).await.unwrap();
        world.beating("two").await;
        assert_eq!(world.ledger("two").await.head.generation, 1);
    })
    .await;
}

/// An object that has the name of an earlier head and states another ledger is neither taken for it nor replaced.
#[tokio::test]
async fn another_archived_head_of_that_name_stops_the_recovery() {
    in_world(async |world| {
        let _operator = world.operator("alpha");
        world.create::<Organism>("venom", json!({"ledger": {"onDelete": "Retain"}})).await;
        world.beating("venom").await;
        let store = world.store("venom").await;
        let mut other = delete_retained(&world, &store).await;
        other.last_hash = venom::ledger::sealed::HexHash([7; 32]);
        store.archive_head(&other).await.unwrap();
        world.create::<Organism>("venom", Value::Null).await;
        let says = |it: &OrganismStatus| message(it, "Ready").contains("venom-ledger-g1");
        world.until("venom", "the object that is in the way", says).await;
        assert_eq!(archived(&store, 1).await.last_hash, other.last_hash, "it was replaced");
        world.maps.delete("venom-ledger-g1", &DeleteParams::default()).await.unwrap();
        world.beating("venom").await;
        archived_is_whole(&store, 1).await;
    })
    .await;
}

/// A new life archives the head of its predecessor, and before it can begin a generation, a last writer of the old life
/// commits once more. The copy is then of an earlier state, and no other ledger.
#[tokio::test]
async fn an_earlier_state_of_a_retained_ledger_makes_room_for_the_last_one() {
    in_world(async |world| {
        let _operator = world.operator("alpha");
        world.create::<Organism>("venom", json!({"ledger": {"onDelete": "Retain"}})).await;
        world.beating("venom").await;
        let store = world.store("venom").await;
        let earlier = store.head().await.unwrap().unwrap().head.unwrap();
        store.archive_head(&earlier).await.unwrap();
        world.beats_more("venom", 100).await;
        let last = delete_retained(&world, &store).await;
        assert!(last.size > earlier.size, "{} after {}", last.size, earlier.size);
        world.create::<Organism>("venom", Value::Null).await;
        world.beating("venom").await;
        assert!(archived(&store, 1).await.states_the_same_as(&last));
        archived_is_whole(&store, 1).await;
        assert_eq!(world.ledger("venom").await.head.generation, 2);
    })
    .await;
}

/// An operator that ends after it has begun a generation and before its first commit: the next one says as well what the
/// generation continues.
#[tokio::test]
async fn a_generation_that_was_only_begun_continues_the_one_before() {
    in_world(async |world| {
        let mut operator = world.operator("alpha");
        world.create::<Organism>("venom", json!({"ledger": {"onDelete": "Retain"}})).await;
        world.beating("venom").await;
        let last = delete_retained(&world, &world.store("venom").await).await;
        operator.kill();
        world.create::<Organism>("venom", Value::Null).await;
        let store = world.store("venom").await;
        store.archive_head(&last).await.unwrap();
        let begun = Head::empty(store.organism_uid(), 2, last.epoch + 1, "alpha");
        let version = store.head().await.unwrap().unwrap().resource_version;
        store.put_head(&begun, &version).await.unwrap();

        let _operator = world.operator("alpha");
        world.beating("venom").await;
        let live = world.ledger("venom").await;
        assert_eq!(live.head.generation, 2);
        let genesis: Value = serde_json::from_str(&live.entries[0].data).unwrap();
        let continues = &genesis["continues"];
        assert_eq!(continues["origin"]["uid"], json!(last.uid), "{genesis}");
        assert_eq!((&continues["size"], &continues["root"]), (&json!(last.size), &json!(last.root_hex())));
    })
    .await;
}
