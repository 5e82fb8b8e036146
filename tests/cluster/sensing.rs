//! What an organism senses of its pods. There is no kubelet: the tests write the statuses that one would.
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use venom::api::{Organism, OrganismStatus};

use crate::harness::eventually;
use crate::world::{World, condition, in_world, message};

impl World {
    /// An Organism venom with these many pods, all ready, and the names and UIDs of these.
    async fn sensitive(&self, replicas: usize) -> Vec<(String, String)> {
        let spec = json!({
            "pulse": {"minPeriod": "50ms"}, "nodes": {"replicas": replicas}, "autoscaling": {"enabled": false},
        });
        self.create::<Organism>("venom", spec).await;
        self.there_are_pods(replicas).await;
        self.ready(replicas).await;
        self.condition("venom", "BodyAvailable", "True", "Available").await;
        self.condition("venom", "Sensing", "True", "Sensing").await;
        self.pods().await.iter().map(|it| (it.name_any(), it.uid().unwrap())).collect()
    }

    pub async fn pod_status(&self, name: &str, status: Value) {
        let patch = Patch::Strategic(json!({"status": status}));
        self.of::<Pod>().patch_status(name, &PatchParams::default(), &patch).await.unwrap();
    }

    /// The node's container has been started again this many times; its last instance ended for this reason.
    pub async fn ended(&self, name: &str, restarts: u32, state: Value, reason: &str) {
        let ended = json!({"terminated": {
            "exitCode": 1, "reason": reason, "finishedAt": ago(1), "startedAt": ago(2), "containerID": "a://b",
        }});
        let status = json!({
            "name": "node", "image": "a", "imageID": "a", "ready": true, "restartCount": restarts, "state": state,
            "lastState": ended,
        });
        self.pod_status(name, json!({"containerStatuses": [status]})).await;
    }

    /// Kind, subject, anoms of the sense entries.
    pub async fn senses(&self) -> Vec<(String, String, u64)> {
        let live = self.ledger("venom").await;
        let text = |it: &Value| it.as_str().unwrap().to_owned();
        let summary = live.check();
        summary
            .inputs_of("sense")
            .iter()
            .map(|it| (text(&it["kind"]), text(&it["subject"]), it["anoms"].as_u64().unwrap()))
            .collect()
    }

    pub async fn sensed(&self, expected: &[(&str, String, u64)]) {
        let expected: Vec<_> = expected.iter().map(|it| (it.0.to_owned(), it.1.clone(), it.2)).collect();
        eventually(&format!("{expected:?}"), async || {
            let found = self.senses().await;
            if found == expected { Ok(()) } else { Err(format!("{found:?}")) }
        })
        .await;
    }

    /// The same, also some beats later; and the ledger replays.
    pub async fn sensed_and_no_more(&self, expected: &[(&str, String, u64)]) {
        self.sensed(expected).await;
        self.beats_more("venom", 40).await;
        self.sensed(expected).await;
        self.venom_ledger("replay", "venom").unwrap();
    }
}

