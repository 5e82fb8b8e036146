use serde_json::{Value, json};

use super::*;

const START: &str = "2026-01-01T00:00:00Z";
const LATER: &str = "2026-01-01T01:00:00Z";

fn pod(status: Value) -> Pod {
    let metadata = json!({"name": "a", "uid": "p"});
    Pod::of(&serde_json::from_value(json!({"metadata": metadata, "status": status})).unwrap())
}

fn container(restarts: u32, state: Value, last: Value) -> Pod {
    pod(json!({"phase": "Running", "startTime": START, "containerStatuses": [
        {"name": "c", "restartCount": restarts, "state": state, "lastState": last, "image": "i", "ready": true},
    ]}))
}

fn subjects(pod: &Pod) -> Vec<(Kind, String)> {
    pod.events.iter().map(|it| (it.kind, it.subject("p"))).collect()
}

#[test]
fn a_termination_is_told_once_it_is_clear_what_follows_it() {
    let (running, none) = (json!({"running": {"startedAt": LATER}}), json!({}));
    let ended = |reason: &str| json!({"terminated": {"reason": reason, "exitCode": 1, "finishedAt": LATER}});
    let waiting = |reason: &str| json!({"waiting": {"reason": reason}});
    let is = |kind, instance: u32| vec![(kind, format!("p/c/{instance}"))];
    for (restarts, state, last, expected) in [
        (0, running.clone(), none.clone(), vec![]),
        (0, waiting("ContainerCreating"), none.clone(), vec![]),
        // It may be started again at once, or wait.
        (0, ended("Error"), none.clone(), vec![]),
        (1, running.clone(), ended("Error"), is(Kind::Restart, 1)),
        (1, running.clone(), ended("Completed"), is(Kind::Restart, 1)),
        (1, ended("Error"), ended("Error"), vec![]),
        (1, waiting("CrashLoopBackOff"), ended("Error"), is(Kind::CrashLoop, 2)),
        (1, waiting("RunContainerError"), ended("Error"), vec![]),
        (2, running.clone(), ended("Error"), is(Kind::Restart, 2)),
        // A kill because of memory is one whatever follows, under the same subject.
        (0, ended("OOMKilled"), none.clone(), is(Kind::OomKill, 1)),
        (0, waiting("CrashLoopBackOff"), ended("OOMKilled"), is(Kind::OomKill, 1)),
        (1, running.clone(), ended("OOMKilled"), is(Kind::OomKill, 1)),
        (u32::MAX, running.clone(), ended("Error"), vec![]),
    ] {
        let found = subjects(&container(restarts, state.clone(), last.clone()));
        assert_eq!(found, expected, "{restarts} {state} {last}");
    }
}

#[test]
fn readiness_is_lost_by_a_pod_that_had_it() {
    let conditions = |containers: &str, status: &str, at: &str, phase: &str| {
        let ready = json!({"type": "Ready", "status": status, "lastTransitionTime": at});
        let containers = json!({"type": "ContainersReady", "status": containers, "lastTransitionTime": at});
        subjects(&pod(json!({"phase": phase, "startTime": START, "conditions": [containers, ready]})))
    };
    let ready = |status: &str, at: &str, phase: &str| conditions(status, status, at, phase);
    assert_eq!(conditions("True", "False", LATER, "Running"), [], "its node is lost");
    assert_eq!(ready("False", START, "Running"), [], "it has never been ready");
    assert_eq!(ready("True", LATER, "Running"), []);
    assert_eq!(ready("False", LATER, "Succeeded"), []);
    let lost = ready("False", LATER, "Running");
    assert_eq!(lost, [(Kind::NotReady, "p/ready/1767229200".to_owned())]);
}

#[test]
fn an_eviction_by_the_kubelet_is_one_and_a_removal_on_purpose_is_not() {
    let evicted = json!({"phase": "Failed", "reason": "Evicted", "startTime": START});
    assert_eq!(subjects(&pod(evicted)), [(Kind::Eviction, "p/evicted".to_owned())]);
    assert_eq!(subjects(&pod(json!({"phase": "Failed", "reason": "NodeLost"}))), []);
    let target = json!({
        "type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet", "lastTransitionTime": LATER,
    });
    let evicted = json!({"phase": "Failed", "reason": "Evicted", "startTime": START, "conditions": [target]});
    assert_eq!(pod(evicted).events[0].at, LATER.parse().ok(), "not that of its start");
    for reason in VOLUNTARY {
        let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": reason});
        assert!(pod(json!({"conditions": [condition]})).leaving, "{reason}");
    }
    // The kubelet marks pods that it evicts in the same way.
    let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"});
    assert!(!pod(json!({"conditions": [condition]})).leaving);
    let deleted = json!({"metadata": {"uid": "p", "deletionTimestamp": LATER}});
    assert!(Pod::of(&serde_json::from_value(deleted).unwrap()).leaving);
}

#[test]
fn a_status_without_anything_is_read() {
    assert_eq!(subjects(&pod(json!({}))), []);
    let empty =
        json!({"containerStatuses": [{"name": "c", "restartCount": 0, "state": {}, "lastState": {}}]});
    assert_eq!(subjects(&pod(empty)), []);
}

#[test]
fn an_init_container_that_has_completed_may_run_again() {
    let init = |reason: &str| {
        let last = json!({"terminated": {"reason": reason, "finishedAt": LATER}});
        let status = json!({"name": "c", "restartCount": 1, "state": {"running": {}}, "lastState": last});
        subjects(&pod(json!({"phase": "Running", "startTime": START, "initContainerStatuses": [status]})))
    };
    assert_eq!(init("Completed"), []);
    assert_eq!(init("Error"), [(Kind::Restart, "p/c/1".to_owned())]);
}
