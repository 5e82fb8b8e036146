//! What an Organism that only observes writes, by the audit log of the API server.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use futures::future::join_all;
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use serde_json::{Value, json};
use venom::api::Organism;

use crate::harness::{Cluster, eventually};
use crate::operator::Operator;
use crate::response::QUARANTINE;
use crate::rights;
use crate::world::World;

/// Name of the cluster and of the namespace in it.
const NAME: &str = "audited";
/// As many beats as an hour has at the usual pace of one a second.
const BEATS: u64 = 3_600;
/// Quarantines that are decided, and ended, in each of the Organisms.
const ROUNDS: usize = 5;
const ORGANISMS: [&str; 4] = ["a", "b", "c", "d"];

/// Stops the cluster when dropped.
struct Own;

impl Drop for Own {
    fn drop(&mut self) {
        Cluster::stop(NAME);
    }
}

/// The audit log.
struct Audit {
    log: PathBuf,
    /// The user that the operator is.
    user: String,
}

impl Audit {
    /// Variables for a cluster that writes a log of all writes into `folder`.
    fn flags(folder: &Path) -> String {
        let policy = folder.join("policy.yaml");
        let rules = json!({
            "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
            "rules": [
                {"level": "None", "verbs": ["get", "list", "watch"]},
                {"level": "Metadata"},
            ],
        });
        std::fs::write(&policy, rules.to_string()).unwrap();
        format!("--audit-policy-file={} --audit-log-path={}", policy.display(), Self::path(folder).display())
    }

    fn path(folder: &Path) -> PathBuf {
        folder.join("audit.log")
    }

    /// The operator's writes so far: verb and object, with the names of what an Organism does not write all the time, and
    /// how many.
    fn writes(&self) -> BTreeMap<String, usize> {
        let mut found = BTreeMap::new();
        let text = std::fs::read_to_string(&self.log).unwrap();
        // The last line may be half written.
        for event in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            if event["user"]["username"] != self.user {
                continue;
            }
            let object = &event["objectRef"];
            let text = |field: &str| object[field].as_str().unwrap_or_default();
            let sub = if text("subresource").is_empty() {
                String::new()
            } else {
                format!("/{}", text("subresource"))
            };
            let mut what = format!("{}{sub}", text("resource"));
            if what == "configmaps" && text("name").contains("-ledger") {
                what = "configmaps of ledgers".into();
            } else if !OWN.contains(&&*what) {
                what = format!("{what} {}", text("name"));
            }
            *found.entry(format!("{} {what}", event["verb"].as_str().unwrap_or_default())).or_default() += 1;
        }
        found
    }

    /// What was written since `before`, and how often.
    fn since(&self, before: &BTreeMap<String, usize>) -> BTreeMap<String, usize> {
        let mut now = self.writes();
        for (what, count) in before {
            *now.get_mut(what).unwrap() -= count;
        }
        now.retain(|_, count| *count > 0);
        now
    }
}

/// What any Organism writes: its ledger, statuses and Events; and the operator its Lease.
const OWN: [&str; 5] = ["configmaps of ledgers", "organisms/status", "genomes/status", "events", "leases"];

fn is_its_own(write: &str) -> bool {
    OWN.contains(&write.split_once(' ').unwrap().1)
}

