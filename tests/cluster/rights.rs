//! An operator with the permissions of the chart, and one whose permissions are revoked.
use std::path::{Path, PathBuf};
use std::time::Instant;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject};
use kube::api::{ApiResource, DeleteParams, DynamicObject, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde::Deserialize;
use serde_json::{Value, json};
use venom::api::Organism;

use crate::harness::{eventually, kubeconfig};
use crate::http::{free_address, get, metric_of};
use crate::operator::Operator;
use crate::world::{World, in_world, message};

/// Name of the service account, the role and the role binding.
pub const NAME: &str = "operator";

/// The rules of two roles of the chart: the one for watched namespaces, and the one for the operator's own.
fn rules() -> Vec<PolicyRule> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/venom.yaml"));
    let text = text.unwrap();
    let objects = serde_yaml::Deserializer::from_str(&text).map(|it| Value::deserialize(it).unwrap());
    let names = [("ClusterRole", "venom"), ("Role", "venom-mesh-ca"), ("Role", "venom-replicas")];
    let roles = objects
        .filter(|it| names.iter().any(|(kind, name)| it["kind"] == *kind && it["metadata"]["name"] == *name));
    roles.flat_map(|it| serde_json::from_value::<Vec<PolicyRule>>(it["rules"].clone()).unwrap()).collect()
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() }
}

impl World {
    /// Creates a service account with the operator's permissions in this namespace. Returns the path of its kubeconfig.
    pub async fn account(&self, folder: &Path) -> PathBuf {
        self.account_with(folder, rules()).await
    }

    /// The same with these permissions.
    async fn account_with(&self, folder: &Path, rules: Vec<PolicyRule>) -> PathBuf {
        let path = self.account_named(NAME, folder).await;
        let role = Role { metadata: named(NAME), rules: Some(rules) };
        let roles: Api<Role> = Api::namespaced(self.client.clone(), &self.namespace);
        roles.create(&PostParams::default(), &role).await.unwrap();
        self.bind().await;
        self.in_force().await;
        path
    }

    /// Creates a service account without permissions. Returns the path of its kubeconfig.
    pub async fn account_named(&self, name: &str, folder: &Path) -> PathBuf {
        let (accounts, params) = (self.accounts(), PostParams::default());
        let account = ServiceAccount { metadata: named(name), ..ServiceAccount::default() };
        accounts.create(&params, &account).await.unwrap();
        let asked = TokenRequest { spec: Some(TokenRequestSpec::default()), ..TokenRequest::default() };
        let made = accounts.create_token_request(name, &params, &asked).await.unwrap();
        let mut config = kubeconfig(self.kubeconfig.as_deref()).unwrap();
        for user in &mut config.auth_infos {
            let token = json!({"token": made.status.as_ref().unwrap().token});
            user.auth_info = Some(serde_json::from_value(token).unwrap());
        }
        for context in config.contexts.iter_mut().filter_map(|it| it.context.as_mut()) {
            context.namespace = Some(self.namespace.clone());
        }
        let path = folder.join("kubeconfig");
        std::fs::write(&path, serde_yaml::to_string(&config).unwrap()).unwrap();
        path
    }

    /// Waits until the API server has seen the binding: an operator without the right to its Secret ends at once.
    async fn in_force(&self) {
        let reviews: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let review = json!({"metadata": {}, "spec": {
            "user": format!("system:serviceaccount:{}:{NAME}", self.namespace),
            "resourceAttributes": {
                "namespace": self.namespace, "resource": "secrets", "name": "venom-mesh-ca", "verb": "get",
            },
        }});
        let review: SubjectAccessReview = serde_json::from_value(review).unwrap();
        eventually("the binding to be in force", async || {
            let answer =
                reviews.create(&PostParams::default(), &review).await.map_err(|it| it.to_string())?;
            let allowed = answer.status.is_some_and(|it| it.allowed);
            if allowed { Ok(()) } else { Err("not allowed".into()) }
        })
        .await;
    }

    /// Creates the role binding.
    async fn bind(&self) {
        self.bind_account_of(&self.namespace).await;
    }

    /// Creates the role and its binding for the service account of another namespace.
    async fn admit_account_of(&self, namespace: &str) {
        let metadata = ObjectMeta { name: Some(NAME.into()), ..ObjectMeta::default() };
        let role = Role { metadata, rules: Some(rules()) };
        let roles: Api<Role> = Api::namespaced(self.client.clone(), &self.namespace);
        roles.create(&PostParams::default(), &role).await.unwrap();
        self.bind_account_of(namespace).await;
    }

