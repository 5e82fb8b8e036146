//! A watch that is tried again for as long as it fails, and says so.
//!
//! After any error it starts afresh with a list of everything. [`watcher`] itself would go on from the resourceVersion it
//! has, which is right after most errors; but after etcd was restored to an older revision that version is in the future,
//! and the API server then accepts the watch and sends nothing.
//!
//! The stream never yields an error: a controller pauses all its triggers after an error of one of them.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use kube::{Resource, core::Status};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::trim::trim;
use crate::operator::failure_log::FailureLog;
use crate::operator::health::{List, Readiness};
use crate::operator::metrics::Metrics;
use crate::store::failure::words;

/// Pause after the first failure; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// With the jitter of up to a quarter it stays below ten seconds.
const LONGEST_PAUSE: Duration = Duration::from_millis(7_800);
/// How long a page of a list may take.
const PAGE_TIMEOUT: Duration = Duration::from_secs(30);
/// A watch that has lasted this long after its list works again. A list alone does not show that.
const WORKS_AFTER: Duration = Duration::from_secs(10);

/// What the watches report to.
#[derive(Clone)]
pub struct Watches {
    /// Client for the watches. It should not retry: that would hide failures.
    pub client: Client,
    /// Lists that have arrived, and watches that fail.
    pub readiness: Arc<Readiness>,
    /// Counts failures.
    pub metrics: Arc<Metrics>,
}

type Events<K> = Pin<Box<dyn Stream<Item = watcher::Result<Event<K>>> + Send>>;

impl Watches {
    /// Watches the objects of `api`. `list` is their name in the log, in metrics and in `/readyz`; its first list counts
    /// as arrived when the consumer asks for what follows it.
    pub fn watch<K>(
        &self,
        list: List,
        api: Api<K>,
        config: watcher::Config,
    ) -> impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static
    where
        K: Resource + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
    {
        self.readiness.add(&list);
        let trimmed = |event: watcher::Result<Event<K>>| {
            event.map(|event| event.modify(|object| trim(object.meta_mut())))
        };
        let start = move || watcher(api.clone(), config.clone()).map(trimmed).boxed();
        let watch = Watch {
            reports: self.clone(),
            list,
            start: Box::new(start),
            events: None,
            stage: Stage::Listing,
            failures: 0,
            log: FailureLog::default(),
        };
        futures::stream::unfold(watch, |mut watch| async move { Some((Ok(watch.next().await), watch)) })
    }
}

/// Where an attempt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The list has not arrived.
    Listing,
    /// The list has been handed over.
    Listed,
    /// The consumer has taken it in.
    Watching(Instant),
}

struct Watch<K> {
    reports: Watches,
    list: List,
    start: Box<dyn Fn() -> Events<K> + Send>,
    /// The attempt; none between two.
    events: Option<Events<K>>,
    stage: Stage,
    /// Attempts that have failed since one worked.
    failures: u32,
    log: FailureLog,
}

impl<K: 'static> Watch<K> {
    async fn next(&mut self) -> Event<K> {
        if self.stage == Stage::Listed {
            self.stage = Stage::Watching(Instant::now());
            self.reports.readiness.arrived(&self.list);
        }
        loop {
            let wait = self.wait();
            let events = self.events.get_or_insert_with(|| (self.start)());
            let next = match wait {
                Some(wait) => tokio::time::timeout(wait, events.next()).await,
                None => Ok(events.next().await),
            };
            match next {
                Ok(Some(Ok(event))) => {
                    match &event {
                        Event::Init => self.stage = Stage::Listing,
                        Event::InitApply(_) => {}
                        Event::InitDone => self.stage = Stage::Listed,
                        Event::Apply(_) | Event::Delete(_) => self.works(),
                    }
                    return event;
                }
                Ok(Some(Err(error))) => self.failed(&reason(&error)).await,
                Ok(None) => self.failed("the watch has ended").await,
                Err(_) if matches!(self.stage, Stage::Watching(_)) => self.works(),
                Err(_) => self.failed(&format!("no answer within {} s", PAGE_TIMEOUT.as_secs())).await,
            }
        }
    }

    /// How long to wait for the next event; none for as long as it takes.
    fn wait(&self) -> Option<Duration> {
        match self.stage {
            Stage::Watching(since) if self.failures > 0 => Some(WORKS_AFTER.saturating_sub(since.elapsed())),
            Stage::Watching(_) => None,
            Stage::Listing | Stage::Listed => Some(PAGE_TIMEOUT),
        }
    }

    fn works(&mut self) {
        if std::mem::take(&mut self.failures) > 0 {
            self.log.succeeded();
            tracing::info!(list = %self.list, "the watch works again");
            self.report(None);
        }
    }

    /// Reports the failure and waits until the next attempt is due.
    async fn failed(&mut self, reason: &str) {
        self.events = None;
        self.stage = Stage::Listing;
        if let Some(times) = self.log.failed(reason, Instant::now().into_std()) {
            tracing::warn!(list = %self.list, reason, times, "the watch fails; trying again");
        }
        self.reports.metrics.watch_failed(self.list.kind);
        self.report(Some(reason));
        let pause = pause(self.failures);
        self.failures = self.failures.saturating_add(1);
        tokio::time::sleep(pause).await;
    }

    fn report(&self, failure: Option<&str>) {
        let failing = self.reports.readiness.failing(&self.list, failure);
        self.reports.metrics.watches_failing(failing);
    }
}

/// The pause after so many earlier failures, with jitter.
fn pause(failures: u32) -> Duration {
    let pause = FIRST_PAUSE.saturating_mul(1 << failures.min(10)).min(LONGEST_PAUSE);
    pause.mul_f64(1.0 + fastrand::f64() / 4.0)
}

/// The failure in one sentence, with what to do where that is known.
fn reason(error: &watcher::Error) -> String {
    use watcher::Error::{InitialListFailed, NoResourceVersion, WatchError, WatchFailed, WatchStartFailed};
    match error {
        InitialListFailed(error) | WatchStartFailed(error) | WatchFailed(error) => match error {
            kube::Error::Api(status) => advice(status),
            error => words(error),
        },
        WatchError(status) => advice(status),
        NoResourceVersion => error.to_string(),
    }
}

fn advice(status: &Status) -> String {
    let what = if status.message.is_empty() { &status.reason } else { &status.message };
    let what = what.trim();
    match status.code {
        401 | 403 => format!("{what}; give the operator the rights to list and watch them"),
        404 => format!("{what}; install the CRDs: venom crds | kubectl apply --server-side -f -"),
        code => format!("{what} ({code})"),
    }
}

#[cfg(test)]
mod tests;
