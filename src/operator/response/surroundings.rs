//! What of somebody else a response looks at and changes: Services, autoscalers, and an Organism's finalizer.
//!
//! Every write is a PUT or a patch with the resourceVersion that was read before it was asked whether this process still
//! holds the ledger: that of a stale holder is refused.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, OwnerReference};
use kube::api::{Api, DeleteParams, ListParams, PostParams, Preconditions};
use kube::core::{ApiResource, DynamicObject, ObjectMeta, Selector, SelectorExt};
use kube::{Client, ResourceExt};

use super::lists::{Found, Lists, PAGE};
use super::services::{self, Labels};
use super::target::Target;
use super::{autoscalers, services::changed_by};
use crate::api::WorkloadKind;
use crate::api::labels::{MANAGED_BY_LABEL, MANAGER, ORGANISM_LABEL};
use crate::operator::body::build::{BODY_SUFFIX, QUARANTINE_SUFFIX};
use crate::operator::body::index::FIELD_MANAGER;
use crate::operator::call::{CallError, call};
use crate::operator::finalizer;
use crate::operator::hold::Hold;
use crate::operator::key::Key;

/// Keeps an Organism until what it has changed of others' objects is undone.
pub const FINALIZER: &str = "genesis.venom.dev/response";
/// Names of pods in a message.
const NAMED: usize = 3;

/// Why a change of somebody else's object was not made.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// A call failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// Another operator holds the ledger, or it cannot be told who does.
    #[error("this operator may not hold the ledger any more{0}")]
    NotHeld(String),
}

/// The namespace of an Organism, as a response sees it.
#[derive(Clone)]
pub struct Surroundings {
    client: Client,
    lists: Arc<Lists>,
    key: Key,
    uid: String,
}

/// What lets traffic through although the pods are isolated, and what could.
#[derive(Debug, Default)]
pub struct Look {
    /// Services of others that select the pods.
    pub services: Vec<DynamicObject>,
    /// Services that this Organism has detached and that select the pods no more.
    pub stray: Vec<DynamicObject>,
    /// What is open, one text an object.
    pub open: Vec<String>,
}

/// The kinds of others' objects that a response changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// core/v1.
    Service,
    /// autoscaling/v2.
    HorizontalPodAutoscaler,
}

impl Changed {
    fn resource(self) -> ApiResource {
        match self {
            Self::Service => ApiResource::erase::<Service>(&()),
            Self::HorizontalPodAutoscaler => ApiResource::erase::<HorizontalPodAutoscaler>(&()),
        }
    }

    fn restored(self, object: &DynamicObject) -> DynamicObject {
        match self {
            Self::Service => services::restore(object),
            Self::HorizontalPodAutoscaler => autoscalers::restored(object),
        }
    }

    /// Kind and name of an object.
    #[must_use]
    pub fn named(self, name: &str) -> String {
        format!("{} {name}", self.resource().kind)
    }

    /// The field manager, apart from `ours`, that has last written what a response changes.
    #[must_use]
    pub fn last_manager(self, object: &DynamicObject, ours: &str) -> Option<String> {
        let part = match self {
            Self::Service => "f:selector",
            Self::HorizontalPodAutoscaler => "f:behavior",
        };
        let entries = object.metadata.managed_fields.as_deref().unwrap_or_default();
        let writes = |it: &&ManagedFieldsEntry| {
            it.manager.as_deref() != Some(ours)
                && it.fields_v1.as_ref().is_some_and(|it| !it.0["f:spec"][part].is_null())
        };
        let last = entries.iter().filter(writes).max_by_key(|it| it.time.as_ref().map(|time| time.0));
        last.and_then(|it| it.manager.clone())
    }

    fn says(self, name: &str) -> String {
        match self {
            Self::Service => format!("Service {name} selects its pods again"),
            Self::HorizontalPodAutoscaler => format!("HorizontalPodAutoscaler {name} is as it was"),
        }
    }
}

