//! A ledger in a cluster.

use kube::ResourceExt;
use kube::api::Api;
use tokio::runtime::Runtime;

use super::super::Error;
use super::{Cluster, Connection, Store, failed};
use crate::api::Organism;
use crate::ledger::SealedSegment;
use crate::store::configmap::ConfigMaps;
use crate::store::{CALL_TIMEOUT, Head, SegmentRef};

/// The ledger of an Organism, read from the API server.
pub(super) struct Live {
    runtime: Runtime,
    maps: ConfigMaps,
    /// UID of the Organism; `None` if it is deleted and its ledger was retained.
    uid: Option<String>,
    name: String,
}

impl Live {
    /// Opens the ledger of the Organism `organism`.
    pub(super) fn open(organism: &str, cluster: &Cluster) -> Result<Self, Error> {
        let Connection { runtime, client, namespace } = cluster.connect()?;
        let shown = format!("organism/{organism}");
        let (maps, uid) = runtime.block_on(async {
            let organisms: Api<Organism> = Api::namespaced(client.clone(), &namespace);
            let response = tokio::time::timeout(CALL_TIMEOUT, organisms.get_opt(organism)).await;
            let found = response
                .map_err(|_| failed(&shown, &"the API server does not answer; check --context"))?
                .map_err(|error| failed(&shown, &error))?;
            let uid = found.and_then(|found| found.uid());
            let maps = ConfigMaps::new(client, &namespace, organism, uid.as_deref().unwrap_or_default());
            Ok::<_, Error>((maps, uid))
        })?;
        Ok(Self { runtime, maps, uid, name: format!("{shown} in {namespace}") })
    }

    fn wrong(&self, what: &str) -> Error {
        Error::Failed(format!("{}: {what}", self.name))
    }
}

impl Store for Live {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn head(&self) -> Result<Head, Error> {
        let found = self.runtime.block_on(self.maps.head()).map_err(|error| failed(&self.name, &error))?;
        let head = found.and_then(|found| found.head).ok_or_else(|| {
            self.wrong(match self.uid {
                Some(_) => "no ledger yet; see the Organism's Ready condition",
                None => "not found; check the name and --namespace",
            })
        })?;
        match &self.uid {
            Some(uid) if *uid != head.uid => Err(self.wrong(
                "the ledger of this name belongs to an Organism with another UID; wait until the operator has taken it over",
            )),
            _ => Ok(head),
        }
    }

    /// The object's UID does not matter here: a backup that was restored has given it a new one, and its content is
    /// proved by its hashes.
    fn load(&self, listed: &SegmentRef) -> Result<SealedSegment, Error> {
        let found = self.runtime.block_on(self.maps.segment(&self.maps.name_of(listed)));
        let wrong = |what: &str| Error::Failed(format!("{}: {what}", self.segment_name(listed)));
        let (_, sealed) =
            found.map_err(|error| failed(&self.name, &error))?.ok_or_else(|| wrong("missing"))?;
        let found = (sealed.head.first, sealed.head.count, sealed.head.start);
        if found != (listed.first, listed.count, listed.start) {
            return Err(wrong("differs from its entry in the ledger's head"));
        }
        Ok(sealed)
    }

    fn segment_name(&self, listed: &SegmentRef) -> String {
        format!("{}: ConfigMap {}", self.name, self.maps.name_of(listed))
    }

    fn present(&self, head: &Head) -> Result<Vec<bool>, Error> {
        let objects = self.runtime.block_on(self.maps.list()).map_err(|error| failed(&self.name, &error))?;
        Ok(head.segments.iter().map(|listed| objects.contains_key(&self.maps.name_of(listed))).collect())
    }

    /// None: an unlisted segment may be about to be listed, and the operator deletes garbage itself.
    fn strays(&self, _: &Head) -> Result<Vec<String>, Error> {
        Ok(vec![])
    }
}
