//! What the benches of the operator share: a process under measurement, its metrics, and organisms in a namespace.

#![allow(dead_code, reason = "each bench uses a part of it")]

use std::collections::BTreeMap;
use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Namespace;
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use serde_json::{Value, json};
use venom::api::Organism;

pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Objects that are created at a time.
const CREATED_AT_ONCE: usize = 32;

/// Runs a measurement of each number of organisms that the command line names, or of these. With `--test`, which cargo passes
/// to every bench, it measures nothing.
pub fn measure_each(
    sizes: &[usize],
    measure: impl AsyncFn(&Client, usize) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|arg| arg == "--test") {
        return Ok(());
    }
    let named: Vec<usize> = arguments.iter().filter_map(|arg| arg.parse().ok()).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        for size in if named.is_empty() { sizes } else { &named } {
            measure(&Client::try_default().await?, *size).await?;
        }
        Ok(())
    })
}

/// A running operator. Dropping it kills the process.
pub struct Operator {
    child: Child,
    port: u16,
}

impl Operator {
    /// Starts an operator for one namespace.
    pub fn start(namespace: &str, bodies: bool) -> Result<Self, Failure> {
        Self::replica(namespace, "alpha", bodies)
    }

    /// Starts one of several. Its log is target/tmp/NAMESPACE-IDENTITY.log: it explains an outlier.
    pub fn replica(namespace: &str, identity: &str, bodies: bool) -> Result<Self, Failure> {
        let (port, issuer) = (free_port()?, free_port()?);
        let mut command = Command::new(env!("CARGO_BIN_EXE_venom"));
        command.args(["operator", "--namespace", namespace, "--identity", identity]);
        command.args(["--metrics-addr", &format!("127.0.0.1:{port}")]);
        if bodies {
            let issuer = format!("https://127.0.0.1:{issuer}/v1/certificates");
            command.args(["--node-image", "localhost/venom:bench", "--issuer-url", &issuer]);
            command.args(["--quarantine-limit", "1000"]);
        }
        let log = File::create(format!("{}/{namespace}-{identity}.log", env!("CARGO_TARGET_TMPDIR")))?;
        Ok(Self { child: command.stdout(Stdio::null()).stderr(log).spawn()?, port })
    }

    /// SIGTERM. Returns how long it takes to end.
    pub fn stop(mut self) -> Result<Duration, Failure> {
        let began = Instant::now();
        Command::new("kill").arg(self.child.id().to_string()).status()?;
        self.child.wait()?;
        Ok(began.elapsed())
    }

    pub fn metrics(&self) -> Metrics {
        let out =
            Command::new("curl").args(["-s", &format!("http://127.0.0.1:{}/metrics", self.port)]).output();
        let text = out.map(|out| String::from_utf8_lossy(&out.stdout).into_owned()).unwrap_or_default();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let parse =
            |line: &str| line.rsplit_once(' ').and_then(|(k, v)| Some((k.to_owned(), v.parse().ok()?)));
        Metrics(lines.filter_map(parse).collect())
    }

    pub fn cpu_seconds(&self) -> f64 {
        cpu_seconds(self.child.id())
    }

    pub fn resident_mib(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|it| it.parse::<f64>().ok()).unwrap_or_default() / 1024.0
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// CPU time of all API servers on this machine; zero where there is none.
pub fn api_server_cpu_seconds() -> f64 {
    let found = Command::new("pgrep").args(["-x", "kube-apiserver"]).output();
    let pids = found.map(|out| String::from_utf8_lossy(&out.stdout).into_owned()).unwrap_or_default();
    pids.split_whitespace().filter_map(|pid| pid.parse().ok()).map(cpu_seconds).sum()
}

fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|it| it.parse::<f64>().ok()).unwrap_or_default();
    (ticks(11) + ticks(12)) / 100.0
}

fn free_port() -> Result<u16, Failure> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// The samples of a scrape, by name and labels.
pub struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    pub fn get(&self, name: &str) -> f64 {
        self.0.iter().filter(|(key, _)| key.split('{').next() == Some(name)).map(|(_, value)| value).sum()
    }

    /// The upper bound of the bucket in which the quantile of what came after `first` falls, in milliseconds.
    pub fn quantile_ms(&self, first: &Self, histogram: &str, q: f64) -> f64 {
        let prefix = format!("{histogram}_bucket{{le=\"");
        let bucket = |(key, value): (&String, &f64)| {
            let bound: &str = key.strip_prefix(&prefix)?.strip_suffix("\"}")?;
            let before = first.0.get(key).copied().unwrap_or_default();
            Some((bound.parse().unwrap_or(f64::INFINITY), value - before))
        };
        let mut buckets: Vec<(f64, f64)> = self.0.iter().filter_map(bucket).collect();
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        let all = buckets.last().map_or(0.0, |it| it.1);
        buckets.iter().find(|it| it.1 >= q * all).map_or(f64::NAN, |it| it.0) * 1e3
    }
}

pub async fn fresh_namespace(client: &Client, name: &str) -> Result<(), Failure> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let _ = namespaces.delete(name, &DeleteParams::default()).await;
    while namespaces.get_opt(name).await?.is_some() {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let namespace = serde_json::from_value(json!({"metadata": {"name": name}}))?;
    namespaces.create(&PostParams::default(), &namespace).await?;
    Ok(())
}

/// Creates organisms of these names with this spec.
pub async fn create(organisms: &Api<Organism>, names: &[String], spec: &Value) -> Result<(), Failure> {
    let create = |name: String| async move {
        let organism = serde_json::from_value(json!({
            "apiVersion": "genesis.venom.dev/v1alpha1", "kind": "Organism", "metadata": {"name": name}, "spec": spec,
        }))?;
        organisms.create(&PostParams::default(), &organism).await?;
        Ok::<_, Failure>(())
    };
    stream::iter(names.iter().cloned()).map(create).buffer_unordered(CREATED_AT_ONCE).try_collect().await
}

/// Waits until so many organisms are Ready.
pub async fn until_ready(organisms: &Api<Organism>, size: usize) -> Result<(), Failure> {
    loop {
        let all = organisms.list(&ListParams::default()).await?.items;
        let is_ready = |it: &&Organism| {
            let conditions = it.status.iter().flat_map(|it| &it.conditions);
            conditions.filter(|it| it.type_ == "Ready").any(|it| it.status == "True")
        };
        if all.iter().filter(is_ready).count() == size {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
