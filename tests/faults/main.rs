//! No committed beat is ever lost, whatever happens: a seeded random schedule of faults, and a proof at the end.
//!
//! Operators, the API server, etcd and the network between them fail at random, users change and destroy things, and
//! everything that is acknowledged meanwhile is noted by `evidence`. At the end all is healed, every organism must beat
//! again, and the ledgers alone must prove what was noted (`proof`).
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `VENOM_FAULTS` | how long faults go on, such as `2h` | `10m` |
//! | `VENOM_SEED` | seed of the schedule | random |
//! | `VENOM_OPERATORS` | number of operators | 2 |
//!
//! The seed determines which faults follow each other and how long they last, not what the system does meanwhile.
#![allow(clippy::unwrap_used, clippy::expect_used)] // clippy.toml's allowance does not reach a test's helpers

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use futures::FutureExt;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{ListParams, ObjectMeta, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use venom::api::GoDuration;
use venom::mesh::{InjectionPayload, Mesh, Outcome};

// What the tests on a cluster use too; each of these targets leaves a part of it unused.
#[allow(dead_code)]
#[path = "../cluster/doors.rs"]
mod doors;
#[allow(dead_code)]
#[path = "../cluster/harness.rs"]
mod harness;
#[allow(dead_code)]
#[path = "../cluster/http.rs"]
mod http;
#[allow(dead_code)]
#[path = "../cluster/ledger.rs"]
mod ledger;
#[allow(dead_code)]
#[path = "../cluster/operator.rs"]
mod operator;
#[allow(dead_code)]
#[path = "../cluster/proxy.rs"]
mod proxy;
#[allow(dead_code)]
#[path = "../rederive/mod.rs"]
mod rederive;
#[allow(dead_code)]
#[path = "../cluster/world.rs"]
mod world;

mod evidence;
mod faults;
mod machine;
mod proof;
mod user;

use evidence::Evidence;
use faults::{Operators, Schedule, Surroundings};
use harness::Cluster;
use machine::{Etcd, Process};
use proxy::Proxy;
use user::{INJECTED, User, a_moment, names};
use world::World;

/// Name of the cluster and of the namespace in it.
const NAME: &str = "faults";
/// Number of clients that inject.
const CLIENTS: usize = 4;
/// How long a client asks for the outcome of one injection.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);
/// How long all injections may take to be answered once everything works again.
const ANSWERED: Duration = Duration::from_secs(240);

/// What the variables say.
struct Settings {
    time: Duration,
    seed: u64,
    operators: usize,
}

impl Settings {
    fn read() -> Self {
        fn variable<T: FromStr<Err: std::fmt::Debug>>(name: &str) -> Option<T> {
            let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
            Some(text.parse().unwrap_or_else(|error| panic!("{name}={text}: {error:?}")))
        }
        let time: Option<GoDuration> = variable("VENOM_FAULTS");
        let seconds = time.map_or(600.0, |time| time.as_secs_f64());
        Self {
            time: Duration::from_secs_f64(seconds),
            seed: variable("VENOM_SEED").unwrap_or_else(|| fastrand::u64(..1_000_000)),
            operators: variable("VENOM_OPERATORS").unwrap_or(2),
        }
    }
}

/// Stops the cluster when dropped.
struct Own(PathBuf);

impl Drop for Own {
    fn drop(&mut self) {
        for name in ["kube-apiserver", "etcd"] {
            Process::of(&self.0, name).signal("CONT");
        }
        Cluster::stop(NAME);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_committed_beat_is_ever_lost() {
    let settings = Settings::read();
    let again = format!(
        "VENOM_SEED={} VENOM_FAULTS={:?} VENOM_OPERATORS={}",
        settings.seed, settings.time, settings.operators
    );
    println!("{again}");
    Cluster::stop(NAME); // of a run that was interrupted
    let cluster = Cluster::start(NAME, &[]).await;
    let kubeconfig = cluster.kubeconfig.clone().unwrap();
    let _own = Own(kubeconfig.clone());
    let client = cluster.client();
    let metadata = ObjectMeta { name: Some(NAME.into()), ..ObjectMeta::default() };
    let namespace = Namespace { metadata, ..Namespace::default() };
    Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await.unwrap();

    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("faults");
    let evidence = Evidence::new(&folder);
    let proxy =
        Proxy::start(client_without_retries(&kubeconfig).await, |_, _| false, evidence.folder.as_path())
            .await;
    let world = Arc::new(World::new(client, NAME, Some(proxy.kubeconfig.clone())));
    let surroundings = Surroundings {
        api_server: Process::of(&kubeconfig, "kube-apiserver"),
        etcd: Process::of(&kubeconfig, "etcd"),
        database: Etcd::of(&kubeconfig),
        proxy,
        evidence: evidence.clone(),
    };
    let run = run(&settings, world.clone(), surroundings, evidence);
    if let Err(panic) = AssertUnwindSafe(run).catch_unwind().await {
        println!("failed with {again}");
        println!("evidence, logs of operators and objects: {}", folder.display());
        let _ = timeout(Duration::from_secs(60), save(&world, &folder)).await;
        resume_unwind(panic);
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

/// A proxy must not send twice what its client has sent once.
async fn client_without_retries(kubeconfig: &Path) -> Client {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    config.default_retry = false;
    Client::try_from(config).unwrap()
}

/// 1. Everything beats. 2. Faults. 3. Everything is healed and beats again. 4. The proof.
async fn run(settings: &Settings, world: Arc<World>, mut surroundings: Surroundings, evidence: Evidence) {
    let mut rng = Rng::with_seed(settings.seed);
    let user = Arc::new(User { world: world.clone(), evidence: evidence.clone() });
    let watches = evidence.watch(&world);
    user.create_all().await;
    let mut operators = Operators::start(world.clone(), evidence.clone(), settings.operators);
    user.until_all_beat().await;
    let body = world.nodes(INJECTED).await;
    let doors: Vec<Mesh> = body.nodes.iter().map(|it| it.mesh.clone()).collect();
    let ends = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn(inject(doors.clone(), number, evidence.clone(), ends.clone()));
    }

    let schedule = Schedule {
        end: Instant::now() + settings.time,
        longest: (settings.time / 6).clamp(Duration::from_secs(1), Duration::from_secs(20)),
    };
    let (first, second, third) = (rng.fork(), rng.fork(), rng.fork());
    tokio::select! {
        _ = async {
            tokio::join!(
                operators.suffer(schedule, first, user.clone()),
                surroundings.suffer(schedule, second),
                user.suffer(schedule, third),
            )
        } => {}
        () = something_wrong(&evidence) => {}
    }
    surroundings.heal().await;
    operators.heal().await;
    let wrong = evidence.facts().wrong.clone();
    assert!(wrong.is_empty(), "{wrong:#?}");

    println!("healed; everything has to beat again");
    operators.while_running(user.until_all_beat()).await;
    ends.store(true, Ordering::Relaxed);
    let answered = operators.while_running(timeout(ANSWERED, clients.join_all())).await;
    answered.expect("injections are not answered although everything works");
    operators.while_running(user.until_all_rest()).await;
    operators.end().await;
    drop(watches);

    let facts = evidence.facts().clone();
    let proven = proof::prove(&world, &facts).await;
    println!("seed {}, {:?} of faults:", settings.seed, settings.time);
    for (kind, count) in &facts.faults {
        println!("{count:7} {kind}");
    }
    println!("{:7} organisms, {} ledgers of them", names().count(), proven.generations);
    println!("{:7} heads seen, {} states of statuses", facts.heads_seen, facts.statuses_seen);
    println!(
        "{:7} ends proven by their entries, {} by the tree after them",
        proven.ends, proven.ends_extended
    );
    println!("{:7} entries derived again", proven.entries);
    println!("{:7} injections acknowledged, each in a ledger once", proven.injections);
    println!("{:7} segments missing, all destroyed by this test", proven.gaps);
    println!("      0 forks, 0 lost");
    assert!(proven.entries > 0 && proven.ends > 0 && proven.injections > 0, "nothing was tried: {proven:?}");
}

/// Injects until `ends`, one injection after the other, each until it is answered.
async fn inject(doors: Vec<Mesh>, number: usize, evidence: Evidence, ends: Arc<AtomicBool>) {
    let payload = InjectionPayload { anoms: Some(1), ml_weight: None };
    while !ends.load(Ordering::Relaxed) {
        let id = doors::new_id();
        let entry = match doors::inject(&doors, number, &id, payload, PATIENCE).await {
            Outcome::Committed { entry } => Some(entry),
            Outcome::Refused { .. } => None,
        };
        evidence.injected(id.as_str(), entry);
        a_moment().await;
    }
}

/// Returns soon after something was seen that must never happen.
async fn something_wrong(evidence: &Evidence) {
    while evidence.facts().wrong.is_empty() {
        sleep(Duration::from_millis(200)).await;
    }
    // What follows from it helps to understand it.
    sleep(Duration::from_secs(3)).await;
}

/// Saves every object of the ledgers and every Organism.
async fn save(world: &World, folder: &Path) -> Result<(), kube::Error> {
    let maps = world.maps.list(&ListParams::default()).await?;
    std::fs::write(folder.join("configmaps.json"), serde_json::to_vec(&maps).unwrap()).unwrap();
    let organisms = world.organisms.list(&ListParams::default()).await?;
    std::fs::write(folder.join("organisms.json"), serde_json::to_vec(&organisms).unwrap()).unwrap();
    Ok(())
}
