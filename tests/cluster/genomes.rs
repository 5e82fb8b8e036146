//! Binding of Genomes to Organisms, and Organisms without a Genome.
use std::time::{Duration, Instant};

use kube::api::DeleteParams;
use serde_json::{Value, json};
use tokio::time::sleep;
use venom::api::{Genome, Organism};

use crate::harness::eventually;
use crate::world::{World, in_world, message};

async fn bound_to(world: &World, genome: &str, organism: Option<&str>) {
    eventually(&format!("Genome {genome} to be bound to {organism:?}"), async || {
        let status = world.genomes.get(genome).await.unwrap().status.unwrap_or_default();
        let seen = status.bound_to.as_ref().map(|it| it.name.as_str());
        if seen == organism { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
}

/// At most one Organism can use a Genome. Deleting the Organism releases it.
#[tokio::test]
async fn a_genome_is_bound_to_one_organism() {
    in_world(async |world| {
        let _operator = world.operator("alpha");
        world.create::<Genome>("shared", json!({})).await;
        let spec = json!({"genomeRef": {"name": "shared"}, "pulse": {"minPeriod": "20ms"}});
        world.create::<Organism>("first", spec.clone()).await;
        world.beating("first").await;
        world.create::<Organism>("second", spec).await;
        let status = world.condition("second", "Ready", "False", "GenomeInUse").await;
        let says = message(&status, "Ready");
        assert!(says.contains("is bound to Organism first"), "{says}");
        assert_eq!(status.ledger, None);
        bound_to(&world, "shared", Some("first")).await;

        let deleted = Instant::now();
        world.delete_organism("first").await;
        world.beating("second").await;
        println!("the second beats {:?} after the first was deleted", deleted.elapsed());
        bound_to(&world, "shared", Some("second")).await;
        world.ledger("second").await.check();

        // Another genomeRef releases the first Genome, and the differences are recorded.
        world.create::<Genome>("calm", json!({"ml": {"bias": -2}})).await;
        world.patch_organism("second", json!({"genomeRef": {"name": "calm"}})).await;
        bound_to(&world, "calm", Some("second")).await;
        bound_to(&world, "shared", None).await;
        world.beats_more("second", 30).await;
        let configs: Vec<Value> =
            world.ledger("second").await.check().inputs_of("config").into_iter().cloned().collect();
        assert_eq!(configs, [json!({"type": "config", "ml": {"ml_bias": -2.0}})]);
        world.beating("second").await;
    })
    .await;
}

/// Without its Genome an organism does not beat. The operator does not recreate a deleted Genome.
#[tokio::test]
async fn without_its_genome_an_organism_does_not_beat() {
    in_world(async |world| {
        let mut operator = world.operator("alpha");
        let spec = json!({"genomeRef": {"name": "later"}, "pulse": {"minPeriod": "20ms"}});
        world.create::<Organism>("waits", spec).await;
        world.create::<Organism>("owns", json!({"pulse": {"minPeriod": "20ms"}})).await;
        let status = world.condition("waits", "Ready", "False", "GenomeNotFound").await;
        let says = message(&status, "Ready");
        assert!(says.contains("later") && says.contains("apply it"), "{says}");
        let applied = Instant::now();
        world.create::<Genome>("later", Value::Null).await;
        world.beating("waits").await;
        println!("beats {:?} after its Genome was applied", applied.elapsed());
        assert!(world.genomes.get("later").await.unwrap().metadata.owner_references.is_none(), "never owned");

        world.beating("owns").await;
        for (genome, organism) in [("later", "waits"), ("owns", "owns")] {
            deleted_for_good(&world, genome, organism).await;
        }
        // Applied again with a change: one resume, then one config.
        world.create::<Genome>("owns", json!({"risk": {"anoms": 3}})).await;
        world.beating("owns").await;
        world.condition("owns", "Beating", "True", "Beating").await;
        world.beats_more("owns", 20).await;
        let live = world.ledger("owns").await;
        let summary = live.check();
        let inputs: Vec<&Value> = summary.inputs[1..].iter().map(|(_, data)| data).collect();
        assert_eq!(inputs.len(), 2, "{inputs:?}");
        assert_eq!(inputs[0]["reason"], "genomeBack");
        assert_eq!(*inputs[1], json!({"type": "config", "risk": {"anoms": 3}}));
        bound_to(&world, "owns", Some("owns")).await;

        // A restarted operator does not create it either.
        operator.kill();
        let _operator = world.operator("beta");
        world.condition("owns", "Beating", "True", "Beating").await;
        eventually("beta to have it", async || {
            let epoch = world.ledger("owns").await.head.epoch;
            if epoch == 2 { Ok(()) } else { Err(format!("epoch {epoch}")) }
        })
        .await;
        sleep(Duration::from_secs(1)).await;
        assert!(world.genomes.get_metadata_opt("later").await.unwrap().is_none(), "the Genome was recreated");
        world.condition("waits", "Ready", "False", "GenomeNotFound").await;
        world.create::<Genome>("later", json!({})).await;
        world.beating("waits").await;
        world.beats_more("waits", 20).await;
        world.ledger("waits").await.check();
    })
    .await;
}

/// Changing genomeRef to an unavailable Genome stops the beat and releases the old one. Changing it back resumes.
#[tokio::test]
async fn an_unavailable_genome_ref_stops_the_beat() {
    in_world(async |world| {
        let _operator = world.operator("alpha");
        let spec = json!({"pulse": {"minPeriod": "20ms"}});
        world.create::<Organism>("venom", spec.clone()).await;
        world.create::<Organism>("other", spec).await;
        world.beating("venom").await;
        world.beating("other").await;
        for (name, reason) in [("nowhere", "GenomeNotFound"), ("other", "GenomeInUse")] {
            world.patch_organism("venom", json!({"genomeRef": {"name": name}})).await;
            let status = world.condition("venom", "Ready", "False", reason).await;
            assert!(message(&status, "Ready").contains(name), "{}", message(&status, "Ready"));
            world.condition("venom", "Beating", "False", "GenomeNotFound").await;
            bound_to(&world, "venom", None).await;
            let before = world.ledger("venom").await;
            sleep(Duration::from_secs(1)).await;
            assert_eq!(world.ledger("venom").await.head.size, before.head.size, "it still beats");

            world.patch_organism("venom", json!({"genomeRef": null})).await;
            world.beating("venom").await;
            bound_to(&world, "venom", Some("venom")).await;
            world.beats_more("venom", 10).await;
            let live = world.ledger("venom").await;
            live.continues(&before);
            let summary = live.check();
            let resumes = summary.inputs_of("resume");
            assert_eq!(resumes.last().unwrap()["reason"], "genomeBack");
        }
        bound_to(&world, "other", Some("other")).await;
        world.beating("other").await;
    })
    .await;
}

async fn deleted_for_good(world: &World, genome: &str, organism: &str) {
    world.genomes.delete(genome, &DeleteParams::default()).await.unwrap();
    let status = world.condition(organism, "Ready", "False", "GenomeNotFound").await;
    let says = message(&status, "Ready");
    assert!(says.contains(genome) && says.contains("apply it"), "{says}");
    world.condition(organism, "Beating", "False", "GenomeNotFound").await;
    let before = world.ledger(organism).await;
    sleep(Duration::from_millis(1500)).await;
    let after = world.ledger(organism).await;
    assert_eq!(after.head.size, before.head.size, "it still beats without a Genome");
    assert!(world.genomes.get_metadata_opt(genome).await.unwrap().is_none(), "the Genome was recreated");
}
