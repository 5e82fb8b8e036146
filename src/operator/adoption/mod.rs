//! Observes the workload that an Organism adopts, and its pods: one task an Organism that has a spec.workloadRef.
//! Nothing is written.
//!
//! | module | contents |
//! |---|---|
//! | `workload` | what a workload tells of itself (pure) |
//!
//! Each is watched by itself, by its name and by its selector: the label of the operator's own objects is not there,
//! and all workloads and pods of a cluster are too many.

mod workload;

use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::Api;
use kube::core::{ApiResource, DynamicObject, Selector};
use kube::runtime::watcher::{self, Config, Event, watcher};
use kube::{Client, ResourceExt};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use self::workload::Permission;
use super::call::call;
use super::key::Key;
use super::metrics::Metrics;
use super::publisher::adoption::{Adopted, Adoption};
use super::sensing;
use super::sensing::pods::{Pod, WatchedPod};
use crate::api::{Organism, WorkloadKind, WorkloadRef};
use crate::store::failure::words;

/// Pause after a failure; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// Failures in a row before what was seen last is doubted: one may be an API server that restarts.
const DOUBTED_AFTER: u32 = 2;
/// How long a list may take.
const LIST_TIMEOUT: Duration = Duration::from_secs(30);
/// Interval at which it is looked whether another Organism still has the workload.
const IN_USE_RETRY: Duration = Duration::from_secs(15);
/// A rollout of a StatefulSet without progress for this long is stuck, as the API says of a Deployment by itself.
const STALLED_AFTER: Duration = Duration::from_secs(600);
/// Pods in a page of a list.
const PAGE: u32 = 500;

/// What all observers share.
pub struct Resources {
    /// Client for the watches.
    pub client: Client,
    /// Takes the pods.
    pub sensors: Arc<sensing::Resources>,
    /// Counts failures.
    pub metrics: Arc<Metrics>,
}

type Events<K> = Pin<Box<dyn Stream<Item = watcher::Result<Event<K>>> + Send>>;

/// The observer of one workload.
pub struct Observer {
    key: Key,
    reference: WorkloadRef,
    resources: Arc<Resources>,
    adoption: watch::Sender<Option<Adoption>>,
    pods_changed: Arc<Notify>,
    /// The workload as it was seen last; none while it does not exist.
    found: Option<DynamicObject>,
    /// The same, while it is listed again: until the end of the list the earlier one counts.
    listing: Option<DynamicObject>,
    /// Whether it cannot be seen at present.
    unseen: bool,
    /// The watch on its pods; none while it is not the body.
    pods: Option<Pods>,
    /// Generation and ready pods at the last step of a rollout, and when that was.
    step: (Option<i64>, u64, Instant),
    /// When it was decided last whether the workload is the body.
    judged: Instant,
}

/// The pods of one selector.
struct Pods {
    selector: LabelSelector,
    watched: Watched<WatchedPod>,
    /// Whether all of them are in the index. What is not there is taken for gone.
    listed: bool,
    list: Vec<(String, Pod)>,
}

/// A watch that is started again when it fails.
struct Watched<K> {
    start: Box<dyn Fn() -> Events<K> + Send>,
    events: Option<Events<K>>,
    listed: bool,
    failures: u32,
    paused_until: Instant,
}

impl<K: 'static> Watched<K> {
    fn new(start: impl Fn() -> Events<K> + Send + 'static) -> Self {
        let start = Box::new(start);
        Self { start, events: None, listed: false, failures: 0, paused_until: Instant::now() }
    }

    /// The next event, or why there is none. Cancel safe.
    async fn next(&mut self) -> Result<Event<K>, String> {
        tokio::time::sleep_until(self.paused_until).await;
        let events = self.events.get_or_insert_with(|| (self.start)());
        let wait = if self.listed { None } else { Some(LIST_TIMEOUT) };
        let next = match wait {
            Some(wait) => tokio::time::timeout(wait, events.next()).await,
            None => Ok(events.next().await),
        };
        let why = match next {
            Ok(Some(Ok(event))) => {
                self.listed = !matches!(event, Event::Init | Event::InitApply(_));
                if self.listed {
                    self.failures = 0;
                }
                return Ok(event);
            }
            Ok(Some(Err(error))) => reason(&error),
            Ok(None) => "the watch has ended".into(),
            Err(_) => format!("no answer within {} s", LIST_TIMEOUT.as_secs()),
        };
        (self.events, self.listed) = (None, false);
        let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(10)).min(LONGEST_PAUSE);
        self.paused_until = Instant::now() + pause.mul_f64(1.0 + fastrand::f64() / 4.0);
        self.failures = self.failures.saturating_add(1);
        Err(why)
    }
}