    async fn bind_account_of(&self, namespace: &str) {
        let group = "rbac.authorization.k8s.io";
        let binding = RoleBinding {
            metadata: ObjectMeta { name: Some(NAME.into()), ..ObjectMeta::default() },
            role_ref: RoleRef { api_group: Some(group.into()), kind: "Role".into(), name: NAME.into() },
            subjects: Some(vec![Subject {
                kind: "ServiceAccount".into(),
                name: NAME.into(),
                namespace: Some(namespace.to_owned()),
                ..Subject::default()
            }]),
        };
        self.bindings().create(&PostParams::default(), &binding).await.unwrap();
    }

    /// Deletes the role binding.
    async fn unbind(&self) {
        self.bindings().delete(NAME, &DeleteParams::default()).await.unwrap();
    }

    fn accounts(&self) -> Api<ServiceAccount> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn bindings(&self) -> Api<RoleBinding> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }
}

/// The test clusters enforce permissions for ownerReferences, as OpenShift does: a reference that blocks the deletion of
/// its owner requires `update` on `organisms/finalizers`, and one that is added to an object requires `delete` on that.
#[tokio::test]
async fn the_charts_permissions_suffice_for_bodies() {
    in_world(async |world| {
        let folder = tempfile::tempdir().unwrap();
        let account = world.account(folder.path()).await;
        let args = ["--node-image", "localhost/venom:test", "--issuer-url", &*world.issuer_url];
        let operator = Operator::start(&world.namespace, "alpha", Some(&account), &args);
        world.create::<Organism>("venom", json!({"pulse": {"minPeriod": "100ms"}})).await;
        world.beating("venom").await;
        let objects = [
            (ApiResource::erase::<ConfigMap>(&()), "venom-mesh-ca"),
            (ApiResource::erase::<ServiceAccount>(&()), "venom"),
            (ApiResource::erase::<Service>(&()), "venom-mesh"),
            (ApiResource::erase::<NetworkPolicy>(&()), "venom-body"),
            (ApiResource::erase::<Deployment>(&()), "venom"),
            (ApiResource::erase::<PodDisruptionBudget>(&()), "venom"),
            (ApiResource::erase::<HorizontalPodAutoscaler>(&()), "venom"),
        ];
        for (resource, name) in objects {
            let api: Api<DynamicObject> =
                Api::namespaced_with(world.client.clone(), &world.namespace, &resource);
            let owned = async || {
                eventually(&format!("{} {name} with its owner", resource.kind), async || {
                    let found = api.get_opt(name).await.map_err(|error| error.to_string())?.ok_or("none")?;
                    if found.owner_references().is_empty() { Err("no owner") } else { Ok(()) }?;
                    Ok(())
                })
                .await;
            };
            owned().await;
            let orphan = Patch::Merge(json!({"metadata": {"ownerReferences": null}}));
            api.patch(name, &PatchParams::default(), &orphan).await.unwrap();
            owned().await;
        }
        let log = operator.log();
        assert!(!log.to_lowercase().contains("forbidden"), "{log}");
    })
    .await;
}

/// What adoption and response need. Without the right to see the workload that is said, and it is not taken for gone.
#[tokio::test]
async fn the_charts_permissions_suffice_for_adopted_workloads() {
    in_world(async |world| {
        let folder = tempfile::tempdir().unwrap();
        let workloads = |rule: &PolicyRule| rule.resources.as_ref().is_some_and(|it| *it == ["statefulsets"]);
        let without = rules().into_iter().filter(|it| !workloads(it)).collect();
        let account = world.account_with(folder.path(), without).await;
        let args = ["--node-image", "localhost/venom:test", "--issuer-url", &*world.issuer_url];
        let operator = Operator::start(&world.namespace, "alpha", Some(&account), &args);
        world.shop::<StatefulSet>("shop", Some("shop")).await;
        world.adopts("shop", "StatefulSet", "shop", json!({})).await;
        let status = world.condition("shop", "Adopted", "Unknown", "Unreadable").await;
        assert!(
            message(&status, "Adopted").contains("cannot list resource"),
            "{}",
            message(&status, "Adopted")
        );
        let beaten = operator.log().to_lowercase().matches("forbidden").count();

        let all = Patch::Merge(json!({"rules": rules()}));
        world.of::<Role>().patch(NAME, &PatchParams::default(), &all).await.unwrap();
        world.condition("shop", "Adopted", "True", "Adopted").await;
        world.patch_genome("shop", json!({"risk": {"anoms": 20}})).await;
        world.condition("shop", "Quarantined", "True", "Isolated").await;
        world.patch_genome("shop", json!({"risk": {"anoms": 0}})).await;
        world.condition("shop", "Quarantined", "False", "Clear").await;
        world.delete_organism("shop").await;
        world.gone("shop").await;
        let log = operator.log();
        assert_eq!(log.to_lowercase().matches("forbidden").count(), beaten, "{log}");
    })
    .await;
}

