//! A namespace that asks for more than its share harms only itself.
use serde_json::json;
use venom::api::Organism;

use crate::harness::eventually;
use crate::world::{World, in_world};

const MODEST: usize = 20;
/// Beats of a modest organism that one commit may hold. Its interval is 5 s and its period 1 s; the rest is for a busy
/// machine. The interval of one that pays for its neighbours is a minute.
const MOST_BEATS: u64 = 15;
/// Entries of a beat.
const ENTRIES: u64 = 7;

async fn reason(world: &World, name: &str, kind: &str) -> String {
    let conditions = world.status(name).await.conditions;
    conditions.iter().find(|it| it.type_ == kind).map_or_else(String::new, |it| it.reason.clone())
}

/// Organisms beyond any pace and interval, one of them with inputs all the time, and many suspended ones: they are slowed
/// and keep less. Those of the other namespace beat, commit and keep what their specs ask for.
#[tokio::test]
async fn a_greedy_namespace_slows_only_itself() {
    in_world(async |modest| {
        in_world(async |greedy| {
            let limits = ["--write-budget", "100/s", "--ledger-total-bytes", "16Mi"];
            let _operator =
                modest.operator_with("alpha", &[&limits[..], &["--namespace", &*greedy.namespace]].concat());
            for at in 0..MODEST {
                let spec = json!({
                    "pulse": {"minPeriod": "1s"},
                    "ledger": {"commitInterval": "5s", "retain": {"bytes": "256Ki"}},
                });
                modest.create::<Organism>(&format!("modest-{at}"), spec).await;
            }
            for at in 0..40 {
                let spec = json!({
                    "suspend": at >= 4,
                    "pulse": {"t1": 1e-9},
                    "ledger": {"commitInterval": "1ms", "retain": {"bytes": "16Mi"}},
                });
                greedy.create::<Organism>(&format!("greedy-{at}"), spec).await;
            }
            for at in 0..MODEST {
                modest.beating(&format!("modest-{at}")).await;
            }
            // By its share of the bytes or, on a busy machine, by that of the processor.
            eventually("greedy-0 is slowed", async || match reason(&greedy, "greedy-0", "Beating").await {
                it if ["Throttled", "Overrun"].contains(&&*it) => Ok(()),
                it => Err(it),
            })
            .await;
            greedy.condition("greedy-0", "LedgerIntact", "True", "RetainReduced").await;
            let names: Vec<String> = (0..MODEST).map(|at| format!("modest-{at}")).collect();
            let mut before = vec![];
            for name in &names {
                before.push(modest.status(name).await.beats.unwrap_or_default());
            }
            // Their own specs have half a minute of beats before them.
            let mut anoms = 0;
            for (name, before) in names.iter().zip(&before) {
                eventually("thirty beats", async || {
                    anoms = (anoms + 1) % 4;
                    greedy.patch_genome("greedy-0", json!({"risk": {"anoms": anoms}})).await;
                    let beats = modest.status(name).await.beats.unwrap_or_default();
                    if beats >= before + 30 { Ok(()) } else { Err(format!("{beats} beats, {before} before")) }
                })
                .await;
            }
            for name in &names {
                assert_eq!(reason(&modest, name, "Beating").await, "Beating", "{name}");
                assert_eq!(reason(&modest, name, "LedgerIntact").await, "Verified", "{name}");
                let head = modest.store(name).await.head().await.unwrap().unwrap().head.unwrap();
                let commits = head.segments.iter().filter(|it| it.level == 0).map(|it| it.count);
                let largest = commits.max().unwrap_or_default();
                assert!(largest <= MOST_BEATS * ENTRIES, "{name}: {largest} entries in one commit");
            }
        })
        .await;
    })
    .await;
}

/// The youngest Organisms beyond the limit of their namespace say so and have nothing made; one starts when there is room.
#[tokio::test]
async fn organisms_beyond_the_limit_of_their_namespace_wait_for_room() {
    in_world(async |world| {
        for name in ["first", "second", "third"] {
            world.create::<Organism>(name, json!({"pulse": {"minPeriod": "1s"}})).await;
            // They are older and younger by whole seconds.
            tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
        }
        let _operator = world.operator_with("alpha", &["--max-organisms-per-namespace", "2"]);
        world.condition("third", "Ready", "False", "TooManyOrganisms").await;
        world.beating("first").await;
        world.beating("second").await;
        assert_eq!(world.ledger_objects("third").await.len(), 0);
        assert!(world.genomes.get_opt("third").await.unwrap().is_none(), "no Genome is made for it");
        world.delete_organism("first").await;
        world.beating("third").await;
        world.condition("second", "Ready", "True", "Beating").await;
    })
    .await;
}
