//! The cluster of the suite: helm and kubectl on it, and the cleanup after each test.
use std::io::Write;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::path::Path;
use std::process::{Command, Stdio};

use futures::FutureExt;
use kube::Client;
use tokio::sync::Mutex;

use crate::harness::eventually;
use crate::world::World;

/// Namespace of the operator: that of the plain manifest, used for the chart as well.
pub const SYSTEM: &str = "venom-system";
/// Selects the operator's pods there, and their number: that of the chart's values.
const OPERATOR: &str = "app.kubernetes.io/component=operator";
const REPLICAS: usize = 2;
/// Two namespaces for Organisms.
pub const TEAM_A: &str = "venom-e2e-a";
pub const TEAM_B: &str = "venom-e2e-b";

/// Cluster-wide objects that remain after an uninstallation.
const CRDS: [&str; 2] = ["organisms.genesis.venom.dev", "genomes.genesis.venom.dev"];

/// A cluster without an installation of VENOM.
pub struct Site {
    client: Client,
    /// Repository and tag of the image, which the cluster's nodes have or can pull.
    pub image: (String, String),
}

/// Runs `case` on the cluster, one at a time because CRDs are cluster-wide. Cleans up afterwards, even if it failed.
pub async fn on_site(case: impl AsyncFnOnce(&Site)) {
    static TURN: Mutex<()> = Mutex::const_new(());
    let _turn = TURN.lock().await;
    let site = Site::find().await.unwrap_or_else(|why| panic!("no cluster for e2e: {why}"));
    let outcome = AssertUnwindSafe(case(&site)).catch_unwind().await;
    if outcome.is_err() {
        println!("--- the operator's log:\n{}", site.try_log());
        println!(
            "--- pods:\n{}",
            run("kubectl", &["describe", "pods", "-n", SYSTEM], "").unwrap_or_else(|it| it)
        );
    }
    site.clean();
    if let Err(panic) = outcome {
        resume_unwind(panic);
    }
}

impl Site {
    async fn find() -> Result<Self, String> {
        let given = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let (Some(_), Some(image)) = (given("KUBECONFIG"), given("VENOM_IMAGE")) else {
            return Err(
                "set KUBECONFIG, and VENOM_IMAGE to an image that it can run; or use `make e2e`".into()
            );
        };
        for program in ["helm", "kubectl"] {
            run(program, &["version"], "").map_err(|why| format!("{program}: {why}"))?;
        }
        // The cleanup deletes the CRDs and with them every Organism, so there must be none beforehand.
        let there = run("kubectl", &["get", "crds", "-o", "name"], "")?;
        if there.contains("genesis.venom.dev") {
            let command = format!("kubectl delete crd {}", CRDS.join(" "));
            return Err(format!("VENOM is installed on it; take another one, or remove it first: {command}"));
        }
        let client = Client::try_default().await.map_err(|error| error.to_string())?;
        let (repository, tag) = image.rsplit_once(':').unwrap_or((&image, "latest"));
        let site = Self { client, image: (repository.to_owned(), tag.to_owned()) };
        for (namespace, level) in [(SYSTEM, "restricted"), (TEAM_A, "privileged"), (TEAM_B, "privileged")] {
            site.kubectl(&["create", "namespace", namespace]);
            let label = format!("pod-security.kubernetes.io/enforce={level}");
            site.kubectl(&["label", "namespace", namespace, &label]);
        }
        Ok(site)
    }

    /// Deletes everything that a test may have created. Errors are ignored here: leftovers would fail the next test.
    fn clean(&self) {
        let quietly = |program: &str, args: &[&str]| {
            if let Err(why) = run(program, args, "") {
                println!("cleaning up: {program} {}: {why}", args.join(" "));
            }
        };
        quietly(
            "helm",
            &["uninstall", "venom", "-n", SYSTEM, "--ignore-not-found", "--wait", "--timeout=60s"],
        );
        let kinds =
            "clusterrole,clusterrolebinding,validatingadmissionpolicy,validatingadmissionpolicybinding";
        quietly("kubectl", &["delete", kinds, "-l", "app.kubernetes.io/part-of=venom", "--timeout=60s"]);
        quietly(
            "kubectl",
            &["delete", "deployment", "--all", "-n", SYSTEM, "--cascade=foreground", "--timeout=60s"],
        );
        quietly("kubectl", &["delete", "crd", CRDS[0], CRDS[1], "--ignore-not-found", "--timeout=60s"]);
        quietly("kubectl", &["delete", "namespace", SYSTEM, TEAM_A, TEAM_B, "--timeout=60s"]);
    }

