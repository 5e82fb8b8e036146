//! Reconciles a Genome: releases a claim whose Organism is gone, and sets the condition Bound while no Organism
//! has claimed it. One replica does that for each Genome. The publisher of a bound Genome's Organism writes everything else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use kube::core::{DeserializeGuard, Resource};
use kube::runtime::controller::Action as Requeue;
use kube::runtime::reflector::{ObjectRef, Store};
use serde_json::json;

use super::claim;
use crate::api;
use crate::operator::call::{CallError, call};
use crate::operator::health::List;
use crate::operator::key::Key;
use crate::operator::publisher::conditions::Conditions;

/// Interval of the check while the first list of Organisms has not arrived.
const FIRST_LIST: Duration = Duration::from_millis(500);
/// Retry interval after a conflict.
const CONFLICT_RETRY: Duration = Duration::from_secs(1);

/// What the reconciliations of Genomes share.
pub struct Context {
    /// What they share with those of Organisms.
    pub shared: Arc<super::Context>,
    /// The Organisms of the same scope.
    pub organisms: Store<DeserializeGuard<api::Organism>>,
    /// The first list of these, as the readiness calls it.
    pub list: List,
}

/// Brings one Genome's claim and condition up to date.
///
/// # Errors
/// [`CallError`] when it has to be retried.
pub async fn reconcile(
    guarded: Arc<DeserializeGuard<api::Genome>>,
    context: Arc<Context>,
) -> Result<Requeue, CallError> {
    let done = try_reconcile(&guarded, &context).await?;
    context.shared.genomes.succeeded(&Key::of_metadata(guarded.meta()));
    Ok(done)
}

async fn try_reconcile(
    guarded: &DeserializeGuard<api::Genome>,
    context: &Context,
) -> Result<Requeue, CallError> {
    let genome = match &guarded.0 {
        Ok(genome) => genome,
        Err(invalid) => {
            tracing::error!(genome = ?invalid.metadata.name, error = %invalid.error, "cannot decode a Genome");
            return Ok(Requeue::await_change());
        }
    };
    if !context.shared.ownership.owns(genome.metadata.uid.as_deref().unwrap_or_default()) {
        return Ok(Requeue::await_change());
    }
    if context.shared.watches.readiness.is_waiting_for(&context.list) {
        // Without the Organisms every claim would have to be checked by a call.
        return Ok(Requeue::requeue(FIRST_LIST));
    }
    if is_claimed(genome, context) {
        return Ok(Requeue::await_change());
    }
    if claim::release_if_stale(&context.shared.client, genome).await? {
        return Ok(Requeue::await_change());
    }
    let status = genome.status.clone().unwrap_or_default();
    let observed = status.conditions.iter().any(|it| it.type_ == "Bound" && it.status == "False")
        && status.observed_generation == genome.metadata.generation;
    if observed || status.bound_to.is_some() {
        // A claim that was released just now comes back as a change of the object.
        return Ok(Requeue::await_change());
    }
    let generation = genome.metadata.generation;
    let now = k8s_openapi::jiff::Timestamp::now();
    let mut conditions = Conditions::new(&status.conditions, generation, now);
    conditions.set("Bound", "False", "Free", "Not bound to any Organism.");
    let patch = json!({
        "metadata": {"resourceVersion": genome.metadata.resource_version},
        "status": {"conditions": conditions.finish(), "observedGeneration": generation},
    });
    let (namespace, name) = (genome.namespace().unwrap_or_default(), genome.name_any());
    let genomes: Api<api::Genome> = Api::namespaced(context.shared.client.clone(), &namespace);
    let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
    call("patch", &format!("Genome {namespace}/{name}"), genomes.patch_status(&name, &params, &patch))
        .await?;
    Ok(Requeue::await_change())
}

/// Whether the Organism that has claimed the Genome, or that it was made for and that is about to claim it, is known to
/// exist and to refer to it. Needs no call.
fn is_claimed(genome: &api::Genome, context: &Context) -> bool {
    let bound = genome.status.as_ref().and_then(|status| status.bound_to.as_ref());
    let claimant = match (bound, genome.owner_references()) {
        (Some(bound), _) => (&bound.name, &bound.uid),
        (None, [owner]) if owner.controller == Some(true) => (&owner.name, &owner.uid),
        (None, _) => return false,
    };
    let reference = ObjectRef::new(claimant.0).within(&genome.namespace().unwrap_or_default());
    context.organisms.get(&reference).is_some_and(|organism| {
        let refers = organism.0.as_ref().is_ok_and(|it| it.genome_name() == genome.name_any());
        organism.meta().uid.as_ref() == Some(claimant.1) && refers
    })
}

/// The wait before a failed reconciliation is retried.
pub fn error_policy(
    guarded: Arc<DeserializeGuard<api::Genome>>,
    error: &CallError,
    context: Arc<Context>,
) -> Requeue {
    if error.is_conflict() || error.is_not_found() {
        return Requeue::requeue(CONFLICT_RETRY);
    }
    context.shared.metrics.api_error("reconcile");
    let metadata = guarded.meta();
    let key = Key::of_metadata(metadata);
    let retries = &context.shared.genomes;
    let (wait, line) = retries.failed(key.clone(), metadata.generation, &error.to_string(), Instant::now());
    if let Some(times) = line {
        tracing::warn!(genome = %key, %error, times, "reconcile failed; retrying");
    }
    Requeue::requeue(wait)
}
