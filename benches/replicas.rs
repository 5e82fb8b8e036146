//! Replicas that share organisms: how many move when one joins or stops, and how long they do not beat.
//!
//! `cargo bench --bench replicas [-- N]`, with KUBECONFIG set. 1,000 organisms, or N, beat once a second (minPeriod 1s) at two
//! operators; a third joins and stops, and joins again and is killed. Gaps are read from the ledgers: the longest time
//! between two beats of an organism, less its period; after the kill, which loses what was not committed, the time until the
//! next beat. Not asserted: figures to compare.

mod support;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::{Duration, SystemTime};

use futures::{StreamExt, TryStreamExt, stream};
use kube::api::{Api, DeleteParams, ListParams};
use kube::{Client, ResourceExt};
use serde_json::json;
use venom::api::Organism;
use venom::ledger::Entry;
use venom::store::configmap::ConfigMaps;

use self::support::{Failure, Operator, create, fresh_namespace, measure_each, until_ready};

const NAMESPACE: &str = "venom-bench-replicas";
/// Seconds between two beats.
const PERIOD: f64 = 1.0;
/// After everything is where it is to be: by then the beats before it are committed, also where the budget of writes stretches
/// the interval of commits.
const COMMITTED: Duration = Duration::from_secs(60);
/// Ledgers that are read at a time.
const READ_AT_ONCE: usize = 16;

fn main() -> Result<(), Failure> {
    measure_each(&[1_000], measure)
}

async fn measure(client: &Client, size: usize) -> Result<(), Failure> {
    fresh_namespace(client, NAMESPACE).await?;
    let organisms: Api<Organism> = Api::namespaced(client.clone(), NAMESPACE);
    let start = |identity| Operator::replica(NAMESPACE, identity, false);
    let _two = (start("alpha")?, start("beta")?);
    let names: Vec<String> = (0..size).map(|at| format!("o{at}")).collect();
    create(&organisms, &names, &json!({"pulse": {"minPeriod": "1s"}, "nodes": {"replicas": 1}})).await?;
    until_ready(&organisms, size).await?;
    println!("\n{size} organisms at 1 Hz, held by two operators");
    let two = ["alpha", "beta"];
    let three = ["alpha", "beta", "gamma"];
    settled(&organisms, &two).await?;
    tokio::time::sleep(COMMITTED).await;

    let mut third = None;
    let phases = [
        ("a third joins", &three[..], false),
        ("it stops", &two[..], false),
        ("it joins again", &three[..], false),
        ("it is killed", &two[..], true),
    ];
    for (what, holders, kill) in phases {
        let (before, began) = (holders_of(&organisms).await?, now());
        match third.take() {
            Some(running) if kill => drop::<Operator>(running),
            Some(running) => drop(Operator::stop(running)?),
            None => third = Some(start("gamma")?),
        }
        settled(&organisms, holders).await?;
        let took = now() - began;
        tokio::time::sleep(COMMITTED).await;
        let after = holders_of(&organisms).await?;
        let gaps = gaps(client, &organisms, began).await?;
        let of = |moved: bool| {
            let gaps = gaps.iter().filter(|(name, _)| (before[*name] != after[*name]) == moved);
            gaps.map(|(_, gap)| if kill { gap.next } else { gap.longest - PERIOD }).collect()
        };
        let until = if kill { "until the next beat" } else { "gap" };
        let (moved, stayed) = (shown("moved", until, of(true)), shown("stayed", until, of(false)));
        println!("  {what}: settled after {took:.1} s; {moved}; {stayed}");
    }
    organisms.delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
    Ok(())
}

fn shown(what: &str, measured: &str, mut seconds: Vec<f64>) -> String {
    seconds.sort_by(f64::total_cmp);
    let at = |q: f64| seconds.get(((seconds.len() as f64 * q) as usize).min(seconds.len().saturating_sub(1)));
    let at = |q| at(q).copied().unwrap_or_default();
    format!(
        "{} {what}, {measured} p50 {:.2} s, p99 {:.2} s, longest {:.2} s",
        seconds.len(),
        at(0.5),
        at(0.99),
        at(1.0)
    )
}

fn now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

async fn holders_of(organisms: &Api<Organism>) -> Result<BTreeMap<String, String>, Failure> {
    let all = organisms.list(&ListParams::default()).await?.items;
    let holder = |it: &Organism| {
        it.status.as_ref().and_then(|it| it.ledger.as_ref()).map(|it| it.holder.clone()).unwrap_or_default()
    };
    Ok(all.iter().map(|it| (it.name_any(), holder(it))).collect())
}

/// Waits until these operators, and no others, hold all organisms, and none has moved for five seconds.
async fn settled(organisms: &Api<Organism>, operators: &[&str]) -> Result<(), Failure> {
    let mut before = BTreeMap::new();
    loop {
        let holders = holders_of(organisms).await?;
        let all = operators.iter().all(|it| holders.values().any(|holder| holder == it));
        if all && holders.values().all(|it| operators.contains(&&**it)) && holders == before {
            return Ok(());
        }
        before = holders;
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
}

/// Seconds without a beat.
struct Gap {
    /// The longest time between two beats.
    longest: f64,
    /// Until the next beat.
    next: f64,
}

/// How long each organism did not beat since `from`.
async fn gaps(
    client: &Client,
    organisms: &Api<Organism>,
    from: f64,
) -> Result<BTreeMap<String, Gap>, Failure> {
    let all = organisms.list_metadata(&ListParams::default()).await?.items;
    let read = |it: kube::core::PartialObjectMeta<Organism>| async move {
        let name = it.name_any();
        let store = ConfigMaps::new(client.clone(), NAMESPACE, &name, &it.uid().unwrap_or_default());
        let head = store.head().await?.and_then(|found| found.head).ok_or("no head")?;
        let mut beats: Vec<f64> = vec![];
        for listed in head.segments.iter().rev() {
            // Merged meanwhile: what is in it is not needed where a newer one goes back far enough.
            let Some(sealed) = store.listed(listed).await? else { continue };
            let mut times = vec![];
            let each = |entry: Entry| {
                if entry.kind() == "pulse" {
                    times.push(entry.timestamp);
                }
                Ok::<_, Infallible>(())
            };
            sealed.visit(each).map_err(|error| format!("{error:?}"))?;
            let oldest = times.first().copied();
            beats.splice(0..0, times);
            if oldest.is_some_and(|oldest| oldest < from) {
                break;
            }
        }
        // The last beat before it may be long past: what a kill loses is none.
        let first = beats.partition_point(|it| *it < from);
        let since = &beats[first.saturating_sub(1)..];
        let longest = since.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
        let next = beats.get(first).map_or(f64::INFINITY, |next| next - from);
        Ok::<_, Failure>((name, Gap { longest, next }))
    };
    stream::iter(all).map(read).buffer_unordered(READ_AT_ONCE).try_collect().await
}
