//! A Genome is bound to at most one Organism. The claim is `status.boundTo`, written with the resourceVersion that
//! was read; it is free again when a live read finds that the claimant's UID is gone.

use std::collections::BTreeMap;

use kube::api::{Api, Patch, PatchParams};
use kube::core::{DeserializeGuard, Resource};
use kube::{Client, ResourceExt};
use serde_json::json;

use crate::api;
use crate::api::labels::{MANAGED_BY_LABEL, MANAGER, ORGANISM_LABEL};
use crate::operator::body::index::FIELD_MANAGER;
use crate::operator::call::{CallError, call};
use crate::operator::publisher::report::{NotReady, NotReadyReason};

/// Claims `genome` for `organism`. Returns why it cannot be claimed, or none.
///
/// # Errors
/// [`CallError`] when a call failed; a conflict means that the Genome has changed since it was read.
pub async fn claim(
    client: &Client,
    organism: &api::Organism,
    genome: &api::Genome,
) -> Result<Option<NotReady>, CallError> {
    let namespace = organism.namespace().unwrap_or_default();
    let (name, uid) = (organism.name_any(), organism.uid().unwrap_or_default());
    let bound = genome.status.as_ref().and_then(|status| status.bound_to.as_ref());
    match bound {
        Some(_) if is_bound_to(genome, organism) => return Ok(None),
        Some(bound) if claims(client, &namespace, bound, &genome.name_any()).await? => {
            return Ok(Some(NotReady {
                reason: NotReadyReason::GenomeInUse,
                message: format!(
                    "Genome {namespace}/{} is bound to Organism {}; name another Genome in spec.genomeRef, or delete that \
                     Organism.",
                    genome.name_any(),
                    bound.name,
                ),
                generation: organism.metadata.generation.unwrap_or_default(),
            }));
        }
        _ => {}
    }
    let bound = json!({"name": name, "uid": uid});
    bind(client, &namespace, genome, bound).await?;
    Ok(None)
}

/// Whether `organism` has claimed the Genome.
#[must_use]
pub fn is_bound_to(genome: &api::Genome, organism: &api::Organism) -> bool {
    let bound = genome.status.as_ref().and_then(|status| status.bound_to.as_ref());
    bound.is_some_and(|bound| Some(&bound.uid) == organism.metadata.uid.as_ref())
}

/// Releases a claim whose claimant is gone or refers to another Genome. Returns whether the Genome stays bound.
///
/// # Errors
/// [`CallError`] when a call failed.
pub async fn release_if_stale(client: &Client, genome: &api::Genome) -> Result<bool, CallError> {
    let namespace = genome.namespace().unwrap_or_default();
    let Some(bound) = genome.status.as_ref().and_then(|status| status.bound_to.as_ref()) else {
        return Ok(false);
    };
    if claims(client, &namespace, bound, &genome.name_any()).await? {
        return Ok(true);
    }
    bind(client, &namespace, genome, serde_json::Value::Null).await?;
    Ok(false)
}

/// Whether the claimant exists and still refers to the Genome `name`.
async fn claims(
    client: &Client,
    namespace: &str,
    bound: &api::BoundTo,
    name: &str,
) -> Result<bool, CallError> {
    let organisms: Api<DeserializeGuard<api::Organism>> = Api::namespaced(client.clone(), namespace);
    let object = format!("Organism {namespace}/{}", bound.name);
    let found = call("get", &object, organisms.get_opt(&bound.name)).await?;
    Ok(found.is_some_and(|found| {
        // An Organism that cannot be decoded keeps its claim.
        let refers = found.0.as_ref().map_or(true, |it| it.genome_name() == name);
        found.meta().uid.as_ref() == Some(&bound.uid) && refers
    }))
}

/// Labels of the Genome that the operator creates for `organism`.
#[must_use]
pub fn genome_labels(organism: &api::Organism) -> BTreeMap<String, String> {
    [(ORGANISM_LABEL.to_owned(), organism.name_any()), (MANAGED_BY_LABEL.into(), MANAGER.into())].into()
}

/// The patch that makes `organism` the owner of the Genome that was created for an earlier Organism of its name, and
/// that was left behind without an owner; none for any other Genome.
#[must_use]
pub fn lost_owner(organism: &api::Organism, genome: &api::Genome) -> Option<serde_json::Value> {
    let labels = genome.labels();
    let labelled = genome_labels(organism).iter().all(|(name, value)| labels.get(name) == Some(value));
    let mut managers = genome.managed_fields().iter().filter(|it| it.subresource.is_none());
    let created = labelled && managers.any(|it| it.manager.as_deref() == Some(FIELD_MANAGER));
    let own = organism.spec.genome_ref.is_none() && created && genome.owner_references().is_empty();
    let owner = organism.controller_owner_ref(&()).filter(|_| own)?;
    // With the resourceVersion: nobody else has become its owner since.
    Some(json!({"metadata": {
        "resourceVersion": genome.metadata.resource_version,
        "ownerReferences": [owner],
    }}))
}

async fn bind(
    client: &Client,
    namespace: &str,
    genome: &api::Genome,
    bound: serde_json::Value,
) -> Result<(), CallError> {
    let genomes: Api<api::Genome> = Api::namespaced(client.clone(), namespace);
    let patch = json!({
        "metadata": {"resourceVersion": genome.metadata.resource_version},
        "status": {"boundTo": bound},
    });
    let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
    let name = genome.name_any();
    let object = format!("Genome {namespace}/{name}");
    call("patch", &object, genomes.patch_status(&name, &params, &patch)).await?;
    Ok(())
}