#[tokio::test]
async fn an_organism_that_observes_writes_its_ledger_its_status_and_events_only() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(NAME, &[("VENOM_APISERVER_FLAGS", &Audit::flags(folder.path()))]).await;
    let _own = Own;
    let client = cluster.client();
    let metadata = ObjectMeta { name: Some(NAME.into()), ..ObjectMeta::default() };
    let namespace = Namespace { metadata, ..Namespace::default() };
    Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await.unwrap();
    let world = World::new(client, NAME, cluster.kubeconfig.clone());
    let account = world.account(folder.path()).await;
    let user = format!("system:serviceaccount:{NAME}:{}", rights::NAME);
    let audit = Audit { log: Audit::path(folder.path()), user };
    let bodies = ["--node-image", "localhost/venom:test", "--issuer-url", &*world.issuer_url];
    let mut operator = Operator::start(&world.namespace, "alpha", Some(&account), &bodies);
    for name in ORGANISMS {
        let response = json!({"mode": "Observe", "releaseAfter": "100ms"});
        world.create::<Organism>(name, json!({"pulse": {"minPeriod": "10ms"}, "response": response})).await;
        world.service_for(name, name).await;
    }
    // Until all bodies are made.
    let quiet = async || {
        let before = audit.writes();
        tokio::time::sleep(std::time::Duration::from_secs(3)).await;
        let now = audit.since(&before);
        if now.keys().all(|it| is_its_own(it)) && !now.is_empty() { Ok(()) } else { Err(format!("{now:?}")) }
    };
    for name in ORGANISMS {
        world.condition(name, "Quarantined", "False", "Clear").await;
    }
    eventually("all bodies to be made", async || {
        let writes = audit.writes();
        // The last object of a body, and the last write of its making.
        let made = |name: &&str| writes.contains_key(&format!("patch horizontalpodautoscalers {name}"));
        if ORGANISMS.iter().all(made) { Ok(()) } else { Err(format!("{writes:?}")) }
    })
    .await;
    eventually("no more writes to bodies", quiet).await;

    let before = audit.writes();
    let beats = async || {
        let statuses = join_all(ORGANISMS.map(|name| world.status(name))).await;
        statuses.iter().map(|it| it.beats.unwrap_or_default()).sum::<u64>()
    };
    let begun = beats().await;
    join_all(ORGANISMS.map(async |name| {
        for _ in 0..ROUNDS {
            for (anoms, would) in [(QUARANTINE, true), (0, false)] {
                world.patch_genome(name, json!({"risk": {"anoms": anoms}})).await;
                world
                    .until(name, "what would be done", |it| {
                        it.response.as_ref().is_some_and(|it| it.would_apply.is_some() == would)
                    })
                    .await;
            }
        }
    }))
    .await;
    eventually("as many beats as in an hour", async || match beats().await - begun {
        beats if beats >= BEATS => Ok(()),
        beats => Err(format!("{beats} beats")),
    })
    .await;
    let written = audit.since(&before);
    println!("{} beats: {written:?}", beats().await - begun);
    assert!(written.keys().all(|it| is_its_own(it)), "{written:?}");
    for expected in ["create configmaps of ledgers", "update configmaps of ledgers", "patch organisms/status"]
    {
        assert!(written.contains_key(expected), "{expected}: {written:?}");
    }
    let rounds = [("apply", "Observe", ""), ("release", "Observe", "")].repeat(ROUNDS);
    for name in ORGANISMS {
        world.enforced(name, &rounds).await;
    }

    // Nor does an operator that starts and finds bodies as they should be.
    assert!(operator.terminate().await.success());
    let (before, begun) = (audit.writes(), beats().await);
    let _operator = Operator::start(&world.namespace, "alpha", Some(&account), &bodies);
    eventually("beats after the restart", async || match beats().await - begun {
        beats if beats >= 1_000 => Ok(()),
        beats => Err(format!("{beats} beats")),
    })
    .await;
    let written = audit.since(&before);
    println!("restart: {written:?}");
    assert!(written.keys().all(|it| is_its_own(it)), "{written:?}");

    // The log would have shown it.
    let before = audit.writes();
    world.patch_organism("a", json!({"response": {"mode": "Enforce"}})).await;
    world.patch_genome("a", json!({"risk": {"anoms": QUARANTINE}})).await;
    world.condition("a", "Quarantined", "True", "Isolated").await;
    let written = audit.since(&before);
    for expected in [
        "patch networkpolicies a-quarantine",
        "patch horizontalpodautoscalers a",
        "update services a",
        "patch organisms a",
    ] {
        assert!(written.contains_key(expected), "{expected}: {written:?}");
    }
}
