//! A ledger in a cluster: an API server that knows three kinds of question.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};
use venom::store::directory::Folder;
use venom::store::{Head, Listed};

use super::Place;

fn json_of(status: StatusCode, value: &Value) -> Response {
    (status, [(CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

/// The objects, by `kind/name`.
type Objects = Arc<Mutex<BTreeMap<String, Value>>>;

fn answer(objects: &Objects, key: &str) -> Response {
    match objects.lock().unwrap().get(key) {
        Some(object) => json_of(StatusCode::OK, object),
        None => {
            let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": format!("{key} not found"), "reason": "NotFound", "code": 404});
            json_of(StatusCode::NOT_FOUND, &status)
        }
    }
}

async fn organism(
    State(objects): State<Objects>,
    Path((namespace, name)): Path<(String, String)>,
) -> Response {
    answer(&objects, &format!("organism/{namespace}/{name}"))
}

async fn config_map(
    State(objects): State<Objects>,
    Path((namespace, name)): Path<(String, String)>,
) -> Response {
    answer(&objects, &format!("configmap/{namespace}/{name}"))
}

async fn config_maps(State(objects): State<Objects>, Path(_): Path<String>) -> Response {
    let objects = objects.lock().unwrap();
    let items: Vec<Value> = objects
        .iter()
        .filter(|(key, _)| key.starts_with("configmap/"))
        .map(|(_, object)| {
            json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": object["metadata"]})
        })
        .collect();
    json_of(
        StatusCode::OK,
        &json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList", "metadata": {}, "items": items}),
    )
}

/// Serves `objects` for as long as the process lives.
fn serve(objects: Objects) -> SocketAddr {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let router = Router::new()
                .route(
                    "/apis/genesis.venom.dev/v1alpha1/namespaces/{namespace}/organisms/{name}",
                    get(organism),
                )
                .route("/api/v1/namespaces/{namespace}/configmaps/{name}", get(config_map))
                .route("/api/v1/namespaces/{namespace}/configmaps", get(config_maps))
                .with_state(objects);
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            sender.send(listener.local_addr().unwrap()).unwrap();
            axum::serve(listener, router).await.unwrap();
        });
    });
    receiver.recv().unwrap()
}

/// The ledger of the folder as the operator would have it in namespace `home`, for an Organism `venom`.
fn objects(place: &Place) -> (Objects, Head) {
    let folder = Folder::new(place.ledger());
    let mut head = folder.head().unwrap();
    head.uid = "organism-uid".into();
    let mut objects = BTreeMap::new();
    let mut put = |name: String, uid: &str, mut object: Value| {
        object["metadata"] = json!({"name": name, "namespace": "home", "uid": uid, "resourceVersion": "1",
            "labels": {"app.kubernetes.io/managed-by": "venom", "genesis.venom.dev/organism": "venom",
                "genesis.venom.dev/organism-uid": "organism-uid"}});
        objects.insert(format!("configmap/home/{name}"), object);
    };
    for listed in &mut head.segments {
        let sealed = folder.load(listed).unwrap();
        let Listed { epoch, first, count, .. } = *listed;
        let uid = format!("uid-of-{first}");
        let binary = k8s_openapi::ByteString(sealed.entries.clone());
        put(
            format!("venom-ledger-{epoch}-{first}-{count}"),
            &uid,
            json!({"data": {"head": sealed.head_text().unwrap()}, "binaryData": {"entries": binary}}),
        );
        listed.object = uid;
    }
    put("venom-ledger".into(), "head-uid", json!({"data": {"head": serde_json::to_string(&head).unwrap()}}));
    objects.insert(
        "organism/home/venom".into(),
        json!({"apiVersion": "genesis.venom.dev/v1alpha1", "kind": "Organism", "spec": {},
            "metadata": {"name": "venom", "namespace": "home", "uid": "organism-uid"}}),
    );
    (Arc::new(Mutex::new(objects)), head)
}

fn kubeconfig(place: &Place, address: SocketAddr) {
    let text = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "elsewhere",
        "clusters": [{"name": "test", "cluster": {"server": format!("http://{address}")}}],
        "users": [{"name": "test", "user": {}}],
        "contexts": [
            {"name": "elsewhere", "context": {"cluster": "test", "user": "test", "namespace": "other"}},
            {"name": "here", "context": {"cluster": "test", "user": "test", "namespace": "home"}},
        ],
    });
    place.write("config", &text.to_string());
}

#[test]
fn reads_the_ledger_of_an_organism() {
    let place = Place::new();
    place.ok("run --beats 10");
    place.ok("run --beats 10");
    let (objects, head) = objects(&place);
    kubeconfig(&place, serve(objects.clone()));
    let live = "organism/venom --kubeconfig config --context here";

    for command in ["verify", "replay", "export", "show"] {
        let of_folder = place.ok(&format!("ledger {command} venom-ledger"));
        assert_eq!(place.ok(&format!("ledger {command} {live}")), of_folder);
        assert_eq!(place.ok(&format!("ledger {command} org/venom --kubeconfig config -n home")), of_folder);
    }
    let told = place.fails("ledger verify organism/venom --kubeconfig config", 1);
    assert!(told.contains("organism/venom in other: there is no such Organism"), "{told}");

    // A segment that is gone: named, and what follows can still be had.
    let gone = head.segments.iter().find(|it| it.start.is_none()).unwrap();
    let name = format!("venom-ledger-{}-{}-{}", gone.epoch, gone.first, gone.count);
    let object = objects.lock().unwrap().remove(&format!("configmap/home/{name}")).unwrap();
    let found = place.venom(&format!("ledger verify {live}"));
    assert_eq!(found.code, Some(1));
    assert!(found.out.contains(&format!("ConfigMap {name}: missing")), "{found:?}");
    let exported = place.venom(&format!("ledger export {live}"));
    assert_eq!(exported.code, Some(0), "{exported:?}");
    assert!(exported.err.contains("are missing or altered"), "{exported:?}");
    assert!(exported.out.lines().next().unwrap().contains("\"type\":\"snapshot\""));

    // One made anew is not the one that was committed.
    let mut anew = object;
    anew["metadata"]["uid"] = json!("another");
    objects.lock().unwrap().insert(format!("configmap/home/{name}"), anew);
    let found = place.venom(&format!("ledger verify {live}"));
    assert!(found.out.contains("it was deleted and made anew"), "{found:?}");

    // A ledger that was retained is read when its Organism is gone.
    objects.lock().unwrap().remove("organism/home/venom");
    let shown = place.ok(&format!("ledger show {live} --tail 1"));
    assert!(shown.contains("evolution"), "{shown}");
}