impl Observer {
    /// An observer for the Organism `key`, which adopts `reference`.
    #[must_use]
    pub fn new(
        key: Key,
        reference: WorkloadRef,
        resources: Arc<Resources>,
        adoption: watch::Sender<Option<Adoption>>,
        pods_changed: Arc<Notify>,
    ) -> Self {
        let step = (None, 0, Instant::now());
        Self {
            key,
            reference,
            resources,
            adoption,
            pods_changed,
            found: None,
            listing: None,
            unseen: false,
            pods: None,
            step,
            judged: Instant::now(),
        }
    }

    /// Runs until it is aborted.
    pub async fn run(&mut self) {
        let mut workload = self.watch_workload();
        loop {
            let recheck = self.recheck();
            let pods = async {
                match &mut self.pods {
                    Some(pods) => pods.watched.next().await,
                    None => pending().await,
                }
            };
            tokio::select! {
                event = workload.next() => match event {
                    Ok(event) => Box::pin(self.workload_event(event)).await,
                    Err(why) => self.unseen |= self.failed(workload.failures, &why),
                },
                event = pods => match event {
                    Ok(event) => Box::pin(self.pod_event(event)).await,
                    Err(why) => {
                        let failures = self.pods.as_ref().map_or(0, |it| it.watched.failures);
                        let doubted = self.failed(failures, &format!("its pods: {why}"));
                        if let Some(pods) = self.pods.as_mut().filter(|_| doubted) {
                            pods.listed = false;
                        }
                    }
                },
                () = tokio::time::sleep_until(recheck.unwrap_or(self.judged)), if recheck.is_some() => {
                    self.judge().await;
                }
            }
        }
    }

    /// When it is due to be judged again without an event.
    fn recheck(&self) -> Option<Instant> {
        match &*self.adoption.borrow() {
            Some(Adoption::NotPermitted(Some(_)) | Adoption::InUse(_)) => Some(self.judged + IN_USE_RETRY),
            Some(Adoption::Adopted(it)) => {
                let own_deadline = it.kind == WorkloadKind::StatefulSet;
                let waits = own_deadline && it.workload.rolling && !it.workload.stalled;
                waits.then(|| self.step.2 + STALLED_AFTER)
            }
            _ => None,
        }
    }

