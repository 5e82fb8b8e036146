//! The chart's admission policies: what each kind of user may do to a ledger and to a Genome.
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use venom::api::labels::{MANAGED_BY_LABEL, MANAGER, ORGANISM_LABEL, UID_LABEL};
use venom::api::{Genome, Organism};

use crate::harness::{cluster, eventually};
use crate::world::{World, in_world};

/// How a request of a user ended: the API server's words if it was refused.
type Answer = Result<(), String>;

fn answer<T>(done: Result<T, kube::Error>) -> Answer {
    match done {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) => Err(status.message),
        Err(error) => panic!("{error}"),
    }
}

/// A client of a user who has this ClusterRole in the namespace.
async fn user(world: &World, role: &str) -> Client {
    let name = format!("of-{role}-{}", world.namespace);
    let binding = json!({
        "metadata": {"name": role},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}],
    });
    let bindings: Api<RoleBinding> = Api::namespaced(world.client.clone(), &world.namespace);
    bindings.create(&PostParams::default(), &serde_json::from_value(binding).unwrap()).await.unwrap();
    cluster().await.client_as(&name)
}

async fn patch(genomes: &Api<Genome>, patch: Value) -> Answer {
    answer(genomes.patch("venom", &PatchParams::default(), &Patch::Merge(&patch)).await)
}

/// Until the binding is known and the policy is in force.
async fn until(what: &str, mut tried: impl AsyncFnMut() -> Answer, expected: impl Fn(&Answer) -> bool) {
    eventually(what, async || {
        let told = tried().await;
        if expected(&told) { Ok(()) } else { Err(format!("{told:?}")) }
    })
    .await;
}

#[tokio::test]
async fn an_injector_changes_what_injects_and_nothing_else() {
    in_world(async |world| {
        world.create::<Genome>("venom", json!({"ml": {"injectable": {"min": 0.1, "max": 1}}})).await;
        let genomes = |client: Client| -> Api<Genome> { Api::namespaced(client, &world.namespace) };
        let injector = genomes(user(&world, "venom-injector").await);
        let window = json!({"spec": {"risk": {"window": "1s"}}});
        let refused =
            |told: &Answer| told.as_ref().is_err_and(|it| it.contains("changes spec.risk.window: who may"));
        until("the refusal of a window", async || patch(&injector, window.clone()).await, refused).await;

        for allowed in [
            json!({"spec": {"risk": {"anoms": 20}}}),
            json!({"spec": {"ml": {"mlWeight": 0.5}}}),
            json!({"spec": {"ml": {"mlWeight": 0.1}, "risk": {"anoms": 1_000_000}}}),
            json!({"spec": {"ml": {"mlWeight": 1}}}),
            json!({}),
        ] {
            assert_eq!(patch(&injector, allowed.clone()).await, Ok(()), "{allowed}");
        }
        for (denied, words) in [
            (json!({"spec": {"thresholds": {"quarantine": 1}}}), "changes spec.thresholds: who may"),
            (json!({"spec": {"evolution": "Frozen"}}), "changes spec.evolution: who may"),
            (json!({"spec": {"pid": {"kp": 1}}}), "changes spec.pid: who may"),
            (
                json!({"spec": {"weights": {"regen": 0.2, "balance": 0.3}, "risk": {"anoms": 1}}}),
                "changes spec.weights: who may",
            ),
            (json!({"spec": {"ml": {"bias": 1}}}), "changes spec.ml.bias: who may"),
            (
                json!({"spec": {"ml": {"mlWeight": 5, "injectable": {"max": 10}}}}),
                "changes spec.ml.injectable: who may",
            ),
            (json!({"spec": {"ml": {"mlWeight": 1.01}}}), "must be within spec.ml.injectable"),
            (json!({"spec": {"ml": {"mlWeight": -1}}}), "must be within spec.ml.injectable"),
            // The defaults differ from what stands there.
            (json!({"spec": {"ml": null}}), "changes spec.ml.injectable: who may"),
            (json!({"metadata": {"labels": {"a": "b"}}}), "changes metadata.labels: who may"),
            (json!({"metadata": {"annotations": {"a": "b"}}}), "changes metadata.annotations: who may"),
            (json!({"metadata": {"finalizers": ["a.b/c"]}}), "changes metadata.finalizers: who may"),
        ] {
            let told = patch(&injector, denied.clone()).await.unwrap_err();
            assert!(told.contains(words) && told.contains("'venom-injector' denied"), "{denied}: {told}");
        }
        let cleared = json!({"spec": {"evolution": "Frozen"}, "metadata": {"labels": {"a": "b"}}});
        for role in ["venom-editor", "edit", "admin"] {
            let genomes = genomes(user(&world, role).await);
            until(role, async || patch(&genomes, cleared.clone()).await, Result::is_ok).await;
            let window = json!({"spec": {"risk": {"window": "2s"}, "ml": {"mlWeight": 5}}});
            assert_eq!(patch(&genomes, window).await, Ok(()), "{role}");
        }
        assert_eq!(patch(&world.genomes, json!({"spec": {"thresholds": {"alert": 0.5}}})).await, Ok(()));
        // What stands outside of injectable may stay.
        assert_eq!(patch(&injector, json!({"spec": {"risk": {"anoms": 7}}})).await, Ok(()));
    })
    .await;
}

