//! A cluster with the CRDs, and a new namespace for each test.
//!
//! The cluster is the one of KUBECONFIG, or else one that `e2e/cluster/cluster up --name test` starts. It keeps running
//! between test runs; `e2e/cluster/cluster down --name test` stops it. Without a cluster every test fails with the same
//! message: a skipped test must not look like a passed one.
use std::net::TcpListener;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::http::HeaderName;
use futures::FutureExt;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ObjectMeta, Patch, PatchParams,
    PostParams,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::wait::{await_condition, conditions::is_crd_established};
use kube::{Client, Config, ResourceExt};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// Timeout of [`eventually`]. It is generous because the machine may be busy, and only a failing test reaches it.
const LIMIT: Duration = Duration::from_secs(60);

/// `apiVersion` of the project's manifests.
pub const API_VERSION: &str = "genesis.venom.dev/v1alpha1";

const FIELD_MANAGER: &str = "venom-test";

/// The chart's roles for users.
const USER_ROLES: [&str; 4] = ["venom-viewer", "venom-injector", "venom-editor", "venom-ledger-keeper"];

/// Runs `test` with a client and the name of a new namespace, which is deleted afterwards even if the test failed.
pub async fn in_namespace(test: impl AsyncFnOnce(Client, &str)) {
    let client = cluster().await.client();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let fresh = Namespace {
        metadata: ObjectMeta { generate_name: Some("venom-test-".into()), ..Default::default() },
        ..Default::default()
    };
    let namespace = namespaces.create(&PostParams::default(), &fresh).await.unwrap().name_any();
    let outcome = AssertUnwindSafe(test(client, &namespace)).catch_unwind().await;
    // The test does not wait for the deletion.
    let deleted = namespaces.delete(&namespace, &DeleteParams::default()).await;
    if let Err(panic) = outcome {
        resume_unwind(panic);
    }
    // A test may have deleted it.
    assert!(!matches!(deleted, Err(error) if !matches!(&error, kube::Error::Api(it) if it.is_not_found())));
}

/// Polls `look` until it returns `Ok`, and returns the value. `Err` describes the observed state; the panic after the
/// timeout contains the last one.
pub async fn eventually<T>(what: &str, look: impl AsyncFnMut() -> Result<T, String>) -> T {
    within(LIMIT, what, look).await
}

/// Like [`eventually`], with another timeout.
pub async fn within<T>(limit: Duration, what: &str, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + limit;
    let mut last = "nothing: the first poll did not return".to_owned();
    while Instant::now() < deadline {
        match timeout_at(deadline, look()).await {
            Ok(Ok(found)) => return found,
            Ok(Err(seen)) => last = seen,
            Err(_) => break, // the poll hung: the state before it says more
        }
        sleep(Duration::from_millis(50)).await;
    }
    panic!("waited {} s for {what}; last seen: {last}", limit.as_secs());
}

/// A reachable cluster with the CRDs installed.
pub struct Cluster {
    config: Config,
    /// For child processes; `None` if they find the cluster by KUBECONFIG.
    pub kubeconfig: Option<PathBuf>,
}

impl Cluster {
    async fn new(kubeconfig: Option<PathBuf>) -> Result<Self, String> {
        let kubeconfig_file = self::kubeconfig(kubeconfig.as_deref())?;
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(kubeconfig_file, &options).await;
        let config = config.map_err(|error| error.to_string())?;
        let cluster = Self { config, kubeconfig };
        let answer = cluster.client().apiserver_version().await;
        answer.map_err(|error| format!("{} does not answer: {error}", cluster.config.cluster_url))?;
        install_crds(cluster.client()).await?;
        install_rights(cluster.client()).await?;
        Ok(cluster)
    }

    /// Starts a cluster for the calling test only, with these variables for `e2e/cluster/cluster`, such as
    /// `VENOM_ETCD_FLAGS`. [`Self::stop`] stops it.
    pub async fn start(name: &str, variables: &[(&str, &str)]) -> Self {
        Self::new(Some(start_cluster(name, Some(variables)).unwrap())).await.unwrap()
    }

    /// Stops the cluster of this name.
    pub fn stop(name: &str) {
        let down = Command::new(in_repository("e2e/cluster/cluster"))
            .args(["down", "--own", "--name", name])
            .status();
        assert!(down.unwrap().success());
    }

    /// A new client that acts as another user.
    pub fn client_as(&self, user: &str) -> Client {
        let mut config = self.config.clone();
        config.headers.push((HeaderName::from_static("impersonate-user"), user.try_into().unwrap()));
        Client::try_from(config).unwrap()
    }

    /// A new client. Connections belong to a tokio runtime, and each test has its own.
    pub fn client(&self) -> Client {
        Client::try_from(self.config.clone()).unwrap()
    }
}

