//! Several operators that share the Organisms.
use std::collections::BTreeMap;

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use venom::api::Organism;
use venom::operator::members::lease::scope;

use crate::harness::eventually;
use crate::http::{free_address, metric_of};
use crate::ledger::Live;
use crate::operator::{Operator, says_lost};
use crate::world::{World, in_world, message, owner_among};

impl World {
    /// Creates this number of Organisms. Returns their names.
    async fn organisms(&self, count: usize) -> Vec<String> {
        let names: Vec<_> = (0..count).map(|at| format!("o{at}")).collect();
        for name in &names {
            self.create::<Organism>(name, json!({"pulse": {"minPeriod": "100ms"}})).await;
        }
        names
    }

    /// Waits until each Organism beats where it is to be held among the operators of these names, and nowhere else.
    async fn shared_by(&self, operators: &[&str]) -> BTreeMap<String, String> {
        eventually(&format!("the Organisms to be shared by {operators:?}"), async || {
            let all = self.organisms.list(&ListParams::default()).await.map_err(|it| it.to_string())?;
            let mut holders = BTreeMap::new();
            for organism in all {
                let (name, uid) = (organism.name_any(), organism.uid().unwrap());
                let status = organism.status.unwrap_or_default();
                let holder = status.ledger.map(|it| it.holder).unwrap_or_default();
                let owner = owner_among(operators, &uid);
                if holder != owner {
                    return Err(format!("{name} is held by {holder:?}, not by {owner}"));
                }
                holders.insert(name, holder);
            }
            Ok(holders)
        })
        .await
    }

    /// Waits until each of these has beaten a few times more.
    async fn all_beat(&self, names: &[String]) {
        for name in names {
            self.beats_more(name, 3).await;
        }
    }

    /// Reads the ledger of each of these and derives everything in it again.
    async fn check_all(&self, names: &[String]) -> BTreeMap<String, Live> {
        let mut ledgers = BTreeMap::new();
        for name in names {
            let live = self.ledger(name).await;
            live.check();
            ledgers.insert(name.clone(), live);
        }
        ledgers
    }
}

fn held_by(holders: &BTreeMap<String, String>, operator: &str) -> usize {
    holders.values().filter(|it| *it == operator).count()
}

fn took_over(address: &str, reason: &str) -> f64 {
    metric_of(address, &format!("venom_takeovers_total{{reason=\"{reason}\"}}"))
}

/// One operator joins another, leaves again, and joins and is killed: only its share moves, and no ledger twice.
#[tokio::test]
async fn operators_that_come_and_go_move_only_their_share() {
    in_world(async |world| {
        let address = free_address();
        let mut alpha = world.operator_with("alpha", &["--metrics-addr", &address]);
        let names = world.organisms(12).await;
        world.shared_by(&["alpha"]).await;
        world.all_beat(&names).await;

        let mut beta = world.operator("beta");
        let shared = world.shared_by(&["alpha", "beta"]).await;
        let moved = held_by(&shared, "beta");
        world.all_beat(&names).await;
        for (name, live) in &world.check_all(&names).await {
            // A hand-over marks the head with an epoch of its own.
            let epochs = if shared[name] == "beta" { 3 } else { 1 };
            assert_eq!(live.head.epoch, epochs, "{name} is held by {}", shared[name]);
            assert_eq!((&live.head.holder, live.head.released), (&shared[name], false));
        }
        assert_eq!(metric_of(&address, "venom_held_organisms"), (names.len() - moved) as f64);

        assert!(beta.terminate().await.success());
        world.shared_by(&["alpha"]).await;
        world.all_beat(&names).await;
        assert_eq!(took_over(&address, "released"), moved as f64, "given back, not waited for");

        let mut beta = world.operator("beta");
        world.shared_by(&["alpha", "beta"]).await;
        beta.kill();
        world.shared_by(&["alpha"]).await;
        world.all_beat(&names).await;
        assert_eq!(took_over(&address, "expired"), moved as f64);
        world.check_all(&names).await;
        assert!(alpha.terminate().await.success());
    })
    .await;
}

/// An operator that stood still for longer than its Lease is good for: the other goes on with its Organisms. Woken, it
/// writes nothing of them, says so once for each, and takes its share again. Its process goes on.
#[tokio::test]
async fn an_operator_that_stood_still_loses_its_organisms_and_takes_its_share_again() {
    in_world(async |world| {
        let mut alpha = world.operator("alpha");
        let names = world.organisms(8).await;
        let mut beta = world.operator("beta");
        let shared = world.shared_by(&["alpha", "beta"]).await;
        alpha.signal("STOP");
        world.shared_by(&["beta"]).await;
        world.all_beat(&names).await;
        alpha.signal("CONT");
        assert_eq!(world.shared_by(&["alpha", "beta"]).await, shared);
        world.all_beat(&names).await;
        for name in world.check_all(&names).await.keys() {
            let log = alpha.log();
            let of = format!("/{name}");
            let says = log.lines().filter(|it| it.contains(&of) && says_lost(it)).count();
            assert_eq!(says, usize::from(shared[name] == "alpha"), "{name}: {log}");
        }
        assert!(alpha.runs() && beta.runs());
    })
    .await;
}

