//! The ledger objects of many Organisms, from few lists.
//!
//! For a list the API server goes through every ConfigMap of the namespace, however few it selects. So whoever asks while
//! one is under way gets its answer from the next one, together with all others that have asked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::Client;
use tokio::sync::{mpsc, oneshot};

use crate::operator::key::Key;
use crate::store::configmap::{ConfigMaps, StoreError};
use crate::store::objects::Objects;

/// Who asks within this time after the first is answered by the same list.
const GATHER: Duration = Duration::from_millis(100);
/// Ledgers of one list: their names make an address of at most 4 KiB.
const LISTED_AT_ONCE: usize = 50;
/// Lists in flight.
const AT_ONCE: usize = 2;

/// Why ledger objects could not be listed. All that have asked get the same.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ListError {
    /// The call failed.
    #[error(transparent)]
    Store(#[from] Arc<StoreError>),
    /// The task that lists has panicked.
    #[error("the operator no longer lists ledger objects; restart it")]
    Ended,
}

/// Lists for all who ask.
pub struct SharedLists(mpsc::UnboundedSender<Request>);

struct Request {
    key: Key,
    answer: oneshot::Sender<Result<Objects, ListError>>,
}

impl SharedLists {
    /// Lists by `client`. Its task ends with it.
    #[must_use]
    pub fn new(client: Client) -> Self {
        let (sender, requests) = mpsc::unbounded_channel();
        tokio::spawn(answer(client, requests));
        Self(sender)
    }

    /// The objects of the ledger of this name, as they were after this was called.
    ///
    /// # Errors
    /// [`ListError`].
    pub async fn objects(&self, key: &Key) -> Result<Objects, ListError> {
        let (answer, answered) = oneshot::channel();
        let _ = self.0.send(Request { key: key.clone(), answer });
        answered.await.unwrap_or(Err(ListError::Ended))
    }
}

async fn answer(client: Client, mut requests: mpsc::UnboundedReceiver<Request>) {
    let mut asked = vec![];
    while requests.recv_many(&mut asked, 1).await > 0 {
        tokio::time::sleep(GATHER).await;
        asked.extend(std::iter::from_fn(|| requests.try_recv().ok()));
        let mut namespaces: BTreeMap<Arc<str>, Vec<Request>> = BTreeMap::new();
        for request in asked.drain(..) {
            namespaces.entry(request.key.namespace.clone()).or_default().push(request);
        }
        let mut lists = vec![];
        for (namespace, mut asked) in namespaces {
            while !asked.is_empty() {
                let rest = asked.split_off(asked.len().min(LISTED_AT_ONCE));
                lists.push(list(&client, namespace.clone(), asked));
                asked = rest;
            }
        }
        futures::stream::iter(lists).buffer_unordered(AT_ONCE).collect::<()>().await;
    }
}

/// Answers all of `asked` from one list.
async fn list(client: &Client, namespace: Arc<str>, asked: Vec<Request>) {
    let names: Vec<&str> = asked.iter().map(|it| &*it.key.name).collect();
    let store = ConfigMaps::new(client.clone(), &namespace, names.first().copied().unwrap_or_default(), "");
    let listed = store.list_of(&names).await.map_err(Arc::new);
    for Request { key, answer } in asked {
        // An error means that nobody waits for it any more.
        let _ = answer.send(match &listed {
            Ok(ledgers) => Ok(ledgers.get(&*key.name).cloned().unwrap_or_default()),
            Err(error) => Err(error.clone().into()),
        });
    }
}

#[cfg(test)]
mod tests;
