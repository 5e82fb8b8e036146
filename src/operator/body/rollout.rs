//! At most `--rollouts` bodies replace their pods at a time: a new image of the operator changes the pod template of
//! every body.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::build::{ChildObject, Kind};
use super::index::TEMPLATE_ANNOTATION;
use crate::operator::publisher::body::Workload;

/// A rollout keeps its place for at most as long: the progressDeadlineSeconds of a Deployment. One that is paused or
/// stuck must not stop all others.
const LONGEST: Duration = Duration::from_secs(600);

/// The place of one body among those that roll out.
pub(super) struct RolloutPlace {
    places: Arc<Semaphore>,
    held: Option<(OwnedSemaphorePermit, Instant)>,
}

impl RolloutPlace {
    pub(super) fn new(places: Arc<Semaphore>) -> Self {
        Self { places, held: None }
    }

    /// Takes a place if one is free. Returns whether it is held.
    pub(super) fn try_take(&mut self, now: Instant) -> bool {
        if self.held.is_none() {
            self.held = self.places.clone().try_acquire_owned().ok().map(|place| (place, now));
        }
        self.held.is_some()
    }

    /// Waits for a place and takes it, in the order of the requests. Cancel safe.
    pub(super) async fn take(&mut self) {
        // Infallible: the semaphore is never closed.
        let place = self.places.clone().acquire_owned().await.ok();
        self.held = place.map(|place| (place, Instant::now()));
    }

    /// Gives the place back if the rollout is complete, stuck, or takes too long. Returns after how long it is too
    /// long.
    pub(super) fn release_if_done(&mut self, workload: Option<&Workload>, now: Instant) -> Option<Duration> {
        let (_, since) = self.held.as_ref()?;
        let left = LONGEST.saturating_sub(now.duration_since(*since));
        if left.is_zero() || workload.is_none_or(|it| !it.rolling || it.stalled) {
            self.held = None;
            return None;
        }
        Some(left)
    }
}

/// Annotates the Deployment among `children` with the hash of its pod template.
pub(super) fn annotate(children: &mut [ChildObject]) {
    let deployments = children.iter_mut().filter(|it| it.kind == Kind::Deployment);
    for object in deployments.filter_map(|it| it.object.as_mut()) {
        let hash = format!("{:016x}", super::hash(&object.data["spec"]["template"]));
        object.metadata.annotations.get_or_insert_default().insert(TEMPLATE_ANNOTATION.into(), hash);
    }
}

/// The annotation of a Deployment as it was built.
pub(super) fn template(child: &ChildObject) -> Option<&String> {
    child.object.as_ref()?.metadata.annotations.as_ref()?.get(TEMPLATE_ANNOTATION)
}

/// The number of replicas of a Deployment as it was built.
pub(super) fn replicas(child: &ChildObject) -> Option<u64> {
    child.object.as_ref()?.data["spec"]["replicas"].as_u64()
}

#[cfg(test)]
mod tests;
