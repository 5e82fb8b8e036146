//! Injections through the nodes of an Organism into the ledger of a real operator.
//!
//! There is no kubelet: the nodes run in the test process, with real sockets and certificates of the operator's
//! authority, and the tests create the EndpointSlices.
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::PostParams;
use serde_json::json;
use tokio::time::sleep;
use venom::api::{Genome, Organism};
use venom::ledger::entry::Data;
use venom::mesh::{InjectionPayload, Mesh, Outcome};

use crate::doors::{NODES, inject, new_id, own_address, slice};
use crate::harness::{eventually, free_port, within};
use crate::operator::Operator;
use crate::world::{World, condition, in_world, message};

const INJECTIONS: usize = 1_000;
/// Number of concurrent clients.
const CLIENTS: usize = 8;
const KILLS: usize = 8;
const HAND_OVERS: usize = 4;
/// How long a client retries.
const PATIENCE: Duration = Duration::from_secs(120);

/// The operator is killed repeatedly while clients inject.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_injections_are_recorded_once_while_operators_are_killed() {
    acknowledged_are_recorded_once(async |world, mut operator| {
        for kill in 0..KILLS {
            sleep(Duration::from_millis(700 + 311 * (kill as u64 % 4))).await;
            operator.kill();
            operator = world.operator_with_bodies("alpha", &[]);
        }
        operator
    })
    .await;
}

/// The organism is handed over while clients inject: to operators that join, and by ones that are killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_injections_are_recorded_once_while_the_organism_is_handed_over() {
    acknowledged_are_recorded_once(async |world, mut operator| {
        for round in 0..HAND_OVERS {
            let held_by = operator.identity().to_owned();
            // One that is to hold it once it has joined, or once the other is gone.
            let joins = round % 2 == 0;
            let name = world.beside("venom", &held_by, joins).await;
            // On a machine of its own it would have the same port.
            let issuer_url = format!("https://127.0.0.1:{}/v1/certificates", free_port());
            let bodies = ["--node-image", "localhost/venom:test", "--issuer-url", &*issuer_url];
            let next = world.operator_with(&name, &bodies);
            if joins {
                world.held_by("venom", &name).await;
                assert!(operator.terminate().await.success());
            } else {
                next.shares_with(&held_by).await;
                operator.kill();
            }
            world.held_by("venom", &name).await;
            operator = next;
        }
        operator
    })
    .await;
}

/// Clients inject while the operators are disturbed. Each acknowledged injection is in the ledger exactly once, at the
/// acknowledged index.
async fn acknowledged_are_recorded_once(disturb: impl AsyncFnOnce(&World, Operator) -> Operator) {
    in_world(async |world| {
        let operator = world.operator_with_bodies("alpha", &[]);
        // A window of a second keeps the number of counting injections below the limit of 4,096.
        world.create::<Genome>("venom", json!({"risk": {"window": "1s"}})).await;
        world.create::<Organism>("venom", json!({"pulse": {"minPeriod": "20ms"}})).await;
        world.beating("venom").await;
        let body = world.nodes("venom").await;
        let doors: Arc<Vec<Mesh>> = Arc::new(body.nodes.iter().map(|it| it.mesh.clone()).collect());

        let mut clients = tokio::task::JoinSet::new();
        for client in 0..CLIENTS {
            let doors = doors.clone();
            clients.spawn(async move {
                let mut told = vec![];
                for number in (client..INJECTIONS).step_by(CLIENTS) {
                    let payload = InjectionPayload { anoms: Some(number as u64 % 3), ml_weight: None };
                    match inject(&doors, number, &new_id(), payload, PATIENCE).await {
                        Outcome::Committed { entry } => told.push(entry),
                        Outcome::Refused { reason } => panic!("{number}: {reason}"),
                    }
                    sleep(Duration::from_millis(100)).await;
                }
                told
            });
        }
        let _operator = disturb(&world, operator).await;
        let mut told: Vec<u64> = clients.join_all().await.into_iter().flatten().collect();
        told.sort_unstable();

        let status = world.until("venom", "all injections", |it| it.beats > Some(0)).await;
        let live = world.ledger("venom").await;
        live.check();
        let mut found = BTreeMap::new();
        for entry in live.entries.iter().filter(|it| it.kind() == "injection") {
            let Data::Injection(injection) = entry.data().unwrap() else { panic!("{}", entry.data) };
            assert!(injection.from.unwrap().starts_with("spiffe://venom/org/"));
            assert_eq!(found.insert(injection.id, entry.index), None, "twice in the ledger");
        }
        let mut entries: Vec<u64> = found.into_values().collect();
        entries.sort_unstable();
        assert_eq!(entries, told);
        assert_eq!(live.head.injected_total, INJECTIONS as u64, "{status:?}");
        eventually("injectedTotal", async || {
            let genome = world.genomes.get("venom").await.unwrap();
            let total = genome.status.and_then(|it| it.injected_total);
            if total == Some(INJECTIONS as u64) { Ok(()) } else { Err(format!("{total:?}")) }
        })
        .await;
    })
    .await;
}

