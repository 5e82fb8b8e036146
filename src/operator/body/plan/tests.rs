use super::*;

fn seen() -> Seen {
    Seen { uid: "a".into(), owner: Some("organism".into()), deleting: false, ours: 1, created: false }
}

fn kept() -> Kept {
    Kept { uid: "a".into(), ours: 1, wanted: 7 }
}

fn decided(wanted: Option<u64>, seen: Option<Seen>, kept: Option<Kept>) -> Step {
    step(wanted, seen.as_ref(), kept.as_ref(), "organism")
}

#[test]
fn what_is_as_it_should_be_is_left_alone() {
    assert_eq!(decided(Some(7), Some(seen()), Some(kept())), Step::Leave);
    assert_eq!(decided(None, None, None), Step::Leave);
}

#[test]
fn the_first_write_creates() {
    assert_eq!(decided(Some(7), None, None), Step::Create);
    assert_eq!(decided(Some(7), None, Some(kept())), Step::Create, "deleted by somebody");
    let created = Seen { created: true, ..seen() };
    assert_eq!(decided(Some(7), Some(created), None), Step::Adopt);
}

#[test]
fn spec_drift_and_a_fresh_start_are_applied_to_the_object_that_was_made() {
    let apply = Step::Apply { uid: "a".into() };
    assert_eq!(decided(Some(8), Some(seen()), Some(kept())), apply, "the spec has changed");
    assert_eq!(
        decided(Some(7), Some(Seen { ours: 2, ..seen() }), Some(kept())),
        apply,
        "somebody changed it"
    );
    assert_eq!(decided(Some(7), Some(seen()), None), apply, "this process has not written it yet");
}

#[test]
fn a_strangers_object_is_not_touched() {
    for owner in [None, Some("another".to_owned())] {
        let theirs = Seen { owner, ..seen() };
        assert_eq!(decided(Some(7), Some(theirs.clone()), None), Step::Taken);
        assert_eq!(decided(None, Some(theirs), None), Step::Leave);
    }
    let theirs = Seen { owner: Some("another".into()), ..seen() };
    assert_eq!(decided(Some(7), Some(theirs), Some(kept())), Step::Taken, "handed over to somebody else");
    let orphaned = Seen { owner: None, ours: 2, ..seen() };
    assert_eq!(decided(Some(7), Some(orphaned), Some(kept())), Step::Apply { uid: "a".into() });
}

#[test]
fn what_is_not_to_be_there_is_deleted_once() {
    assert_eq!(decided(None, Some(seen()), Some(kept())), Step::Delete { uid: "a".into() });
    let deleting = Seen { deleting: true, ..seen() };
    assert_eq!(decided(None, Some(deleting.clone()), None), Step::Leave);
    assert_eq!(
        decided(Some(7), Some(deleting), Some(kept())),
        Step::Leave,
        "a new one comes when it is gone"
    );
}
