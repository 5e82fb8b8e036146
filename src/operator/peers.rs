//! The mesh addresses of each Organism's nodes, from the EndpointSlices of its mesh Service.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures::{Stream, StreamExt};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use kube::runtime::watcher::{self, Event};
use tokio::sync::watch;

use super::body::build::MESH_SUFFIX;
use super::key::Key;
use crate::api::labels::ORGANISM_LABEL;

/// Set by Kubernetes: the name of the Service that a slice belongs to.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// Selects the EndpointSlices of Organisms' Services.
#[must_use]
pub fn selector() -> watcher::Config {
    // The endpoint slice controller copies the labels of the Service to its slices.
    watcher::Config::default().labels(&format!("{ORGANISM_LABEL},{SERVICE_LABEL}"))
}

/// The addresses of the nodes of all Organisms.
#[derive(Default)]
pub struct Peers(Mutex<BTreeMap<Key, Addresses>>);

/// The addresses of one Organism's nodes.
struct Addresses {
    /// By name of the EndpointSlice.
    slices: BTreeMap<String, Vec<SocketAddr>>,
    /// The addresses of all slices, sorted, without duplicates.
    all: watch::Sender<Vec<SocketAddr>>,
}

impl Default for Addresses {
    fn default() -> Self {
        Self { slices: BTreeMap::new(), all: watch::Sender::new(vec![]) }
    }
}

impl Peers {
    fn table(&self) -> MutexGuard<'_, BTreeMap<Key, Addresses>> {
        // The map stays consistent even if a thread panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Subscribes to the addresses of this Organism's nodes. The list is empty until the first slice is observed.
    #[must_use]
    pub fn subscribe(&self, key: &Key) -> watch::Receiver<Vec<SocketAddr>> {
        self.table().entry(key.clone()).or_default().all.subscribe()
    }

    /// Stores the addresses of a slice, or removes them if the slice was deleted.
    fn update(&self, slice: &EndpointSlice, exists: bool) {
        let Some(key) = key_of(slice) else { return };
        let mut table = self.table();
        let addresses = table.entry(key.clone()).or_default();
        if exists {
            addresses.slices.insert(slice.name_any(), addresses_of(slice));
        } else {
            addresses.slices.remove(&slice.name_any());
        }
        addresses.publish();
        if addresses.is_idle() {
            table.remove(&key);
        }
    }

    /// Replaces all slices of `namespace`, or of all namespaces.
    fn replace(&self, namespace: Option<&str>, slices: &[EndpointSlice]) {
        let mut table = self.table();
        let in_scope = |key: &Key| namespace.is_none_or(|it| *key.namespace == *it);
        table.iter_mut().filter(|(key, _)| in_scope(key)).for_each(|(_, it)| it.slices.clear());
        for slice in slices {
            if let Some(key) = key_of(slice) {
                table.entry(key).or_default().slices.insert(slice.name_any(), addresses_of(slice));
            }
        }
        table.iter().filter(|(key, _)| in_scope(key)).for_each(|(_, it)| it.publish());
        table.retain(|_, it| !it.is_idle());
    }
}

impl Addresses {
    /// Sends the merged list to the subscribers if it has changed.
    fn publish(&self) {
        let mut all: Vec<SocketAddr> = self.slices.values().flatten().copied().collect();
        all.sort_unstable();
        all.dedup();
        self.all.send_if_modified(|before| {
            let changed = *before != all;
            *before = all;
            changed
        });
    }

    /// Whether the entry can be dropped: no slices and no subscribers.
    fn is_idle(&self) -> bool {
        self.slices.is_empty() && self.all.is_closed()
    }
}

