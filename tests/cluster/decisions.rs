//! Patches of the specs: their effect on the decision, the ledger and the status.
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use venom::api::{Action, Genome, Organism};
use venom::ledger::Entry;

use crate::harness::{API_VERSION, eventually};
use crate::world::{World, in_world};

/// The demonstration of the mission: patching the Genome's anomalies changes the decision.
#[tokio::test]
async fn patched_anomalies_change_the_decision() {
    in_world(async |world| {
        let _operator = world.operator("alpha");
        world.create::<Organism>("venom", Value::Null).await;
        world.beating("venom").await;
        let steps = [(5, Action::Alert, 0.6457), (20, Action::Quarantine, 0.9168), (0, Action::Noop, 0.5)];
        for (anoms, action, threat) in steps {
            let (patched, at) = (Instant::now(), now());
            world.patch_genome("venom", json!({"risk": {"anoms": anoms}})).await;
            let what = format!("{anoms} anomalies to be {action}");
            let status = world
                .until("venom", &what, |it| it.decision.as_ref().is_some_and(|it| it.action == action))
                .await;
            println!("{what}: seen in the status after {:?}", patched.elapsed());
            assert_eq!(status.decision.as_ref().unwrap().threat, threat);
            let live = world.ledger("venom").await;
            live.check_status(&status);
            committed_after(&live.entries, anoms, action, at);
            eventually("the Genome's status to follow", async || {
                let status = world.genomes.get("venom").await.unwrap().status.unwrap_or_default();
                let seen = (status.anoms, status.threat, status.action);
                if seen == (Some(anoms), Some(threat), Some(action)) {
                    Ok(())
                } else {
                    Err(format!("{seen:?}"))
                }
            })
            .await;
        }
        let summary = world.ledger("venom").await.check();
        let configs: Vec<Value> = summary.inputs_of("config").into_iter().cloned().collect();
        assert_eq!(configs, steps.map(|(anoms, ..)| json!({"type": "config", "risk": {"anoms": anoms}})));
        let decided: Vec<&str> = summary.decisions.iter().map(|(_, action)| action.as_str()).collect();
        assert_eq!(decided, ["NOOP", "ALERT", "QUARANTINE", "NOOP"]);
    })
    .await;
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

/// Checks that the first beat after the config entry decides by it.
fn committed_after(entries: &[Entry], anoms: u64, action: Action, patched: f64) {
    let config = format!("\"risk\":{{\"anoms\":{anoms}}}");
    let at = entries.iter().rposition(|it| it.kind() == "config" && it.data.contains(&config)).unwrap();
    let next = entries[at..].iter().find(|it| it.kind() == "action").unwrap();
    assert!(next.data.contains(action.as_str()), "{}", next.data);
    println!(
        "  taken in after {:.1} ms, decided after {:.1} ms",
        (entries[at].timestamp - patched) * 1e3,
        (next.timestamp - patched) * 1e3
    );
}

/// The patched kind, the patch, and the expected input.
fn changes() -> Vec<(&'static str, Value, Value)> {
    let config = |data: Value| {
        let mut data = data;
        data["type"] = "config".into();
        data
    };
    let (genome, organism) = ("Genome", "Organism");
    let weights = json!({"regen": 0.3, "balance": 0.2, "entropy": 0.1, "optimize": 0.4});
    vec![
        (
            genome,
            json!({"weights": weights}),
            config(json!({"weights": {"R": 0.3, "B": 0.2, "E": 0.1, "O": 0.4}})),
        ),
        (
            genome,
            json!({"thresholds": {"stability": 0.01, "gain": 0.9}}),
            config(json!({"thresholds": {"stability": 0.01, "gain": 0.9}})),
        ),
        (
            genome,
            json!({"pid": {"kp": 0.7, "ki": 0.0, "kd": 0.1}}),
            config(json!({"pid": {"kp": 0.7, "ki": 0.0, "kd": 0.1}})),
        ),
        (genome, json!({"pid": {"threshold": 0.003}}), config(json!({"pid": {"t_threshold": 0.003}}))),
        (genome, json!({"evolution": "Frozen"}), config(json!({"evolution": "Frozen"}))),
        (organism, json!({"pulse": {"k": 8}}), config(json!({"pulse": {"k": 8}}))),
        (organism, json!({"pulse": {"t1": 0.002}}), config(json!({"pulse": {"t1": 0.002}}))),
        (organism, json!({"pulse": {"u": 20.0}}), config(json!({"pulse": {"u": 20.0}}))),
        (organism, json!({"pulse": {"minPeriod": "20ms"}}), config(json!({"pulse": {"min_period": 0.02}}))),
        (genome, json!({"evolution": "Enabled"}), config(json!({"evolution": "Enabled"}))),
        (organism, json!({"nodes": {"replicas": 3}}), json!({"type": "scale", "from": 5, "p": 3})),
        (organism, json!({"nodes": {"replicas": 0}}), json!({"type": "scale", "from": 3, "p": 1})),
        (genome, json!({"risk": {"window": "1m30s"}}), config(json!({"risk": {"window": 90.0}}))),
        (genome, json!({"risk": {"window": "0s"}}), config(json!({"risk": {"window": 0.0}}))),
        (
            genome,
            json!({"ml": {"mlWeight": 0.2, "bias": -1.0}}),
            config(json!({"ml": {"ml_weight": 0.2, "ml_bias": -1.0}})),
        ),
    ]
}

/// Every field can be changed while beating. Only the changed fields are recorded, and they take effect at the next
/// pulse, which `rederive` checks. Changes that the engine does not read are not recorded.
#[tokio::test]
async fn changed_fields_are_recorded_while_beating() {
    in_world(async |world| {
        let mut operator = world.operator("alpha");
        world.create::<Organism>("venom", json!({"pulse": {"minPeriod": "50ms"}})).await;
        world.beating("venom").await;
        for (kind, patch, _) in changes() {
            if kind == "Genome" {
                let generation = world.patch_genome("venom", patch).await;
                genome_observed(&world, generation).await;
            } else {
                let generation = world.patch_organism("venom", patch).await;
                observed(&world, generation).await;
            }
        }
        world.beats_more("venom", 20).await;
        let t_lambda = 0.002 * 20.0_f64.ln() / (1.0 - 1.0 / 8.0);
        let shown = world.status("venom").await.t_lambda.unwrap();
        assert!((shown - t_lambda).abs() < 1e-6, "status.tLambda is {shown}, k 8 and P 1 make {t_lambda}");
        let wanted: Vec<Value> = changes().into_iter().map(|(.., input)| input).collect();
        let before = world.ledger("venom").await;
        let summary = before.check();
        let inputs: Vec<Value> = summary.inputs[1..].iter().map(|(_, data)| data.clone()).collect();
        assert_eq!(inputs, wanted);

        // Not recorded: an unchanged manifest, a field that the engine does not read. Then a restart.
        apply_as_it_is(&world).await;
        let generation = world
            .patch_organism(
                "venom",
                json!({"ledger": {"retain": {"bytes": "2Mi"}, "commitInterval": "300ms"}}),
            )
            .await;
        observed(&world, generation).await;
        world.beats_more("venom", 20).await;
        operator.kill();
        let _operator = world.operator("beta");
        // Polls the head alone: decoding the whole ledger at each poll would exceed the timeout.
        let store = world.store("venom").await;
        eventually("beta to have the ledger", async || {
            let epoch = store.head().await.unwrap().unwrap().head.unwrap().epoch;
            if epoch == 2 { Ok(()) } else { Err(format!("epoch {epoch}")) }
        })
        .await;
        world.beats_more("venom", 20).await;
        let live = world.ledger("venom").await;
        live.continues(&before);
        let summary = live.check();
        let more = &summary.inputs[1 + wanted.len()..];
        assert_eq!(more.len(), 1, "{more:?}");
        assert_eq!((&more[0].1["type"], &more[0].1["reason"]), (&json!("resume"), &json!("takeover")));
    })
    .await;
}

async fn observed(world: &World, generation: i64) {
    let what = format!("generation {generation} to be acted on");
    world.until("venom", &what, |it| it.observed_generation == Some(generation)).await;
}

async fn genome_observed(world: &World, generation: i64) {
    eventually(&format!("the Genome's generation {generation} to be acted on"), async || {
        let seen = world.genomes.get("venom").await.unwrap().status.unwrap_or_default().observed_generation;
        if seen == Some(generation) { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
}

async fn apply_as_it_is(world: &World) {
    let organism = world.organisms.get("venom").await.unwrap();
    let genome = world.genomes.get("venom").await.unwrap();
    let applied = |kind: &str, spec: Value| json!({"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": "venom"}, "spec": spec});
    let params = PatchParams::apply("kubectl").force();
    // The API server may increment the generation: it stores -1.0 as -1 and then considers them different.
    let patch = applied("Organism", json!(organism.spec));
    let again = world.organisms.patch("venom", &params, &Patch::Apply(&patch)).await.unwrap();
    observed(world, again.metadata.generation.unwrap()).await;
    let patch = applied("Genome", json!(genome.spec));
    let again: Genome = world.genomes.patch("venom", &params, &Patch::Apply(&patch)).await.unwrap();
    genome_observed(world, again.metadata.generation.unwrap()).await;
}
