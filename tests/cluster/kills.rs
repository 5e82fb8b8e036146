//! Killed operators, and two operators at a time.
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use kube::api::DeleteParams;
use serde_json::json;
use tokio::time::sleep;
use venom::api::Organism;
use venom::store::Head;
use venom::store::objects::parse_segment_name;

use crate::harness::eventually;
use crate::ledger::Live;
use crate::world::{World, in_world};

const KILLS: usize = 50;
/// Seed of the random delays, fixed so that every run uses the same.
const SEED: u64 = 20_261_123;

/// The next pseudo-random number (SplitMix64).
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

async fn head(world: &World) -> Option<Head> {
    world.store("venom").await.head().await.unwrap().and_then(|found| found.head)
}

/// SIGKILL at random times: committed entries stay the same byte for byte, and the chain continues from them.
#[tokio::test]
async fn nothing_committed_is_lost_in_fifty_kills() {
    in_world(async |world| {
        // Slower than T_Λ, so that checking keeps up with beating. Commits are as frequent as at full pace.
        let spec = json!({"pulse": {"minPeriod": "15ms"}, "ledger": {"commitInterval": "100ms"}});
        world.create::<Organism>("venom", spec).await;
        let mut seed = SEED;
        let (mut epoch, mut size) = (0, 0);
        let mut beaten = BTreeSet::new();
        let mut earlier: Option<Live> = None;
        let mut took = vec![];
        for kill in 1..=KILLS {
            let started = Instant::now();
            let mut operator = world.operator("alpha");
            let found = eventually(&format!("take-over {kill}"), async || match head(&world).await {
                Some(head) if head.epoch > epoch => Ok(head),
                other => Err(format!("{other:?}")),
            })
            .await;
            assert_eq!(found.epoch, epoch + 1, "one epoch a take-over");
            epoch = found.epoch;
            took.push(started.elapsed());
            if random(&mut seed).is_multiple_of(2) {
                // Killed while beating; the other operators may be killed during the take-over.
                eventually("entries", async || match head(&world).await {
                    Some(head) if head.size > found.size => Ok(()),
                    other => Err(format!("{:?}", other.map(|head| head.size))),
                })
                .await;
            }
            sleep(Duration::from_millis(50 + random(&mut seed) % 551)).await;
            operator.kill();
            let now = head(&world).await.unwrap();
            assert!(now.size >= size, "entries were taken back: {} after {size}", now.size);
            // The commit of the life before may have been in flight: what counts is what came after the take-over.
            if now.size > found.size && found.size > 0 {
                beaten.insert(epoch);
            }
            size = now.size;
            if kill % 10 == 0 {
                let live = world.ledger("venom").await;
                let summary = live.check();
                let compared = earlier.as_ref().map_or(0, |earlier| live.continues(earlier));
                println!("{kill} kills: {} entries hold, {compared} as before", live.head.size);
                let epochs: Vec<u64> =
                    summary.inputs_of("resume").iter().map(|it| it["epoch"].as_u64().unwrap()).collect();
                assert!(epochs.is_sorted_by(|a, b| a < b), "resumes of epochs {epochs:?}");
                // A commit that was in flight when the operator was killed may have succeeded.
                let without: Vec<_> = beaten.iter().filter(|it| !epochs.contains(it)).collect();
                assert!(without.is_empty(), "epochs {without:?} wrote entries without a resume");
                assert!(summary.inputs_of("resume").iter().all(|it| it["reason"] == "restart"));
                earlier = Some(live);
            }
        }
        took.sort();
        println!(
            "from start to take-over: median {:?}, longest {:?}; {} of {KILLS} lives committed beats",
            took[KILLS / 2],
            took[KILLS - 1],
            beaten.len() + 1
        );
        assert!(beaten.len() > KILLS / 4, "too few operators lived to commit: nothing was tried");

        // Unlisted segments are deleted after the next take-over.
        let _operator = world.operator("alpha");
        world.beating("venom").await;
        eventually("garbage to be gone", async || {
            let there = world.ledger_objects("venom").await;
            let now = head(&world).await.unwrap();
            let store = world.store("venom").await;
            let listed: BTreeSet<_> = now.segments.iter().map(|it| store.name_of(it)).collect();
            // Segments of its own epoch may have just been created or merged.
            let earlier =
                |it: &&String| parse_segment_name("venom", it).is_some_and(|(epoch, ..)| epoch < now.epoch);
            let garbage: Vec<_> = there.iter().filter(earlier).filter(|it| !listed.contains(*it)).collect();
            if garbage.is_empty() { Ok(()) } else { Err(format!("{garbage:?}")) }
        })
        .await;
    })
    .await;
}

