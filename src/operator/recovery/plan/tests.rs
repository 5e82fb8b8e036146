use super::*;
use crate::ledger::sealed::HexHash;
use crate::store::head::Forged;

fn head(uid: &str, generation: u64, size: u64) -> Head {
    Head { size, ..Head::empty(uid, generation, 3, "") }
}

fn published(generation: u64, size: u64) -> Published {
    let head = head("u", generation, size);
    Published { generation, size, root: head.root.0, last_hash: head.last_hash.0 }
}

#[test]
fn without_a_head_and_without_anything_published_a_ledger_starts() {
    assert_eq!(plan(None, "u", None), Plan::Begin(After::Nothing));
}

#[test]
fn our_own_head_is_continued_unless_more_was_published() {
    let ours = head("u", 1, 100);
    assert_eq!(plan(Some(ours.clone()), "u", None), Plan::Continue(ours.clone()));
    assert_eq!(plan(Some(ours.clone()), "u", Some(&published(1, 100))), Plan::Continue(ours.clone()));
    let lost = Plan::Begin(After::Lost { head: Some(ours.clone()), from: 100, to: 119 });
    assert_eq!(plan(Some(ours.clone()), "u", Some(&published(1, 120))), lost);
    let second = Head { lost_tail: Some((100, 119)), ..head("u", 2, 10) };
    assert_eq!(plan(Some(second.clone()), "u", Some(&published(1, 120))), Plan::Continue(second));
    let lost = Plan::Begin(After::Lost { head: Some(ours.clone()), from: 0, to: 4 });
    assert_eq!(plan(Some(ours), "u", Some(&published(2, 5))), lost);
}

#[test]
fn a_published_ledger_without_a_head_is_lost() {
    let lost = Plan::Begin(After::Lost { head: None, from: 0, to: 119 });
    assert_eq!(plan(None, "u", Some(&published(1, 120))), lost);
}

#[test]
fn the_ledger_of_an_organism_that_is_gone_is_continued() {
    let gone = head("other", 1, 100);
    assert_eq!(plan(Some(gone.clone()), "u", None), Plan::Begin(After::Predecessor(gone.clone())));
    let retained = Head { retained: true, ..gone };
    assert_eq!(plan(Some(retained.clone()), "u", None), Plan::Begin(After::Predecessor(retained)));
}

#[test]
fn a_published_ledger_under_a_head_of_another_organism_is_lost() {
    let other = head("other", 1, 500);
    let lost = Plan::Begin(After::Lost { head: Some(other.clone()), from: 0, to: 119 });
    assert_eq!(plan(Some(other), "u", Some(&published(1, 120))), lost);
}

/// Whoever can write ConfigMaps, but no status, may put any head in place of ours.
#[test]
fn a_head_that_contradicts_what_was_published_is_forged() {
    let real = published(2, 100);
    let forged = |head: Head| {
        let planned = plan(Some(head.clone()), "u", Some(&real));
        assert!(
            matches!(planned, Plan::Begin(After::Forged { head: found, published, .. }) if found == head && published == real)
        );
    };
    let same_size = head("u", 2, 100);
    forged(Head { root: HexHash([7; 32]), ..same_size.clone() });
    forged(Head { last_hash: HexHash([7; 32]), ..same_size.clone() });
    assert_eq!(plan(Some(same_size.clone()), "u", Some(&real)), Plan::Continue(same_size));
    // It would start over in silence.
    forged(head("u", 3, 0));
    forged(head("u", 3, 500));
    let found = Forged::new(2, "another root".into(), &real);
    let told = Head { forged: Some(found), ..head("u", 3, 0) };
    assert_eq!(plan(Some(told.clone()), "u", Some(&real)), Plan::Continue(told));
}
