//! An API server that does not respond: in a separate cluster while organisms beat, behind a proxy at a start.
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use serde_json::{Value, json};
use tokio::time::sleep;
use venom::api::Organism;

use crate::harness::{Cluster, eventually};
use crate::http::{free_address, get};
use crate::operator::Operator;
use crate::proxy::{Proxy, Trouble};
use crate::world::{World, in_world};

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

/// An operator that cannot reach the API server when it starts, or is refused by it, waits and says for what. It ends at
/// once if it is told to, and otherwise goes on by itself.
#[tokio::test]
async fn a_start_waits_for_the_api_server() {
    in_world(async |world| {
        let folder = tempfile::tempdir().unwrap();
        let proxy = Proxy::start(world.client.clone(), |_, _| false, folder.path()).await;
        proxy.trouble(Trouble::Cut, 100);
        let address = free_address();
        let arguments = [
            "--node-image",
            "localhost/venom:test",
            "--issuer-url",
            &*world.issuer_url,
            "--metrics-addr",
            &*address,
        ];
        let start = || Operator::start(&world.namespace, "alpha", Some(&proxy.kubeconfig), &arguments);
        let says = async |what: &str| {
            eventually(what, async || {
                let (status, text) = get(&address, "/readyz?verbose")?;
                if status == 503 && text.contains(what) { Ok(()) } else { Err(format!("{status} {text}")) }
            })
            .await;
        };
        let mut operator = start();
        says("get Secret default/venom-mesh-ca").await;
        assert_eq!(get(&address, "/healthz").unwrap().0, 200, "it is not to be restarted");
        assert!(operator.terminate().await.success());

        let mut operator = start();
        says("get Secret default/venom-mesh-ca").await;
        proxy.trouble(Trouble::Refused(StatusCode::FORBIDDEN), 100);
        says("refused by the proxy of a test").await;
        proxy.trouble(Trouble::None, 0);
        world.create::<Organism>("venom", Value::Null).await;
        world.beating("venom").await;
        assert_eq!(get(&address, "/readyz").unwrap().0, 200);
        assert!(operator.runs());
        assert!(operator.terminate().await.success());
    })
    .await;
}
