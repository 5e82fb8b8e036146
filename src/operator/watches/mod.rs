//! What the operator watches: one set of watches for each namespace, or one for all.
//!
//! | module | contents |
//! |---|---|
//! | [`bodies`] | objects of bodies, into the index of bodies |
//! | [`ledger_objects`] | ledger objects, to the actor of their organism |

pub mod bodies;
pub mod ledger_objects;

use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use kube::Client;
use kube::api::{Api, ListParams};
use kube::core::{ApiResource, DynamicObject, Resource};
use tokio::sync::watch;

use super::body::build::Kind;
use crate::api;

/// How long to wait for CRDs to be served.
const CRD_TIMEOUT: Duration = Duration::from_secs(60);

/// A namespace, or all of them.
#[derive(Clone, Debug)]
pub struct Scope(Option<String>);

impl Scope {
    /// One scope a namespace; one for all if there is none.
    #[must_use]
    pub fn of(namespaces: &[String]) -> Vec<Self> {
        if namespaces.is_empty() {
            vec![Self(None)]
        } else {
            namespaces.iter().cloned().map(|it| Self(Some(it))).collect()
        }
    }

    /// The namespace; none for all.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        self.0.as_deref()
    }

    /// The API of a namespaced kind in this scope.
    #[must_use]
    pub fn api<K>(&self, client: &Client) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        match &self.0 {
            Some(namespace) => Api::namespaced(client.clone(), namespace),
            None => Api::all(client.clone()),
        }
    }

    /// The API of a kind that is only known at run time.
    #[must_use]
    pub fn dynamic_api<K>(&self, client: &Client, resource: &ApiResource) -> Api<K>
    where
        K: Resource<Scope = kube::core::DynamicResourceScope, DynamicType = ApiResource>,
    {
        match &self.0 {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, resource),
            None => Api::all_with(client.clone(), resource),
        }
    }

    /// What a list of `kind` in this scope is called.
    #[must_use]
    pub fn describe(&self, kind: &str) -> String {
        match &self.0 {
            Some(namespace) => format!("{kind} in {namespace}"),
            None => kind.to_owned(),
        }
    }
}

/// Returns when the flag becomes true.
pub async fn stopped(mut stopping: watch::Receiver<bool>) {
    // An error means that the sender is gone: stop as well.
    let _ = stopping.wait_for(|&stop| stop).await;
}

/// The operator may not list a kind, or the kind is not served.
#[derive(Debug, thiserror::Error)]
#[error("cannot list {0}: {1}; install the CRDs (`venom crds | kubectl apply -f -`) and check the role")]
pub struct AccessError(&'static str, kube::Error);

/// Lists one object of each kind, so that missing rights are an error at the start: a watch that keeps failing
/// would only stall. CRDs that were applied a moment ago are not served yet, so this waits for them a while.
///
/// # Errors
/// [`AccessError`].
pub async fn check_access(client: &Client, scopes: &[Scope], bodies: bool) -> Result<(), AccessError> {
    for scope in scopes {
        can_list("Organisms", &scope.api::<api::Organism>(client)).await?;
        can_list("Genomes", &scope.api::<api::Genome>(client)).await?;
        for kind in Kind::ALL.into_iter().filter(|_| bodies) {
            let api: Api<DynamicObject> = scope.dynamic_api(client, &kind.resource());
            can_list(kind.plural(), &api).await?;
        }
    }
    Ok(())
}

async fn can_list<K>(kind: &'static str, api: &Api<K>) -> Result<(), AccessError>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let one = ListParams::default().limit(1);
    let give_up = tokio::time::Instant::now() + CRD_TIMEOUT;
    loop {
        match api.list_metadata(&one).await {
            Ok(_) => return Ok(()),
            Err(kube::Error::Api(error)) if error.code == 404 && tokio::time::Instant::now() < give_up => {
                tracing::info!(kind, "not served yet; waiting");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Err(error) => return Err(AccessError(kind, error)),
        }
    }
}
