use super::*;
use crate::operator::view::Decided;
use crate::organism::Action;

fn view() -> View {
    View {
        standing: Standing::Beating,
        generation: 3,
        genome_generation: 2,
        beats: 12,
        p: 5,
        t_lambda: Some(0.004_210_526_315_789_474),
        decided: Some(Decided { action: Action::Alert, since: 1_000.5, entry: 83 }),
        threat: Some(0.645_656_306_225_796),
        weights: None,
        anoms: Some(5),
        settled: Some(true),
        failed: vec![],
    }
}

fn report() -> Report {
    Report { view: Some(view()), ledger: Some(LedgerView::default()), replicas: 5, ..Report::default() }
}

fn condition(status: &api::OrganismStatus, kind: &str) -> (String, String) {
    let it = status.conditions.iter().find(|it| it.type_ == kind).unwrap();
    (it.status.clone(), it.reason.clone())
}

fn shown(report: &Report) -> api::OrganismStatus {
    report.organism_status("venom", &api::OrganismStatus::default(), Timestamp::UNIX_EPOCH)
}

fn is(status: &str, reason: &str) -> (String, String) {
    (status.into(), reason.into())
}

#[test]
fn numbers_are_rounded_and_the_generation_is_the_one_acted_on() {
    let status = shown(&report());
    let decision = status.decision.as_ref().unwrap();
    assert_eq!((decision.threat, decision.entry), (0.6457, 83));
    assert_eq!(status.t_lambda, Some(0.004_211));
    assert_eq!(status.observed_generation, Some(3));
    assert_eq!(condition(&status, "Ready"), is("True", "Beating"));
    assert_eq!(condition(&status, "PulseStable"), is("True", "Settled"));
}

#[test]
fn ready_waits_for_the_first_beat_and_for_nothing_else() {
    let mut report = report();
    report.view = Some(View { beats: 0, ..view() });
    assert_eq!(condition(&shown(&report), "Ready"), is("False", "WaitingForFirstCommit"));
    report.view = Some(View { settled: Some(false), failed: vec![("Regen".into(), "no".into())], ..view() });
    report.integrity = Integrity::SegmentLost(7, 20);
    let status = shown(&report);
    assert_eq!(condition(&status, "Ready"), is("True", "Beating"));
    assert_eq!(condition(&status, "PulseStable"), is("False", "Unsettled"));
    assert_eq!(condition(&status, "CoresHealthy"), is("False", "CoreFailed"));
    assert_eq!(condition(&status, "LedgerIntact"), is("False", "SegmentLost"));
}

#[test]
fn each_standing_has_its_reasons() {
    for (standing, ready, beating) in [
        (Standing::Beating, is("True", "Beating"), is("True", "Beating")),
        (Standing::Throttled, is("True", "Beating"), is("True", "Throttled")),
        (Standing::Suspended, is("True", "Suspended"), is("False", "Suspended")),
        (Standing::Completed, is("True", "Completed"), is("False", "Completed")),
        (Standing::GenomeNotFound, is("False", "GenomeNotFound"), is("False", "GenomeNotFound")),
    ] {
        let status = shown(&Report { view: Some(View { standing, ..view() }), ..report() });
        assert_eq!((condition(&status, "Ready"), condition(&status, "Beating")), (ready, beating));
    }
}

#[test]
fn a_hold_goes_before_everything_and_is_what_was_observed() {
    let hold = Hold { reason: HoldReason::GenomeInUse, message: "x".into(), generation: 9 };
    let status = shown(&Report { hold: Some(hold), ..report() });
    assert_eq!(condition(&status, "Ready"), is("False", "GenomeInUse"));
    assert_eq!(status.observed_generation, Some(9));
}

#[test]
fn a_condition_keeps_its_time_until_its_status_changes() {
    let first = shown(&report());
    let later = Timestamp::from_second(100).unwrap();
    let mut report = report();
    report.view = Some(View { standing: Standing::Suspended, ..view() });
    let second = report.organism_status("venom", &first, later);
    let time = |status: &api::OrganismStatus, kind: &str| {
        status.conditions.iter().find(|it| it.type_ == kind).unwrap().last_transition_time.0
    };
    assert_eq!(time(&second, "Ready"), Timestamp::UNIX_EPOCH, "True it was and True it stays");
    assert_eq!(time(&second, "Beating"), later);
}
