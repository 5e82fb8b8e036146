use serde_json::json;

use super::*;

fn deployment(generation: i64, updated: u64, replicas: u64, conditions: Value) -> Value {
    json!({
        "spec": {"replicas": 5},
        "status": {
            "observedGeneration": generation, "updatedReplicas": updated, "replicas": replicas,
            "conditions": conditions,
        },
    })
}

fn workload() -> Workload {
    Workload { wanted: 5, ..Workload::default() }
}

fn object(kind: &str, name: &str) -> ObjectName {
    ObjectName { kind: kind.into(), name: name.into() }
}

#[test]
fn a_deployment_rolls_until_all_its_pods_have_the_new_template() {
    let rolling = |generation, updated, replicas| {
        let deployment = deployment(generation, updated, replicas, json!([]));
        Workload::of(Some(2), &deployment).unwrap().rolling
    };
    assert!(!rolling(2, 5, 5));
    assert!(rolling(1, 5, 5), "the new template is not observed yet");
    assert!(rolling(2, 3, 6), "old pods are left");
    assert!(rolling(2, 3, 3), "some are missing");
    assert_eq!(Workload::of(Some(2), &json!({"spec": {}})), None, "another object");
    assert!(Workload::of(Some(1), &json!({"spec": {"replicas": 5}})).unwrap().rolling, "without a status");
}

