//! Deletion of an Organism, retained ledgers, and name conflicts.
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use venom::api::{Genome, Organism};

use crate::evidence::delete_retained;
use crate::harness::{eventually, within};
use crate::ledger::Live;
use crate::world::{condition, in_world, message};

/// The ledger is deleted, and so is a Genome that the Organism owns; a referenced Genome is released.
#[tokio::test]
async fn the_ledger_is_deleted_with_the_organism() {
    in_world(async |world| {
        let _operator = world.operator("alpha");
        world.create::<Organism>("owner", Value::Null).await;
        world.create::<Genome>("lent", json!({})).await;
        world.create::<Organism>("borrower", json!({"genomeRef": {"name": "lent"}})).await;
        for name in ["owner", "borrower"] {
            world.beating(name).await;
            world.beats_more(name, 200).await;
            assert!(world.ledger_objects(name).await.len() >= 2);
            let found = world.organisms.get_metadata(name).await.unwrap();
            assert_eq!(found.finalizers(), [] as [String; 0], "nothing keeps it from going");
            world.delete_organism(name).await;
            world.collected(name).await;
        }
        eventually("the Genome of its own to be collected", async || {
            let left = world.genomes.get_metadata_opt("owner").await.map_err(|error| error.to_string())?;
            left.map_or(Ok(()), |_| Err("it is there".into()))
        })
        .await;
        eventually("the other Genome to be released", async || {
            let lent = world.genomes.get("lent").await.map_err(|error| error.to_string())?;
            lent.status.unwrap().bound_to.map_or(Ok(()), |bound| Err(format!("bound to {}", bound.uid)))
        })
        .await;

        // A new Organism of the same name starts a new ledger.
        world.create::<Organism>("owner", Value::Null).await;
        world.beating("owner").await;
        let live = world.ledger("owner").await;
        assert_eq!((live.head.generation, live.check().from), (1, Some(0)));
    })
    .await;
}

/// The ledger is retained, and the next Organism of this name continues it.
#[tokio::test]
async fn a_retained_ledger_is_continued() {
    in_world(async |world| {
        let mut operator = world.operator("alpha");
        let spec = json!({"pulse": {"minPeriod": "10ms"}, "ledger": {"onDelete": "Retain"}});
        world.create::<Organism>("venom", spec.clone()).await;
        world.beating("venom").await;
        world.beats_more("venom", 150).await;
        let old_store = world.store("venom").await;
        delete_retained(&world, &old_store).await;
        let left = Live::read(&old_store).await;
        left.check();

        world.create::<Organism>("venom", spec).await;
        let status = world.beating("venom").await;
        assert_eq!(status.ledger.as_ref().unwrap().generation, 2);
        world.beats_more("venom", 50).await;
        operator.kill();
        let _operator = world.operator("beta");
        world.until("venom", "a restart", |it| it.beats > Some(100)).await;
        let live = world.ledger("venom").await;
        assert_eq!((live.head.generation, live.head.retained), (2, false));
        assert!(live.head.epoch > left.head.epoch, "epochs continue across generations");
        let summary = live.check();
        let genesis = summary.inputs_of("genesis")[0];
        assert_eq!(genesis["origin"]["generation"], 2);
        let continues = &genesis["continues"];
        assert_eq!(
            (&continues["size"], &continues["root"]),
            (&json!(left.head.size), &json!(left.head.root_hex()))
        );
        let origin = json!({
            "namespace": world.namespace, "name": "venom", "uid": left.head.uid, "generation": 1,
        });
        assert_eq!(continues["origin"], origin);

        // The old head is archived unchanged.
        let archived = world.maps.get("venom-ledger-g1").await.unwrap();
        assert_eq!(archived.immutable, Some(true));
        let head = old_store.archived_head(1).await.unwrap().unwrap().head.unwrap();
        assert_eq!((&head.segments, head.root), (&left.head.segments, left.head.root));
        let old = Live::listed(&old_store, head).await.expect("a segment of the old generation is gone");
        assert_eq!(old.continues(&left), left.entries.len());
        old.check();
    })
    .await;
}

