//! All objects of a kind in a namespace, for all quarantines that look at them, from few lists.
//!
//! What opens the pods may have any name and any labels, so a look needs every object. Whoever asks while a list is under
//! way is answered by the next one, together with all others that have asked meanwhile: what it says was true after it was
//! asked, however many ask.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::Api;
use kube::api::ListParams;
use kube::core::DynamicObject;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::operator::call::{CallError, call};

/// The lists of a namespace begin at least this many times the last one's duration apart: however many ask, and however
/// large it is, it is not listed all the time.
const SPACING: u32 = 3;
/// Those who wait for a list take it within this time.
const KEPT: Duration = Duration::from_secs(1);
/// Objects in a page of a list.
pub(super) const PAGE: u32 = 250;

/// The objects of a namespace, or why they could not be listed: all who have asked get the same.
pub type Found<K> = Result<Arc<Vec<K>>, Arc<CallError>>;

/// Lists of the kinds that let traffic through, or scale pods.
pub struct Lists {
    /// networking.k8s.io/v1.
    pub policies: SharedLists<NetworkPolicy>,
    /// core/v1.
    pub services: SharedLists<DynamicObject>,
    /// autoscaling/v2.
    pub autoscalers: SharedLists<DynamicObject>,
}

impl Default for Lists {
    fn default() -> Self {
        Self {
            policies: SharedLists::new("NetworkPolicies"),
            services: SharedLists::new("Services"),
            autoscalers: SharedLists::new("HorizontalPodAutoscalers"),
        }
    }
}

/// Lists of one kind, for all who ask.
pub struct SharedLists<K> {
    /// The plural of the kind, for errors.
    plural: &'static str,
    namespaces: Mutex<HashMap<Arc<str>, Turn<K>>>,
}

/// Whoever has it lists.
type Turn<K> = Arc<tokio::sync::Mutex<Option<Last<K>>>>;

/// The last list of a namespace.
struct Last<K> {
    begun: Instant,
    took: Duration,
    found: Result<Weak<Vec<K>>, Arc<CallError>>,
}

impl<K: Clone + Debug + DeserializeOwned + Send + Sync + 'static> SharedLists<K> {
    /// For a kind with this plural.
    #[must_use]
    pub fn new(plural: &'static str) -> Self {
        Self { plural, namespaces: Mutex::default() }
    }

    /// The objects in `namespace`, as they were after this was called.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn objects(&self, api: &Api<K>, namespace: &Arc<str>) -> Found<K> {
        let asked = Instant::now();
        let turn = self.turn(namespace);
        let mut turn = turn.lock().await;
        if let Some(last) = &*turn {
            let found = if last.begun > asked { last.found.as_ref().map(Weak::upgrade) } else { Ok(None) };
            match found {
                Ok(Some(found)) => return Ok(found),
                Ok(None) => {}
                Err(error) => return Err(error.clone()),
            }
            tokio::time::sleep_until(last.begun + last.took * SPACING).await;
        }
        let begun = Instant::now();
        let found = list(api, self.plural, namespace).await.map(Arc::new).map_err(Arc::new);
        let took = begun.elapsed();
        *turn = Some(Last { begun, took, found: found.as_ref().map(Arc::downgrade).map_err(Arc::clone) });
        drop(turn);
        if let Ok(found) = &found {
            // Those who wait for their turn take it now; nobody needs it later.
            let found = found.clone();
            tokio::spawn(async move {
                tokio::time::sleep(KEPT).await;
                drop(found);
            });
        }
        found
    }

    fn turn(&self, namespace: &Arc<str>) -> Turn<K> {
        let mut namespaces = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner);
        namespaces.entry(namespace.clone()).or_default().clone()
    }
}

/// Lists all objects of a kind, page by page.
async fn list<K>(api: &Api<K>, plural: &str, namespace: &str) -> Result<Vec<K>, CallError>
where
    K: Clone + DeserializeOwned + Debug,
{
    let object = format!("{plural} in {namespace}");
    let mut params = ListParams::default().limit(PAGE);
    let mut found = vec![];
    loop {
        let page = call("list", &object, api.list(&params)).await?;
        found.extend(page.items);
        match page.metadata.continue_.filter(|it| !it.is_empty()) {
            Some(next) => params = params.continue_token(&next),
            None => return Ok(found),
        }
    }
}

#[cfg(test)]
mod tests;
