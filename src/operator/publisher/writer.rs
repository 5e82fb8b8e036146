//! Writes one object's status with the resourceVersion last seen.

use std::time::Instant;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::api::{Api, Patch, PatchParams};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::api;
use crate::operator::failure_log::FailureLog;
use crate::operator::metrics::Metrics;
use crate::store::{ApiFailure, CALL_TIMEOUT};

/// Attempts of one write: a conflict is answered with the resourceVersion that the object has by then.
const ATTEMPTS: usize = 3;

/// The writer of one object's status.
pub struct StatusWriter<K> {
    api: Api<K>,
    name: String,
    uid: String,
    resource_version: Option<String>,
    failures: FailureLog,
}

/// How a write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// The status is written.
    Done,
    /// The object is gone, or another one has its name.
    Gone,
    /// The write failed and may be retried.
    Failed,
}

impl<K> StatusWriter<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    /// A writer for the object `name` as `metadata` describes it.
    #[must_use]
    pub fn new(api: Api<K>, name: &str, metadata: &ObjectMeta) -> Self {
        Self {
            api,
            name: name.to_owned(),
            uid: metadata.uid.clone().unwrap_or_default(),
            resource_version: metadata.resource_version.clone(),
            failures: FailureLog::default(),
        }
    }

    /// The object's UID.
    #[must_use]
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// The object's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Patches the status. The patch carries UID and resourceVersion, so it never reaches another object of
    /// that name. What somebody else has written meanwhile is not replaced where it is `newer`.
    pub async fn write(
        &mut self,
        status: &Value,
        metrics: &Metrics,
        newer: impl Fn(&K) -> bool,
    ) -> WriteOutcome {
        let mut why = "the object changes all the time".to_owned();
        for _ in 0..ATTEMPTS {
            let patch = json!({
                "metadata": {"uid": self.uid, "resourceVersion": self.resource_version},
                "status": status,
            });
            let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
            let call = self.api.patch_status(&self.name, &params, &patch);
            match tokio::time::timeout(CALL_TIMEOUT, call).await {
                Ok(Ok(object)) => {
                    self.resource_version = object.meta().resource_version.clone();
                    self.failures.succeeded();
                    metrics.status_written();
                    return WriteOutcome::Done;
                }
                Ok(Err(kube::Error::Api(error))) if error.is_not_found() => return WriteOutcome::Gone,
                Ok(Err(kube::Error::Api(error))) if error.is_conflict() => {
                    match tokio::time::timeout(CALL_TIMEOUT, self.api.get_opt(&self.name)).await {
                        Ok(Ok(Some(found))) if found.meta().uid.as_deref() == Some(&self.uid) => {
                            if newer(&found) {
                                why = "another operator has published a newer one".to_owned();
                                break;
                            }
                            self.resource_version = found.meta().resource_version.clone();
                        }
                        Ok(Ok(_)) => return WriteOutcome::Gone,
                        _ => break,
                    }
                }
                Ok(Err(error)) => {
                    why = ApiFailure(error).to_string();
                    break;
                }
                Err(_) => {
                    why = format!("no answer within {} s", CALL_TIMEOUT.as_secs());
                    break;
                }
            }
        }
        if let Some(times) = self.failures.failed(&why, Instant::now()) {
            let object =
                format!("{} {}/{}", K::kind(&()), self.api.namespace().unwrap_or_default(), self.name);
            tracing::warn!(object, error = why, times, "cannot write a status; retrying");
        }
        metrics.api_error("status");
        WriteOutcome::Failed
    }
}

/// A merge patch of an Organism's whole status.
#[must_use]
pub fn organism_patch(status: &api::OrganismStatus) -> Value {
    let mut patch = whole_patch(status, &["decision", "tLambda", "response"]);
    for (path, fields) in [
        ("/ledger", &["onDelete", "replayableFrom"][..]),
        ("/decision", &["rule", "margin"]),
        ("/response/applied", &["what"]),
        ("/response/wouldApply", &["what"]),
        ("/response", &["applied", "wouldApply"]),
    ] {
        if let Some(Value::Object(part)) = patch.pointer_mut(path) {
            for field in fields {
                part.entry(*field).or_insert(Value::Null);
            }
        }
    }
    patch
}

/// A merge patch of a Genome's status without `boundTo`, which belongs to the reconciler.
#[must_use]
pub fn genome_patch(status: &api::GenomeStatus) -> Value {
    let mut patch = whole_patch(status, &[]);
    if let Value::Object(patch) = &mut patch {
        patch.remove("boundTo");
    }
    patch
}

/// A merge patch that also removes those of `fields` that `status` leaves out.
fn whole_patch<T: Serialize>(status: &T, fields: &[&str]) -> Value {
    let mut patch = json!(status);
    if let Value::Object(patch) = &mut patch {
        for field in fields {
            patch.entry(*field).or_insert(Value::Null);
        }
    }
    patch
}
