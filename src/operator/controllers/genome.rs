//! The Genome's reconciler: a Genome that no Organism lives by says so, and a claim whose Organism is gone
//! is released. The evolved values of one that is bound are the publisher's.

use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use kube::core::{DeserializeGuard, Resource};
use kube::runtime::controller::Action as Requeue;
use serde_json::json;

use super::call::call;
use super::context::{Context, Living};
use super::organism::ReconcileError;
use super::report::Conditions;
use super::{Key, claim};
use crate::api;

/// For so long after the start claims are not looked into.
const STARTING: Duration = Duration::from_secs(10);

/// Brings one Genome's claim and condition up to date.
///
/// # Errors
/// [`ReconcileError`] when it has to be tried again.
pub async fn reconcile(
    guarded: Arc<DeserializeGuard<api::Genome>>,
    context: Arc<Context>,
) -> Result<Requeue, ReconcileError> {
    let genome = match &guarded.0 {
        Ok(genome) => genome,
        Err(invalid) => {
            tracing::error!(genome = ?invalid.metadata.name, error = %invalid.error, "cannot be read");
            return Ok(Requeue::await_change());
        }
    };
    let namespace = genome.namespace().unwrap_or_default();
    let status = genome.status.clone().unwrap_or_default();
    if let Some(bound) = &status.bound_to {
        let key = Key { namespace: namespace.as_str().into(), name: bound.name.as_str().into() };
        let here = |living: Living| {
            living.uid == bound.uid && living.genome.borrow().as_deref() == Some(&genome.name_any())
        };
        if context.living(&key).is_some_and(here) {
            return Ok(Requeue::await_change());
        }
        if context.started.elapsed() < STARTING {
            // Most likely its Organism is about to be seen: asking for each would double the calls of a start.
            return Ok(Requeue::requeue(STARTING));
        }
    }
    if claim::release_if_stale(&context.client, genome).await? {
        // Its Organism lives but is not held here yet: that one's reconciler sees to it.
        return Ok(Requeue::requeue(Duration::from_secs(30)));
    }
    let observed = status.conditions.iter().any(|it| it.type_ == "Bound" && it.status == "False")
        && status.observed_generation == genome.metadata.generation;
    if observed || status.bound_to.is_some() {
        // Just released: the change comes back here.
        return Ok(Requeue::await_change());
    }
    let mut conditions = Conditions {
        before: &status.conditions,
        generation: genome.metadata.generation,
        now: k8s_openapi::jiff::Timestamp::now(),
        list: vec![],
    };
    conditions.set("Bound", "False", "Free", "No Organism lives by this Genome.");
    let patch = json!({
        "metadata": {"resourceVersion": genome.metadata.resource_version},
        "status": {"conditions": conditions.finish(), "observedGeneration": genome.metadata.generation},
    });
    let genomes: Api<api::Genome> = Api::namespaced(context.client.clone(), &namespace);
    let name = genome.name_any();
    let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
    call("patch", &format!("Genome {namespace}/{name}"), genomes.patch_status(&name, &params, &patch))
        .await?;
    Ok(Requeue::await_change())
}

/// How long to wait after a failure.
pub fn on_error(
    guarded: Arc<DeserializeGuard<api::Genome>>,
    error: &ReconcileError,
    context: Arc<Context>,
) -> Requeue {
    if error.is_conflict() || error.is_not_found() {
        return Requeue::requeue(Duration::from_secs(1));
    }
    context.metrics.api_error("reconcile");
    tracing::warn!(genome = ?guarded.meta().name, %error, "to be tried again");
    Requeue::requeue(Duration::from_secs(5))
}
