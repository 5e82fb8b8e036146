//! Operators that are stopped while their writes are on the way, and go on after another has taken over.
use axum::http::{Method, StatusCode};
use serde_json::json;
use venom::api::Organism;

use crate::harness::{eventually, free_port};
use crate::operator::Operator;
use crate::proxy::Proxy;
use crate::response::QUARANTINE;
use crate::world::{World, in_world};

/// Stops an operator when all of `held` are sent and have not arrived, lets another operator isolate and release, and
/// then lets them arrive: all are refused, and the operator undoes nothing when it goes on.
async fn late_writes_are_refused(world: World, holds: fn(&Method, &str) -> bool, held: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(world.client.clone(), holds, folder.path()).await;
    let bodies = ["--node-image", "localhost/venom:test", "--issuer-url", &*world.issuer_url];
    let first = Operator::start(&world.namespace, "alpha", Some(&proxy.kubeconfig), &bodies);
    let spec = json!({"pulse": {"minPeriod": "100ms"}, "response": {"releaseAfter": "2s"}});
    world.create::<Organism>("venom", spec).await;
    world.beating("venom").await;
    world.whole(9).await;
    world.condition("venom", "Quarantined", "False", "Clear").await;
    world.service_for("venom", "venom").await;
    let before = world.objects_of("venom").await;

    proxy.hold(true);
    world.patch_genome("venom", json!({"risk": {"anoms": QUARANTINE}})).await;
    eventually(&format!("{held:?} to be sent"), async || {
        let seen = proxy.seen();
        let sent = |it: &&str| seen.iter().any(|(request, _)| request.ends_with(*it));
        if held.iter().all(sent) { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
    first.signal("STOP");
    assert_eq!(world.enforcements("venom").await, []);

    let url = format!("https://127.0.0.1:{}/v1/certificates", free_port());
    let bodies = ["--node-image", "localhost/venom:test", "--issuer-url", &*url];
    let _second = world.operator_with(&world.successor("venom", "alpha").await, &bodies);
    world.condition("venom", "Quarantined", "True", "Isolated").await;
    world.patch_genome("venom", json!({"risk": {"anoms": 0}})).await;
    world.condition("venom", "Quarantined", "False", "Clear").await;
    let done = [("apply", "Enforce", ""), ("release", "Enforce", "")];
    world.enforced("venom", &done).await;
    let released = world.objects_of("venom").await;
    // The other operator has another port, which is in the other rules.
    assert_eq!(released.isolation["spec"]["podSelector"], before.isolation["spec"]["podSelector"]);
    assert_eq!(released.service, before.service);
    let versions = world.versions().await;

    proxy.hold(false);
    eventually("the late writes to be answered", async || {
        let seen = proxy.seen();
        if seen.iter().all(|(_, answer)| answer.is_some()) { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
    for (request, answer) in proxy.seen() {
        assert_eq!(answer, Some(StatusCode::CONFLICT), "{request}");
    }
    first.signal("CONT");
    first.loses_to_another().await;
    world.beats_more("venom", 50).await;
    assert_eq!(world.objects_of("venom").await, released);
    assert_eq!(world.versions().await, versions, "nothing was written");
    world.enforced("venom", &done).await;
    world.venom_ledger("replay", "venom").unwrap();
}

impl World {
    /// The resourceVersions of what a quarantine changes and what no controller of the cluster writes.
    async fn versions(&self) -> Vec<Option<String>> {
        let of = |it: kube::core::PartialObjectMeta<_>| it.metadata.resource_version;
        let policies = self.of::<k8s_openapi::api::networking::v1::NetworkPolicy>();
        let mut found = vec![];
        for name in ["venom-body", "venom-quarantine"] {
            found.push(of(policies.get_metadata(name).await.unwrap()));
        }
        let services = self.of::<k8s_openapi::api::core::v1::Service>();
        found.push(services.get_metadata("venom").await.unwrap().metadata.resource_version);
        found
    }
}

fn writes(method: &Method) -> bool {
    [Method::PUT, Method::PATCH].contains(method)
}

/// Between the commit of the decision and the first write.
#[tokio::test]
async fn a_holder_stopped_before_its_first_write_changes_nothing_afterwards() {
    let holds = |method: &Method, path: &str| {
        let first = ["/networkpolicies/venom-body", "/organisms/venom"];
        writes(method) && first.iter().any(|it| path.ends_with(it))
    };
    in_world(async |world| {
        late_writes_are_refused(world, holds, &["/networkpolicies/venom-body", "/organisms/venom"]).await;
    })
    .await;
}

/// When the two writes that cut the pods off are on the way.
#[tokio::test]
async fn a_holder_stopped_at_the_writes_that_isolate_changes_nothing_afterwards() {
    let holds = |method: &Method, path: &str| {
        let isolating = ["/networkpolicies/venom-quarantine", "/services/venom"];
        writes(method) && isolating.iter().any(|it| path.ends_with(it))
    };
    in_world(async |world| {
        late_writes_are_refused(world, holds, &["/networkpolicies/venom-quarantine", "/services/venom"])
            .await;
    })
    .await;
}