impl Surroundings {
    /// The namespace of the Organism with this UID.
    #[must_use]
    pub fn new(client: Client, lists: Arc<Lists>, key: Key, uid: &str) -> Self {
        Self { client, lists, key, uid: uid.to_owned() }
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.key.namespace)
    }

    fn changed(&self, kind: Changed) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.key.namespace, &kind.resource())
    }

    /// The objects of a kind in the namespace.
    async fn all(&self, kind: Changed) -> Found<DynamicObject> {
        let lists = match kind {
            Changed::Service => &self.lists.services,
            Changed::HorizontalPodAutoscaler => &self.lists.autoscalers,
        };
        lists.objects(&self.changed(kind), &self.key.namespace).await
    }

    /// Pods that the quarantine's policy selects and that are not of the body; at most a few names. They are those that the
    /// API server's cache has: whoever makes one a moment later has it isolated as well, and a list that is certain to be the
    /// newest waits some 50 ms wherever anything else is written.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn foreign_pods(&self, target: &Target) -> Result<Vec<String>, CallError> {
        let selected = self.pods(&target.selector, ListParams::default().match_any()).await?;
        let (_, foreign) = self.split(selected, target).await?;
        let more = foreign.len().saturating_sub(NAMED);
        let mut names: Vec<_> = foreign.iter().take(NAMED).map(|it| format!("Pod {}", name(it))).collect();
        if more > 0 {
            names.push(format!("{more} more"));
        }
        Ok(names)
    }

    async fn pods(&self, selector: &Selector, params: ListParams) -> Result<Vec<ObjectMeta>, CallError> {
        let pods = self.api::<Pod>();
        let object = format!("Pods in {}", self.key.namespace);
        let mut found = vec![];
        let mut params = params.labels_from(selector).limit(PAGE);
        loop {
            let page = call("list", &object, pods.list_metadata(&params)).await?;
            found.extend(page.items.into_iter().map(|it| it.metadata));
            match page.metadata.continue_.filter(|it| !it.is_empty()) {
                // It says which version it continues.
                Some(next) => {
                    params = ListParams { version_match: None, resource_version: None, ..params }
                        .continue_token(&next);
                }
                None => return Ok(found),
            }
        }
    }

    /// Those of `pods` that the workload of `target` has made, and the others.
    async fn split(
        &self,
        pods: Vec<ObjectMeta>,
        target: &Target,
    ) -> Result<(Vec<ObjectMeta>, Vec<ObjectMeta>), CallError> {
        if target.kind == WorkloadKind::StatefulSet {
            let is_its = |pod: &ObjectMeta| controller(pod).is_some_and(|it| it.uid == target.uid);
            return Ok(pods.into_iter().partition(is_its));
        }
        let mut ours = BTreeSet::new();
        let names: BTreeSet<_> = pods.iter().filter_map(replica_set).map(|(name, _)| name).collect();
        for name in names {
            let object = format!("ReplicaSet {}/{name}", self.key.namespace);
            let found = call("get", &object, self.api::<ReplicaSet>().get_metadata_opt(&name)).await?;
            let owned = found.filter(|it| controller(&it.metadata).is_some_and(|it| it.uid == target.uid));
            ours.extend(owned.and_then(|it| it.metadata.uid));
        }
        Ok(pods.into_iter().partition(|pod| replica_set(pod).is_some_and(|(_, uid)| ours.contains(&uid))))
    }

    /// Looks at everything that may let traffic through.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn look(&self, target: &Target) -> Result<Look, CallError> {
        // Labels can be added to pods by hand, and then other policies and Services select them.
        let pods = self.pods(&target.selector, ListParams::default()).await?;
        let labels: BTreeSet<Labels> =
            pods.into_iter().filter_map(|it| it.labels).chain([target.labels.clone()]).collect();
        let mut look = Look::default();
        let policies = self.lists.policies.objects(&self.api(), &self.key.namespace).await?;
        let mut standing = false;
        for policy in &*policies {
            let name = policy.name_any();
            if let Some(part) = self.own_policy(policy) {
                let closed = if part == QUARANTINE_SUFFIX {
                    standing = labels.iter().all(|it| selects(policy, it));
                    standing
                } else {
                    let rules = policy.spec.as_ref().and_then(|it| it.ingress.as_ref());
                    rules.is_some_and(|it| it.iter().all(|it| it.from.is_some()))
                };
                if !closed {
                    look.open.push(format!("NetworkPolicy {name} is not as the operator has written it"));
                }
            } else if labels.iter().any(|it| selects(policy, it))
                && let Some(way) = lets_through(policy)
            {
                look.open.push(format!("NetworkPolicy {name} lets traffic {way}"));
            }
        }
        if !standing && look.open.is_empty() {
            look.open.push(format!("NetworkPolicy {}{QUARANTINE_SUFFIX} does not exist", self.key.name));
        }
        let services = self.all(Changed::Service).await?;
        let concerned = |it: &DynamicObject| {
            let selector = services::selector(it).filter(|_| !services::is_ours(it));
            selector.is_some_and(|selector| labels.iter().any(|it| services::selects(&selector, it)))
        };
        let (concerned, others): (Vec<_>, Vec<_>) = services.iter().partition(|it| concerned(it));
        look.services = concerned.into_iter().cloned().collect();
        let ours = others.into_iter().filter(|it| changed_by(it).as_ref() == Some(&self.uid));
        look.stray = ours.cloned().collect();
        Ok(look)
    }

    /// Whether something of a quarantine is left: the policy selects the pods, or a Service is detached. The latter is
    /// looked at with `services` only; without, this is one call, unlike [`Self::look`].
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn is_isolated(&self, target: Option<&Target>, services: bool) -> Result<bool, CallError> {
        if services {
            let all = self.all(Changed::Service).await?;
            if all.iter().any(|it| changed_by(it).as_ref() == Some(&self.uid)) {
                return Ok(true);
            }
        }
        let Some(target) = target else { return Ok(false) };
        let name = format!("{}{QUARANTINE_SUFFIX}", self.key.name);
        let object = format!("NetworkPolicy {}/{name}", self.key.namespace);
        let found = call("get", &object, self.api::<NetworkPolicy>().get_opt(&name)).await?;
        Ok(found.is_some_and(|it| self.own_policy(&it).is_some() && selects(&it, &target.labels)))
    }

    /// The suffix of a policy that the operator has made for this Organism.
    fn own_policy(&self, policy: &NetworkPolicy) -> Option<&'static str> {
        let owned = policy.owner_references().iter().any(|it| it.uid == self.uid);
        let name = policy.name_any();
        let suffix = name.strip_prefix(&*self.key.name)?;
        [BODY_SUFFIX, QUARANTINE_SUFFIX].into_iter().find(|it| owned && *it == suffix)
    }

    /// Whether a Service selects pods that are not of the body.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn is_shared(&self, service: &DynamicObject, target: &Target) -> Result<bool, CallError> {
        let Some(selector) = services::selector(service) else { return Ok(false) };
        let selected = self.pods(&selector.into_iter().collect(), ListParams::default()).await?;
        Ok(!self.split(selected, target).await?.1.is_empty())
    }

    /// The autoscalers that are handed over with the workload, and those that this Organism has limited although they
    /// are not, or are no more.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn autoscalers(
        &self,
        target: &Target,
    ) -> Result<(Vec<DynamicObject>, Vec<DynamicObject>), CallError> {
        let all = self.all(Changed::HorizontalPodAutoscaler).await?;
        let handed_over = |it: &DynamicObject| autoscalers::is_handed_over(it, &self.key.name, target);
        let (handed_over, others): (Vec<_>, Vec<_>) = all.iter().cloned().partition(handed_over);
        let is_limited = |it: &DynamicObject| autoscalers::is_limited_by(it, &self.uid);
        Ok((handed_over, others.into_iter().filter(is_limited).collect()))
    }

    /// Writes an object, changed from how it was read before.
    ///
    /// # Errors
    /// [`ChangeError`]; a conflict where somebody has changed it since.
    pub async fn change(
        &self,
        kind: Changed,
        changed: &DynamicObject,
        hold: Option<&Hold>,
    ) -> Result<(), ChangeError> {
        if let Some(hold) = hold {
            check(hold).await?;
        }
        let name = changed.name_any();
        let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
        let object = format!("{} {}/{name}", kind.resource().kind, self.key.namespace);
        call("update", &object, self.changed(kind).replace(&name, &params, changed)).await?;
        Ok(())
    }

    /// Restores objects of a kind. Returns what was done. One that is gone needs nothing.
    ///
    /// # Errors
    /// [`ChangeError`]. Some may have been restored.
    pub async fn restore(
        &self,
        kind: Changed,
        objects: Vec<DynamicObject>,
        hold: Option<&Hold>,
    ) -> Result<Vec<String>, ChangeError> {
        let mut restored = vec![];
        for object in objects {
            match self.change(kind, &kind.restored(&object), hold).await {
                Err(ChangeError::Call(error)) if error.is_not_found() => {}
                done => done?,
            }
            restored.push(kind.says(&object.name_any()));
        }
        Ok(restored)
    }

    /// Restores everything of these kinds that this Organism has changed. Returns what was done. Without `hold` the
    /// Organism is being deleted.
    ///
    /// # Errors
    /// [`ChangeError`]. Some may have been restored.
    pub async fn restore_all(
        &self,
        kinds: &[Changed],
        hold: Option<&Hold>,
    ) -> Result<Vec<String>, ChangeError> {
        let mut restored = vec![];
        for kind in kinds {
            let all = match self.all(*kind).await {
                Err(error) if error.is_not_found() => continue,
                all => all.map_err(CallError::from)?,
            };
            let ours = all.iter().filter(|it| changed_by(it).as_ref() == Some(&self.uid));
            let changed = ours.cloned().collect();
            restored.extend(self.restore(*kind, changed, hold).await?);
        }
        Ok(restored)
    }

    /// Deletes the quarantine's policy of an Organism that is being deleted: the pods that it isolates may stay.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn delete_policy(&self) -> Result<(), CallError> {
        let policies = self.api::<NetworkPolicy>();
        let name = format!("{}{QUARANTINE_SUFFIX}", self.key.name);
        let object = format!("NetworkPolicy {}/{name}", self.key.namespace);
        let found = match call("get", &object, policies.get_metadata_opt(&name)).await {
            Err(error) if error.is_not_found() => None,
            found => found?,
        };
        let ours = found.filter(|it| match controller(&it.metadata) {
            Some(owner) => owner.uid == self.uid,
            // The garbage collector may have orphaned it already.
            None => {
                let label = |label: &str| it.labels().get(label).map(String::as_str);
                (label(MANAGED_BY_LABEL), label(ORGANISM_LABEL)) == (Some(MANAGER), Some(&*self.key.name))
            }
        });
        let Some(uid) = ours.and_then(|it| it.metadata.uid) else { return Ok(()) };
        let preconditions = Preconditions { uid: Some(uid), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match call("delete", &object, policies.delete(&name, &params)).await {
            Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
            _ => Ok(()),
        }
    }

    /// Adds the finalizer, or removes it.
    ///
    /// # Errors
    /// As [`finalizer::set`].
    pub async fn set_finalizer(&self, wanted: bool) -> Result<(), CallError> {
        finalizer::set(&self.client, &self.key, &self.uid, FINALIZER, wanted).await
    }
}

