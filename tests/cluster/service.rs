//! The operator's HTTP endpoints, its shutdown, and reading its ledger from the command line.
use std::time::Instant;

use serde_json::{Value, json};
use venom::api::Organism;

use crate::harness::eventually;
use crate::http::{free_address, get, metric};
use crate::world::{condition, in_world};

/// Serves `/metrics`, `/healthz` and `/readyz`. At SIGTERM it commits and publishes everything.
#[tokio::test]
async fn serves_its_endpoints_and_commits_everything_at_sigterm() {
    in_world(async |world| {
        let address = free_address();
        let mut operator = world.operator_with("alpha", &["--metrics-addr", &address]);
        eventually("/readyz", async || match get(&address, "/readyz") {
            Ok((200, _)) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
        assert_eq!(get(&address, "/healthz").unwrap().0, 200);
        assert_eq!(get(&address, "/nothing").unwrap().0, 404);
        world.create::<Organism>("venom", Value::Null).await;
        // Periodic commits are rare here, so that the last beats depend on the commit at shutdown.
        world.create::<Organism>("slow", json!({"ledger": {"commitInterval": "1m"}})).await;
        world.beating("venom").await;
        world.beating("slow").await;
        world.beats_more("venom", 100).await;
        let (code, text) = get(&address, "/metrics").unwrap();
        assert_eq!(code, 200);
        assert_eq!(metric(&text, "venom_held_organisms"), Some(2.0));
        let beaten = metric(&text, "venom_beats_total").unwrap();
        assert!(beaten >= 100.0);
        for name in
            ["venom_ledger_written_bytes_total", "venom_status_writes_total", "venom_commit_seconds_count"]
        {
            assert!(metric(&text, name) > Some(0.0), "{name}");
        }
        assert!(text.lines().filter(|it| !it.starts_with('#')).all(|it| it.starts_with("venom_")), "{text}");

        let asked = Instant::now();
        let ended = operator.terminate().await;
        println!("ended {:?} after SIGTERM", asked.elapsed());
        assert_eq!(ended.code(), Some(0));
        let mut committed = 0;
        for name in ["venom", "slow"] {
            let live = world.ledger(name).await;
            let summary = live.check();
            committed += summary.beats;
            let status = world.status(name).await;
            assert_eq!(status.ledger.as_ref().unwrap().size, live.head.size, "{name}: published to the end");
            assert_eq!(status.beats, summary.state["beat"].as_u64());
            assert_eq!(condition(&status, "Ready"), ("True".into(), "Beating".into()));
            live.check_status(&status);
        }
        println!("{beaten} beats counted before, {committed} committed in the end");
        assert!(committed as f64 >= beaten, "{beaten} beats were counted and {committed} committed");
        assert!(operator.log().lines().all(|line| !line.contains(" ERROR ")), "{}", operator.log());
    })
    .await;
}

/// Organisms that cannot commit keep no other from committing, and a stop writes the last status of those that can.
#[tokio::test]
async fn organisms_that_cannot_commit_delay_no_other() {
    in_world(async |world| {
        let mut operator = world.operator("alpha");
        let spec = json!({"pulse": {"minPeriod": "100ms"}});
        // More than there are turns for commits that are not urgent.
        let stuck: Vec<String> = (0..9).map(|number| format!("stuck-{number}")).collect();
        for name in &stuck {
            world.create::<Organism>(name, spec.clone()).await;
        }
        world.create::<Organism>("free", spec).await;
        for name in &stuck {
            world.beating(name).await;
            world.edit_head(name, |head| head["epoch"] = json!(u64::MAX)).await;
        }
        for name in &stuck {
            world.condition(name, "Ready", "False", "HeadUnreadable").await;
        }
        world.beating("free").await;
        world.beats_more("free", 100).await;

        assert!(operator.terminate().await.success());
        let (live, status) = (world.ledger("free").await, world.status("free").await);
        assert_eq!(status.ledger.as_ref().unwrap().size, live.head.size, "published to the end");
        live.check_status(&status);
    })
    .await;
}

/// The command line exports the ledger of the cluster and reports missing segments.
#[tokio::test]
async fn the_command_line_reads_a_live_ledger() {
    in_world(async |world| {
        let mut operator = world.operator("alpha");
        world.create::<Organism>("venom", json!({"beats": 40})).await;
        world.condition("venom", "Ready", "True", "Completed").await;
        operator.terminate().await;
        let live = world.ledger("venom").await;
        let exported = world.venom_ledger("export", "venom").unwrap();
        let lines: Vec<String> = live.entries.iter().map(venom::ledger::Entry::to_line).collect();
        assert_eq!(exported.lines().collect::<Vec<_>>(), lines);
        assert!(world.venom_ledger("verify", "venom").unwrap().contains(&live.head.root_hex()));
        assert!(world.venom_ledger("replay", "venom").unwrap().contains("40 beats"));
        assert!(world.venom_ledger("show", "venom").is_ok());

        let store = world.store("venom").await;
        let first = &live.head.segments[0];
        store.delete(&store.name_of(first), &first.object).await.unwrap();
        let found = world.venom_ledger("verify", "venom").unwrap_err();
        assert!(found.contains(&store.name_of(first)), "{found}");
    })
    .await;
}
