use super::*;

fn observed() -> ObservedObject {
    ObservedObject {
        uid: "a".into(),
        owner: Some("organism".into()),
        organism: Some("venom".into()),
        orphan: false,
        deleting: false,
        owned: 1,
        created: false,
        scaled: false,
        template: None,
        applied: None,
    }
}

fn last() -> LastApplied {
    LastApplied { uid: "a".into(), owned: 1, desired: 7 }
}

fn decide(desired: Option<u64>, observed: Option<ObservedObject>, last: Option<LastApplied>) -> Step {
    step(desired, observed.as_ref(), last.as_ref(), Owner { name: "venom", uid: "organism" })
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
        let theirs = ObservedObject { owner, organism: None, ..observed() };
        assert_eq!(decide(Some(7), Some(theirs.clone()), None), Step::NameTaken);
        assert_eq!(decide(None, Some(theirs), None), Step::Leave);
    }
    let theirs = ObservedObject { owner: Some("another".into()), organism: None, ..observed() };
    assert_eq!(
        decide(Some(7), Some(theirs.clone()), Some(last())),
        Step::NameTaken,
        "handed over to another owner"
    );
    let other = ObservedObject { organism: Some("other".into()), ..theirs };
    assert_eq!(decide(Some(7), Some(other), Some(last())), Step::NameTaken, "of another Organism");
    let orphaned = ObservedObject { owner: None, owned: 2, ..observed() };
    assert_eq!(decide(Some(7), Some(orphaned), Some(last())), Step::Apply { uid: "a".into() });
}

#[test]
fn what_the_operator_made_and_nobody_owns_is_adopted_and_what_is_about_to_go_is_waited_for() {
    let orphan = ObservedObject { owner: None, organism: None, orphan: true, ..observed() };
    assert_eq!(decide(Some(7), Some(orphan.clone()), None), Step::Adopt { uid: "a".into() });
    assert_eq!(decide(None, Some(orphan.clone()), None), Step::Delete { uid: "a".into() });
    let deleting = ObservedObject { deleting: true, ..orphan };
    assert_eq!(decide(Some(7), Some(deleting), None), Step::AwaitCollection);
    // The Organism of this name that owns it is another one: it is gone.
    let former = ObservedObject { owner: Some("former".into()), ..observed() };
    assert_eq!(decide(Some(7), Some(former.clone()), None), Step::AwaitCollection);
    assert_eq!(decide(None, Some(former), None), Step::Leave);
}

#[test]
fn only_what_undoes_a_change_of_someone_else_is_a_revert() {
    let apply = Step::Apply { uid: "a".into() };
    assert!(apply.reverts(7, Some(&last())));
    assert!(Step::Create.reverts(7, Some(&last())), "it was deleted");
    assert!(!apply.reverts(8, Some(&last())), "the spec has changed");
    assert!(!apply.reverts(7, None), "the first apply of this process");
    assert!(!Step::Apply { uid: "b".into() }.reverts(7, Some(&last())), "the first apply of a new object");
    assert!(!Step::ConvertToApply.reverts(7, Some(&last())));
}

#[test]
fn an_object_that_should_not_exist_is_deleted_once() {
    assert_eq!(decide(None, Some(observed()), Some(last())), Step::Delete { uid: "a".into() });
    let deleting = ObservedObject { deleting: true, ..observed() };
    assert_eq!(decide(None, Some(deleting.clone()), None), Step::Leave);
    assert_eq!(decide(Some(7), Some(deleting), Some(last())), Step::Leave, "a new one comes when it is gone");
}