fn map(name: &str, labels: &[(&str, &str)]) -> ConfigMap {
    let labels: serde_json::Map<_, _> =
        labels.iter().map(|(key, value)| ((*key).into(), json!(value))).collect();
    let object = json!({"metadata": {"name": name, "labels": labels}, "data": {"head": "{}"}});
    serde_json::from_value(object).unwrap()
}

const OF_A_LEDGER: [(&str, &str); 3] =
    [(MANAGED_BY_LABEL, MANAGER), (ORGANISM_LABEL, "venom"), (UID_LABEL, "u")];

#[tokio::test]
async fn only_those_with_the_right_write_a_ledger() {
    in_world(async |world| {
        let _operator = world.operator("alpha");
        world.create::<Organism>("venom", json!({"ledger": {"onDelete": "Retain"}})).await;
        world.beating("venom").await;
        let maps = |client: Client| -> Api<ConfigMap> { Api::namespaced(client, &world.namespace) };
        let (params, delete) = (PatchParams::default(), DeleteParams::default());
        for role in ["edit", "admin", "venom-editor"] {
            let client = user(&world, role).await;
            // It brings no right on ConfigMaps, which is not what is tested here.
            if role == "venom-editor" {
                user_more(&world, role).await;
            }
            let maps = maps(client);
            let mine = format!("mine-of-{role}");
            let created = async || answer(maps.create(&PostParams::default(), &map(&mine, &[])).await);
            until(role, created, Result::is_ok).await;
            let head = format!("{role}-ledger");
            let segment = world.ledger_objects("venom").await.into_iter().find(|it| it != "venom-ledger").unwrap();
            let merge = |patch: Value| Patch::Merge(patch);
            let labels = json!({"metadata": {"labels": {ORGANISM_LABEL: null, UID_LABEL: null, MANAGED_BY_LABEL: null}}});
            let applied = PatchParams::apply("someone").force();
            let object = json!({
                "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": "applied", "labels": {ORGANISM_LABEL: "venom", UID_LABEL: "u"}},
            });
            let adopting = json!({"metadata": {"labels": {ORGANISM_LABEL: "venom", UID_LABEL: "u"}}});
            let kept = map("venom-ledger-unreadable-1", &OF_A_LEDGER[..2]);
            let owned = json!({"metadata": {"ownerReferences": [
                {"apiVersion": "v1", "kind": "ConfigMap", "name": "gone", "uid": "00000000-0000-4000-8000-000000000000"},
            ]}});
            let post = PostParams::default();
            for (what, told) in [
                ("create", answer(maps.create(&post, &map(&head, &OF_A_LEDGER)).await)),
                ("create a kept one", answer(maps.create(&post, &kept).await)),
                ("apply", answer(maps.patch("applied", &applied, &Patch::Apply(&object)).await)),
                ("change", answer(maps.patch("venom-ledger", &params, &merge(json!({"data": {"head": "{}"}}))).await)),
                ("take the labels off", answer(maps.patch(&segment, &params, &merge(labels)).await)),
                ("put the labels on", answer(maps.patch(&mine, &params, &merge(adopting)).await)),
                ("delete", answer(maps.delete(&segment, &delete).await)),
                ("delete the head", answer(maps.delete("venom-ledger", &delete).await)),
                ("delete all", answer(maps.delete_collection(&delete, &ListParams::default()).await)),
            ] {
                let told = told.expect_err(what);
                let right = if what.starts_with("delete") { "delete" } else { "update" };
                let right = format!("that takes the right to {right} organisms/ledger");
                assert!(told.contains("'venom-ledger' denied") && told.contains(&right), "{role} {what}: {told}");
            }
            // Whichever refuses first: the policy, or the API server's own rule about owners.
            assert!(answer(maps.patch("venom-ledger", &params, &merge(owned)).await).is_err());
            // Not a ledger's: a label of ours alone, a name alone.
            let created = maps.create(&post, &map(&format!("of-{role}"), &[(ORGANISM_LABEL, "venom")])).await;
            assert_eq!(answer(created), Ok(()), "{role}");
            assert_eq!(answer(maps.create(&post, &map(&head, &[("a", "b")])).await), Ok(()), "{role}");
        }
        world.beats_more("venom", 100).await;
        world.condition("venom", "LedgerIntact", "True", "Verified").await;
        world.ledger("venom").await.check();
    })
    .await;
}

/// Lets the user of a role also write ConfigMaps.
async fn user_more(world: &World, role: &str) {
    let name = format!("of-{role}-{}", world.namespace);
    let metadata = json!({"name": "configmaps"});
    let rules = json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["*"]}]);
    let created = json!({"metadata": metadata, "rules": rules});
    let roles: Api<k8s_openapi::api::rbac::v1::Role> =
        Api::namespaced(world.client.clone(), &world.namespace);
    roles.create(&PostParams::default(), &serde_json::from_value(created).unwrap()).await.unwrap();
    let binding = json!({
        "metadata": metadata,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "configmaps"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}],
    });
    let bindings: Api<RoleBinding> = Api::namespaced(world.client.clone(), &world.namespace);
    bindings.create(&PostParams::default(), &serde_json::from_value(binding).unwrap()).await.unwrap();
}

