//! How long it takes until a decision is acted on: 1, 100 and 1,000 organisms with bodies in one operator, against a real
//! API server.
//!
//! `cargo bench --bench enforcement [-- N …]`, with KUBECONFIG set. Anomalies are patched into the Genome of one organism
//! after the other. Measured is from the answer to the patch until a watch shows the head that commits the decision, and
//! from there until another watch shows the NetworkPolicy that isolates the pods. Not asserted: figures to compare.

mod support;

use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, WatchEvent, WatchParams};
use serde_json::{Value, json};
use venom::api::{Genome, Organism};

use self::support::{Failure, Operator, create, fresh_namespace, measure_each, until_ready};

const NAMESPACE: &str = "venom-bench-enforcement";
/// Anomalies for QUARANTINE with the default model.
const ANOMS: u64 = 20;
const SAMPLES: usize = 100;
/// Two changes of one organism are a second apart, by the operator's rule. That is not what is measured.
const SPACING: Duration = Duration::from_millis(1_200);
/// After bodies were made, for each of them.
const SETTLING: Duration = Duration::from_millis(100);
/// An organism that is sampled again is released by then.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> Result<(), Failure> {
    measure_each(&[1, 100, 1_000], measure)
}

/// One measurement.
struct Sample {
    committed: Duration,
    isolated: Duration,
}

