//! Queries against a Prometheus server, whose program `e2e/cluster/cluster build prometheus` makes.
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::routing::get;
use serde_json::{Value, json};
use venom::api::{Organism, OrganismStatus};

use crate::harness::eventually;
use crate::http;
use crate::world::{World, in_world, message};

/// A server that scrapes the endpoint of a test once a second. Dropping it ends the process.
struct Server {
    child: Child,
    address: String,
    _folder: tempfile::TempDir,
}

impl Server {
    async fn start(endpoint: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = json!({
            "global": {"scrape_interval": "1s", "scrape_timeout": "900ms"},
            "scrape_configs": [{"job_name": "test", "static_configs": [{"targets": [endpoint]}]}],
        });
        let file = folder.path().join("prometheus.yaml");
        std::fs::write(&file, config.to_string()).unwrap();
        let address = http::free_address();
        let mut command = Command::new(program());
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()));
        command.args([&*format!("--web.listen-address={address}"), "--query.lookback-delta=5s"]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let server = Self { child, address, _folder: folder };
        eventually("Prometheus", async || match http::get(&server.address, "/-/ready") {
            Ok((200, _)) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
        server
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("sh").args(["-c", r#"kill -s "$0" "$1""#, name, &pid]).status();
        assert!(sent.unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program() -> String {
    let cluster = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/cluster/cluster");
    let run = |what: &str| Command::new(&cluster).args([what, "prometheus"]).output().unwrap();
    let found = run("which");
    if found.status.success() {
        return String::from_utf8(found.stdout).unwrap().trim().to_owned();
    }
    let built = run("build");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    String::from_utf8(run("which").stdout).unwrap().trim().to_owned()
}

/// Serves the metric `errors`; nothing once it is dropped.
struct Endpoint {
    address: String,
    errors: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Endpoint {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        listener.set_nonblocking(true).unwrap();
        let errors = Arc::new(AtomicU64::new(0));
        let shown = errors.clone();
        let text = move || async move {
            let errors = shown.load(Ordering::Relaxed);
            format!("# TYPE errors gauge\nerrors{{of=\"a\"}} {errors}\nerrors{{of=\"b\"}} 1\n")
        };
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let router = Router::new().route("/metrics", get(text));
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, errors, task }
    }
}

impl World {
    async fn queries(&self, queries: Value) {
        self.patch_organism("venom", json!({"sensing": {"prometheus": queries}})).await;
    }

    /// Waits until Sensing is False and says this.
    async fn not_sensing(&self, words: &[&str]) {
        let says = |it: &OrganismStatus| words.iter().all(|words| message(it, "Sensing").contains(words));
        self.until("venom", &words.join(", "), says).await;
        self.condition("venom", "Sensing", "False", "QueryFailed").await;
    }
}

#[tokio::test]
async fn a_value_above_the_bound_counts_once_an_interval_and_what_is_no_value_is_told() {
    in_world(async |world| {
        let endpoint = Endpoint::start();
        let server = Server::start(&endpoint.address).await;
        let url = format!("http://{}", server.address);
        let _operator = world.operator_with_bodies("alpha", &["--prometheus-url", &url]);
        let of = |query: &str, max: u32| {
            json!([{
                "name": "errors", "query": query, "interval": "1s", "above": 2, "anomsPerUnit": 2, "max": max,
            }])
        };
        let spec = json!({"pulse": {"minPeriod": "50ms"}, "autoscaling": {"enabled": false}});
        world.create::<Organism>("venom", spec).await;
        world.beating("venom").await;
        world.queries(of("sum(errors)", 9)).await;
        // The first scrape may be a second away.
        world.condition("venom", "Sensing", "True", "Sensing").await;
        world.beats_more("venom", 60).await;
        assert_eq!(world.senses().await, [], "1 is not above 2");
        let sensed = async |anoms: u64| {
            eventually(&format!("values that count {anoms}"), async || {
                let all = world.senses().await;
                let count = all.iter().filter(|it| it.2 == anoms).count();
                if count >= 2 { Ok(all) } else { Err(format!("{all:?}")) }
            })
            .await
        };
        endpoint.errors.store(4, Ordering::Relaxed);
        sensed(6).await;
        endpoint.errors.store(40, Ordering::Relaxed);
        let all = sensed(9).await;
        let mut times: Vec<_> =
            all.iter().map(|(kind, subject, _)| (kind.clone(), subject.clone())).collect();
        assert!(times.iter().all(|(kind, subject)| kind == "query" && subject.starts_with("errors/")));
        times.dedup();
        assert_eq!(times.len(), all.len(), "at most once a second: {all:?}");
        world.venom_ledger("replay", "venom").unwrap();

        for (query, words) in [
            ("errors", "it has 2 series"),
            ("sum(errors) / 0 * 0", "its value is NaN"),
            ("sum(errors) / 0", "its value is +Inf"),
            ("sum(nothing)", "it has no result"),
            ("sum(errors", "parse error"),
            ("errors[1m]", "instant vector"),
        ] {
            world.queries(of(query, 9)).await;
            world.not_sensing(&["The query errors", words]).await;
        }
        let before = world.senses().await.len();
        world.beats_more("venom", 40).await;
        assert_eq!(world.senses().await.len(), before, "none of it counts");

        // A scalar, and a series that ends.
        world.queries(of("scalar(sum(errors))", 9)).await;
        world.condition("venom", "Sensing", "True", "Sensing").await;
        world.queries(of("sum(errors)", 9)).await;
        world.condition("venom", "Sensing", "True", "Sensing").await;
        endpoint.task.abort();
        world.not_sensing(&["it has no result"]).await;
        // A server that no longer answers.
        server.signal("STOP");
        world.not_sensing(&["has not answered"]).await;
        server.signal("CONT");
        world.queries(of("vector(3)", 9)).await;
        world.condition("venom", "Sensing", "True", "Sensing").await;
        drop(server);
        world.not_sensing(&["cannot be reached"]).await;
    })
    .await;
}
