//! Adding a finalizer to an Organism, and removing it.

use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::json;

use super::call::{CallError, call};
use super::key::Key;
use crate::api::Organism;

/// Adds the finalizer `name` to the Organism with this UID, or removes it. Others stay as they are. An Organism that is
/// gone is as it should be.
///
/// # Errors
/// [`CallError`]; a conflict where somebody has changed the Organism since it was read.
pub async fn set(client: &Client, key: &Key, uid: &str, name: &str, wanted: bool) -> Result<(), CallError> {
    let organisms: Api<Organism> = Api::namespaced(client.clone(), &key.namespace);
    let object = format!("Organism {key}");
    let found = call("get", &object, organisms.get_metadata_opt(&key.name)).await?;
    let Some(found) = found.filter(|it| it.metadata.uid.as_deref() == Some(uid)) else {
        return Ok(());
    };
    let mut finalizers = found.finalizers().to_vec();
    if finalizers.iter().any(|it| it == name) == wanted {
        return Ok(());
    }
    if wanted {
        finalizers.push(name.into());
    } else {
        finalizers.retain(|it| it != name);
    }
    // With the resourceVersion, so that a finalizer added meanwhile is never overwritten.
    let patch = json!({
        "metadata": {"finalizers": finalizers, "resourceVersion": found.metadata.resource_version},
    });
    let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
    match call("patch", &object, organisms.patch_metadata(&key.name, &params, &patch)).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}