impl World {
    /// The Leases of this test's operators.
    async fn leases(&self) -> (Api<Lease>, Vec<Lease>) {
        let leases: Api<Lease> = Api::default_namespaced(self.client.clone());
        let scope = format!("genesis.venom.dev/replicas-of={}", scope(std::slice::from_ref(&self.namespace)));
        let found = leases.list(&ListParams::default().labels(&scope)).await.unwrap().items;
        (leases, found)
    }
}

/// Deleted Leases are written again before anybody takes their replicas for dead.
#[tokio::test]
async fn leases_deleted_by_hand_move_nothing() {
    in_world(async |world| {
        let (_alpha, _beta) = (world.operator("alpha"), world.operator("beta"));
        let names = world.organisms(6).await;
        world.shared_by(&["alpha", "beta"]).await;
        let epochs = async || -> Vec<u64> {
            let mut epochs = vec![];
            for name in &names {
                epochs.push(world.ledger(name).await.head.epoch);
            }
            epochs
        };
        let before = epochs().await;
        for _ in 0..5 {
            let (leases, found) = world.leases().await;
            for lease in found {
                let _ = leases.delete(&lease.name_any(), &DeleteParams::default()).await;
            }
            world.all_beat(&names[..1]).await;
        }
        world.all_beat(&names).await;
        eventually("two Leases", async || {
            let found = world.leases().await.1;
            if found.len() == 2 { Ok(()) } else { Err(format!("{} Leases", found.len())) }
        })
        .await;
        assert_eq!(epochs().await, before);
    })
    .await;
}

/// Both operators are killed at once. Others of other names go on when the Leases have expired.
#[tokio::test]
async fn new_operators_go_on_after_all_were_killed() {
    in_world(async |world| {
        let mut all: Vec<Operator> = ["alpha", "beta"].map(|it| world.operator(it)).into();
        let names = world.organisms(6).await;
        world.shared_by(&["alpha", "beta"]).await;
        world.all_beat(&names).await;
        let before = world.check_all(&names).await;
        all.iter_mut().for_each(Operator::kill);
        let _new = ["gamma", "delta"].map(|it| world.operator(it));
        world.shared_by(&["gamma", "delta"]).await;
        world.all_beat(&names).await;
        for (name, after) in world.check_all(&names).await {
            after.continues(&before[&name]);
        }
    })
    .await;
}

/// Two processes with one name: the newer one goes on, the older one stops beating and says what to do.
#[tokio::test]
async fn a_second_process_of_the_same_name_replaces_the_first() {
    in_world(async |world| {
        let mut first = world.operator("alpha");
        let names = world.organisms(2).await;
        world.shared_by(&["alpha"]).await;
        let _second = world.operator("alpha");
        eventually("the first to be displaced", async || {
            let log = first.log();
            if log.contains("give each replica an --identity of its own") { Ok(()) } else { Err(log) }
        })
        .await;
        world.all_beat(&names).await;
        assert!(first.runs());
        first.kill();
        world.all_beat(&names).await;
        world.check_all(&names).await;
        let status = world.status(&names[0]).await;
        assert_eq!(message(&status, "Beating"), "Beats at the pace of its spec.");
    })
    .await;
}

/// Operators that watch different namespaces see no Lease of each other, and have one namespace in common, which is a mistake:
/// each organism stays with whichever of them writes its ledger.
#[tokio::test]
async fn operators_of_other_namespaces_do_not_take_an_organism_in_turn() {
    in_world(async |world| {
        let alpha = world.operator("alpha");
        let names = world.organisms(2).await;
        world.shared_by(&["alpha"]).await;
        let beta = world.operator_with("beta", &["--namespace", "venom-elsewhere"]);
        eventually("beta to take organisms", async || {
            let takes = beta.log().contains("taking_organisms=\"beta\"");
            if takes { Ok(()) } else { Err(beta.log()) }
        })
        .await;
        world.beats_more(&names[0], 100).await;
        let ledgers = world.check_all(&names).await;
        let beyond = ledgers.values().filter(|it| it.head.epoch > 1).count();
        for (name, live) in &ledgers {
            let holder = if live.head.epoch > 1 { "beta" } else { "alpha" };
            assert_eq!((&*live.head.holder, live.head.epoch <= 2), (holder, true), "{name}");
        }
        let lost = |operator: &Operator| operator.log().lines().filter(|it| says_lost(it)).count();
        assert_eq!((lost(&alpha), lost(&beta)), (beyond, 0));
    })
    .await;
}
