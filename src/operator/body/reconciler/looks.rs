//! What a body's reconciler looks at besides its own objects: autoscalers of someone else, and pods that are not ready.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{BodyReconciler, RESYNC};
use crate::api;
use crate::api::labels::ORGANISM_LABEL;
use crate::operator::body::Resources;
use crate::operator::body::build::{ChildObject, Kind};
use crate::operator::body::foreign::{self, ForeignAutoscalers};
use crate::operator::body::index::ObservedObject;
use crate::operator::body::pods::{self, PodLooks};
use crate::operator::call::{CallError, call};
use crate::operator::key::Key;
use crate::operator::publisher::adoption::Adopted;
use crate::operator::publisher::body::{PodFault, PodFaultKind};

impl BodyReconciler {
    /// Leaves the Deployment's number of replicas out where an autoscaler of someone else sets it. Returns the wait
    /// until the next look for one.
    pub(super) async fn leave_replicas_to_others(
        &mut self,
        children: &mut [ChildObject],
        organism: &api::Organism,
        uid: &str,
    ) -> Duration {
        let own = organism.spec.autoscaling_enabled();
        let adopted = organism.spec.workload_ref.as_ref();
        if adopted.is_some() && !own {
            self.foreign = ForeignAutoscalers::new(Instant::now());
            return RESYNC;
        }
        let id = (Kind::Deployment, self.key.name.to_string());
        let scaled = self.resources.index.object(&self.key, &id).is_some_and(|it| it.scaled);
        let scaling = self.resources.index.status(&self.key, uid).scaling;
        // Nothing shows that another autoscaler scales an adopted workload.
        let sign = adopted.is_some() || scaled || scaling.is_some_and(|it| it.collides());
        let now = Instant::now();
        let mut known = true;
        if self.foreign.wait(sign, now).is_zero() {
            let api: Api<HorizontalPodAutoscaler> =
                Api::namespaced(self.resources.client.clone(), &self.key.namespace);
            let params = ListParams::default().labels(&foreign::selector());
            let object = format!("HorizontalPodAutoscalers in {}", self.key.namespace);
            match call("list", &object, api.list(&params)).await {
                Ok(list) => {
                    let name = organism.name_any();
                    let workload = adopted
                        .map_or(("Deployment", name.as_str()), |it| (it.kind.as_str(), it.name.as_str()));
                    let found = foreign::find(&list.items, workload, own.then_some(name.as_str()));
                    self.foreign.looked(found, now);
                }
                Err(error) => {
                    known = false;
                    self.resources.metrics.api_error("body");
                    tracing::debug!(organism = %self.key, %error, "cannot look for other autoscalers");
                    self.foreign.failed(now);
                }
            }
        }
        if adopted.is_some() && (self.foreign.found().is_some() || !known) {
            // Two would undo each other.
            let ours = children.iter_mut().filter(|it| it.kind == Kind::HorizontalPodAutoscaler);
            ours.for_each(|it| it.object = None);
        }
        // Without their own setting the number would fall to 1, so only where someone else owns it.
        if scaled && (self.foreign.found().is_some() || !known) {
            let deployments = children.iter_mut().filter(|it| it.kind == Kind::Deployment);
            for object in deployments.filter_map(|it| it.object.as_mut()) {
                if let Some(spec) = object.data["spec"].as_object_mut() {
                    spec.remove("replicas");
                }
            }
        }
        self.foreign.wait(sign, now).max(Duration::from_secs(1))
    }

    /// Whether an object without an owner is one that `--cascade=orphan` is leaving behind. Who deletes the Organism so has it
    /// marked before the owners are taken off: putting one back would have the object collected with the Organism.
    pub(super) async fn is_being_orphaned(
        &self,
        observed: Option<&ObservedObject>,
        uid: &str,
    ) -> Result<bool, CallError> {
        if observed.is_none_or(|it| it.owner.is_some()) {
            return Ok(false);
        }
        let organisms: Api<api::Organism> =
            Api::namespaced(self.resources.client.clone(), &self.key.namespace);
        let get = organisms.get_metadata_opt(&self.key.name);
        let found = call("get", &format!("Organism {}", self.key), get).await?;
        let stays = found.is_some_and(|it| {
            it.metadata.uid.as_deref() == Some(uid) && it.metadata.deletion_timestamp.is_none()
        });
        Ok(!stays)
    }

    /// Lists pods that are not ready, if that is due. Returns the wait until it is due again. The list is made beside the
    /// passes: those that wait for one of many bodies' turns must not keep this body's pods from being isolated.
    pub(super) fn look_at_pods(&mut self, uid: &str, adopted: Option<&Adopted>) -> Option<Duration> {
        let status = self.resources.index.status(&self.key, uid);
        let (workload, ready) = match adopted {
            Some(adopted) => (Some(&adopted.workload), adopted.ready),
            None => (status.workload.as_ref(), status.nodes.ready),
        };
        let observe = |looks: &mut PodLooks| looks.observe(workload, ready, Instant::now());
        let Some(wait) = observe(&mut self.looks) else {
            // Dropping it ends a look that is under way.
            self.looking = None;
            return None;
        };
        match self.looking.as_mut().map(|(_, found)| found.try_recv()) {
            Some(Err(TryRecvError::Empty)) => Some(RESYNC),
            Some(look) => {
                self.looking = None;
                // An error means that it panicked.
                let found = look.unwrap_or_else(|_| self.looks.found().cloned());
                let found = found.map(|fault| match fault.kind {
                    // It needs none.
                    PodFaultKind::NoCertificate if adopted.is_some() => {
                        PodFault { kind: PodFaultKind::NotReady, ..fault }
                    }
                    _ => fault,
                });
                self.looks.looked(found, Instant::now());
                observe(&mut self.looks)
            }
            None if wait.is_zero() => {
                let own = || format!("{ORGANISM_LABEL}={}", self.key.name);
                let selector = adopted.map_or_else(own, Adopted::selector);
                let look = list_pods(self.resources.clone(), self.key.clone(), selector);
                let (wake, before) = (self.wake.clone(), self.looks.found().cloned());
                let (sender, found) = oneshot::channel();
                let mut task = JoinSet::new();
                task.spawn(async move {
                    // Before it wakes this reconciler, which would not find it otherwise.
                    let _ = sender.send(look.await.unwrap_or(before));
                    wake.notify_one();
                });
                self.looking = Some((task, found));
                Some(RESYNC)
            }
            None => Some(wait),
        }
    }
}

/// Why the pods with these labels are not ready; none if that cannot be told.
async fn list_pods(resources: Arc<Resources>, key: Key, selector: String) -> Option<Option<PodFault>> {
    let api: Api<Pod> = Api::namespaced(resources.client.clone(), &key.namespace);
    let params = ListParams::default().labels(&selector).limit(pods::MAX_PODS);
    // Infallible: the semaphore is never closed.
    let _permit = resources.writers.acquire().await.ok();
    match call("list", &format!("Pods of {key}"), api.list(&params)).await {
        Ok(list) => Some(pods::fault(&list.items, Timestamp::now())),
        Err(error) => {
            resources.metrics.api_error("body");
            tracing::debug!(organism = %key, %error, "cannot look at the pods");
            None
        }
    }
}
