//! Well-behaved peers on real sockets.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use venom::mesh::{Identity, InjectionPayload, Mesh};

use crate::support::{
    Entries, anoms, assert_exactly_once, authority, credentials, inject, introduce, node, nodes, operator,
    pod, record, start, until,
};

/// Five nodes, an operator linked to one of them, and every injection sent through two nodes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn injections_from_any_node_reach_the_ledger_once() {
    let authority = authority();
    let peers = nodes(&authority, 5).await;
    until("a full mesh", || peers.iter().all(|peer| peer.metrics.links() == 4)).await;
    let entries = Entries::default();
    let collector =
        operator(&authority, &entries, peers.iter().map(|it| it.address.unwrap()).collect()).await;
    until("a collector", || peers.iter().map(|peer| peer.metrics.links()).sum::<i64>() == 21).await;

    let entry_nodes: Vec<Mesh> = peers.iter().map(|peer| peer.mesh.clone()).collect();
    let mut tasks = vec![];
    for number in 0..100_usize {
        for from in [number, number + 1] {
            let mut entry_nodes = entry_nodes.clone();
            entry_nodes.rotate_left(from % 5);
            let id = format!("injection-{number}");
            tasks.push(tokio::spawn(async move {
                let entry = inject(&entry_nodes, &id, anoms(3)).await;
                (id, entry)
            }));
        }
    }
    let mut acknowledged = BTreeMap::new();
    for task in tasks {
        let (id, entry) = task.await.unwrap();
        assert_eq!(*acknowledged.entry(id).or_insert(entry), entry);
    }
    assert_exactly_once(&entries, &acknowledged);
    // Every node sees every injection, and the recorded origin is one of the two nodes that accepted it.
    for peer in &peers {
        let shown = |name: &str| {
            let text = peer.metrics.text();
            text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok())
        };
        until("every injection seen", || shown("venom_mesh_anoms_total") == Some(300.0)).await;
        assert_eq!(shown("venom_mesh_injections_total"), Some(100.0));
    }
    for event in entries.lock().unwrap().iter() {
        let number: usize = event.id.as_str().strip_prefix("injection-").unwrap().parse().unwrap();
        let origins = [number % 5, (number + 1) % 5].map(|at| pod(&format!("pod-{at}")));
        assert!(origins.contains(&event.origin), "{event:?}");
    }
    // A weight out of range is rejected by the node and never reaches the ledger.
    let heavy = InjectionPayload { anoms: None, ml_weight: Some(3.0) };
    assert!(peers[0].mesh.inject("heavy".parse().unwrap(), heavy).await.is_err());
    assert_eq!(entries.lock().unwrap().len(), 100);
    drop(collector);
}

/// Nodes stop one after the other, and the operator restarts: it links to another node, and nothing is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operator_fails_over_to_another_node() {
    let authority = authority();
    let mut peers = nodes(&authority, 4).await;
    let entries = Entries::default();
    let all: Vec<_> = peers.iter().map(|it| it.address.unwrap()).collect();
    let mut collector = operator(&authority, &entries, all.clone()).await;
    let mut acknowledged = BTreeMap::new();
    let mut number = 0;
    while peers.len() > 1 {
        for _ in 0..5 {
            number += 1;
            let entry_nodes: Vec<Mesh> = peers.iter().map(|peer| peer.mesh.clone()).collect();
            let id = format!("injection-{number}");
            acknowledged.insert(id.clone(), inject(&entry_nodes, &id, anoms(1)).await);
        }
        // The operator is linked to the peer with the most links.
        peers.sort_by_key(|peer| peer.metrics.links());
        peers.pop().unwrap().mesh.stop().await;
        // Another operator process, which has the ledger and no other state.
        collector.mesh.stop().await;
        collector = operator(&authority, &entries, all.clone()).await;
    }
    let entry_nodes = [peers[0].mesh.clone()];
    for (id, entry) in &acknowledged {
        assert_eq!(inject(&entry_nodes, id, anoms(1)).await, *entry);
    }
    assert_exactly_once(&entries, &acknowledged);
}

/// A collector with a listener, like `venom run --mesh`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_can_be_the_collector() {
    let authority = authority();
    let mut peers = nodes(&authority, 2).await;
    let entries = Entries::default();
    let identity = Identity::operator("venom").unwrap();
    let holder = node(credentials(&authority, &identity, crate::support::DAY));
    let (holder, injections) = start(holder, Some(vec![])).await;
    tokio::spawn(record(injections.unwrap(), entries.clone()));
    let own = holder.mesh.clone();
    peers.push(holder);
    introduce(&peers);
    until("a full mesh", || peers.iter().all(|peer| peer.metrics.links() == 2)).await;
    let mut acknowledged = BTreeMap::new();
    for (number, entry_node) in [&peers[0].mesh, &peers[1].mesh, &own].into_iter().enumerate() {
        let id = format!("injection-{number}");
        acknowledged.insert(id.clone(), inject(std::slice::from_ref(entry_node), &id, anoms(1)).await);
    }
    assert_exactly_once(&entries, &acknowledged);
    let from: Vec<String> = entries.lock().unwrap().iter().map(|event| event.origin.to_string()).collect();
    assert_eq!(from[2], "spiffe://venom/operator");
}

/// Whichever side dials first, and also after a peer restarts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_pair_of_peers_has_one_link() {
    let authority = authority();
    let mut peers = nodes(&authority, 6).await;
    let full = |peers: &[crate::support::Peer]| peers.iter().all(|peer| peer.metrics.links() == 5);
    until("a full mesh", || full(&peers)).await;
    let gone = peers.pop().unwrap();
    gone.mesh.stop().await;
    until("one less", || peers.iter().all(|peer| peer.metrics.links() == 4)).await;
    let again = start(node(credentials(&authority, &pod("pod-5"), crate::support::DAY)), None).await.0;
    peers.push(again);
    introduce(&peers);
    until("a full mesh again", || full(&peers)).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(full(&peers));
}

/// With certificates of a few seconds, links move to renewed ones: no peer is ever unlinked, nothing is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_renewed_without_a_gap() {
    let authority = Arc::new(authority());
    let life = Duration::from_secs(9);
    let mut peers = vec![];
    for at in 0..3 {
        let config = node(credentials(&authority, &pod(&format!("pod-{at}")), life));
        peers.push(start(config, None).await.0);
    }
    introduce(&peers);
    until("a full mesh", || peers.iter().all(|peer| peer.metrics.links() == 2)).await;
    let entries = Entries::default();
    let all: Vec<_> = peers.iter().map(|it| it.address.unwrap()).collect();
    let _collector = operator(&authority, &entries, all).await;
    let entry_nodes: Vec<Mesh> = peers.iter().map(|peer| peer.mesh.clone()).collect();
    let (began, mut renewed, mut acknowledged, mut number) = (Instant::now(), 0, BTreeMap::new(), 0);
    // Until well after the first certificates have expired.
    while began.elapsed() < life * 2 {
        if began.elapsed() > Duration::from_secs(2) * (renewed + 1) {
            renewed += 1;
            for (at, peer) in peers.iter().enumerate() {
                let name = pod(&format!("pod-{at}"));
                peer.credentials.send_replace(credentials(&authority, &name, life));
            }
        }
        for peer in &peers {
            assert!(peer.metrics.links() >= 2, "a gap after {:?}", began.elapsed());
        }
        number += 1;
        let id = format!("injection-{number}");
        acknowledged.insert(id.clone(), inject(&entry_nodes[number % 3..], &id, anoms(1)).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_exactly_once(&entries, &acknowledged);
}
