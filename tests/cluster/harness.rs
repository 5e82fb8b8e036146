//! A cluster with our CRDs, and a namespace of its own for each test.
//!
//! The cluster is the one that KUBECONFIG names, or else one that `e2e/cluster/cluster up --name test`
//! raises. That one stays up between runs (`e2e/cluster/cluster down --name test` ends it). Without a
//! cluster every test fails with the same line: what was not tried must not look as if it had passed.
use std::net::TcpListener;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::FutureExt;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::wait::{await_condition, conditions::is_crd_established};
use kube::{Client, Config, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use venom::api::Organism;

/// How long [`eventually`] waits. Generous: the machine may be busy, and only a failing test waits it out.
const LIMIT: Duration = Duration::from_secs(60);

/// What manifests of ours begin with.
pub const API_VERSION: &str = "genesis.venom.dev/v1alpha1";

const FIELD_MANAGER: &str = "venom-test";

/// Runs `test` with a client and the name of a fresh namespace, which is deleted at its end, failed or not.
pub async fn in_namespace(test: impl AsyncFnOnce(Client, &str)) {
    let client = cluster().await.client();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let fresh = Namespace {
        metadata: ObjectMeta { generate_name: Some("venom-test-".into()), ..Default::default() },
        ..Default::default()
    };
    let namespace = namespaces.create(&PostParams::default(), &fresh).await.unwrap().name_any();
    let outcome = AssertUnwindSafe(test(client.clone(), &namespace)).catch_unwind().await;
    release_organisms(client, &namespace).await;
    // Not waited for: the cluster empties it in its own time.
    let deleted = namespaces.delete(&namespace, &DeleteParams::default()).await;
    if let Err(panic) = outcome {
        resume_unwind(panic);
    }
    deleted.unwrap();
}

/// Takes the finalizers off: the operator that put them on has ended, and a namespace with an object that
/// nobody finalizes is never gone.
async fn release_organisms(client: Client, namespace: &str) {
    let organisms: Api<Organism> = Api::namespaced(client, namespace);
    let Ok(left) = organisms.list_metadata(&ListParams::default()).await else { return };
    let none = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    for organism in left.items.iter().filter(|it| !it.finalizers().is_empty()) {
        // One that went meanwhile needs nothing.
        let _ = organisms.patch_metadata(&organism.name_any(), &PatchParams::default(), &none).await;
    }
}

/// Looks until `look` answers `Ok`, and returns that; its `Err` is what it saw instead, and the last one is
/// in the message when the time is up.
pub async fn eventually<T>(what: &str, look: impl AsyncFnMut() -> Result<T, String>) -> T {
    within(LIMIT, what, look).await
}

/// As [`eventually`], for what takes longer than other things.
pub async fn within<T>(limit: Duration, what: &str, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + limit;
    let mut last = "nothing: the first look did not return".to_owned();
    while Instant::now() < deadline {
        match timeout_at(deadline, look()).await {
            Ok(Ok(found)) => return found,
            Ok(Err(seen)) => last = seen,
            Err(_) => break, // the look itself hung: what was seen before it says more
        }
        sleep(Duration::from_millis(50)).await;
    }
    panic!("waited {} s for {what}; last seen: {last}", limit.as_secs());
}

/// A cluster that answers and knows our CRDs.
pub struct Cluster {
    config: Config,
    /// For programs that are started; none where they find the cluster as we did.
    pub kubeconfig: Option<PathBuf>,
}

impl Cluster {
    async fn new(kubeconfig: Option<PathBuf>) -> Result<Self, String> {
        let read = self::kubeconfig(kubeconfig.as_deref())?;
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(read, &options).await;
        let config = config.map_err(|error| error.to_string())?;
        let cluster = Self { config, kubeconfig };
        let answer = cluster.client().apiserver_version().await;
        answer.map_err(|error| format!("{} does not answer: {error}", cluster.config.cluster_url))?;
        install_crds(cluster.client()).await?;
        Ok(cluster)
    }

    /// Raises one of this name that is this test's own, its etcd with these further flags. [`end`] ends it.
    ///
    /// [`end`]: Self::end
    pub async fn raise(name: &str, etcd_flags: &str) -> Self {
        Self::new(Some(raise(name, Some(etcd_flags)).unwrap())).await.unwrap()
    }

    /// Ends the cluster of this name.
    pub fn end(name: &str) {
        let down = Command::new(in_repository("e2e/cluster/cluster"))
            .args(["down", "--own", "--name", name])
            .status();
        assert!(down.unwrap().success());
    }

    /// A client for the calling test: a test has its own tokio runtime, and connections belong to one.
    pub fn client(&self) -> Client {
        Client::try_from(self.config.clone()).unwrap()
    }
}

/// The cluster of the tests.
pub async fn cluster() -> &'static Cluster {
    /// The way to it, or why there is none: found out once, by the first test that asks.
    static CLUSTER: OnceCell<Result<Cluster, String>> = OnceCell::const_new();
    let found = CLUSTER.get_or_init(async || {
        let given = std::env::var("KUBECONFIG").is_ok_and(|given| !given.is_empty());
        Cluster::new(if given { None } else { Some(raise("test", None)?) }).await
    });
    found.await.as_ref().unwrap_or_else(|why| panic!("no cluster to test on: {why}"))
}

