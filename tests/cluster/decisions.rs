//! What a patch does: to the decision, to the ledger, to the status.
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use venom::api::{Action, Organism};
use venom::ledger::Entry;

use crate::harness::eventually;
use crate::world::in_world;

/// The demonstration of the mission: anomalies are patched into the Genome.
#[tokio::test]
async fn anomalies_decide() {
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

/// The first beat after the config decides by it.
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
