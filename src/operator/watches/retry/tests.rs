use axum::http::StatusCode;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::*;
use crate::operator::mock::{ApiServer, failure};

const LIST: List = List { kind: "ledger objects", namespace: None };

/// A watch and the API server's end of its transport.
struct Harness {
    api_server: ApiServer,
    watches: Watches,
    events: tokio::sync::mpsc::UnboundedReceiver<String>,
}

impl Harness {
    fn new() -> Self {
        let (client, api_server) = ApiServer::start();
        let metrics = Arc::new(Metrics::new().unwrap());
        let watches = Watches { client: client.clone(), readiness: Arc::default(), metrics };
        watches.readiness.wait_for(&LIST);
        let api: Api<ConfigMap> = Api::all(client);
        let mut stream = Box::pin(watches.watch(LIST, api, watcher::Config::default()));
        let (sender, events) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(Ok(event)) = stream.next().await {
                let (what, name) = match &event {
                    Event::Init => ("init", String::new()),
                    Event::InitApply(object) => ("has ", object.name_any()),
                    Event::InitDone => ("done", String::new()),
                    Event::Apply(object) => ("apply ", object.name_any()),
                    Event::Delete(object) => ("delete ", object.name_any()),
                };
                let _ = sender.send(format!("{what}{name}"));
            }
        });
        Self { api_server, watches, events }
    }

    /// Answers the next request, which must be a list, or a watch from `version`.
    async fn answer(&mut self, version: Option<&str>, answer: (StatusCode, Value)) {
        let uri = self.api_server.answer_uri(answer).await;
        let query = uri.split_once('?').unwrap_or_default().1.to_owned();
        let from = query.split('&').find_map(|it| it.strip_prefix("resourceVersion="));
        assert_eq!((query.contains("watch=true"), from), (version.is_some(), version), "{uri}");
    }

    async fn events(&mut self, expected: &[&str]) {
        for expected in expected {
            let next = tokio::time::timeout(Duration::from_secs(60), self.events.recv()).await;
            assert_eq!(next.unwrap().as_deref(), Some(*expected));
        }
    }

    fn failing(&self) -> Vec<String> {
        self.watches.readiness.verbose()
    }
}

fn list(version: &str, names: &[&str]) -> (StatusCode, Value) {
    let item = |name: &&str| json!({"metadata": {"name": name, "namespace": "a", "resourceVersion": "1"}});
    let items: Vec<_> = names.iter().map(item).collect();
    let metadata = json!({"resourceVersion": version});
    (
        StatusCode::OK,
        json!({"kind": "ConfigMapList", "apiVersion": "v1", "metadata": metadata, "items": items}),
    )
}

/// A watch stream of one event, which then ends.
fn event(kind: &str, object: Value) -> (StatusCode, Value) {
    (StatusCode::OK, json!({"type": kind, "object": object}))
}

fn status(code: u16, message: &str) -> (StatusCode, Value) {
    failure(StatusCode::from_u16(code).unwrap(), "Failure", message)
}

/// Whatever the error, the next request is a list without a resourceVersion: deleted CRDs, an expired version, an etcd
/// that was restored to an older revision, revoked rights, an API server that fails.
#[tokio::test(start_paused = true)]
async fn after_any_error_the_watch_starts_with_a_list() {
    for (code, message) in [
        (404, "the server could not find the requested resource"),
        (410, "too old resource version: 9 (12)"),
        (504, "Too large resource version: 9, current: 5"),
        (403, "configmaps is forbidden"),
        (500, "etcdserver: leader changed"),
    ] {
        let mut harness = Harness::new();
        harness.answer(None, list("9", &["x"])).await;
        harness.events(&["init", "has x", "done"]).await;
        harness.answer(Some("9"), status(code, message)).await;
        harness.answer(None, list("5", &["y"])).await;
        harness.events(&["init", "has y", "done"]).await;
        // As an event within the stream, too.
        let (_, status) = status(code, message);
        harness.answer(Some("5"), event("ERROR", status)).await;
        harness.answer(None, list("6", &[])).await;
        harness.events(&["init", "done"]).await;
        let told = harness.failing();
        assert!(
            told[0].starts_with("the watch on ledger objects fails: ") && told[0].contains(message),
            "{told:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_failing_watch_is_tried_again_within_ten_seconds_and_told() {
    let mut harness = Harness::new();
    assert_eq!(
        harness.watches.readiness.missing().as_deref(),
        Some("waiting for the first list of ledger objects")
    );
    let mut last = tokio::time::Instant::now();
    for attempt in 0..12 {
        harness.answer(None, status(403, "configmaps is forbidden")).await;
        harness.events(&["init"]).await;
        assert!(last.elapsed() < Duration::from_secs(10), "attempt {attempt}: {:?}", last.elapsed());
        last = tokio::time::Instant::now();
    }
    // The last answer is taken in.
    tokio::time::sleep(Duration::from_millis(1)).await;
    let told = "the watch on ledger objects fails: configmaps is forbidden; give the operator the rights to list and \
                watch them";
    assert_eq!(harness.failing(), [told]);
    let text = harness.watches.metrics.text();
    assert!(text.contains("venom_watch_failures_total{list=\"ledger objects\"} 12"), "{text}");
    assert!(text.contains("venom_watches_failing 1"), "{text}");

    harness.answer(None, list("7", &[])).await;
    harness.events(&["init", "done"]).await;
    let object =
        json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "z", "resourceVersion": "8"}});
    harness.answer(Some("7"), event("ADDED", object)).await;
    harness.events(&["apply z"]).await;
    // The stream has ended, and goes on from its last event.
    harness
        .answer(
            Some("8"),
            event(
                "BOOKMARK",
                json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"resourceVersion": "9"}}),
            ),
        )
        .await;
    assert_eq!(harness.watches.readiness.missing(), None);
    assert!(harness.failing().is_empty());
    assert!(harness.watches.metrics.text().contains("venom_watches_failing 0"));
}

#[test]
fn pauses_grow_and_stay_below_ten_seconds() {
    assert!((Duration::from_millis(500)..Duration::from_millis(700)).contains(&pause(0)));
    for failures in [3, 8, 40, u32::MAX] {
        assert!((Duration::from_secs(4)..Duration::from_secs(10)).contains(&pause(failures)), "{failures}");
    }
}
