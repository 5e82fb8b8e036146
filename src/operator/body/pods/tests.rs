use serde_json::{Value, json};

use super::*;

fn pod(name: &str, status: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": name}, "status": status})).unwrap()
}

fn now() -> Timestamp {
    "2026-01-01T00:10:00Z".parse().unwrap()
}

fn waiting_for(reason: &str, message: &str) -> Value {
    json!({"phase": "Pending", "containerStatuses": [{
        "name": "node", "ready": false, "restartCount": 0, "image": "", "imageID": "",
        "state": {"waiting": {"reason": reason, "message": message}},
        "lastState": {"terminated": {"exitCode": 1, "reason": "Error"}},
    }]})
}

fn running_since(time: &str, ready: bool) -> Value {
    let status = if ready { "True" } else { "False" };
    json!({
        "phase": "Running",
        "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": status}],
        "containerStatuses": [{
            "name": "node", "ready": ready, "restartCount": 0, "image": "", "imageID": "",
            "state": {"running": {"startedAt": time}},
        }],
    })
}

#[test]
fn each_state_of_a_pod_has_its_reason_and_words() {
    let unscheduled = json!({"phase": "Pending", "conditions": [{
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available",
    }]});
    let init = json!({"phase": "Pending", "initContainerStatuses": [{
        "name": "istio-init", "ready": false, "restartCount": 3, "image": "", "imageID": "",
        "state": {"waiting": {"reason": "CreateContainerConfigError", "message": "secret \"x\" not found"}},
    }]});
    let evicted = json!({"phase": "Failed", "reason": "Evicted", "message": "The node was low on memory."});
    for (status, expected) in [
        (
            waiting_for("ImagePullBackOff", "Back-off pulling image \"a\"."),
            Some((
                PodFaultKind::ImageUnavailable,
                "container node: ImagePullBackOff: Back-off pulling image \"a\"",
            )),
        ),
        (
            waiting_for("ErrImageNeverPull", ""),
            Some((PodFaultKind::ImageUnavailable, "container node: ErrImageNeverPull")),
        ),
        (
            waiting_for("CrashLoopBackOff", "back-off 40s"),
            Some((
                PodFaultKind::CrashLoop,
                "container node: CrashLoopBackOff: back-off 40s; it last exited with code 1 (Error)",
            )),
        ),
        (
            init,
            Some((
                PodFaultKind::ContainerFailed,
                "container istio-init: CreateContainerConfigError: secret \"x\" not found",
            )),
        ),
        (unscheduled, Some((PodFaultKind::Unschedulable, "0/3 nodes are available"))),
        (evicted, Some((PodFaultKind::PodFailed, "Evicted: The node was low on memory."))),
        (running_since("2026-01-01T00:00:00Z", false), Some((PodFaultKind::NoCertificate, ""))),
        (running_since("2026-01-01T00:09:50Z", false), None),
        (running_since("2026-01-01T00:00:00Z", true), None),
        (waiting_for("ContainerCreating", ""), None),
        (json!({}), None),
    ] {
        let found = fault(&[pod("a", status.clone())], now());
        let expected =
            expected.map(|(kind, words)| PodFault { kind, pod: "a".into(), others: 0, words: words.into() });
        assert_eq!(found, expected, "{status}");
    }
}

#[test]
fn the_most_important_reason_is_shown_with_the_first_of_its_pods() {
    let pull = || waiting_for("ImagePullBackOff", "");
    let mut gone = pod("a", pull());
    gone.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    let pods = [
        pod("b", running_since("2026-01-01T00:00:00Z", false)),
        pod("e", pull()),
        pod("c", pull()),
        pod("d", pull()),
        gone,
    ];
    let found = fault(&pods, now()).unwrap();
    assert_eq!((found.kind, &*found.pod, found.others), (PodFaultKind::ImageUnavailable, "c", 2));
}

#[test]
fn pods_are_looked_at_only_while_the_body_is_not_whole_and_ever_more_rarely() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let five = Workload { wanted: 5, ..Workload::default() };
    let mut looks = PodLooks::default();
    let wait = |looks: &mut PodLooks, ready, at| looks.observe(Some(&five), ready, at).map(|it| it.as_secs());
    assert_eq!(looks.observe(None, 0, start), None, "there is no Deployment");
    assert_eq!(wait(&mut looks, 5, start), None);
    assert_eq!(wait(&mut looks, 3, start), Some(5), "pods are starting");
    assert_eq!(wait(&mut looks, 3, at(5)), Some(0));
    let found = fault(&[pod("a", waiting_for("ErrImagePull", ""))], now());
    looks.looked(found.clone(), at(5));
    assert_eq!((wait(&mut looks, 3, at(5)), looks.found()), (Some(15), found.as_ref()));
    looks.looked(found.clone(), at(20));
    assert_eq!(wait(&mut looks, 3, at(20)), Some(30));
    assert_eq!(wait(&mut looks, 4, at(22)), Some(13), "something has changed since");
    looks.looked(found.clone(), at(35));
    for expected in [30, 60, 120, 240, 300, 300] {
        looks.looked(found.clone(), at(100));
        assert_eq!(wait(&mut looks, 4, at(100)), Some(expected));
    }
    assert_eq!(wait(&mut looks, 5, at(101)), None);
    assert_eq!(looks.found(), None, "it is whole");
    let surge = Workload { wanted: 1, rolling: true, ..Workload::default() };
    assert!(looks.observe(Some(&surge), 1, at(102)).is_some(), "the new pod of a rollout may be stuck");
}