/// The keeper repairs and deletes; the cluster's controllers delete with the namespace.
#[tokio::test]
async fn keepers_and_the_clusters_controllers_may() {
    in_world(async |world| {
        let keeper: Api<ConfigMap> =
            Api::namespaced(user(&world, "venom-ledger-keeper").await, &world.namespace);
        let post = PostParams::default();
        let created = async || answer(keeper.create(&post, &map("venom-ledger", &OF_A_LEDGER)).await);
        until("the keeper to create", created, Result::is_ok).await;
        let change = Patch::Merge(json!({"data": {"head": "{}"}, "metadata": {"labels": {UID_LABEL: null}}}));
        assert_eq!(answer(keeper.patch("venom-ledger", &PatchParams::default(), &change).await), Ok(()));
        assert_eq!(answer(keeper.delete("venom-ledger", &DeleteParams::default()).await), Ok(()));

        assert_eq!(answer(keeper.create(&post, &map("venom-ledger", &OF_A_LEDGER)).await), Ok(()));
        let namespaces: Api<Namespace> = Api::all(world.client.clone());
        namespaces.delete(&world.namespace, &DeleteParams::default()).await.unwrap();
        eventually("the namespace to be gone", async || {
            let found = namespaces.get_opt(&world.namespace).await.map_err(|error| error.to_string())?;
            found.map_or(Ok(()), |it| Err(format!("{:?}", it.status)))
        })
        .await;
    })
    .await;
}

/// `venom ledger repair` with the rights of the keeper, and of one who may write all ConfigMaps.
#[tokio::test]
async fn a_keeper_repairs_a_ledger() {
    in_world(async |world| {
        let folder = tempfile::tempdir().unwrap();
        let account = world.account_named("someone", folder.path()).await;
        let as_someone = World::new(world.client.clone(), &world.namespace, Some(account));
        let mut operator = world.operator("alpha");
        world.create::<Organism>("venom", json!({"pulse": {"minPeriod": "20ms"}})).await;
        world.beats_more("venom", 60).await;
        assert!(operator.terminate().await.success());
        world.maps.delete("venom-ledger", &DeleteParams::default()).await.unwrap();
        let bindings: Api<RoleBinding> = Api::namespaced(world.client.clone(), &world.namespace);
        let bind = async |role: &str| {
            let binding = json!({
                "metadata": {"name": role},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
                "subjects": [{"kind": "ServiceAccount", "name": "someone", "namespace": world.namespace}],
            });
            bindings.create(&PostParams::default(), &serde_json::from_value(binding).unwrap()).await.unwrap();
        };
        let repaired = async || as_someone.venom_ledger_with("repair", "venom", &["--yes"]);
        bind("admin").await;
        let refused = |told: &Result<String, String>| {
            told.as_ref().is_err_and(|it| it.contains("that takes the right to update organisms/ledger"))
        };
        eventually("the refusal of a repair", async || {
            let told = repaired().await;
            if refused(&told) { Ok(()) } else { Err(format!("{told:?}")) }
        })
        .await;
        assert!(world.maps.get_opt("venom-ledger").await.unwrap().is_none());
        bindings.delete("admin", &DeleteParams::default()).await.unwrap();
        bind("venom-ledger-keeper").await;
        eventually("a repair", async || repaired().await.map(drop)).await;
        let _operator = world.operator("beta");
        world.beats_more("venom", 60).await;
        let live = world.ledger("venom").await;
        assert_eq!(live.head.generation, 1);
        live.check();
    })
    .await;
}

/// A head that lacks the label by which the policy selects may be anybody's: it is not taken for a ledger.
#[tokio::test]
async fn a_head_that_a_tenant_could_plant_is_not_read() {
    in_world(async |world| {
        let edit: Api<ConfigMap> = Api::namespaced(user(&world, "edit").await, &world.namespace);
        let planted = map("venom-ledger", &[(MANAGED_BY_LABEL, MANAGER), (UID_LABEL, "gone")]);
        let created = async || answer(edit.create(&PostParams::default(), &planted).await);
        until("the head to be planted", created, Result::is_ok).await;
        let _operator = world.operator("alpha");
        world.create::<Organism>("venom", Value::Null).await;
        world.condition("venom", "Ready", "False", "NameTaken").await;
        let told = world.venom_ledger_with("repair", "venom", &["--yes"]).unwrap_err();
        assert!(told.contains("is not a ledger's; delete or rename it"), "{told}");
        assert_eq!(edit.get("venom-ledger").await.unwrap().labels(), planted.labels());
        edit.delete("venom-ledger", &DeleteParams::default()).await.unwrap();
        world.beating("venom").await;
    })
    .await;
}
