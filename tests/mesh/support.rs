//! Peers on real sockets, in this process.

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

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(60);
pub const DAY: Duration = Duration::from_secs(24 * 3600);

pub fn authority() -> Authority {
    Authority::new("venom", SystemTime::now()).unwrap()
}

pub fn pod(name: &str) -> Identity {
    Identity::pod("venom", "uid", name).unwrap()
}

/// A certificate and its key in one text.
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

/// How a peer is to be.
pub struct Wanted {
    pub credentials: Credentials,
    pub dial: DialPolicy,
    pub listens: bool,
    pub limits: LinkLimits,
}

pub fn node(credentials: Credentials) -> Wanted {
    Wanted { credentials, dial: DialPolicy::AllPeers, listens: true, limits: LinkLimits::default() }
}

pub async fn start(
    wanted: Wanted,
    ledger: Option<Vec<CommittedInjection>>,
) -> (Peer, Option<InjectionReceiver>) {
    let listener = match wanted.listens {
        true => Some(TcpListener::bind("127.0.0.1:0").await.unwrap()),
        false => None,
    };
    let metrics = Arc::new(Metrics::new().unwrap());
    let (credentials, current) = watch::channel(wanted.credentials);
    let (addresses, found) = watch::channel(vec![]);
    let options = Options {
        credentials: current,
        addresses: found,
        dial: wanted.dial,
        listener,
        injectable: Injectable::default(),
        metrics: metrics.clone(),
        limits: wanted.limits,
        paced: wanted.listens,
    };
    let (mesh, collected) = match ledger {
        None => (Mesh::join(options).unwrap(), None),
        Some(known) => {
            let (mesh, collected) = Mesh::join_as_collector(options, known).unwrap();
            (mesh, Some(collected))
        }
    };
    let address = mesh.local_addr();
    (Peer { mesh, metrics, address, credentials, addresses }, collected)
}

/// So many nodes that know one another's addresses.
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

/// Waits until something holds.
pub async fn until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "{what}: not after {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A ledger that is only a list.
pub type Entries = Arc<Mutex<Vec<InjectionEvent>>>;

/// The operator, as it joins a mesh: through one node.
pub async fn operator(authority: &Authority, entries: &Entries, nodes: Vec<SocketAddr>) -> Peer {
    let identity = Identity::operator("venom").unwrap();
    let wanted = Wanted {
        credentials: credentials(authority, &identity, DAY),
        dial: DialPolicy::OnePeer,
        listens: false,
        limits: LinkLimits::default(),
    };
    let so_far = entries.lock().unwrap().clone();
    let known = so_far.into_iter().enumerate().map(|(entry, event)| CommittedInjection {
        event,
        entry: entry as u64,
        age: Duration::ZERO,
    });
    let known = known.collect();
    let (peer, collected) = start(wanted, Some(known)).await;
    peer.addresses.send_replace(nodes);
    tokio::spawn(keep(collected.unwrap(), entries.clone()));
    peer
}

pub async fn keep(mut collected: InjectionReceiver, entries: Entries) {
    let answers = collected.outcomes();
    while let Some(event) = collected.next().await {
        let entry = {
            let mut entries = entries.lock().unwrap();
            entries.push(event.clone());
            entries.len() as u64 - 1
        };
        answers.send(event, Outcome::Committed { entry });
    }
}

pub fn anoms(anoms: u64) -> InjectionPayload {
    InjectionPayload { anoms: Some(anoms), ml_weight: None }
}

/// Injects until it is acknowledged, each time through the next of `doors`.
pub async fn inject(doors: &[Mesh], id: &str, payload: InjectionPayload) -> u64 {
    let id: InjectionId = id.parse().unwrap();
    let end = Instant::now() + PATIENCE;
    for door in doors.iter().cycle() {
        assert!(Instant::now() < end, "{id} was not acknowledged in {PATIENCE:?}");
        let outcome = match door.inject(id.clone(), payload).await {
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
    unreachable!("there are no doors")
}

/// Each id is in the ledger once, as the entry that was told.
pub fn assert_exactly_once(entries: &Entries, told: &BTreeMap<String, u64>) {
    let entries = entries.lock().unwrap();
    let mut found: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for (entry, event) in entries.iter().enumerate() {
        found.entry(event.id.to_string()).or_default().push(entry as u64);
    }
    for (id, entry) in told {
        assert_eq!(found.get(id), Some(&vec![*entry]), "{id}");
    }
    assert_eq!(found.len(), told.len());
}
