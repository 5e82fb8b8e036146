use serde_json::json;

use super::*;

fn changed() -> ForeignChange {
    ForeignChange::Changed { field: Some("spec.a".into()), manager: Some("hostile".into()) }
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn three_reverts_within_a_minute_are_a_fight_and_the_wait_doubles() {
    let (start, mut fight) = (Instant::now(), Fight::default());
    for second in [0, 1] {
        assert!(!fight.is_contested_by_another(start + seconds(second)));
        fight.reverted(start + seconds(second), changed());
        assert_eq!((fight.wait(start + seconds(second)), fight.contest()), (None, None));
    }
    let mut now = start + seconds(2);
    assert!(fight.is_contested_by_another(now));
    fight.reverted(now, changed());
    for wait in [10, 20, 40, 80, 160, 300, 300] {
        assert_eq!(fight.contest(), Some((seconds(wait), &changed())));
        assert_eq!(fight.wait(now), Some(seconds(wait)));
        now += seconds(wait);
        assert_eq!(fight.wait(now), None, "after the wait it may be reverted again");
        fight.reverted(now, changed());
    }
}

#[test]
fn reverts_that_are_far_apart_are_no_fight() {
    let (start, mut fight) = (Instant::now(), Fight::default());
    for count in 0..20 {
        fight.reverted(start + seconds(31) * count, changed());
        assert_eq!(fight.contest(), None);
    }
}

#[test]
fn a_revert_that_holds_for_a_minute_ends_the_fight() {
    let (start, mut fight) = (Instant::now(), Fight::default());
    assert_eq!(fight.holds(start), None, "there is none");
    (0..3).for_each(|_| fight.reverted(start, changed()));
    assert_eq!(fight.holds(start + seconds(10)), Some(seconds(50)));
    assert!(fight.contest().is_some());
    assert_eq!(fight.holds(start + seconds(60)), None);
    assert_eq!(fight.contest(), None);
    fight.reverted(start + seconds(61), changed());
    assert_eq!(fight.contest(), None, "a new count");
}

fn entry(manager: &str, operation: &str, time: &str, fields: Value) -> ManagedFieldsEntry {
    serde_json::from_value(json!({
        "manager": manager, "operation": operation, "time": time, "fieldsType": "FieldsV1", "fieldsV1": fields,
    }))
    .unwrap()
}

#[test]
fn the_field_that_was_taken_and_its_new_manager_are_found() {
    let cpu = |fields: Value| {
        json!({"f:spec": {"f:template": {"f:spec": {"f:containers": {r#"k:{"name":"node"}"#: {
            ".": {}, "f:name": {}, "f:resources": fields,
        }}}}}})
    };
    let limit = || json!({"f:limits": {"f:cpu": {}}});
    let time = "2026-01-01T00:00:01Z";
    let applied = [entry("venom", "Apply", time, cpu(limit()))];
    let left = || entry("venom", "Apply", time, cpu(json!({})));
    let theirs = entry("hostile", "Apply", "2026-01-01T00:00:02Z", cpu(limit()));
    let earlier = entry("kubectl", "Update", "2026-01-01T00:00:00Z", cpu(limit()));
    let other = entry("kube-controller-manager", "Update", "2026-01-01T00:00:03Z", json!({"f:status": {}}));
    let found = foreign_change(&[earlier, left(), theirs, other.clone()], &applied);
    let field = Some("spec.template.spec.containers[name=\"node\"].resources.limits.cpu".to_owned());
    assert_eq!(
        found,
        ForeignChange::Changed { field: field.clone(), manager: Some("hostile".into()) },
        "the last one to write it"
    );
    let found = foreign_change(&[left(), other], &applied);
    assert_eq!(found, ForeignChange::Changed { field, manager: None }, "it was removed");
    let found = foreign_change(&applied, &applied);
    assert_eq!(found, ForeignChange::Changed { field: None, manager: None }, "it was set back meanwhile");
}

#[test]
fn paths_read_as_kubectl_writes_them() {
    for (path, shown) in [
        (
            vec!["f:metadata", "f:labels", "f:app.kubernetes.io/name"],
            r#"metadata.labels["app.kubernetes.io/name"]"#,
        ),
        (vec!["f:metadata", "f:ownerReferences", r#"k:{"uid":"1"}"#], r#"metadata.ownerReferences[uid="1"]"#),
        (
            vec!["f:spec", "f:ports", r#"k:{"port":80,"protocol":"TCP"}"#, "f:name"],
            r#"spec.ports[port=80,protocol="TCP"].name"#,
        ),
        (vec!["f:metadata", "f:finalizers", r#"v:"a""#], r#"metadata.finalizers["a"]"#),
    ] {
        let path: Vec<String> = path.into_iter().map(str::to_owned).collect();
        assert_eq!(display(&path), shown);
    }
}
