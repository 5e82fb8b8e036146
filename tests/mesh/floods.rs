//! A node as a process under attack: over HTTP from anywhere, and by a peer that was taken over. Its memory is bounded,
//! and it serves everyone else all the while.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::SinkExt;
use venom::mesh::InjectionPayload;
use venom::mesh::wire::{Message, SettledEvent, WireEvent};
use venom::mesh::{Identity, Outcome};

use crate::commands::{Process, Workspace};
use crate::security::{connect, frame, hello};
use crate::support::{PATIENCE, anoms};

/// Growth of a process that an attack may cause, in KiB.
const MAX_GROWTH: i64 = 64 * 1024;

/// The answer to a GET on a connection of its own, or the time-out.
fn get(port: &str, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(format!("127.0.0.1:{port}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn assert_healthy(port: &str) {
    let answer = get(port, "/healthz").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

fn metric(port: &str, name: &str) -> f64 {
    let text = get(port, "/metrics").unwrap();
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or_default()
}

/// Waits until `condition` holds, which asks a process.
fn until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "{what}: not after {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Unfinished requests with long headers, far more than there are places.
#[test]
fn unfinished_requests_hold_little_memory() {
    let workspace = Workspace::new();
    workspace.ok("mesh init venom-mesh --nodes 1");
    let node = workspace.node(1, &[]);
    for port in [&node.http, &node.inject] {
        let before = node.resident_kib();
        let headers = format!("GET /healthz HTTP/1.1\r\nhost: node\r\nx-long: {}", "x".repeat(400_000));
        let mut open = vec![];
        for number in 0..600 {
            let mut stream = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
            stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
            // The node may refuse the rest.
            let _ = stream.write_all(headers.as_bytes());
            open.push(stream);
            if number % 100 == 0 {
                assert_healthy(&node.http);
            }
        }
        let grown = node.resident_kib() - before;
        println!("port {port}: {before} KiB, and {grown} KiB more with {} connections", open.len());
        assert_healthy(&node.http);
        assert!(grown < 16 * 1024, "{grown} KiB");
    }
}

/// With 256 descriptors, more idle connections than that: probes are answered and peers can link.
#[test]
fn idle_connections_leave_descriptors_for_probes_and_mesh() {
    let workspace = Workspace::new();
    workspace.ok("mesh init venom-mesh --nodes 2");
    let node = workspace.node_with_descriptors(1, 256);
    let mut idle = vec![];
    for port in [&node.http, &node.inject, &node.mesh] {
        for _ in 0..300 {
            idle.push(TcpStream::connect(format!("127.0.0.1:{port}")).unwrap());
        }
    }
    assert_healthy(&node.http);
    let second = workspace.node(2, &[&node]);
    until("a link", || metric(&second.http, "venom_mesh_links") == 1.0);
    assert_healthy(&node.http);
    drop(idle);
}

/// Sends `frames` to the node again and again, as the peer whose certificate it is, also after it was dropped.
async fn flood(node: &Process, pem: &str, rounds: usize, mut frames: impl FnMut() -> Bytes) {
    let address: SocketAddr = format!("127.0.0.1:{}", node.mesh).parse().unwrap();
    let mut sent = 0;
    while sent < rounds {
        let Ok(mut raw) = connect(address, Some(pem)).await else { return };
        if raw.send(hello()).await.is_err() {
            sent += 1;
            continue;
        }
        while sent < rounds {
            sent += 1;
            if raw.send(frames()).await.is_err() {
                break;
            }
        }
    }
}

fn event(id: String, origin: Option<Identity>, payload: InjectionPayload) -> WireEvent {
    WireEvent { id: id.parse().unwrap(), origin, seq: 1, age: 0, payload }
}

/// Outcomes with reasons of almost a frame each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_reasons_are_not_kept() {
    let workspace = Workspace::new();
    workspace.ok("mesh init venom-mesh --nodes 3");
    let node = workspace.node(1, &[]);
    let neighbour = workspace.node(2, &[&node]);
    until("a link", || metric(&node.http, "venom_mesh_links") == 1.0);
    let before = [node.resident_kib(), neighbour.resident_kib()];
    let (pem, mut number) = (workspace.identity(3), 0);
    let frames = || {
        number += 1;
        let reason = "x".repeat(64_000);
        let event = event(format!("settled-{number}"), None, anoms(1));
        frame(&Message::Settled(vec![SettledEvent { event, outcome: Outcome::Refused { reason } }]))
    };
    flood(&node, &pem, 12_000, frames).await;
    let after = [node.resident_kib(), neighbour.resident_kib()];
    println!("12,000 outcomes: node and neighbour {before:?} KiB, then {after:?} KiB");
    assert_healthy(&node.http);
    for (before, after) in before.into_iter().zip(after) {
        assert!(after - before < MAX_GROWTH, "{before} -> {after} KiB");
    }
}

/// 220,000 injections that the collector refuses, and as many that it takes; an honest node's injection arrives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_injections_does_not_keep_others_out() {
    for weight in [5.0, 0.5] {
        let workspace = Workspace::new();
        workspace.ok("mesh init venom-mesh --nodes 2");
        let honest = workspace.node(1, &[]);
        let collector = workspace.run(&[&honest]);
        until("a link", || metric(&honest.http, "venom_mesh_links") == 1.0);
        let before = collector.resident_kib();
        let (pem, mut number) = (workspace.identity(2), 0_u64);
        let frames = || {
            let payload = InjectionPayload { anoms: None, ml_weight: Some(weight) };
            let events = (0..400).map(|_| {
                number += 1;
                event(format!("junk-{number}"), None, payload)
            });
            Message::events(events.collect())
                .iter()
                .fold(vec![], |mut all, it| {
                    all.extend_from_slice(&frame(it));
                    all
                })
                .into()
        };
        flood(&collector, &pem, 550, frames).await;
        let after = collector.resident_kib();
        println!("220,000 injections of weight {weight}: collector {before} KiB, then {after} KiB");
        assert!(after - before < MAX_GROWTH, "{before} -> {after} KiB");
        workspace.ok(&format!("inject --anoms 3 --url {}", honest.url()));
    }
}
