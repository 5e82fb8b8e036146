//! What the operator watches: one set of watches for each namespace, or one for all.
//!
//! | module | contents |
//! |---|---|
//! | [`bodies`] | objects of bodies, into the index of bodies |
//! | [`ledger_objects`] | ledger objects, to the actor of their organism |
//! | [`pods`] | pods of bodies, into the index of pods |
//! | [`Watches`] | a watch that is tried again for as long as it fails |
//! | `trim` | what is kept of an object's metadata (pure) |

pub mod bodies;
pub mod ledger_objects;
pub mod pods;
mod retry;
mod trim;

use k8s_openapi::NamespaceResourceScope;
use kube::Client;
use kube::api::Api;
use kube::core::{ApiResource, Resource};
use tokio::sync::watch;

use super::health::List;

pub use retry::Watches;
pub use trim::trim_managers;

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

    /// The list of `kind` in this scope.
    #[must_use]
    pub fn list(&self, kind: &'static str) -> List {
        List { kind, namespace: self.0.clone() }
    }
}

/// Returns when the flag becomes true.
pub async fn stopped(mut stopping: watch::Receiver<bool>) {
    // An error means that the sender is gone: stop as well.
    let _ = stopping.wait_for(|&stop| stop).await;
}