async fn check(hold: &Hold) -> Result<(), ChangeError> {
    match hold.is_ours().await {
        Ok(true) => Ok(()),
        Ok(false) => Err(ChangeError::NotHeld(String::new())),
        Err(error) => Err(ChangeError::NotHeld(format!(": {error}"))),
    }
}

fn selects(policy: &NetworkPolicy, labels: &Labels) -> bool {
    let Some(selector) = policy.spec.as_ref().and_then(|it| it.pod_selector.clone()) else { return true };
    // One that cannot be parsed is not accepted by the API server either.
    Selector::try_from(selector).is_ok_and(|it| it.matches(labels))
}

/// Which way a policy lets traffic through.
fn lets_through(policy: &NetworkPolicy) -> Option<&'static str> {
    let rules = policy.spec.as_ref()?;
    let ingress = rules.ingress.as_ref().is_some_and(|it| !it.is_empty());
    let egress = rules.egress.as_ref().is_some_and(|it| !it.is_empty());
    match (ingress, egress) {
        (true, true) => Some("in and out"),
        (true, false) => Some("in"),
        (false, true) => Some("out"),
        (false, false) => None,
    }
}

fn name(metadata: &ObjectMeta) -> &str {
    metadata.name.as_deref().unwrap_or_default()
}

/// Name and UID of the ReplicaSet that controls a pod.
fn replica_set(pod: &ObjectMeta) -> Option<(String, String)> {
    let owner = controller(pod).filter(|it| it.kind == "ReplicaSet")?;
    Some((owner.name.clone(), owner.uid.clone()))
}

fn controller(object: &ObjectMeta) -> Option<&OwnerReference> {
    object.owner_references.as_deref()?.iter().find(|it| it.controller == Some(true))
}