/// Without permissions the operator keeps beating and retries. At SIGTERM it exits at once, and the next operator continues
/// from the last commit.
#[tokio::test]
async fn an_operator_without_permissions_retries_and_exits_at_sigterm() {
    in_world(async |world| {
        let folder = tempfile::tempdir().unwrap();
        let account = world.account(folder.path()).await;
        let address = free_address();
        let mut first =
            Operator::start(&world.namespace, "alpha", Some(&account), &["--metrics-addr", &address]);
        world.create::<Organism>("venom", json!({"pulse": {"minPeriod": "20ms"}})).await;
        world.create::<Organism>("other", json!({"pulse": {"minPeriod": "1s"}})).await;
        world.beating("venom").await;
        world.beating("other").await;
        world.beats_more("venom", 50).await;

        world.unbind().await;
        let errors = || metric_of(&address, r#"venom_api_errors_total{what="ledger"}"#);
        let beaten = || metric_of(&address, "venom_beats_total");
        let refused = async |more: f64| {
            let (errors_before, beaten_before) = (errors(), beaten());
            eventually("tries that are refused, and beats all the same", async || {
                let (errors, beaten) = (errors() - errors_before, beaten() - beaten_before);
                if errors >= more && beaten >= 10.0 * more {
                    Ok(())
                } else {
                    Err(format!("{errors}, {beaten}"))
                }
            })
            .await;
        };
        refused(4.0).await;
        assert!(first.runs());
        assert!(first.log().contains("commit failed; retrying"), "{}", first.log());

        // Restored permissions take effect without a restart.
        let before = world.ledger("venom").await;
        world.bind().await;
        world.beats_more("venom", 50).await;
        let live = world.ledger("venom").await;
        live.continues(&before);
        assert_eq!(live.check().inputs_of("resume").len(), 0, "it never stopped");

        // In the order of an uninstallation: the service account last.
        world.unbind().await;
        refused(4.0).await;
        world.accounts().delete(NAME, &DeleteParams::default()).await.unwrap();
        let before = world.ledger("venom").await;
        let asked = Instant::now();
        let ended = first.terminate().await;
        println!("ended {:?} after SIGTERM", asked.elapsed());
        assert_eq!(ended.code(), Some(0));
        let log = first.log();
        assert!(!log.contains("could be committed in time"), "it waited: {log}");
        for name in ["venom", "other"] {
            let organism = format!("{}/{name}", world.namespace);
            let said = |line: &&str| line.contains("may no longer write") && line.contains(&organism);
            let lines: Vec<&str> = log.lines().filter(said).collect();
            assert_eq!(lines.len(), 1, "{name}: {log}");
        }
        assert_eq!(world.ledger("venom").await.head, before.head, "nothing more was written");

        let _second = world.operator("beta");
        eventually("a resume of the second", async || {
            let live = world.ledger("venom").await;
            let resumed = live.entries.iter().any(|it| it.kind() == "resume" && it.data.contains("beta"));
            if resumed { Ok(()) } else { Err(format!("epoch {}", live.head.epoch)) }
        })
        .await;
        let status = world.beats_more("venom", 50).await;
        let live = world.ledger("venom").await;
        live.continues(&before);
        assert_eq!(live.head.epoch, 2);
        let summary = live.check();
        let resumes = summary.inputs_of("resume");
        assert_eq!(resumes.len(), 1, "{resumes:?}");
        assert_eq!(resumes[0]["reason"], "takeover");
        live.check_status(&status);
    })
    .await;
}

/// Two namespaces are listed, and the role in the second is missing at the start. The first goes on; the second is named,
/// and taken up when the role is there.
#[tokio::test]
async fn a_namespace_without_a_role_does_not_stop_the_others() {
    in_world(async |world| {
        in_world(async |other| {
            let folder = tempfile::tempdir().unwrap();
            let account = world.account(folder.path()).await;
            let address = free_address();
            let more = ["--namespace", &*other.namespace, "--metrics-addr", &*address];
            let mut operator = Operator::start(&world.namespace, "alpha", Some(&account), &more);
            for it in [&world, &other] {
                it.create::<Organism>("venom", json!({"pulse": {"minPeriod": "20ms"}})).await;
            }
            world.beating("venom").await;
            world.beats_more("venom", 20).await;
            let verbose = || get(&address, "/readyz?verbose").unwrap();
            let failing = || metric_of(&address, "venom_watches_failing");
            eventually("readiness that names the other namespace", async || {
                let (code, text) = verbose();
                let named = format!("the watch on ledger objects in {} fails: ", other.namespace);
                let named = text.lines().any(|it| it.starts_with(&named) && it.contains("forbidden"));
                let all = failing() >= 2.0
                    && metric_of(&address, r#"venom_watch_failures_total{list="Genomes"}"#) > 0.0;
                if code == 200 && named && all { Ok(()) } else { Err(format!("{code}: {text}")) }
            })
            .await;
            assert!(other.status("venom").await.conditions.is_empty());

            other.admit_account_of(&world.namespace).await;
            other.beating("venom").await;
            eventually("no failing watch", async || {
                let (code, text) = verbose();
                if (code, text.as_str(), failing()) == (200, "ok\n", 0.0) { Ok(()) } else { Err(text) }
            })
            .await;
            assert!(operator.runs());
            let log = operator.log();
            let named = |line: &&str| line.contains("the watch fails") && line.contains(&other.namespace);
            let lines: Vec<_> = log.lines().filter(named).collect();
            // One for each list; a retry with the same failure is not logged.
            assert!((2..=6).contains(&lines.len()), "{lines:?}");
            assert_eq!(world.ledger("venom").await.check().inputs_of("resume").len(), 0, "it never stopped");
        })
        .await;
    })
    .await;
}

/// The right to Leases is taken away: nothing beats that another replica may take over, which is said; and all goes on by itself
/// once it is given back.
#[tokio::test]
async fn without_the_right_to_its_lease_an_operator_stops_beating_and_says_so() {
    in_world(async |world| {
        let folder = tempfile::tempdir().unwrap();
        let account = world.account(folder.path()).await;
        let address = free_address();
        let arguments = ["--metrics-addr", &address];
        let mut operator = Operator::start(&world.namespace, "alpha", Some(&account), &arguments);
        world.create::<Organism>("venom", json!({"pulse": {"minPeriod": "20ms"}})).await;
        world.beating("venom").await;
        world.beats_more("venom", 20).await;

        let roles: Api<Role> = Api::namespaced(world.client.clone(), &world.namespace);
        let set = async |rules: Vec<PolicyRule>| {
            let patch = Patch::Merge(json!({"rules": rules}));
            roles.patch(NAME, &PatchParams::default(), &patch).await.unwrap();
        };
        let of_leases = |it: &PolicyRule| it.resources.iter().flatten().any(|it| it == "leases");
        set(rules().into_iter().filter(|it| !of_leases(it)).collect()).await;
        let status = world.condition("venom", "Beating", "False", "NoLease").await;
        let says = message(&status, "Beating");
        assert!(says.contains("forbidden") && says.contains("leases"), "{says}");
        world.condition("venom", "Ready", "False", "NoLease").await;
        // What it had beaten by then may still be committed.
        let beaten = || metric_of(&address, "venom_beats_total");
        let (before, beats) = (world.ledger("venom").await, beaten());
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        assert!(beats > 0.0);
        assert_eq!(beaten(), beats, "nothing beats");

        set(rules()).await;
        world.beating("venom").await;
        world.beats_more("venom", 20).await;
        let live = world.ledger("venom").await;
        live.continues(&before);
        assert_eq!(live.check().inputs_of("resume").len(), 0, "it was held all the time");
        assert!(operator.runs());
    })
    .await;
}
