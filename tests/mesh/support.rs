//! Peers on real sockets in the test's process, and a ledger that is a list.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use tokio::net::TcpListener;
use tokio::sync::watch;
use venom::mesh::identity::{Authority, generate_key_and_csr};
use venom::mesh::{
    CommittedInjection, Credentials, DialPolicy, Identity, Injectable, InjectionEvent, InjectionId,
    InjectionPayload, InjectionReceiver, LinkLimits, Mesh, Metrics, Options, Outcome, Ticket,
};

/// Time limit of every wait.
pub const PATIENCE: Duration = Duration::from_secs(60);
pub const DAY: Duration = Duration::from_secs(24 * 3600);

pub fn authority() -> Authority {
    Authority::new("venom", SystemTime::now()).unwrap()
}

pub fn pod(name: &str) -> Identity {
    Identity::pod("venom", "uid", name).unwrap()
}

/// Certificate and key in one PEM text.
pub fn issue(authority: &Authority, identity: &Identity, from: SystemTime, life: Duration) -> String {
    let (key, request) = generate_key_and_csr().unwrap();
    authority.sign(&request, identity, from, life).unwrap() + &key
}

pub fn credentials(authority: &Authority, identity: &Identity, life: Duration) -> Credentials {
    let pem = issue(authority, identity, SystemTime::now(), life);
    Credentials::from_pem(authority.ca_pem(), &pem, &pem, Some("uid")).unwrap()
}

pub struct Peer {
    pub mesh: Mesh,
    pub metrics: Arc<Metrics>,
    pub address: Option<SocketAddr>,
    pub credentials: watch::Sender<Credentials>,
    pub addresses: watch::Sender<Vec<SocketAddr>>,
}

/// Configuration of a test peer.
pub struct PeerConfig {
    pub credentials: Credentials,
    pub dial: DialPolicy,
    pub listens: bool,
    pub limits: LinkLimits,
}

pub fn node(credentials: Credentials) -> PeerConfig {
    PeerConfig { credentials, dial: DialPolicy::AllPeers, listens: true, limits: LinkLimits::default() }
}

pub async fn start(
    config: PeerConfig,
    ledger: Option<Vec<CommittedInjection>>,
) -> (Peer, Option<InjectionReceiver>) {
    let listener = match config.listens {
        true => Some(TcpListener::bind("127.0.0.1:0").await.unwrap()),
        false => None,
    };
    let metrics = Arc::new(Metrics::new().unwrap());
    let (credentials, current) = watch::channel(config.credentials);
    let (addresses, found) = watch::channel(vec![]);
    let options = Options {
        credentials: current,
        addresses: found,
        dial: config.dial,
        listener,
        injectable: Injectable::default(),
        metrics: metrics.clone(),
        limits: config.limits,
        paced: config.listens,
    };
    let (mesh, injections) = match ledger {
        None => (Mesh::join(options).unwrap(), None),
        Some(committed) => {
            let (mesh, injections) = Mesh::join_as_collector(options, committed, Arc::default()).unwrap();
            (mesh, Some(injections))
        }
    };
    let address = mesh.local_addr();
    (Peer { mesh, metrics, address, credentials, addresses }, injections)
}

/// Starts `count` nodes that have each other's addresses.
pub async fn nodes(authority: &Authority, count: usize) -> Vec<Peer> {
    let mut peers = vec![];
    for at in 0..count {
        let credentials = credentials(authority, &pod(&format!("pod-{at}")), DAY);
        peers.push(start(node(credentials), None).await.0);
    }
    introduce(&peers);
    peers
}

pub fn addresses(peers: &[Peer]) -> Vec<SocketAddr> {
    peers.iter().filter_map(|peer| peer.address).collect()
}

pub fn introduce(peers: &[Peer]) {
    for peer in peers {
        peer.addresses.send_replace(addresses(peers));
    }
}

/// Waits until `condition` holds.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "{what}: not after {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A ledger: a list of committed injections.
pub type Entries = Arc<Mutex<Vec<InjectionEvent>>>;

/// Starts the operator as a collector: linked to one node at a time, without a listener.
pub async fn operator(authority: &Authority, entries: &Entries, nodes: Vec<SocketAddr>) -> Peer {
    let identity = Identity::operator("venom").unwrap();
    let config = PeerConfig {
        credentials: credentials(authority, &identity, DAY),
        dial: DialPolicy::OnePeer,
        listens: false,
        limits: LinkLimits::default(),
    };
    let recorded = entries.lock().unwrap().clone();
    let committed = recorded.into_iter().enumerate().map(|(entry, event)| CommittedInjection {
        event,
        entry: entry as u64,
        age: Duration::ZERO,
    });
    let (peer, injections) = start(config, Some(committed.collect())).await;
    peer.addresses.send_replace(nodes);
    tokio::spawn(record(injections.unwrap(), entries.clone()));
    peer
}

pub async fn record(mut injections: InjectionReceiver, entries: Entries) {
    let outcomes = injections.outcomes();
    while let Some(event) = injections.next().await {
        let entry = {
            let mut entries = entries.lock().unwrap();
            entries.push(event.clone());
            entries.len() as u64 - 1
        };
        outcomes.send(event, Outcome::Committed { entry });
    }
}

pub fn anoms(anoms: u64) -> InjectionPayload {
    InjectionPayload { anoms: Some(anoms), ml_weight: None }
}

/// Injects until acknowledged, with each attempt through the next of `peers`.
pub async fn inject(peers: &[Mesh], id: &str, payload: InjectionPayload) -> u64 {
    let id: InjectionId = id.parse().unwrap();
    let end = Instant::now() + PATIENCE;
    for peer in peers.iter().cycle() {
        assert!(Instant::now() < end, "{id} was not acknowledged in {PATIENCE:?}");
        let outcome = match peer.inject(id.clone(), payload).await {
            Ok(Ticket::Settled(outcome)) => Some(outcome),
            Ok(Ticket::Pending(ticket)) => {
                tokio::time::timeout(Duration::from_secs(2), ticket).await.ok().and_then(Result::ok)
            }
            Err(_) => None,
        };
        match outcome {
            Some(Outcome::Committed { entry }) => return entry,
            Some(Outcome::Refused { reason }) => panic!("{id}: {reason}"),
            None => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    unreachable!("no peers")
}

/// The ledger contains each acknowledged id exactly once, as the acknowledged entry, and nothing else.
pub fn assert_exactly_once(entries: &Entries, acknowledged: &BTreeMap<String, u64>) {
    let entries = entries.lock().unwrap();
    let mut found: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for (entry, event) in entries.iter().enumerate() {
        found.entry(event.id.to_string()).or_default().push(entry as u64);
    }
    for (id, entry) in acknowledged {
        assert_eq!(found.get(id), Some(&vec![*entry]), "{id}");
    }
    assert_eq!(found.len(), acknowledged.len());
}