/// What the file at `path` says of the way to a cluster; without one, what we were given.
pub fn kubeconfig(path: Option<&Path>) -> Result<Kubeconfig, String> {
    match path {
        Some(path) => Kubeconfig::read_from(path).map_err(|error| error.to_string()),
        None => {
            let given = Kubeconfig::from_env().map_err(|error| error.to_string())?;
            given.ok_or_else(|| "KUBECONFIG names no file".into())
        }
    }
}

/// Raises a cluster of ours, which does nothing if it stands, and returns the path of its kubeconfig. One that is
/// a test's own has flags for its etcd.
fn raise(name: &str, own: Option<&str>) -> Result<PathBuf, String> {
    // `env` prints lines for a shell to evaluate, quoted as only a shell can read.
    const SCRIPT: &str = r#"
        "$0" up "$@" >&2 && lines=$("$0" env "$@") && eval "$lines" && printf %s "$KUBECONFIG""#;
    let cluster = in_repository("e2e/cluster/cluster");
    let output = Command::new("bash")
        .args(["-c", SCRIPT])
        .arg(&cluster)
        .args(["--level", "control-plane", "--name", name])
        .args(own.map(|_| "--own"))
        .envs(own.map(|etcd_flags| ("VENOM_ETCD_FLAGS", etcd_flags)))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit()) // the first build of its programs takes minutes: let it be seen
        .output()
        .map_err(|error| format!("bash: {error}"))?;
    if !output.status.success() {
        return Err(format!(
            "{} failed (see above); set KUBECONFIG to use another cluster",
            cluster.display()
        ));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned().into())
}

/// Installs crds/, as they are committed, and waits until they are served.
async fn install_crds(client: Client) -> Result<(), String> {
    let crds: Api<CustomResourceDefinition> = Api::all(client);
    let folder = in_repository("crds");
    let mut changed = false;
    for file in std::fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))? {
        let path = file.map_err(|error| error.to_string())?.path();
        let because = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let text = std::fs::read_to_string(&path).map_err(|error| because(&error))?;
        // Not by way of our types: what is tried is the file, with every word in it.
        let crd: Value = serde_yaml::from_str(&text).map_err(|error| because(&error))?;
        let name = crd["metadata"]["name"].as_str().ok_or_else(|| because(&"no name"))?.to_owned();
        let before = crds.get_opt(&name).await.map_err(|error| because(&error))?;
        let apply = PatchParams::apply(FIELD_MANAGER).force();
        let after = crds.patch(&name, &apply, &Patch::Apply(&crd)).await.map_err(|error| because(&error))?;
        changed |= before.is_some_and(|before| before.metadata.generation != after.metadata.generation);
        timeout(LIMIT, await_condition(crds.clone(), &name, is_crd_established()))
            .await
            .map_err(|_| because(&"not Established in time"))?
            .map_err(|error| because(&error))?;
    }
    if changed {
        // The API server takes up a changed schema by a watch, and nothing says when it has.
        sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}

/// A port that nobody has, below the range from which the kernel takes ports of its own: it can be had again
/// after a restart.
pub fn free_port() -> u16 {
    static ASKED: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = std::process::id().wrapping_mul(97) + ASKED.fetch_add(1, Ordering::Relaxed);
        let port = 20_000 + u16::try_from(number % 12_000).unwrap();
        if TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return port;
        }
    }
}

fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
