//! The addresses of each Organism's nodes, from the EndpointSlices of its mesh Service.

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

/// Kubernetes' own label: the Service that a slice belongs to.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// Selects the EndpointSlices of Organisms.
#[must_use]
pub fn selector() -> watcher::Config {
    // Slices have the labels of their Service.
    watcher::Config::default().labels(&format!("{ORGANISM_LABEL},{SERVICE_LABEL}"))
}

/// The addresses of all meshes.
#[derive(Default)]
pub struct Peers(Mutex<BTreeMap<Key, Addresses>>);

struct Addresses {
    /// By the name of the slice.
    slices: BTreeMap<String, Vec<SocketAddr>>,
    all: watch::Sender<Vec<SocketAddr>>,
}

impl Default for Addresses {
    fn default() -> Self {
        Self { slices: BTreeMap::new(), all: watch::Sender::new(vec![]) }
    }
}

impl Peers {
    fn table(&self) -> MutexGuard<'_, BTreeMap<Key, Addresses>> {
        // A panic while it is held leaves the map itself whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The addresses of this Organism's nodes, now and later.
    #[must_use]
    pub fn of(&self, key: &Key) -> watch::Receiver<Vec<SocketAddr>> {
        self.table().entry(key.clone()).or_default().all.subscribe()
    }

    /// Takes a slice over, or removes it.
    fn note(&self, slice: &EndpointSlice, there: bool) {
        let Some(key) = key_of(slice) else { return };
        let mut table = self.table();
        let addresses = table.entry(key.clone()).or_default();
        if there {
            addresses.slices.insert(slice.name_any(), addresses_of(slice));
        } else {
            addresses.slices.remove(&slice.name_any());
        }
        addresses.publish();
        if addresses.is_idle() {
            table.remove(&key);
        }
    }

    /// Replaces all slices of a namespace, or of all.
    fn relist(&self, namespace: Option<&str>, list: &[EndpointSlice]) {
        let mut table = self.table();
        let within = |key: &Key| namespace.is_none_or(|it| *key.namespace == *it);
        table.iter_mut().filter(|(key, _)| within(key)).for_each(|(_, it)| it.slices.clear());
        for slice in list {
            if let Some(key) = key_of(slice) {
                table.entry(key).or_default().slices.insert(slice.name_any(), addresses_of(slice));
            }
        }
        table.iter().filter(|(key, _)| within(key)).for_each(|(_, it)| it.publish());
        table.retain(|_, it| !it.is_idle());
    }
}

impl Addresses {
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

    fn is_idle(&self) -> bool {
        self.slices.is_empty() && self.all.is_closed()
    }
}

/// Follows the EndpointSlices of a namespace, or of all.
pub async fn follow(
    peers: &Peers,
    namespace: Option<&str>,
    events: impl Stream<Item = Result<Event<EndpointSlice>, watcher::Error>> + Send,
) {
    let mut events = std::pin::pin!(events);
    let mut list = vec![];
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => list.clear(),
            Ok(Event::InitApply(slice)) => list.push(slice),
            Ok(Event::InitDone) => peers.relist(namespace, &std::mem::take(&mut list)),
            Ok(Event::Apply(slice)) => peers.note(&slice, true),
            Ok(Event::Delete(slice)) => peers.note(&slice, false),
            Err(error) => tracing::warn!(%error, "the watch on EndpointSlices failed; retrying"),
        }
    }
}

/// The Organism whose mesh Service a slice belongs to.
fn key_of(slice: &EndpointSlice) -> Option<Key> {
    let organism = slice.labels().get(ORGANISM_LABEL)?;
    let service = slice.labels().get(SERVICE_LABEL)?;
    let of_mesh = service.strip_suffix(MESH_SUFFIX) == Some(organism);
    of_mesh.then_some(Key::new(&slice.namespace()?, organism))
}

/// Includes nodes that are not ready: a node that has lost all its links needs this one.
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

    fn told(peers: &Peers) -> Vec<String> {
        let key = Key::new("team-a", "venom");
        peers.of(&key).borrow().iter().map(ToString::to_string).collect()
    }

    async fn after(peers: &Peers, events: Vec<Event<EndpointSlice>>) -> Vec<String> {
        follow(peers, Some("team-a"), stream::iter(events.into_iter().map(Ok))).await;
        told(peers)
    }

    #[tokio::test]
    async fn addresses_are_those_of_all_slices_of_the_mesh_service() {
        let peers = Peers::default();
        let key = Key::new("team-a", "venom");
        let _held = peers.of(&key);
        let mesh = |name, addresses| slice(name, "venom-mesh", addresses);
        let events = vec![
            Event::Init,
            Event::InitApply(mesh("a", &["10.0.0.2", "10.0.0.1"])),
            Event::InitApply(mesh("b", &["10.0.0.2", "fd00::1"])),
            Event::InitApply(slice("c", "venom-metrics", &["10.0.0.9"])),
            Event::InitApply(slice("d", "other-mesh", &["10.0.0.9"])),
            Event::InitDone,
        ];
        assert_eq!(after(&peers, events).await, ["10.0.0.1:9000", "10.0.0.2:9000", "[fd00::1]:9000"]);
        let events =
            vec![Event::Delete(mesh("b", &[])), Event::Apply(mesh("a", &["10.0.0.3", "no address"]))];
        assert_eq!(after(&peers, events).await, ["10.0.0.3:9000"]);
        // The watch starts again and finds another slice.
        let events = vec![Event::Init, Event::InitApply(mesh("e", &["10.0.0.4"])), Event::InitDone];
        assert_eq!(after(&peers, events).await, ["10.0.0.4:9000"]);
        assert_eq!(after(&peers, vec![Event::Init, Event::InitDone]).await, Vec::<String>::new());
    }
}