pub fn ago(seconds: i64) -> String {
    (Timestamp::now() - SignedDuration::from_secs(seconds)).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

pub fn running() -> Value {
    json!({"running": {"startedAt": ago(0)}})
}

#[tokio::test]
async fn each_event_of_a_pod_is_one_entry_and_enough_of_them_an_alert() {
    in_world(async |world| {
        let mut operator = world.operator_with_bodies("alpha", &[]);
        let pods = world.sensitive(3).await;
        let [(a, a_uid), (b, b_uid), (c, c_uid)] = &pods[..] else { panic!() };
        world.ended(a, 1, running(), "Error").await;
        let mut expected = vec![("restart", format!("{a_uid}/node/1"), 2)];
        world.sensed(&expected).await;
        world.ended(b, 0, json!({"waiting": {"reason": "CrashLoopBackOff"}}), "OOMKilled").await;
        expected.push(("oomKill", format!("{b_uid}/node/1"), 5));
        world.sensed(&expected).await;
        world.ended(a, 1, json!({"waiting": {"reason": "CrashLoopBackOff"}}), "Error").await;
        expected.push(("crashLoop", format!("{a_uid}/node/2"), 5));
        world.sensed(&expected).await;
        // 12 anomalies: threat 0.81.
        world.until("venom", "ALERT", |it| it.decision.as_ref().unwrap().action.as_str() == "ALERT").await;

        let at = ago(0);
        world
            .pod_status(
                c,
                json!({"phase": "Running", "startTime": ago(3600), "conditions": [
                    {"type": "ContainersReady", "status": "False", "lastTransitionTime": at},
                    {"type": "Ready", "status": "False", "lastTransitionTime": at},
                ]}),
            )
            .await;
        let seconds = at.parse::<Timestamp>().unwrap().as_second();
        expected.push(("notReady", format!("{c_uid}/ready/{seconds}"), 1));
        world.sensed(&expected).await;

        // Nothing of it is new to the next operator, and what it missed is.
        operator.kill();
        world.ended(b, 1, running(), "OOMKilled").await;
        world.ended(a, 2, running(), "Error").await;
        world.ended(c, 1, running(), "Error").await;
        let _operator = world.operator_with_bodies("beta", &[]);
        expected.push(("restart", format!("{c_uid}/node/1"), 2));
        world.sensed_and_no_more(&expected).await;
    })
    .await;
}

#[tokio::test]
async fn what_is_done_on_purpose_is_no_anomaly() {
    in_world(async |world| {
        let _operator = world.operator_with_bodies("alpha", &[]);
        let pods = world.sensitive(3).await;
        // Drained: marked before it is deleted.
        let target = json!({
            "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "lastTransitionTime": ago(0),
        });
        world.pod_status(&pods[0].0, json!({"conditions": [target]})).await;
        world.ended(&pods[0].0, 1, running(), "Error").await;
        // Deleted, with the grace that a kubelet takes.
        world.of::<Pod>().delete(&pods[1].0, &DeleteParams::default()).await.unwrap();
        // Until the deleted one is replaced its Deployment counts as rolling out; what follows is to be told from that.
        let rolls = |it: &OrganismStatus| message(it, "BodyAvailable").contains("A rollout is in progress");
        world.beats_more("venom", 40).await;
        world.until("venom", "no rollout", |it| !rolls(it)).await;
        assert_eq!(world.senses().await, []);
        // A rollout: the pods of the earlier template end.
        let template = json!({"nodes": {"podTemplate": {"annotations": {"a": "b"}}}});
        world.patch_organism("venom", template).await;
        world.condition("venom", "BodyAvailable", "False", "Progressing").await;
        eventually("a rollout", async || {
            let pods = world.pods().await;
            let new = |it: &&Pod| it.annotations().contains_key("a");
            if pods.iter().any(|it| new(&it)) { Ok(()) } else { Err(format!("{}", pods.len())) }
        })
        .await;
        // The operator sees the Deployment by another watch than the pods.
        world.until("venom", "a rollout", rolls).await;
        for (name, _) in &pods[2..] {
            world.ended(name, 1, running(), "Error").await;
        }
        world.beats_more("venom", 40).await;
        // Scaled down.
        world.patch_organism("venom", json!({"nodes": {"replicas": 1}})).await;
        world.beats_more("venom", 40).await;
        assert_eq!(world.senses().await, []);
        assert_eq!(condition(&world.status("venom").await, "Sensing").0, "True");
    })
    .await;
}

#[tokio::test]
async fn a_query_without_a_server_or_with_one_that_is_not_there_is_told() {
    in_world(async |world| {
        let mut operator = world.operator_with_bodies("alpha", &[]);
        let query = json!([{"name": "errors", "query": "sum(errors)", "interval": "1s"}]);
        world.create::<Organism>("venom", json!({"sensing": {"prometheus": query}})).await;
        world.condition("venom", "Sensing", "False", "NoPrometheus").await;
        operator.terminate().await;
        let _operator = world.operator_with_bodies("alpha", &["--prometheus-url", "http://127.0.0.1:1"]);
        let status = world.condition("venom", "Sensing", "False", "QueryFailed").await;
        let message = crate::world::message(&status, "Sensing");
        assert!(message.contains("errors") && message.contains("cannot be reached"), "{message}");
        world.patch_organism("venom", json!({"suspend": true})).await;
        world.condition("venom", "Sensing", "Unknown", "NotBeating").await;
        world.patch_organism("venom", json!({"suspend": false, "sensing": {"prometheus": []}})).await;
        world.condition("venom", "Sensing", "True", "Sensing").await;
    })
    .await;
}
