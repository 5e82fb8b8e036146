//! The Secret while the operator runs: waited for at the start, and created again where it is lost, for the CA is in memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ObjectReference, Secret};
use kube::Client;
use kube::api::{Api, PostParams};
use kube::runtime::events::{Event, EventType, Recorder};
use tokio::time::sleep;

use super::{AuthorityError, CA_SECRET, Certificates};
use crate::operator::call::{CallError, call};
use crate::operator::failure_log::FailureLog;
use crate::operator::health::{List, Readiness};
use crate::operator::metrics::Metrics;
use crate::printable::{NOTE, line};

/// Interval between two looks at the Secret.
const INTERVAL: Duration = Duration::from_secs(15);
/// Wait after a failed call for the Secret at the start.
const RETRY: Duration = Duration::from_secs(2);

/// Loads the CA as [`Certificates::load`] does, however long the API server is away or refuses it. A process that ended
/// would be started again with waits of up to five minutes.
///
/// # Errors
/// [`AuthorityError`] if the Secret is invalid.
pub async fn load(
    client: &Client,
    namespace: &str,
    readiness: &Readiness,
) -> Result<Certificates, AuthorityError> {
    let list = List { kind: "Secrets", namespace: Some(namespace.to_owned()) };
    readiness.wait_for(&list);
    let mut log = FailureLog::default();
    loop {
        match Certificates::load(client.clone(), namespace).await {
            Ok(certificates) => {
                readiness.failing(&list, None);
                readiness.arrived(&list);
                return Ok(certificates);
            }
            Err(error @ AuthorityError::Call(_)) => {
                readiness.failing(&list, Some(&error.to_string()));
                if let Some(times) = log.failed(&error.to_string(), Instant::now()) {
                    tracing::warn!(times, %error, "the operator cannot start yet; trying again");
                }
                sleep(RETRY).await;
            }
            Err(invalid) => return Err(invalid),
        }
    }
}

/// Creates the Secret again when it is gone, and tells of every loss. Never returns.
pub async fn keep(
    client: Client,
    namespace: String,
    certificates: Arc<Certificates>,
    recorder: Recorder,
    metrics: Arc<Metrics>,
) {
    let told = |note: String| {
        tracing::warn!("{note}");
        metrics.authority_lost();
        let event = Event {
            type_: EventType::Warning,
            reason: "AuthorityLost".into(),
            note: Some(line(&note, NOTE)),
            action: "Restore".into(),
            secondary: None,
        };
        let about = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Secret".into()),
            name: Some(CA_SECRET.into()),
            namespace: Some(namespace.clone()),
            ..ObjectReference::default()
        };
        let recorder = recorder.clone();
        async move {
            if let Err(error) = recorder.publish(&event, &about).await {
                tracing::warn!(%error, "cannot write an Event about the certificate authority");
            }
        }
    };
    if let Some(lost) = certificates.lost() {
        told(lost.to_owned()).await;
    }
    let mut log = FailureLog::default();
    loop {
        sleep(INTERVAL).await;
        match restore(&client, &namespace, &certificates).await {
            Ok(restored) => {
                log.succeeded();
                if restored {
                    told(format!(
                        "Secret {namespace}/{CA_SECRET} was deleted and is created again, with the same certificate \
                         authority. To replace it, stop all operators before you delete the Secret."
                    ))
                    .await;
                }
            }
            Err(error) => {
                if let Some(times) = log.failed(&error.to_string(), Instant::now()) {
                    tracing::warn!(times, %error, "cannot check the certificate authority; trying again");
                }
            }
        }
    }
}

/// Creates the Secret if it is missing, and returns whether it was.
async fn restore(
    client: &Client,
    namespace: &str,
    certificates: &Certificates,
) -> Result<bool, RestoreError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let object = format!("Secret {namespace}/{CA_SECRET}");
    let ours = certificates.secret();
    match call("get", &object, secrets.get_opt(CA_SECRET)).await? {
        Some(found) if found.data == ours.data => Ok(false),
        Some(_) => Err(RestoreError::Other(object)),
        None => match call("create", &object, secrets.create(&PostParams::default(), &ours)).await {
            Ok(_) => Ok(true),
            // Another operator was faster.
            Err(error) if error.is_conflict() => Ok(false),
            Err(error) => Err(error.into()),
        },
    }
}

#[derive(Debug, thiserror::Error)]
enum RestoreError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(
        "{0} has another certificate authority than this operator uses; restart the operator to use that one"
    )]
    Other(String),
}
