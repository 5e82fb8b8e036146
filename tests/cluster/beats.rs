//! Beating: the smallest organism, suspension, and a limited number of beats.
use std::time::Duration;

use kube::ResourceExt;
use serde_json::{Value, json};
use tokio::time::sleep;
use venom::api::Organism;

use crate::ledger::Live;
use crate::world::{World, condition, in_world};

/// An Organism without a spec gets a Genome and beats. Its status agrees with its ledger, which verifies.
#[tokio::test]
async fn the_smallest_organism_beats() {
    in_world(async |world| {
        let _operator = world.operator("alpha");
        world.create::<Organism>("venom", Value::Null).await;
        world.beating("venom").await;
        world.condition("venom", "PulseStable", "True", "Settled").await;
        let status = world.beats_more("venom", 300).await;
        for (kind, reason) in
            [("Beating", "Beating"), ("CoresHealthy", "Healthy"), ("LedgerIntact", "Verified")]
        {
            assert_eq!(condition(&status, kind), ("True".into(), reason.into()), "{kind}");
        }
        let live = world.ledger("venom").await;
        let summary = live.check();
        live.check_status(&status);

        let organism = world.organisms.get("venom").await.unwrap();
        assert_eq!(status.observed_generation, organism.metadata.generation);
        assert_eq!(status.nodes.unwrap().replicas, 5);
        let genome = world.genomes.get("venom").await.unwrap();
        let owner = &genome.owner_references()[0];
        assert_eq!((&owner.uid, owner.controller), (&organism.uid().unwrap(), Some(true)));
        assert_eq!(genome.status.unwrap().bound_to.unwrap().uid, organism.uid().unwrap());

        assert_eq!(summary.from, Some(0));
        let genesis = summary.inputs_of("genesis")[0];
        let origin = json!({
            "namespace": world.namespace, "name": "venom", "uid": organism.uid(), "generation": 1,
        });
        assert_eq!(genesis["origin"], origin);
        let thresholds =
            json!({"quarantine": 0.85, "alert": 0.6, "stability": 0.25, "repair": 0.1, "gain": 0.1});
        let by_default = json!({
            "weights": {"R": 0.25, "B": 0.25, "E": 0.15, "O": 0.35},
            "risk": {"anoms": 0, "window": 60.0},
            "ml": {"ml_weight": 0.12, "ml_bias": 0.0},
            "thresholds": thresholds,
            "evolution": "Enabled",
        });
        assert_eq!(genesis["genome"], by_default);
        assert_eq!(
            genesis["config"],
            json!({
                "pulse": {"k": 4, "p": 5, "t1": 0.001, "u": 54.598150033144236},
                "pid": {"kp": 0.6, "ki": 0.1, "kd": 0.05, "t_threshold": 0.02},
            })
        );
        assert_eq!(summary.inputs.len(), 1, "nothing but genesis came in: {:?}", summary.inputs);
        pace(&summary.pulses);
    })
    .await;
}

/// Prints the distribution of the intervals between beats, from the ledger's timestamps.
fn pace(pulses: &[(u64, Value)]) {
    let elapsed: Vec<f64> =
        pulses.iter().map(|(_, data)| data["pulse"]["elapsed"].as_f64().unwrap()).collect();
    let t_lambda = pulses[0].1["pulse"]["t_lambda"].as_f64().unwrap();
    let mut apart: Vec<f64> = elapsed.windows(2).map(|pair| pair[1] - pair[0]).collect();
    apart.sort_by(f64::total_cmp);
    let mean = apart.iter().sum::<f64>() / apart.len() as f64;
    println!(
        "{} beats: T_Λ {:.3} ms, apart {:.3} ms on average, median {:.3} ms, 99 of 100 within {:.3} ms",
        pulses.len(),
        t_lambda * 1e3,
        mean * 1e3,
        apart[apart.len() / 2] * 1e3,
        apart[apart.len() * 99 / 100] * 1e3,
    );
}

/// Checks for a while that nothing is committed. Returns the ledger.
async fn assert_at_rest(world: &World, name: &str) -> Live {
    let before = world.ledger(name).await;
    // Longer than the commit interval.
    sleep(Duration::from_millis(1500)).await;
    let after = world.ledger(name).await;
    // Segments may still be merged.
    assert_eq!(after.head.size, before.head.size, "{name} does not beat but commits");
    after
}