async fn measure(client: &Client, size: usize) -> Result<(), Failure> {
    fresh_namespace(client, NAMESPACE).await?;
    let organisms: Api<Organism> = Api::namespaced(client.clone(), NAMESPACE);
    let operator = Operator::start(NAMESPACE, true)?;
    let period = if size < 1_000 { "100ms" } else { "1s" };
    let names: Vec<String> = (0..size).map(|at| format!("o{at}")).collect();
    let began = Instant::now();
    let spec = json!({
        "pulse": {"minPeriod": period}, "nodes": {"replicas": 1}, "response": {"releaseAfter": "500ms"},
        // Without a metrics API a thousand of them keep the API server busy with their failures.
        "autoscaling": {"enabled": false},
    });
    create(&organisms, &names, &spec).await?;
    let created = began.elapsed();
    // The last object of a body.
    let budgets: Api<PodDisruptionBudget> = Api::namespaced(client.clone(), NAMESPACE);
    while budgets.list_metadata(&ListParams::default()).await?.items.len() < size {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    until_ready(&organisms, size).await?;
    println!("\n{size} organisms with bodies, minPeriod {period}");
    println!("  created in {created:.1?}, all with their bodies after {:.1?}", began.elapsed());
    // No node runs their pods, and those of a new body are looked at often at first.
    tokio::time::sleep(Duration::from_secs(5) + SETTLING * u32::try_from(size)?).await;

    let before = operator.metrics();
    let mut samples = vec![];
    for at in 0..SAMPLES {
        // Spread over all of them.
        samples.push(sample(client, &names[at * size / SAMPLES.min(size).max(1) % size]).await?);
    }
    let after = operator.metrics();
    let of = |field: fn(&Sample) -> Duration| -> Vec<Duration> {
        let mut all: Vec<_> = samples.iter().map(field).collect();
        all.sort();
        all
    };
    print("patch → decision committed", &of(|it| it.committed));
    print("decision committed → policy", &of(|it| it.isolated));
    print("patch → policy", &of(|it| it.committed + it.isolated));
    println!(
        "  venom_enforcement_seconds (applied and released): p50 ≤ {} ms, p99 ≤ {} ms",
        after.quantile_ms(&before, "venom_enforcement_seconds", 0.5),
        after.quantile_ms(&before, "venom_enforcement_seconds", 0.99)
    );
    // While the operator is there to take its finalizers off.
    for name in &names {
        organisms.delete(name, &DeleteParams::default()).await?;
    }
    operator.stop()?;
    Ok(())
}

fn print(what: &str, sorted: &[Duration]) {
    let at = |q: f64| sorted[((sorted.len() as f64 * q).ceil() as usize).clamp(1, sorted.len()) - 1];
    println!(
        "  {what}: p50 {:.0?}, p95 {:.0?}, p99 {:.0?}, longest {:.0?} ({} samples)",
        at(0.5),
        at(0.95),
        at(0.99),
        at(1.0),
        sorted.len()
    );
}

/// Isolates one organism, and lets it go again.
async fn sample(client: &Client, name: &str) -> Result<Sample, Failure> {
    let genomes: Api<Genome> = Api::namespaced(client.clone(), NAMESPACE);
    let organisms: Api<Organism> = Api::namespaced(client.clone(), NAMESPACE);
    let began = Instant::now();
    while organisms.get(name).await?.status.and_then(|it| it.response?.applied).is_some() {
        patient(began, &format!("{name} to be released"))?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tokio::time::sleep(SPACING).await;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    let policies: Api<NetworkPolicy> = Api::namespaced(client.clone(), NAMESPACE);
    let policy = format!("{name}-quarantine");
    let selector = policies.get(&format!("{name}-body")).await?.spec.and_then(|it| it.pod_selector);
    // From now on: the version of an object that has not changed for long is too old for a watch.
    let named = |name: &str| format!("metadata.name={name}");
    let head = named(&format!("{name}-ledger"));
    let now = maps.list_metadata(&ListParams::default().fields(&head)).await?.metadata.resource_version;
    let heads = maps.watch(&WatchParams::default().fields(&head), &now.unwrap_or_default()).await?;
    let policy = named(&policy);
    let now = policies.list_metadata(&ListParams::default().fields(&policy)).await?.metadata.resource_version;
    let changes = policies.watch(&WatchParams::default().fields(&policy), &now.unwrap_or_default()).await?;
    let (mut heads, mut changes) = (heads.boxed(), changes.boxed());

    let anoms = |anoms: u64| Patch::Merge(json!({"spec": {"risk": {"anoms": anoms}}}));
    genomes.patch(name, &PatchParams::default(), &anoms(ANOMS)).await?;
    let patched = Instant::now();
    // When each size of the ledger was seen first.
    let mut committed: Vec<(u64, Instant)> = vec![];
    let isolated = loop {
        patient(patched, &format!("{name} to be isolated"))?;
        tokio::select! {
            event = heads.try_next() => match event? {
                Some(WatchEvent::Modified(map)) => {
                    let head: Value = serde_json::from_str(&map.data.unwrap_or_default()["head"])?;
                    committed.push((head["size"].as_u64().unwrap_or_default(), Instant::now()));
                }
                Some(WatchEvent::Bookmark(_)) => {}
                other => return Err(format!("the watch of heads: {other:?}").into()),
            },
            event = changes.try_next() => match event? {
                Some(WatchEvent::Modified(policy))
                    if policy.spec.as_ref().and_then(|it| it.pod_selector.as_ref()) == selector.as_ref() =>
                {
                    break Instant::now();
                }
                Some(WatchEvent::Modified(_) | WatchEvent::Bookmark(_)) => {}
                other => return Err(format!("the watch of policies: {other:?}").into()),
            },
            () = tokio::time::sleep(PATIENCE) => {}
        }
    };
    let entry = loop {
        patient(isolated, &format!("{name} to say so"))?;
        let status = organisms.get(name).await?.status;
        match status.and_then(|it| it.response?.applied) {
            Some(applied) => break applied.entry,
            None => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    };
    genomes.patch(name, &PatchParams::default(), &anoms(0)).await?;
    let at = committed.iter().find(|(size, _)| *size > entry).map_or(isolated, |(_, at)| *at);
    Ok(Sample {
        committed: at.saturating_duration_since(patched),
        isolated: isolated.saturating_duration_since(at.max(patched)),
    })
}

fn patient(since: Instant, what: &str) -> Result<(), Failure> {
    if since.elapsed() < PATIENCE { Ok(()) } else { Err(format!("waited too long for {what}").into()) }
}
