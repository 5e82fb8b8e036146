//! Beats of 1, 100 and 1,000 organisms in one operator against a real API server: how soon they beat after a start, how
//! late beats begin, what the operator uses and writes, how long a stop takes.
//!
//! `cargo bench --bench operator [-- [--bodies] N …]`, with KUBECONFIG set. Organisms beat once a second (minPeriod 1s),
//! 60 s are measured. With `--bodies` they have bodies without pods. Not asserted: figures to compare.

mod support;

use std::time::{Duration, Instant};

use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams};
use serde_json::json;
use venom::api::Organism;

use self::support::{
    Failure, Operator, api_server_cpu_seconds, create, fresh_namespace, measure_each, until_ready,
};

const NAMESPACE: &str = "venom-bench";
const MEASURED: Duration = Duration::from_secs(60);
/// After a start, until it is measured.
const SETTLING: Duration = Duration::from_secs(5);

fn main() -> Result<(), Failure> {
    let bodies = std::env::args().any(|arg| arg == "--bodies");
    measure_each(&[1, 100, 1_000], async |client, size| measure(client, size, bodies).await)
}

async fn measure(client: &Client, size: usize, bodies: bool) -> Result<(), Failure> {
    fresh_namespace(client, NAMESPACE).await?;
    let organisms: Api<Organism> = Api::namespaced(client.clone(), NAMESPACE);
    let operator = Operator::start(NAMESPACE, bodies)?;
    let names: Vec<String> = (0..size).map(|at| format!("o{at}")).collect();
    // Without a metrics API autoscalers keep the API server busy with their failures.
    let spec =
        json!({"pulse": {"minPeriod": "1s"}, "nodes": {"replicas": 1}, "autoscaling": {"enabled": false}});
    let began = Instant::now();
    create(&organisms, &names, &spec).await?;
    let created = began.elapsed();
    until_ready(&organisms, size).await?;
    println!("\n{size} organisms at 1 Hz{}", if bodies { ", with bodies" } else { "" });
    println!("  created in {created:.1?}, all Ready after {:.1?}", began.elapsed());
    if bodies {
        let budgets: Api<PodDisruptionBudget> = Api::namespaced(client.clone(), NAMESPACE);
        while budgets.list_metadata(&ListParams::default()).await?.items.len() < size {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        tokio::time::sleep(SETTLING).await;
        println!("  all with their bodies after {:.1?}", began.elapsed());
    }
    println!("  stopped in {:.1?}", operator.stop()?);

    let (began, api_server) = (Instant::now(), api_server_cpu_seconds());
    let operator = Operator::start(NAMESPACE, bodies)?;
    while operator.metrics().get("venom_held_organisms") < size as f64 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (taken, own) = (began.elapsed(), operator.cpu_seconds());
    tokio::time::sleep(SETTLING).await;
    let api_server = api_server_cpu_seconds() - api_server;
    println!("  started again: all beat after {taken:.1?} and {own:.1} s of CPU");
    println!("  CPU of the API server until {} s later: {api_server:.1} s", SETTLING.as_secs());

    let (first, cpu) = (operator.metrics(), operator.cpu_seconds());
    tokio::time::sleep(MEASURED).await;
    let (last, cpu) = (operator.metrics(), operator.cpu_seconds() - cpu);
    let seconds = MEASURED.as_secs_f64();
    let grown = |name: &str| last.get(name) - first.get(name);
    let (beats, missed) = (grown("venom_beats_total") / seconds, grown("venom_beats_missed_total"));
    println!("  beats/s {beats:.1}, missed {missed}");
    let late = |q: f64| last.quantile_ms(&first, "venom_beat_deviation_seconds", q);
    println!("  beat deviation p50 ≤ {} ms, p99 ≤ {} ms", late(0.5), late(0.99));
    println!("  {:.0} MiB resident, {:.2} cores", operator.resident_mib(), cpu / seconds);
    let bytes = grown("venom_ledger_written_bytes_total");
    println!(
        "  writes/s {:.1} (commits ×2 + status), ledger bytes/s {:.0}, bytes a beat {:.1}",
        (2.0 * grown("venom_commits_total") + grown("venom_status_writes_total")) / seconds,
        bytes / seconds,
        bytes / grown("venom_beats_total").max(1.0),
    );
    println!("  stopped in {:.1?}", operator.stop()?);
    organisms.delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
    Ok(())
}