/// Applies the watch events of `namespace`, or of all namespaces, to `peers` until the stream ends.
pub async fn follow(
    peers: &Peers,
    namespace: Option<&str>,
    events: impl Stream<Item = Result<Event<EndpointSlice>, watcher::Error>> + Send,
) {
    let mut events = std::pin::pin!(events);
    let mut listed = vec![];
    while let Some(Ok(event)) = events.next().await {
        match event {
            Event::Init => listed.clear(),
            Event::InitApply(slice) => listed.push(slice),
            Event::InitDone => peers.replace(namespace, &std::mem::take(&mut listed)),
            Event::Apply(slice) => peers.update(&slice, true),
            Event::Delete(slice) => peers.update(&slice, false),
        }
    }
}

/// The Organism whose mesh Service the slice belongs to; none for the slices of its other Services.
fn key_of(slice: &EndpointSlice) -> Option<Key> {
    let organism = slice.labels().get(ORGANISM_LABEL)?;
    let service = slice.labels().get(SERVICE_LABEL)?;
    let is_mesh = service.strip_suffix(MESH_SUFFIX) == Some(organism);
    is_mesh.then_some(Key::new(&slice.namespace()?, organism))
}

/// Includes nodes that are not ready: a node that has lost all its links depends on the operator's connection.
fn addresses_of(slice: &EndpointSlice) -> Vec<SocketAddr> {
    let ports = slice.ports.as_deref().unwrap_or_default();
    let port = ports.iter().find_map(|it| u16::try_from(it.port?).ok());
    let addresses = slice.endpoints.iter().flatten().flat_map(|it| &it.addresses);
    let addresses = addresses.filter_map(|it| Some(SocketAddr::new(it.parse::<IpAddr>().ok()?, port?)));
    addresses.collect()
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use serde_json::json;

    use super::*;

    fn slice(name: &str, service: &str, addresses: &[&str]) -> EndpointSlice {
        serde_json::from_value(json!({
            "addressType": "IPv4",
            "metadata": {
                "name": name, "namespace": "team-a",
                "labels": {(ORGANISM_LABEL): "venom", (SERVICE_LABEL): service},
            },
            "endpoints": addresses.iter().map(|it| json!({"addresses": [it]})).collect::<Vec<_>>(),
            "ports": [{"name": "mesh", "port": 9000}],
        }))
        .unwrap()
    }

    fn addresses(peers: &Peers) -> Vec<String> {
        let key = Key::new("team-a", "venom");
        peers.subscribe(&key).borrow().iter().map(ToString::to_string).collect()
    }

    async fn addresses_after(peers: &Peers, events: Vec<Event<EndpointSlice>>) -> Vec<String> {
        follow(peers, Some("team-a"), stream::iter(events.into_iter().map(Ok))).await;
        addresses(peers)
    }

    #[tokio::test]
    async fn addresses_of_all_mesh_service_slices_are_merged() {
        let peers = Peers::default();
        let key = Key::new("team-a", "venom");
        let _subscription = peers.subscribe(&key);
        let mesh = |name, addresses| slice(name, "venom-mesh", addresses);
        let events = vec![
            Event::Init,
            Event::InitApply(mesh("a", &["10.0.0.2", "10.0.0.1"])),
            Event::InitApply(mesh("b", &["10.0.0.2", "fd00::1"])),
            Event::InitApply(slice("c", "venom-metrics", &["10.0.0.9"])),
            Event::InitApply(slice("d", "other-mesh", &["10.0.0.9"])),
            Event::InitDone,
        ];
        assert_eq!(
            addresses_after(&peers, events).await,
            ["10.0.0.1:9000", "10.0.0.2:9000", "[fd00::1]:9000"]
        );
        let events =
            vec![Event::Delete(mesh("b", &[])), Event::Apply(mesh("a", &["10.0.0.3", "no address"]))];
        assert_eq!(addresses_after(&peers, events).await, ["10.0.0.3:9000"]);
        // The watch restarts; its list replaces all slices.
        let events = vec![Event::Init, Event::InitApply(mesh("e", &["10.0.0.4"])), Event::InitDone];
        assert_eq!(addresses_after(&peers, events).await, ["10.0.0.4:9000"]);
        assert_eq!(addresses_after(&peers, vec![Event::Init, Event::InitDone]).await, Vec::<String>::new());
    }
}