/// The Genome bounds the injectable weights. A rejected injection is not in the ledger.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_injection_changes_the_decision_within_the_bounds_of_the_genome() {
    in_world(async |world| {
        let _operator = world.operator_with_bodies("alpha", &[]);
        world.create::<Organism>("venom", json!({"pulse": {"minPeriod": "5s"}})).await;
        world.beating("venom").await;
        let body = world.nodes("venom").await;
        let doors: Vec<Mesh> = body.nodes.iter().map(|it| it.mesh.clone()).collect();
        let weight = InjectionPayload { anoms: None, ml_weight: Some(2.0) };
        let Outcome::Refused { reason } = inject(&doors, 0, &new_id(), weight, PATIENCE).await else {
            panic!("not refused")
        };
        assert!(reason.contains("0.01 to 1"), "{reason}");
        let anoms = InjectionPayload { anoms: Some(20), ml_weight: None };
        let Outcome::Committed { entry } = inject(&doors, 1, &new_id(), anoms, PATIENCE).await else {
            panic!("refused")
        };
        world
            .until("venom", "QUARANTINE", |it| {
                it.decision.as_ref().is_some_and(|it| it.action == venom::api::Action::Quarantine)
            })
            .await;
        let generation = world.patch_genome("venom", json!({"ml": {"injectable": {"max": 3}}})).await;
        eventually("the Genome's generation", async || {
            let status = world.genomes.get("venom").await.unwrap().status.unwrap_or_default();
            let seen = status.observed_generation;
            if seen == Some(generation) { Ok(()) } else { Err(format!("{seen:?}")) }
        })
        .await;
        assert!(matches!(inject(&doors, 2, &new_id(), weight, PATIENCE).await, Outcome::Committed { .. }));
        let live = world.ledger("venom").await;
        live.check();
        let injections: Vec<_> = live.entries.iter().filter(|it| it.kind() == "injection").collect();
        assert_eq!((injections.len(), injections[0].index), (2, entry));
    })
    .await;
}

/// Nodes that do not answer: told after a minute, for injections wait at them; and over once one answers.
#[tokio::test]
async fn an_unreachable_mesh_is_told() {
    in_world(async |world| {
        let _operator = world.operator_with_bodies("alpha", &[]);
        world.create::<Organism>("venom", json!({"pulse": {"minPeriod": "100ms"}})).await;
        world.beating("venom").await;
        world.condition("venom", "MeshReachable", "Unknown", "NoNodes").await;
        let slices: Api<EndpointSlice> = Api::namespaced(world.client.clone(), &world.namespace);
        let closed = SocketAddr::new(own_address(), free_port());
        slices.create(&PostParams::default(), &slice("venom", NODES, closed)).await.unwrap();
        world.condition("venom", "MeshReachable", "Unknown", "Connecting").await;
        within(Duration::from_secs(120), "the mesh to be called unreachable", async || {
            match condition(&world.status("venom").await, "MeshReachable") {
                (status, reason) if status == "False" && reason == "Unreachable" => Ok(()),
                found => Err(format!("{found:?}")),
            }
        })
        .await;
        let says = message(&world.status("venom").await, "MeshReachable");
        assert!(says.contains(&closed.to_string()), "{says}");
        world.event("Warning", "Unreachable").await;
        world.beating("venom").await;
        let _body = world.nodes("venom").await;
        world.condition("venom", "MeshReachable", "True", "Linked").await;
    })
    .await;
}
