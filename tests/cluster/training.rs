//! `venom train`: from rows to a decision.
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tokio::time::sleep;
use venom::api::{Action, GenomeStatus, Organism};

use crate::harness::eventually;
use crate::world::{World, in_world};

/// The rows of docs/training.md.
const ROWS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/training/incidents.csv");
/// An ALERT by the default model, a QUARANTINE by the trained one.
const ANOMS: u64 = 13;

impl World {
    fn train(&self, more: &[&str]) -> Result<String, String> {
        self.venom(&[&["train", "-n", &*self.namespace], more].concat())
    }

    /// Waits until the Genome's status has these, of a beat with [`ANOMS`].
    async fn threat(&self, threat: f64, action: Action) -> GenomeStatus {
        eventually(&format!("a threat of {threat} and {action:?}"), async || {
            let status = self.genomes.get("venom").await.map_err(|error| error.to_string())?.status;
            let status = status.unwrap_or_default();
            // Rounded to four digits.
            let is_near = status.threat.is_some_and(|it| (it - threat).abs() <= 0.000_051);
            if is_near && status.action == Some(action) && status.anoms == Some(ANOMS) {
                Ok(status)
            } else {
                Err(json!(status).to_string())
            }
        })
        .await
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

#[tokio::test]
async fn a_trained_model_is_applied_recorded_and_decides_as_foretold() {
    in_world(async |world| {
        let _operator = world.operator("alpha");
        let told = world.train(&[ROWS, "--apply", "genome/venom", "--yes"]).unwrap_err();
        assert!(told.contains("genome/venom in") && told.contains("not found; check the name"), "{told}");

        world.create::<Organism>("venom", json!({"pulse": {"minPeriod": "20ms"}})).await;
        world.beating("venom").await;
        world.patch_genome("venom", json!({"risk": {"anoms": ANOMS}})).await;
        world.threat(sigmoid(0.12 * ANOMS as f64), Action::Alert).await;

        // Nobody can be asked, and somebody without the right.
        let before = world.genomes.get("venom").await.unwrap().spec;
        let told = world.train(&[ROWS, "--apply", "genome/venom"]).unwrap_err();
        for part in ["spec.ml.mlWeight: 0.12 -> ", "spec.ml.bias: 0 -> -", "ALERT -> QUARANTINE", "add --yes"]
        {
            assert!(told.contains(part), "{part}: {told}");
        }
        let folder = tempfile::tempdir().unwrap();
        let account = world.account_named("someone", folder.path()).await;
        let someone = World::new(world.client.clone(), &world.namespace, Some(account));
        let told = someone.train(&[ROWS, "--apply", "genome/venom", "--yes"]).unwrap_err();
        assert!(told.contains("forbidden") && told.trim_end().lines().count() == 1, "{told}");
        assert_eq!(world.genomes.get("venom").await.unwrap().spec, before);

        let report = world.train(&[ROWS, "--apply", "genome/venom", "--yes", "-o", "json"]).unwrap();
        let report: Value = serde_json::from_str(&report).unwrap();
        let model = &report["new"]["model"];
        let (weight, bias) = (model["mlWeight"].as_f64().unwrap(), model["bias"].as_f64().unwrap());
        let quarantine = &report["new"]["decisions"]["quarantine"];
        assert!(quarantine["from"].as_u64().unwrap() <= ANOMS, "{quarantine}");
        let genome = world.genomes.get("venom").await.unwrap();
        assert_eq!((genome.spec.ml.ml_weight, genome.spec.ml.bias), (weight, bias));
        assert_eq!(genome.spec.ml.injectable, before.ml.injectable);
        let of_training: Vec<Value> = genome
            .metadata
            .managed_fields
            .iter()
            .flatten()
            .filter(|it| it.manager.as_deref() == Some("venom-train"))
            .map(|it| json!(it.fields_v1))
            .collect();
        assert_eq!(of_training, [json!({"f:spec": {"f:ml": {"f:bias": {}, "f:mlWeight": {}}}})]);
        world.threat(sigmoid(weight * ANOMS as f64 + bias), Action::Quarantine).await;

        let live = world.ledger("venom").await;
        let summary = live.check();
        let recorded = json!({"type": "config", "ml": {"ml_bias": bias, "ml_weight": weight}});
        let configs = summary.inputs_of("config");
        assert_eq!(configs.iter().filter(|it| ***it == recorded).count(), 1, "{configs:?}");
        let replayed = world.venom_ledger("replay", "venom").unwrap();
        assert!(replayed.contains("every number follows"), "{replayed}");

        // The same again changes nothing.
        let again = world.train(&[ROWS, "--apply", "genome/venom", "--yes"]).unwrap();
        assert!(again.contains("no decision changes"), "{again}");
        let after = world.genomes.get("venom").await.unwrap();
        assert_eq!(after.metadata.generation, genome.metadata.generation);
    })
    .await;
}

/// Whoever set the model before is named: it may set it back.
#[tokio::test]
async fn who_else_sets_the_model_is_named() {
    in_world(async |world| {
        world.create::<venom::api::Genome>("venom", json!({})).await;
        let patch = Patch::Merge(json!({"spec": {"ml": {"bias": -1}}}));
        let params = PatchParams { field_manager: Some("some-pipeline".into()), ..PatchParams::default() };
        world.genomes.patch("venom", &params, &patch).await.unwrap();
        let told = world.train(&[ROWS, "--apply", "gen/venom"]).unwrap_err();
        assert!(
            told.contains("spec.ml was set by some-pipeline: what it applies later may set it back"),
            "{told}"
        );
        assert!(!told.contains("spec.ml was set by venom-train"), "{told}");
    })
    .await;
}

/// One's own history, from the cluster.
#[tokio::test]
async fn the_ledger_of_an_organism_is_a_training_set() {
    in_world(async |world| {
        let _operator = world.operator("alpha");
        world.create::<Organism>("venom", json!({"pulse": {"minPeriod": "20ms"}})).await;
        world.beating("venom").await;
        sleep(Duration::from_secs(3)).await;
        world.patch_genome("venom", json!({"risk": {"anoms": ANOMS}})).await;
        world.threat(sigmoid(0.12 * ANOMS as f64), Action::Alert).await;
        let start = Timestamp::now();
        sleep(Duration::from_secs(3)).await;
        let folder = tempfile::tempdir().unwrap();
        let incidents = folder.path().join("incidents.csv");
        std::fs::write(&incidents, format!("start,end\n{start},2999-01-01T00:00:00Z\n")).unwrap();
        world.beats_more("venom", 50).await;
        let report = world
            .train(&[
                "--from-ledger",
                "organism/venom",
                "--incidents",
                incidents.to_str().unwrap(),
                "--test",
                "0",
                "-o",
                "json",
            ])
            .unwrap();
        let report: Value = serde_json::from_str(&report).unwrap();
        let rows = &report["new"]["train"]["rows"];
        let (calm, incident) = (rows["calm"].as_u64().unwrap(), rows["incident"].as_u64().unwrap());
        assert!(calm >= 2 && incident >= 2 && calm + incident < 600, "{rows}");
        assert!(report["new"]["model"]["mlWeight"].as_f64().unwrap() > 0.0, "{report}");
    })
    .await;
}