#[test]
fn a_deployment_says_why_its_pods_are_refused_and_that_it_is_stuck() {
    let conditions = json!([
        {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota: few"},
        {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"},
    ]);
    let parsed = Workload::of(Some(1), &deployment(1, 5, 5, conditions)).unwrap();
    assert_eq!((parsed.refusal.as_deref(), parsed.stalled), (Some("exceeded quota: few"), true));
    let conditions = json!([
        {"type": "ReplicaFailure", "status": "False", "message": "over"},
        {"type": "Progressing", "status": "True", "reason": "ReplicaSetUpdated"},
    ]);
    let parsed = Workload::of(Some(1), &deployment(1, 5, 5, conditions)).unwrap();
    assert_eq!((parsed.refusal, parsed.stalled), (None, false));
}

#[test]
fn without_a_fault_the_body_is_available_or_on_its_way() {
    let none = Body::default();
    let waits = Body { waits_for_rollout: true, ..Body::default() };
    let left = Body { uncollected: vec![object("Service", "venom-mesh")], ..Body::default() };
    let rolling = Workload { rolling: true, ..workload() };
    let stalled = Workload { stalled: true, ..rolling.clone() };
    for (body, workload, ready, status, reason, message) in [
        (&none, Some(workload()), 5, "True", "Available", "5 of 5 nodes are ready."),
        (&none, Some(workload()), 4, "False", "Progressing", "4 of 5 nodes are ready."),
        (&none, Some(rolling), 5, "True", "Progressing", "5 of 5 nodes are ready. A rollout is in progress."),
        (
            &none,
            Some(stalled),
            4,
            "False",
            "Progressing",
            "4 of 5 nodes are ready. The rollout has made no progress for ten minutes.",
        ),
        (
            &none,
            Some(Workload::default()),
            0,
            "True",
            "Available",
            "No node is wanted: spec.nodes.replicas is 0.",
        ),
        (&none, None, 0, "False", "Progressing", "The Deployment does not exist yet."),
        (
            &left,
            None,
            0,
            "False",
            "Progressing",
            "Waiting for the garbage collector to delete what a deleted Organism of this name has left: Service \
             venom-mesh.",
        ),
        (
            &waits,
            Some(self::workload()),
            5,
            "True",
            "WaitingForRollout",
            "5 of 5 nodes are ready. A new pod template waits until other bodies have rolled out (--rollouts).",
        ),
    ] {
        assert_eq!(condition(body, workload.as_ref(), ready, false), (status, reason, message.into()));
    }
}

#[test]
fn every_fault_is_told_and_the_most_important_one_is_the_reason() {
    let contest = |change| {
        BodyFault::Contested(Contest {
            object: object("Deployment", "venom"),
            change,
            wait: Duration::from_secs(20),
        })
    };
    let pod = |kind, others, words: &str| {
        BodyFault::Pods(PodFault { kind, pod: "venom-1".into(), others, words: words.into() })
    };
    let taken = |objects| BodyFault::NameTaken { namespace: "team-a".into(), objects };
    let refused = BodyFault::ObjectRefused {
        object: object("Service", "venom-metrics"),
        words: "exceeded quota: balancers.".into(),
    };
    let changed = ForeignChange::Changed { field: Some("spec.a".into()), manager: Some("hostile".into()) };
    let unknown = ForeignChange::Changed { field: None, manager: None };
    for (fault, reason, message) in [
        (
            taken(vec![object("Service", "venom-metrics")]),
            "NameTaken",
            "Service venom-metrics exists and does not belong to this Organism. It is left unchanged. Delete what \
             nobody needs: kubectl delete service/venom-metrics -n team-a",
        ),
        (
            taken(vec![object("Deployment", "venom"), object("NetworkPolicy", "venom-body")]),
            "NameTaken",
            "Deployment venom, NetworkPolicy venom-body exist and do not belong to this Organism. They are left \
             unchanged. Delete what nobody needs: kubectl delete deployment/venom networkpolicy/venom-body -n team-a",
        ),
        (
            refused.clone(),
            "ObjectRefused",
            "Service venom-metrics is not accepted: exceeded quota: balancers. Change that, or the spec.",
        ),
        (
            contest(changed),
            "Contested",
            "Deployment venom: field manager hostile changes spec.a again and again. The operator sets it back, at \
             most every 20 s. Let only one of them write the field.",
        ),
        (
            contest(unknown),
            "Contested",
            "Deployment venom: another client changes a field again and again. The operator sets it back, at most \
             every 20 s. Let only one of them write the field.",
        ),
        (
            contest(ForeignChange::Deleted),
            "Contested",
            "Deployment venom is deleted again and again; the API server's audit log names the client. The operator \
             creates it again, at most every 20 s.",
        ),
        (
            pod(PodFaultKind::ImageUnavailable, 2, "container node: ErrImagePull: no such image"),
            "ImageUnavailable",
            "Pod venom-1 (and 2 others): container node: ErrImagePull: no such image.",
        ),
        (
            pod(PodFaultKind::CrashLoop, 1, "container node: CrashLoopBackOff"),
            "CrashLoop",
            "Pod venom-1 (and 1 other): container node: CrashLoopBackOff. See kubectl logs venom-1 --previous",
        ),
        (
            pod(PodFaultKind::NoCertificate, 0, ""),
            "NoCertificate",
            "Pod venom-1 runs and is not ready: it has no valid certificate, or the kubelet cannot reach its /readyz. \
             Its log says why: kubectl logs venom-1",
        ),
    ] {
        let body = Body { faults: vec![fault], ..Body::default() };
        let (status, found, told) = condition(&body, Some(&workload()), 5, false);
        assert_eq!((status, found), ("False", reason));
        assert_eq!(told, format!("5 of 5 nodes are ready. {message}"));
    }
    // Together: what keeps an object away goes before what pods say, which may be those of an earlier template.
    let mut faults = vec![pod(PodFaultKind::Unschedulable, 0, "no nodes"), refused];
    faults.sort();
    let body = Body { faults, ..Body::default() };
    let refusing = Workload { refusal: Some("exceeded quota: few".into()), ..workload() };
    let (_, reason, told) = condition(&body, Some(&refusing), 1, false);
    assert_eq!(reason, "ObjectRefused");
    let places: Vec<_> =
        ["balancers", "quota: few", "no nodes"].iter().map(|it| told.find(it).unwrap()).collect();
    assert!(places.is_sorted(), "{told}");
    let body = Body { faults: vec![pod(PodFaultKind::Unschedulable, 0, "no nodes")], ..Body::default() };
    assert_eq!(condition(&body, Some(&refusing), 1, false).1, "PodsRefused");
}

#[test]
fn long_words_are_cut_at_a_character() {
    assert_eq!(sentence("  done.  "), "done");
    let cut = sentence(&"ä".repeat(QUOTE));
    assert!(cut.len() <= QUOTE && cut.ends_with("ä…"), "{cut}");
}
