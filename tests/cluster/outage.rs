//! An API server that does not respond, in a separate cluster.
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use serde_json::json;
use tokio::time::sleep;
use venom::api::Organism;

use crate::harness::Cluster;
use crate::world::World;

/// Stops the cluster when dropped.
struct Own(&'static str);

impl Drop for Own {
    fn drop(&mut self) {
        signal("CONT", self.0);
        Cluster::stop(self.0);
    }
}

/// Sends a signal to the API server of the cluster `name`.
fn signal(signal: &str, name: &str) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/cluster/cluster");
    let status = Command::new(script).args(["status", "--own", "--name", name]).output().unwrap();
    let text = String::from_utf8_lossy(&status.stdout).into_owned();
    let line = text.lines().find(|line| line.starts_with("kube-apiserver")).unwrap_or_default();
    // If the API server has exited, there is no process to signal.
    if let (Some(pid), Some("alive")) = (line.split_whitespace().nth(1), line.split_whitespace().nth(2)) {
        let sent = Command::new("sh").args(["-c", r#"kill -s "$0" "$1""#, signal, pid]).status();
        assert!(sent.unwrap().success());
    }
}

/// The API server hangs for less and for more than the timeout of a call. Beating continues, and every beat is committed
/// afterwards.
#[tokio::test]
async fn beating_continues_while_the_api_server_hangs() {
    const NAME: &str = "silent";
    let cluster = Cluster::start(NAME, &[]).await;
    let own = Own(NAME);
    let client = cluster.client();
    let namespace = Namespace {
        metadata: ObjectMeta { name: Some("silent".into()), ..ObjectMeta::default() },
        ..Namespace::default()
    };
    Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await.unwrap();
    let world = World::new(client, "silent", cluster.kubeconfig.clone());
    let mut operator = world.operator("alpha");
    let spec = json!({"pulse": {"minPeriod": "20ms"}, "ledger": {"commitInterval": "50ms"}});
    world.create::<Organism>("venom", spec).await;
    world.beating("venom").await;
    let mut before = world.ledger("venom").await;
    for seconds in [5, 13] {
        signal("STOP", NAME);
        let silent = Instant::now();
        while silent.elapsed() < Duration::from_secs(seconds) {
            sleep(Duration::from_millis(200)).await;
        }
        signal("CONT", NAME);
        world.beats_more("venom", 100).await;
        let live = world.ledger("venom").await;
        live.continues(&before);
        let summary = live.check();
        assert_eq!(live.head.epoch, 1);
        assert_eq!(summary.inputs_of("resume").len(), 0, "it never stopped");
        let at = |pulse: &(u64, serde_json::Value)| pulse.1["pulse"]["elapsed"].as_f64().unwrap();
        let apart = summary.pulses.windows(2).map(|pair| at(&pair[1]) - at(&pair[0]));
        println!("{seconds} s of silence: two beats at most {:.3} s apart", apart.fold(0.0, f64::max));
        before = live;
    }
    assert!(operator.runs());
    world.beating("venom").await;
    assert!(operator.terminate().await.success());
    drop(operator);
    drop(own);
}
