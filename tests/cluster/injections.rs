//! Injections through the nodes of an Organism into the ledger of a real operator.
//!
//! There is no kubelet: the nodes run in the test process, with real sockets and certificates of the operator's
//! authority, and the tests create the EndpointSlices.
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::ResourceExt;
use kube::api::PostParams;
use serde_json::json;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};
use venom::api::{Genome, Organism};
use venom::ledger::entry::Data;
use venom::mesh::identity::{Authority, CERTIFICATE_LIFETIME, generate_key_and_csr};
use venom::mesh::{Identity, Injectable, InjectionId, InjectionPayload, Mesh, Outcome, Ticket};
use venom::node::certificate_source::CertificateSource;
use venom::node::{Node, Options};

use crate::harness::{eventually, free_port, within};
use crate::world::{World, condition, in_world, message};

const NODES: usize = 3;
const INJECTIONS: usize = 1_000;
/// Number of concurrent clients.
const CLIENTS: usize = 8;
const KILLS: usize = 8;
/// How long a client retries.
const PATIENCE: Duration = Duration::from_secs(120);

/// The nodes of an Organism, and the folder of their certificates.
struct Body {
    nodes: Vec<Node>,
    _folder: TempDir,
}

/// An address of this machine: EndpointSlices must not contain a loopback address. Sends no packets.
fn own_address() -> IpAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("192.0.2.1:9").expect("this machine has no address but loopback; give it one");
    socket.local_addr().unwrap().ip()
}

impl World {
    /// The certificate authority that the operator created.
    async fn authority(&self) -> Authority {
        // The operator's namespace is that of its kubeconfig.
        let secrets: Api<Secret> = Api::default_namespaced(self.client.clone());
        let secret = eventually("the authority's Secret", async || {
            secrets.get("venom-mesh-ca").await.map_err(|error| error.to_string())
        })
        .await;
        let data = secret.data.unwrap();
        let text = |name: &str| std::str::from_utf8(&data[name].0).unwrap();
        Authority::from_pem(text("ca.pem"), text("ca.key")).unwrap()
    }

    /// Starts nodes and creates their EndpointSlices.
    async fn nodes(&self, name: &str) -> Body {
        let authority = self.authority().await;
        let uid = self.organisms.get(name).await.unwrap().uid().unwrap();
        let slices: Api<EndpointSlice> = Api::namespaced(self.client.clone(), &self.namespace);
        let folder = TempDir::new().unwrap();
        let mut nodes: Vec<Node> = vec![];
        for number in 0..NODES {
            let identity = Identity::pod("venom", &uid, &format!("node-{number}")).unwrap();
            let (key, request) = generate_key_and_csr().unwrap();
            let certificate =
                authority.sign(&request, &identity, SystemTime::now(), CERTIFICATE_LIFETIME).unwrap();
            let place = folder.path().join(number.to_string());
            std::fs::create_dir(&place).unwrap();
            std::fs::write(place.join("ca.pem"), authority.ca_pem()).unwrap();
            std::fs::write(place.join("identity.pem"), format!("{certificate}{key}")).unwrap();
            let options = Options {
                peers: nodes.iter().map(|it| format!("localhost:{}", it.mesh_address.port())).collect(),
                mesh_port: 0,
                http_port: None,
                inject_port: 0,
                certificate_source: CertificateSource::Directory(place),
                injectable: Injectable { min: -100.0, max: 100.0 },
            };
            let (node, _) = Node::start(options, None).await.unwrap();
            let address = SocketAddr::new(own_address(), node.mesh_address.port());
            slices.create(&PostParams::default(), &slice(name, number, address)).await.unwrap();
            nodes.push(node);
        }
        Body { nodes, _folder: folder }
    }
}

fn slice(organism: &str, number: usize, address: SocketAddr) -> EndpointSlice {
    serde_json::from_value(json!({
        "addressType": if address.is_ipv4() { "IPv4" } else { "IPv6" },
        "metadata": {"name": format!("{organism}-mesh-{number}"), "labels": {
            "genesis.venom.dev/organism": organism,
            "kubernetes.io/service-name": format!("{organism}-mesh"),
        }},
        "endpoints": [{"addresses": [address.ip().to_string()]}],
        "ports": [{"name": "mesh", "port": address.port()}],
    }))
    .unwrap()
}

/// Injects through one node after the other until there is an outcome.
async fn inject(doors: &[Mesh], number: usize, payload: InjectionPayload) -> Outcome {
    let id: InjectionId = uuid::Uuid::now_v7().to_string().parse().unwrap();
    let end = Instant::now() + PATIENCE;
    for door in doors.iter().cycle().skip(number) {
        assert!(Instant::now() < end, "{id} was not answered in {PATIENCE:?}");
        match door.inject(id.clone(), payload).await {
            Ok(Ticket::Settled(outcome)) => return outcome,
            Ok(Ticket::Pending(ticket)) => {
                if let Ok(Ok(outcome)) = timeout(Duration::from_secs(2), ticket).await {
                    return outcome;
                }
            }
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
    unreachable!("there are no doors")
}

/// The operator is killed repeatedly while clients inject. Each acknowledged injection is in the ledger exactly once, at
/// the acknowledged index.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_injections_are_recorded_once_while_operators_are_killed() {
    in_world(async |world| {
        let mut operator = world.operator_with_bodies("alpha", &[]);
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
                    match inject(&doors, number, payload).await {
                        Outcome::Committed { entry } => told.push(entry),
                        Outcome::Refused { reason } => panic!("{number}: {reason}"),
                    }
                    sleep(Duration::from_millis(100)).await;
                }
                told
            });
        }
        for kill in 0..KILLS {
            sleep(Duration::from_millis(700 + 311 * (kill as u64 % 4))).await;
            operator.kill();
            operator = world.operator_with_bodies("alpha", &[]);
        }
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
        let Outcome::Refused { reason } = inject(&doors, 0, weight).await else { panic!("not refused") };
        assert!(reason.contains("0.01 to 1"), "{reason}");
        let anoms = InjectionPayload { anoms: Some(20), ml_weight: None };
        let Outcome::Committed { entry } = inject(&doors, 1, anoms).await else { panic!("refused") };
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
        assert!(matches!(inject(&doors, 2, weight).await, Outcome::Committed { .. }));
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
