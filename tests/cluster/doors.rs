//! Nodes of an Organism in the test process, for clusters without a kubelet: real sockets, and certificates of the
//! operator's authority.
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant, SystemTime};

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::PostParams;
use kube::{Api, ResourceExt};
use serde_json::json;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};
use venom::mesh::identity::{Authority, CERTIFICATE_LIFETIME, generate_key_and_csr};
use venom::mesh::{Identity, Injectable, InjectionId, InjectionPayload, Mesh, Outcome, Ticket};
use venom::node::certificate_source::CertificateSource;
use venom::node::{Node, Options};

use crate::harness::eventually;
use crate::world::World;

/// Number of nodes.
pub const NODES: usize = 3;

/// The nodes of an Organism, and the folder of their certificates.
pub struct Body {
    pub nodes: Vec<Node>,
    _folder: TempDir,
}

/// An address of this machine: EndpointSlices must not contain a loopback address. Sends no packets.
pub fn own_address() -> IpAddr {
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
    pub async fn nodes(&self, name: &str) -> Body {
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

pub fn slice(organism: &str, number: usize, address: SocketAddr) -> EndpointSlice {
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

/// The id of a new injection.
pub fn new_id() -> InjectionId {
    uuid::Uuid::now_v7().to_string().parse().unwrap()
}

/// Injects through one node after the other, always with this id, until there is an outcome.
pub async fn inject(
    doors: &[Mesh],
    number: usize,
    id: &InjectionId,
    payload: InjectionPayload,
    patience: Duration,
) -> Outcome {
    let end = Instant::now() + patience;
    for door in doors.iter().cycle().skip(number) {
        assert!(Instant::now() < end, "{id} was not answered in {patience:?}");
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