/// The cluster that the tests share.
pub async fn cluster() -> &'static Cluster {
    /// The cluster or the reason why there is none. The first test initializes it.
    static CLUSTER: OnceCell<Result<Cluster, String>> = OnceCell::const_new();
    let found = CLUSTER.get_or_init(async || {
        let given = std::env::var("KUBECONFIG").is_ok_and(|given| !given.is_empty());
        Cluster::new(if given { None } else { Some(start_cluster("test", None)?) }).await
    });
    found.await.as_ref().unwrap_or_else(|error| panic!("no cluster to test on: {error}"))
}

/// Reads the kubeconfig at `path`, or else the one of KUBECONFIG.
pub fn kubeconfig(path: Option<&Path>) -> Result<Kubeconfig, String> {
    match path {
        Some(path) => Kubeconfig::read_from(path).map_err(|error| error.to_string()),
        None => {
            let given = Kubeconfig::from_env().map_err(|error| error.to_string())?;
            given.ok_or_else(|| "KUBECONFIG names no file".into())
        }
    }
}

/// Starts a cluster, unless it is running, and returns the path of its kubeconfig. `own` makes it a cluster for one test,
/// with these variables.
fn start_cluster(name: &str, own: Option<&[(&str, &str)]>) -> Result<PathBuf, String> {
    // `env` prints shell assignments, which only a shell can unquote.
    const SCRIPT: &str = r#"
        "$0" up "$@" >&2 && lines=$("$0" env "$@") && eval "$lines" && printf %s "$KUBECONFIG""#;
    let cluster = in_repository("e2e/cluster/cluster");
    let output = Command::new("bash")
        .args(["-c", SCRIPT])
        .arg(&cluster)
        .args(["--level", "control-plane", "--name", name])
        .args(own.map(|_| "--own"))
        .envs(own.unwrap_or_default().iter().copied())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit()) // shows the progress of the first build, which takes minutes
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

/// Installs what the chart has for all releases besides the CRDs: the roles of users and the admission policies. The other
/// tests act as administrators, and their operators with the chart's rights.
async fn install_rights(client: Client) -> Result<(), String> {
    let text = std::fs::read_to_string(in_repository("charts/venom.yaml")).map_err(|it| it.to_string())?;
    for object in serde_yaml::Deserializer::from_str(&text) {
        let object = Value::deserialize(object).map_err(|error| error.to_string())?;
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let kind = object["kind"].as_str().unwrap_or_default();
        let (group, plural) = match kind {
            "ClusterRole" if USER_ROLES.contains(&&*name) => ("rbac.authorization.k8s.io", "clusterroles"),
            "ValidatingAdmissionPolicy" => ("admissionregistration.k8s.io", "validatingadmissionpolicies"),
            "ValidatingAdmissionPolicyBinding" => {
                ("admissionregistration.k8s.io", "validatingadmissionpolicybindings")
            }
            _ => continue,
        };
        let kind = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, "v1", kind), plural);
        let objects: Api<DynamicObject> = Api::all_with(client.clone(), &kind);
        let apply = PatchParams::apply(FIELD_MANAGER).force();
        let applied = objects.patch(&name, &apply, &Patch::Apply(&object)).await;
        applied.map_err(|error| format!("{} {name}: {error}", kind.kind))?;
    }
    Ok(())
}

/// Installs the committed files of crds/ and waits until the API server serves them.
async fn install_crds(client: Client) -> Result<(), String> {
    let crds: Api<CustomResourceDefinition> = Api::all(client);
    let folder = in_repository("crds");
    let mut changed = false;
    for file in std::fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))? {
        let path = file.map_err(|error| error.to_string())?.path();
        let file_error = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let text = std::fs::read_to_string(&path).map_err(|error| file_error(&error))?;
        // Applied as untyped YAML, so that the test covers the file and not the Rust types.
        let crd: Value = serde_yaml::from_str(&text).map_err(|error| file_error(&error))?;
        let name = crd["metadata"]["name"].as_str().ok_or_else(|| file_error(&"no name"))?.to_owned();
        let before = crds.get_opt(&name).await.map_err(|error| file_error(&error))?;
        let apply = PatchParams::apply(FIELD_MANAGER).force();
        let after =
            crds.patch(&name, &apply, &Patch::Apply(&crd)).await.map_err(|error| file_error(&error))?;
        changed |= before.is_some_and(|before| before.metadata.generation != after.metadata.generation);
        timeout(LIMIT, await_condition(crds.clone(), &name, is_crd_established()))
            .await
            .map_err(|_| file_error(&"not Established in time"))?
            .map_err(|error| file_error(&error))?;
    }
    if changed {
        // The API server loads a changed schema asynchronously and does not report it.
        sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}

/// A free port below the kernel's ephemeral range, so that a process can bind it again after a restart.
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