    fn watch_workload(&self) -> Watched<DynamicObject> {
        let resource = match self.reference.kind {
            WorkloadKind::Deployment => ApiResource::erase::<Deployment>(&()),
            WorkloadKind::StatefulSet => ApiResource::erase::<StatefulSet>(&()),
        };
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.resources.client.clone(), &self.key.namespace, &resource);
        let config = Config::default().fields(&format!("metadata.name={}", self.reference.name));
        Watched::new(move || watcher(api.clone(), config.clone()).boxed())
    }

    async fn workload_event(&mut self, event: Event<DynamicObject>) {
        let without_managers = |mut object: DynamicObject| {
            object.metadata.managed_fields = None;
            Some(object)
        };
        match event {
            Event::Init => return self.listing = None,
            Event::InitApply(object) => return self.listing = without_managers(object),
            Event::InitDone => self.found = self.listing.take(),
            Event::Apply(object) => self.found = without_managers(object),
            Event::Delete(_) => self.found = None,
        }
        self.unseen = false;
        self.judge().await;
    }

    /// Decides whether the workload is the body.
    async fn judge(&mut self) {
        self.judged = Instant::now();
        let found = self.found.as_ref();
        let permission = found.map(|it| workload::permission(it, &self.key.name));
        let next = match permission {
            None => Adoption::NotFound,
            Some(Permission::Ours) => match found.and_then(|it| workload::parse(&self.reference, it)) {
                Some(adopted) => {
                    let generation = found.and_then(|it| it.metadata.generation);
                    self.adopted(adopted, generation)
                }
                None => Adoption::Unreadable("it is not of the form of its kind".into(), None),
            },
            Some(Permission::Nobody) => Adoption::NotPermitted(None),
            Some(Permission::BodyOf(organism)) => Adoption::InUse(organism),
            Some(Permission::Other(organism)) => self.of_another(organism).await,
        };
        if next.adopted().is_none() {
            self.pods = None;
        }
        // One whose pods are not known yet is about to be adopted.
        if self.pods.as_ref().is_none_or(|it| it.listed) {
            self.report(next);
        }
    }

    /// Follows its pods, and notices when a rollout makes no progress.
    fn adopted(&mut self, mut adopted: Adopted, generation: Option<i64>) -> Adoption {
        if (self.step.0, self.step.1) != (generation, adopted.ready) {
            self.step = (generation, adopted.ready, Instant::now());
        }
        if self.reference.kind == WorkloadKind::StatefulSet {
            adopted.workload.stalled = adopted.workload.rolling && self.step.2.elapsed() >= STALLED_AFTER;
        }
        let selector = match Selector::try_from(adopted.selector.clone()) {
            Ok(selector) => selector,
            Err(error) => return Adoption::Unreadable(format!("its selector: {error}"), None),
        };
        if self.pods.as_ref().is_none_or(|it| it.selector != adopted.selector) {
            let api: Api<WatchedPod> = Api::namespaced(self.resources.client.clone(), &self.key.namespace);
            let config = Config::default().labels_from(&selector).page_size(PAGE);
            let watched = Watched::new(move || watcher(api.clone(), config.clone()).boxed());
            let selector = adopted.selector.clone();
            self.pods = Some(Pods { selector, watched, listed: false, list: vec![] });
        }
        Adoption::Adopted(Arc::new(adopted))
    }

    /// The workload names another Organism: does that one have it?
    async fn of_another(&mut self, organism: String) -> Adoption {
        // It comes from whoever can annotate the workload, and goes into a path.
        if !organism.chars().all(|it| it.is_ascii_alphanumeric() || it == '-') || organism.is_empty() {
            return Adoption::NotPermitted(Some(organism));
        }
        let organisms: Api<Organism> = Api::namespaced(self.resources.client.clone(), &self.key.namespace);
        let object = format!("Organism {}/{organism}", self.key.namespace);
        let found = match call("get", &object, organisms.get_opt(&organism)).await {
            Ok(found) => found,
            Err(error) => return Adoption::Unreadable(error.to_string(), None),
        };
        let has = found.is_some_and(|it| it.spec.workload_ref.as_ref() == Some(&self.reference));
        if has { Adoption::InUse(organism) } else { Adoption::NotPermitted(Some(organism)) }
    }

    async fn pod_event(&mut self, event: Event<WatchedPod>) {
        let Some(pods) = &mut self.pods else { return };
        let index = &self.resources.sensors.adopted;
        match event {
            Event::Init => pods.list.clear(),
            Event::InitApply(pod) => {
                if is_of(&self.reference, &pod) {
                    pods.list.push((pod.name_any(), Pod::of(&pod)));
                }
            }
            Event::InitDone => {
                index.replace_of(&self.key, std::mem::take(&mut pods.list));
                self.pods_changed.notify_one();
                if !std::mem::replace(&mut pods.listed, true) && !self.unseen {
                    self.judge().await;
                }
            }
            Event::Apply(pod) => {
                if is_of(&self.reference, &pod) && index.put(self.key.clone(), pod.name_any(), Pod::of(&pod))
                {
                    self.pods_changed.notify_one();
                }
            }
            Event::Delete(pod) => {
                index.remove(&self.key, &pod.name_any());
                self.pods_changed.notify_one();
            }
        }
    }

    /// Notes a failure. Returns whether what was seen last is doubted now.
    fn failed(&self, failures: u32, why: &str) -> bool {
        self.resources.metrics.api_error("adoption");
        tracing::debug!(organism = %self.key, workload = %self.reference, why, "cannot watch the workload");
        let doubted = failures >= DOUBTED_AFTER;
        if doubted {
            let last = self.adoption.borrow().as_ref().and_then(|it| it.adopted().cloned());
            self.report(Adoption::Unreadable(why.into(), last));
        }
        doubted
    }

    fn report(&self, next: Adoption) {
        let told = |it: &Adoption| std::mem::discriminant(it);
        self.adoption.send_if_modified(|before| {
            let changed = before.as_ref() != Some(&next);
            if before.as_ref().map(told) != Some(told(&next)) {
                tracing::info!(organism = %self.key, workload = %self.reference, adoption = name(&next), "adoption");
            }
            if changed {
                *before = Some(next);
            }
            changed
        });
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.resources.sensors.adopted.forget(&self.key);
    }
}

/// Whether the workload has made the pod. A Deployment's ReplicaSets have its name before the hash of their pods.
fn is_of(workload: &WorkloadRef, pod: &WatchedPod) -> bool {
    let owner = pod.owner_references().iter().find(|it| it.controller == Some(true));
    owner.is_some_and(|it| match workload.kind {
        WorkloadKind::Deployment => {
            let hash = pod.labels().get("pod-template-hash").map(String::as_str).unwrap_or_default();
            it.kind == "ReplicaSet" && it.name == format!("{}-{hash}", workload.name)
        }
        WorkloadKind::StatefulSet => it.kind == "StatefulSet" && it.name == workload.name,
    })
}

fn name(adoption: &Adoption) -> &'static str {
    match adoption {
        Adoption::Looking => "looking",
        Adoption::Adopted(_) => "adopted",
        Adoption::Unreadable(..) => "cannot be seen",
        Adoption::NotFound => "not found",
        Adoption::NotPermitted(_) => "not permitted",
        Adoption::InUse(_) => "in use",
    }
}

fn reason(error: &watcher::Error) -> String {
    use watcher::Error::{InitialListFailed, NoResourceVersion, WatchError, WatchFailed, WatchStartFailed};
    match error {
        InitialListFailed(error) | WatchStartFailed(error) | WatchFailed(error) => words(error),
        WatchError(status) => status.message.clone(),
        NoResourceVersion => error.to_string(),
    }
}