/// A head that is deleted after another operator took the ledger over, and while that one is not running, is not made again
/// from what the earlier one has: its head is older than what was committed and published since.
#[tokio::test]
async fn a_fenced_operator_does_not_make_a_deleted_head_again() {
    in_world(async |world| {
        let first = world.operator("alpha");
        let spec = json!({"pulse": {"minPeriod": "20ms"}, "ledger": {"commitInterval": "100ms"}});
        world.create::<Organism>("venom", spec).await;
        world.beating("venom").await;
        first.signal("STOP");
        let mut second = world.operator("beta");
        eventually("a commit of the second", async || match head(&world).await {
            Some(head) if head.segments.iter().any(|it| it.epoch == 2) => Ok(()),
            other => Err(format!("{:?}", other.map(|head| head.epoch))),
        })
        .await;
        world.beats_more("venom", 20).await;
        assert!(second.terminate().await.success());
        let later = world.ledger("venom").await;
        let published = world.status("venom").await.ledger.unwrap();
        assert_eq!(published.size, later.head.size);
        world.maps.delete("venom-ledger", &DeleteParams::default()).await.unwrap();

        first.signal("CONT");
        world.condition("venom", "LedgerIntact", "False", "TailLost").await;
        world.beats_more("venom", 20).await;
        let live = world.ledger("venom").await;
        let continues = live.check().inputs_of("genesis")[0]["continues"].clone();
        assert_eq!(continues["root"], json!(published.merkle_root));
        let kept = Live::listed(&world.store("venom").await, later.head.clone()).await.unwrap();
        assert_eq!(kept.gaps, [], "segments of the lost head are gone");
    })
    .await;
}

/// A raised epoch in one head, written by whoever may edit ConfigMaps, ends that organism's run alone. Under our own
/// name no other operator holds it, so it is recovered and goes on.
#[tokio::test]
async fn an_epoch_raised_by_hand_restarts_that_organism_alone() {
    in_world(async |world| {
        let mut operator = world.operator("alpha");
        world.create::<Organism>("venom", json!({})).await;
        world.create::<Organism>("other", json!({})).await;
        world.beating("venom").await;
        world.beating("other").await;
        let before = world.ledger("venom").await;
        let store = world.store("venom").await;
        loop {
            let found = store.head().await.unwrap().unwrap();
            let mut head = found.head.unwrap();
            head.epoch += 7;
            // The committer replaces the head several times a second.
            if store.put_head(&head, &found.resource_version).await.is_ok() {
                break;
            }
        }
        world.beats_more("other", 500).await;
        eventually("the organism to be recovered", async || match head(&world).await {
            Some(head) if head.epoch == 9 && head.size > before.head.size => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
        world.beats_more("venom", 100).await;
        let live = world.ledger("venom").await;
        live.continues(&before);
        let resumes = live.check().inputs_of("resume").into_iter().cloned().collect::<Vec<_>>();
        assert_eq!((resumes.len(), &resumes[0]["epoch"]), (1, &json!(9)), "{resumes:?}");
        assert!(operator.runs());
        assert!(world.ledger("other").await.check().inputs_of("resume").is_empty());
    })
    .await;
}

/// An epoch that no writer can have reached is not a take-over: the head is unreadable, and that is said.
#[tokio::test]
async fn an_absurd_epoch_makes_the_head_unreadable() {
    in_world(async |world| {
        let mut operator = world.operator("alpha");
        world.create::<Organism>("venom", json!({})).await;
        world.beating("venom").await;
        let before = world.ledger("venom").await;
        world.edit_head("venom", |head| head["epoch"] = json!(u64::MAX)).await;
        world.condition("venom", "Ready", "False", "HeadUnreadable").await;
        assert!(operator.runs());
        world.edit_head("venom", |head| head["epoch"] = json!(1)).await;
        world.beats_more("venom", 100).await;
        let live = world.ledger("venom").await;
        assert_eq!(live.head.epoch, 1);
        live.continues(&before);
    })
    .await;
}