/// A suspended organism commits nothing, and its time τ stands still.
#[tokio::test]
async fn suspension_stops_the_beat_and_the_clock() {
    in_world(async |world| {
        let mut operator = world.operator("alpha");
        world.create::<Organism>("venom", Value::Null).await;
        world.beating("venom").await;
        world.patch_organism("venom", json!({"suspend": true})).await;
        world.condition("venom", "Ready", "True", "Suspended").await;
        let status = world.condition("venom", "Beating", "False", "Suspended").await;
        let held = assert_at_rest(&world, "venom").await;
        held.check_status(&status);

        // A change during the suspension is recorded when beating resumes.
        let generation = world.patch_genome("venom", json!({"risk": {"anoms": 5}})).await;
        world.patch_organism("venom", json!({"pulse": {"k": 5}, "nodes": {"replicas": 3}})).await;
        world.condition("venom", "Beating", "False", "Suspended").await;
        assert_eq!(assert_at_rest(&world, "venom").await.head.size, held.head.size);
        world.patch_organism("venom", json!({"suspend": false})).await;
        world.condition("venom", "Beating", "True", "Beating").await;
        world.beats_more("venom", 50).await;
        let observed = world.genomes.get("venom").await.unwrap().status.unwrap().observed_generation;
        assert_eq!(observed, Some(generation));

        let live = world.ledger("venom").await;
        live.continues(&held);
        let summary = live.check();
        let inputs: Vec<&Value> = summary.inputs[1..].iter().map(|(_, data)| data).collect();
        assert_eq!(inputs[0]["reason"], "unsuspended");
        assert_eq!(*inputs[1], json!({"type": "config", "risk": {"anoms": 5}, "pulse": {"k": 5}}));
        assert_eq!(*inputs[2], json!({"type": "scale", "from": 5, "p": 3}));
        assert_eq!(inputs.len(), 3);

        // τ excludes the suspension, and the time between genesis and the first pulse.
        let resume = summary.inputs[1].0;
        let elapsed = |at: usize| summary.pulses[at].1["pulse"]["elapsed"].as_f64().unwrap();
        let after = summary.pulses.iter().position(|(index, _)| *index > resume).unwrap();
        let pause = elapsed(after) - elapsed(after - 1);
        let tau = summary.state["tau"].as_f64().unwrap();
        let lived = elapsed(summary.pulses.len() - 1) - pause - elapsed(0);
        assert!((tau - lived).abs() < 1e-6, "τ is {tau}, it lived {lived} s and paused {pause} s");
        assert!(pause > 1.0);

        // Across a restart of the operator only the epoch of the head changes.
        world.patch_organism("venom", json!({"suspend": true})).await;
        world.condition("venom", "Beating", "False", "Suspended").await;
        let held = assert_at_rest(&world, "venom").await;
        operator.kill();
        let _operator = world.operator("beta");
        taken_over(&world, "venom", held.head.epoch + 1).await;
        let status = world.condition("venom", "Ready", "True", "Suspended").await;
        let after = assert_at_rest(&world, "venom").await;
        assert_eq!(after.head.size, held.head.size);
        after.check_status(&status);
    })
    .await;
}

async fn taken_over(world: &World, name: &str, epoch: u64) {
    crate::harness::eventually(&format!("epoch {epoch}"), async || {
        let seen = world.store(name).await.head().await.unwrap().unwrap().head.unwrap().epoch;
        if seen == epoch { Ok(()) } else { Err(format!("epoch {seen}")) }
    })
    .await;
}

/// An organism makes exactly `spec.beats` beats, across a restart too.
#[tokio::test]
async fn beats_limits_the_number_of_beats() {
    in_world(async |world| {
        let mut operator = world.operator("alpha");
        world.create::<Organism>("venom", json!({"beats": 10})).await;
        let status = world.condition("venom", "Ready", "True", "Completed").await;
        assert_eq!(status.beats, Some(10));
        assert_eq!(condition(&status, "Beating"), ("False".into(), "Completed".into()));
        let first = assert_at_rest(&world, "venom").await;
        assert_eq!(first.check().types["pulse"], 10);

        world.patch_organism("venom", json!({"beats": 20})).await;
        let status = world.until("venom", "20 beats", |it| it.beats == Some(20)).await;
        assert_eq!(condition(&status, "Ready"), ("True".into(), "Completed".into()));
        let second = assert_at_rest(&world, "venom").await;
        second.continues(&first);
        let summary = second.check();
        assert_eq!(summary.types["pulse"], 20);
        assert_eq!(summary.inputs_of("resume").len(), 1);
        assert_eq!(summary.inputs_of("resume")[0]["reason"], "beatsRaised");
        second.check_status(&status);

        operator.kill();
        let _operator = world.operator("beta");
        taken_over(&world, "venom", 2).await;
        world.condition("venom", "Ready", "True", "Completed").await;
        assert_eq!(assert_at_rest(&world, "venom").await.head.size, second.head.size);
        // Lowering spec.beats below the number of beats changes nothing.
        let generation = world.patch_organism("venom", json!({"beats": 5})).await;
        world.until("venom", "generation seen", |it| it.observed_generation == Some(generation)).await;
        assert_eq!(world.status("venom").await.beats, Some(20));
        world.patch_organism("venom", json!({"beats": 30})).await;
        let status = world.until("venom", "30 beats", |it| it.beats == Some(30)).await;
        assert_eq!(condition(&status, "Ready"), ("True".into(), "Completed".into()));
        let third = assert_at_rest(&world, "venom").await;
        third.continues(&second);
        let summary = third.check();
        assert_eq!(summary.types["pulse"], 30);
        assert_eq!(summary.inputs_of("resume").len(), 2);
        assert_eq!(summary.inputs_of("resume")[1]["epoch"], 2);
    })
    .await;
}
