//! Pruning of old entries.
use std::time::{Duration, Instant};

use serde_json::json;
use venom::api::Organism;
use venom::store::Head;

use crate::harness::{eventually, within};
use crate::world::in_world;

/// The operator's limit for all ledgers. It is below the smallest `retain.bytes`, which takes minutes to fill.
const RETAIN: u64 = 48 * 1024;
/// Timeout for two prunings at full pace on a busy machine.
const LIMIT: Duration = Duration::from_secs(300);

/// The oldest segments are pruned, the number of objects and their size stay bounded, and the root covers all entries.
#[tokio::test]
async fn a_ledger_is_pruned_to_its_bound() {
    in_world(async |world| {
        let _operator = world.operator_with("alpha", &["--ledger-total-bytes", "48Ki"]);
        world.create::<Organism>("venom", json!({"ledger": {"retain": {"bytes": "256Ki"}}})).await;
        world.beating("venom").await;
        world.condition("venom", "LedgerIntact", "True", "RetainReduced").await;
        let started = Instant::now();
        let (mut floors, mut most, mut largest): (Vec<u64>, usize, u64) = (vec![0], 0, 0);
        let mut told = 0;
        let mut before: Option<Head> = None;
        let mut anoms = 0;
        within(LIMIT, "the floor to rise twice", async || {
            // Each config change is an entry and an immediate commit, which makes the ledger grow faster.
            anoms = (anoms + 1) % 4;
            world.patch_genome("venom", json!({"risk": {"anoms": anoms}})).await;
            let objects = world.ledger_objects("venom").await.len();
            let head = world.store("venom").await.head().await.unwrap().unwrap().head.unwrap();
            most = most.max(objects);
            largest = largest.max(head.bytes());
            if floors.last() != Some(&head.floor) {
                floors.push(head.floor);
            }
            let seconds = started.elapsed().as_secs();
            if seconds >= told + 10 {
                told = seconds;
                println!(
                    "{seconds} s: {} entries, {} bytes in {objects} objects, floors {floors:?}",
                    head.size,
                    head.bytes()
                );
            }
            assert!(
                before.as_ref().is_none_or(|before| before.size <= head.size && before.floor <= head.floor)
            );
            let rest = head.bytes() - head.segments.first().map_or(0, |it| it.bytes);
            // On a busy machine statuses come late, and what none has published is kept up to twice the bound.
            assert!(rest <= 2 * RETAIN, "{rest} bytes beside the oldest segment");
            let seen = format!("floors {floors:?}, {} bytes", head.bytes());
            before = Some(head);
            if floors.len() > 2 { Ok(()) } else { Err(seen) }
        })
        .await;
        println!(
            "at most {most} objects and {largest} bytes; floors {floors:?} after {:?}",
            started.elapsed()
        );
        assert!(most <= 80, "{most} objects");

        // Without further beats, status and ledger are consistent once the last merge is published.
        world.patch_organism("venom", json!({"suspend": true})).await;
        world.condition("venom", "Ready", "True", "Suspended").await;
        let (live, status) = eventually("what is there to be published", async || {
            let (live, status) = (world.ledger("venom").await, world.status("venom").await);
            let there = (live.head.segments.len() as u64, live.head.bytes());
            let shown = status.ledger.as_ref().map(|it| (u64::from(it.segments), it.bytes));
            if shown == Some(there) { Ok((live, status)) } else { Err(format!("{shown:?}, {there:?}")) }
        })
        .await;
        live.check_status(&status);
        let summary = live.check();
        let stated = status.ledger.unwrap();
        assert_eq!(stated.size, live.head.size);
        assert_eq!(stated.merkle_root, summary.root);
        let from = stated.replayable_from.unwrap();
        assert_eq!(Some(from.index), summary.from);
        let start = &live.entries[usize::try_from(from.index - live.head.floor).unwrap()];
        assert_eq!(start.kind(), "snapshot");
        assert_eq!(from.time.0.as_second(), start.timestamp as i64);
        assert!(live.head.floor >= *floors.last().unwrap());
    })
    .await;
}
