//! How many Organisms of a namespace are taken up. Those beyond the limit get a condition and nothing else: no actor,
//! no Genome, no ledger, no pods.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use kube::core::{DeserializeGuard, ObjectMeta, Resource};
use kube::runtime::reflector::Store;
use kube::{Client, runtime::controller::Action as Requeue};
use serde_json::json;

use crate::api;
use crate::operator::call::{CallError, call};
use crate::operator::key::Key;
use crate::operator::publisher::conditions::Conditions;

/// How long it is known which Organisms are beyond the limit.
const FRESH: Duration = Duration::from_secs(5);
/// How often one beyond the limit looks for room.
const RETRY: Duration = Duration::from_secs(30);

/// An Organism's place among those of its namespace: its creation, then its name.
type Age = (Option<Timestamp>, Option<String>);

/// The limit, and which Organisms are beyond it.
#[derive(Debug)]
pub struct Quota {
    most: usize,
    /// The youngest Organism that is taken up in each namespace that has more. Found at most once for each number of
    /// Organisms and every few seconds: thousands that wait must not look at thousands each.
    last: Mutex<Option<Last>>,
}

#[derive(Debug)]
struct Last {
    found: Instant,
    organisms: usize,
    youngest: BTreeMap<String, Age>,
}

impl Quota {
    /// At most `most` Organisms a namespace; 0 is no limit.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most, last: Mutex::new(None) }
    }

    /// Whether as many Organisms of its namespace as the limit allows are older than this one.
    #[must_use]
    pub fn is_beyond(
        &self,
        organism: &api::Organism,
        organisms: &Store<DeserializeGuard<api::Organism>>,
    ) -> bool {
        let count = organisms.len();
        if self.most == 0 || count <= self.most {
            return false;
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let is_fresh = |it: &Last| it.organisms == count && it.found.elapsed() < FRESH;
        if !last.as_ref().is_some_and(is_fresh) {
            let all = organisms.state();
            let youngest = youngest(self.most, all.iter().map(|it| it.meta()));
            *last = Some(Last { found: Instant::now(), organisms: count, youngest });
        }
        let namespace = organism.metadata.namespace.as_deref().unwrap_or_default();
        let youngest = last.as_ref().and_then(|it| it.youngest.get(namespace));
        youngest.is_some_and(|it| age(&organism.metadata) > *it)
    }
}

fn age(it: &ObjectMeta) -> Age {
    (it.creation_timestamp.as_ref().map(|time| time.0), it.name.clone())
}

/// The youngest of the `most` oldest of each namespace that has more, those that are being deleted aside.
fn youngest<'a>(most: usize, all: impl Iterator<Item = &'a ObjectMeta>) -> BTreeMap<String, Age> {
    let mut ages: BTreeMap<&str, Vec<Age>> = BTreeMap::new();
    for it in all.filter(|it| it.deletion_timestamp.is_none()) {
        ages.entry(it.namespace.as_deref().unwrap_or_default()).or_default().push(age(it));
    }
    let crowded = ages.into_iter().filter(|(_, ages)| ages.len() > most);
    crowded
        .map(|(namespace, mut ages)| {
            let (_, youngest, _) = ages.select_nth_unstable(most - 1);
            (namespace.to_owned(), std::mem::take(youngest))
        })
        .collect()
}

/// Says in the status of an Organism that it is beyond the limit.
///
/// # Errors
/// [`CallError`] when the status cannot be written.
pub async fn refuse(
    client: &Client,
    organism: &Arc<api::Organism>,
    quota: &Quota,
) -> Result<Requeue, CallError> {
    let most = quota.most;
    let key = Key::of(organism);
    let before = organism.status.as_ref().map(|it| it.conditions.clone()).unwrap_or_default();
    let message = format!(
        "Namespace {} has {most} older Organisms, as many as --max-organisms-per-namespace allows. Delete one, or raise \
         the limit; this one then starts by itself.",
        key.namespace
    );
    let mut conditions = Conditions::new(&before, organism.metadata.generation, Timestamp::now());
    for kind in ["Ready", "Beating"] {
        conditions.set(kind, "False", "TooManyOrganisms", &message);
    }
    let conditions = conditions.finish();
    if conditions != before {
        tracing::warn!(organism = %key, most, "not taken up: its namespace has too many Organisms");
        let organisms: Api<api::Organism> = Api::namespaced(client.clone(), &key.namespace);
        let patch = json!({
            "metadata": {"uid": organism.uid()},
            "status": {"conditions": conditions, "observedGeneration": organism.metadata.generation},
        });
        let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
        call("patch", &format!("Organism {key}"), organisms.patch_status(&key.name, &params, &patch)).await?;
    }
    Ok(Requeue::requeue(RETRY))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    fn organism(namespace: &str, name: &str, second: i64) -> ObjectMeta {
        ObjectMeta {
            namespace: Some(namespace.into()),
            name: Some(name.into()),
            creation_timestamp: Some(Time(Timestamp::from_second(second).unwrap())),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn the_youngest_of_a_namespace_are_beyond_the_limit() {
        let all =
            [organism("a", "y", 2), organism("a", "z", 1), organism("a", "x", 2), organism("b", "w", 0)];
        let beyond = |most: usize| -> Vec<&str> {
            let youngest = youngest(most, all.iter());
            let beyond = |it: &&ObjectMeta| {
                youngest.get(it.namespace.as_ref().unwrap()).is_some_and(|last| age(it) > *last)
            };
            all.iter().filter(beyond).map(|it| it.name.as_deref().unwrap()).collect()
        };
        assert_eq!(beyond(1), ["y", "x"], "z is the oldest of its namespace, w alone");
        assert_eq!(beyond(2), ["y"], "by creation, then by name");
        assert_eq!(beyond(3), [""; 0]);
    }
}