/// Kubernetes deletes a ledger whether an operator runs or not, and the next Organism starts a new one.
#[tokio::test]
async fn a_ledger_is_deleted_without_an_operator() {
    in_world(async |world| {
        let operator = world.operator("alpha");
        world.create::<Organism>("venom", Value::Null).await;
        world.beating("venom").await;
        drop(operator);
        world.delete_organism("venom").await;
        world.collected("venom").await;
        let _operator = world.operator("beta");
        world.create::<Organism>("venom", Value::Null).await;
        world.beating("venom").await;
        assert_eq!(world.ledger("venom").await.head.generation, 1);
    })
    .await;
}

/// A finalizer of an earlier version is removed on sight. One of somebody else keeps the Organism, but not its life.
#[tokio::test]
async fn a_deleted_organism_that_is_kept_no_longer_beats() {
    in_world(async |world| {
        let _operator = world.operator("alpha");
        let finalizers = |all: Value| Patch::Merge(json!({"metadata": {"finalizers": all}}));
        world.create::<Organism>("venom", Value::Null).await;
        world.beating("venom").await;
        let both = finalizers(json!(["genesis.venom.dev/ledger", "venom.test/hold"]));
        world.organisms.patch("venom", &PatchParams::default(), &both).await.unwrap();
        eventually("our finalizer to be removed", async || {
            let found = world.organisms.get_metadata("venom").await.map_err(|error| error.to_string())?;
            if found.finalizers() == ["venom.test/hold"] {
                Ok(())
            } else {
                Err(format!("{:?}", found.finalizers()))
            }
        })
        .await;
        world.delete_organism("venom").await;
        let status = world.condition("venom", "Ready", "False", "Deleting").await;
        assert_eq!(condition(&status, "Beating"), ("False".into(), "Deleting".into()));
        let none = finalizers(Value::Null);
        world.organisms.patch("venom", &PatchParams::default(), &none).await.unwrap();
        world.collected("venom").await;
    })
    .await;
}

/// Organisms in a namespace that is being deleted end at once; nothing is created there again and again.
#[tokio::test]
async fn a_namespace_with_organisms_is_deleted_without_delay() {
    in_world(async |world| {
        let operator = world.operator("alpha");
        for name in ["one", "two", "three"] {
            world.create::<Organism>(name, json!({"ledger": {"onDelete": "Retain"}})).await;
        }
        for name in ["one", "two", "three"] {
            world.beating(name).await;
        }
        let namespaces: Api<Namespace> = Api::all(world.client.clone());
        let start = Instant::now();
        namespaces.delete(&world.namespace, &DeleteParams::default()).await.unwrap();
        // A minute is the namespace controller's own on a busy machine. An object that is made anew keeps it for ever.
        within(Duration::from_secs(60), "the namespace to be gone", async || {
            let found = namespaces.get_opt(&world.namespace).await.map_err(|error| error.to_string())?;
            found.map_or(Ok(()), |it| Err(format!("{:?}", it.status)))
        })
        .await;
        println!("a namespace with three organisms was deleted in {:?}", start.elapsed());
        assert!(!operator.log().contains("ERROR"), "{}", operator.log());
    })
    .await;
}

/// A foreign ConfigMap with the name of the head is not touched.
#[tokio::test]
async fn a_foreign_configmap_is_not_touched() {
    in_world(async |world| {
        let _operator = world.operator("alpha");
        let stranger = ConfigMap {
            metadata: ObjectMeta { name: Some("venom-ledger".into()), ..ObjectMeta::default() },
            data: Some([("theirs".to_owned(), "yes".to_owned())].into()),
            ..ConfigMap::default()
        };
        let made = world.maps.create(&PostParams::default(), &stranger).await.unwrap();
        world.create::<Organism>("venom", json!({})).await;
        let status = world.condition("venom", "Ready", "False", "NameTaken").await;
        let says = message(&status, "Ready");
        assert!(says.contains("venom-ledger"), "{says}");
        let there = world.maps.get("venom-ledger").await.unwrap();
        assert_eq!(there.resource_version(), made.resource_version(), "the object was changed");
        world.maps.delete("venom-ledger", &DeleteParams::default()).await.unwrap();
        world.beating("venom").await;
        world.ledger("venom").await.check();
    })
    .await;
}
