use super::*;

fn observed() -> ObservedObject {
    ObservedObject {
        uid: "a".into(),
        owner: Some("organism".into()),
        deleting: false,
        owned: 1,
        created: false,
    }
}

fn last() -> LastApplied {
    LastApplied { uid: "a".into(), owned: 1, desired: 7 }
}

fn decide(desired: Option<u64>, observed: Option<ObservedObject>, last: Option<LastApplied>) -> Step {
    step(desired, observed.as_ref(), last.as_ref(), "organism")
}

#[test]
fn an_object_as_it_should_be_is_left_alone() {
    assert_eq!(decide(Some(7), Some(observed()), Some(last())), Step::Leave);
    assert_eq!(decide(None, None, None), Step::Leave);
}

#[test]
fn the_first_write_creates() {
    assert_eq!(decide(Some(7), None, None), Step::Create);
    assert_eq!(decide(Some(7), None, Some(last())), Step::Create, "it was deleted");
    let created = ObservedObject { created: true, ..observed() };
    assert_eq!(decide(Some(7), Some(created), None), Step::ConvertToApply);
}

#[test]
fn a_changed_spec_drift_and_a_fresh_start_lead_to_an_apply() {
    let apply = Step::Apply { uid: "a".into() };
    assert_eq!(decide(Some(8), Some(observed()), Some(last())), apply, "the spec has changed");
    assert_eq!(
        decide(Some(7), Some(ObservedObject { owned: 2, ..observed() }), Some(last())),
        apply,
        "it was changed"
    );
    assert_eq!(decide(Some(7), Some(observed()), None), apply, "this process has not written it yet");
}

#[test]
fn an_object_of_someone_else_is_not_touched() {
    for owner in [None, Some("another".to_owned())] {
        let theirs = ObservedObject { owner, ..observed() };
        assert_eq!(decide(Some(7), Some(theirs.clone()), None), Step::NameTaken);
        assert_eq!(decide(None, Some(theirs), None), Step::Leave);
    }
    let theirs = ObservedObject { owner: Some("another".into()), ..observed() };
    assert_eq!(decide(Some(7), Some(theirs), Some(last())), Step::NameTaken, "handed over to another owner");
    let orphaned = ObservedObject { owner: None, owned: 2, ..observed() };
    assert_eq!(decide(Some(7), Some(orphaned), Some(last())), Step::Apply { uid: "a".into() });
}

#[test]
fn an_object_that_should_not_exist_is_deleted_once() {
    assert_eq!(decide(None, Some(observed()), Some(last())), Step::Delete { uid: "a".into() });
    let deleting = ObservedObject { deleting: true, ..observed() };
    assert_eq!(decide(None, Some(deleting.clone()), None), Step::Leave);
    assert_eq!(decide(Some(7), Some(deleting), Some(last())), Step::Leave, "a new one comes when it is gone");
}