    /// Runs kubectl and returns its output.
    pub fn kubectl(&self, args: &[&str]) -> String {
        run("kubectl", args, "").unwrap_or_else(|why| panic!("kubectl {}: {why}", args.join(" ")))
    }

    /// Whether `kubectl auth can-i` answers yes. It exits with 1 for no.
    pub fn can_i(&self, args: &[&str]) -> bool {
        run("kubectl", &[&["auth", "can-i"], args].concat(), "").is_ok_and(|said| said == "yes")
    }

    /// Runs helm and returns its output.
    pub fn helm(&self, args: &[&str]) -> String {
        run("helm", args, "").unwrap_or_else(|why| panic!("helm {}: {why}", args.join(" ")))
    }

    /// Runs `helm install` or `helm upgrade` with the chart and waits until the operator is ready.
    pub fn release(&self, verb: &str, more: &[&str]) {
        let chart = in_repository("charts/venom");
        let (repository, tag) = &self.image;
        let (repository, tag) = (format!("image.repository={repository}"), format!("image.tag={tag}"));
        let mut args =
            vec![verb, "venom", &*chart, "-n", SYSTEM, "--set", &*repository, "--set-string", &*tag];
        args.extend(["--wait", "--timeout=60s"]);
        args.extend(more);
        self.helm(&args);
    }

    /// Applies the plain manifest with the image of the suite.
    pub fn apply_manifest(&self) {
        let text = std::fs::read_to_string(in_repository("charts/venom.yaml")).unwrap();
        let (repository, tag) = &self.image;
        // The substitution that the comment at its top describes.
        let named = text.replace(": venom:0.1.0", &format!(": {repository}:{tag}"));
        assert_ne!(named, text, "the manifest names an image");
        run("kubectl", &["apply", "-f", "-"], &named).unwrap_or_else(|why| panic!("kubectl apply: {why}"));
        self.kubectl(&["rollout", "status", "deployment/venom", "-n", SYSTEM, "--timeout=60s"]);
    }

    /// The operations of a user in a namespace.
    pub fn world(&self, namespace: &str) -> World {
        World::new(self.client.clone(), namespace, None)
    }

    /// Waits until there are as many pods of the operator as there are to be, all ready. Returns their names.
    pub async fn pods(&self) -> Vec<String> {
        let format = "jsonpath={range .items[*]}{.metadata.name} {.status.conditions[?(@.type=='Ready')].status} \
                      {.metadata.deletionTimestamp}{'\\n'}{end}";
        eventually("the pods of the operator, ready", async || {
            let printed = self.kubectl(&["get", "pods", "-n", SYSTEM, "-o", format]);
            let pods: Vec<Vec<&str>> =
                printed.lines().map(|line| line.split_whitespace().collect()).collect();
            let ready = pods.iter().all(|pod| pod.get(1..) == Some(&["True"][..]));
            if ready && pods.len() == REPLICAS {
                Ok(pods.iter().map(|pod| pod[0].to_owned()).collect())
            } else {
                Err(printed)
            }
        })
        .await
    }

    /// The logs of the operator's pods.
    pub fn log(&self) -> String {
        self.kubectl(&["logs", "-l", OPERATOR, "-n", SYSTEM, "--tail=-1"])
    }

    fn try_log(&self) -> String {
        run("kubectl", &["logs", "-l", OPERATOR, "-n", SYSTEM, "--tail=100"], "").unwrap_or_else(|why| why)
    }

    /// Checks by the operator's log and metrics that the API server forbade it nothing. A forbidden Event is only counted.
    pub fn assert_nothing_was_forbidden(&self) {
        let log = self.log();
        let said =
            log.lines().find(|line| line.to_lowercase().contains("forbidden") || line.contains("ERROR"));
        assert_eq!(said, None, "in the operator's log");
        let path = format!("/api/v1/namespaces/{SYSTEM}/services/venom:metrics/proxy/metrics");
        let metrics = self.kubectl(&["get", "--raw", &path]);
        assert!(metrics.contains("\nvenom_held_organisms "), "the Service leads to the metrics: {metrics}");
        let counted = metrics.lines().find(|line| line.starts_with("venom_api_errors_total{what=\"event\"}"));
        assert_eq!(counted, None, "in the operator's metrics");
    }
}

/// Runs a program with `input` on stdin. Returns stdout; the error is stderr.
pub fn run(program: &str, args: &[&str], input: &str) -> Result<String, String> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    // The program may exit without reading stdin. Its output is the result then.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim_end().to_owned();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// The absolute path of a file in this repository.
pub fn in_repository(path: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path).display().to_string()
}
