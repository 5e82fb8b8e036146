use axum::http::{Method, StatusCode};
use kube::runtime::events::EventType;
use serde_json::{Value, json};

use super::adoption::{Adopted, Adoption};
use super::body::{Body, BodyFault, ObjectName, Workload};
use super::events::events;
use super::mesh::MeshLink;
use super::report::{CommittedLedger, FaultCause, Integrity, LedgerFault, Listed, NotReady, NotReadyReason};
use super::status::organism_status;
use super::*;
use crate::operator::members::permit::Permit;
use crate::operator::mock::{self, ApiServer};
use crate::runtime::{EngineStatus, Pace, Phase};

fn engine() -> EngineStatus {
    EngineStatus::for_tests()
}

fn report() -> Report {
    let ledger = Some(CommittedLedger::default());
    Report { engine: Some(engine()), ledger, listed: Listed::Yes, nodes: 5, ..Report::default() }
}

fn condition(status: &api::OrganismStatus, kind: &str) -> (String, String) {
    let it = status.conditions.iter().find(|it| it.type_ == kind).unwrap();
    (it.status.clone(), it.reason.clone())
}

fn shown(report: &Report) -> api::OrganismStatus {
    shown_after(report, &FailingWatches::default(), &api::OrganismStatus::default(), Timestamp::UNIX_EPOCH)
}

fn shown_after(
    report: &Report,
    failing: &FailingWatches,
    before: &api::OrganismStatus,
    now: Timestamp,
) -> api::OrganismStatus {
    organism_status(report, &Key::new("a", "venom"), failing, before, now)
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
    report.engine = Some(EngineStatus { beats: 0, ..engine() });
    assert_eq!(condition(&shown(&report), "Ready"), is("False", "WaitingForFirstCommit"));
    report.engine = Some(EngineStatus {
        stable: Some(false),
        failed_cores: vec![("Regen".into(), "no".into())],
        ..engine()
    });
    report.integrity = Integrity::SegmentLost(7, 20);
    let status = shown(&report);
    assert_eq!(condition(&status, "Ready"), is("True", "Beating"));
    assert_eq!(condition(&status, "PulseStable"), is("False", "Unsettled"));
    assert_eq!(condition(&status, "CoresHealthy"), is("False", "CoreFailed"));
    assert_eq!(condition(&status, "LedgerIntact"), is("False", "SegmentLost"));
}

/// Until the objects of a ledger that was taken over are listed, nobody knows more than what its last holder has said.
#[test]
fn what_was_said_of_a_ledger_stays_until_somebody_has_looked() {
    let on_delete = Some(api::OnDelete::Retain);
    let looked = shown(&Report { integrity: Integrity::SegmentLost(7, 20), on_delete, ..report() });
    let status = |report: &Report, before: &api::OrganismStatus| {
        shown_after(report, &FailingWatches::default(), before, Timestamp::UNIX_EPOCH)
    };
    let not_yet = Report { listed: Listed::NotYet, ..report() };
    let kept = status(&not_yet, &looked);
    assert_eq!(condition(&kept, "LedgerIntact"), is("False", "SegmentLost"));
    assert_eq!(kept.ledger.unwrap().on_delete, on_delete);
    assert!(shown(&not_yet).conditions.iter().all(|it| it.type_ != "LedgerIntact"));
    let failed = Report { listed: Listed::Failed("list ConfigMap a: no answer".into()), ..report() };
    let failed = status(&failed, &looked);
    assert_eq!(condition(&failed, "LedgerIntact"), is("Unknown", "NotListed"));
    assert!(message(&failed, "LedgerIntact").contains("no answer"), "{}", message(&failed, "LedgerIntact"));
    let lost = Report { integrity: Integrity::SegmentLost(7, 20), listed: Listed::NotYet, ..report() };
    assert_eq!(condition(&shown(&lost), "LedgerIntact"), is("False", "SegmentLost"), "a gap that was met");
}

#[test]
fn each_phase_has_its_own_reasons() {
    for (phase, ready, beating) in [
        (Phase::Beating, is("True", "Beating"), is("True", "Beating")),
        (Phase::Suspended, is("True", "Suspended"), is("False", "Suspended")),
        (Phase::Completed, is("True", "Completed"), is("False", "Completed")),
        (Phase::GenomeNotFound, is("False", "GenomeNotFound"), is("False", "GenomeNotFound")),
    ] {
        let status = shown(&Report { engine: Some(EngineStatus { phase, ..engine() }), ..report() });
        assert_eq!((condition(&status, "Ready"), condition(&status, "Beating")), (ready, beating));
    }
}

fn message<'a>(status: &'a api::OrganismStatus, kind: &str) -> &'a str {
    status.conditions.iter().find(|it| it.type_ == kind).map_or("", |it| &it.message)
}

#[test]
fn the_pace_is_what_it_is_now() {
    let overrun = Pace::Overrun { wanted: 1e6, real: 20_100.0 };
    for (pace, beating, says) in [
        (Pace::OnTime, is("True", "Beating"), "at the pace of its spec"),
        (Pace::Throttled, is("True", "Throttled"), "--pending-bytes"),
        (overrun, is("True", "Overrun"), "20100 of 1000000 beats a second"),
        (Pace::Blocked, is("False", "LedgerBlocked"), "Beats are skipped"),
    ] {
        let status = shown(&Report { pace, ..report() });
        assert_eq!(
            (condition(&status, "Beating"), condition(&status, "Ready")),
            (beating, is("True", "Beating"))
        );
        assert!(message(&status, "Beating").contains(says), "{}", message(&status, "Beating"));
    }
}

#[test]
fn a_refused_commit_is_shown_with_the_clusters_words_and_what_to_do() {
    let cause = FaultCause::Refused("create ConfigMap a/b: exceeded quota".into(), "Raise it.");
    let since = Timestamp::from_second(1_000).unwrap();
    let refused = |shown| Some(LedgerFault { cause: cause.clone(), since, shown });
    let hidden = shown(&Report { ledger_fault: refused(false), ..report() });
    assert_eq!(condition(&hidden, "Ready"), is("True", "Beating"), "it has just begun");
    let status = shown(&Report { ledger_fault: refused(true), pace: Pace::Blocked, ..report() });
    assert_eq!(condition(&status, "Ready"), is("False", "CommitFailing"));
    assert_eq!(condition(&status, "Beating"), is("False", "LedgerBlocked"));
    for kind in ["Ready", "Beating"] {
        let says = "Nothing has been committed since 1970-01-01T00:16:40Z: create ConfigMap a/b: exceeded quota. Raise it.";
        assert!(message(&status, kind).ends_with(says), "{}", message(&status, kind));
    }
    let event = events(&hidden, &status, None).remove(0);
    assert_eq!((event.type_, &*event.reason), (EventType::Warning, "CommitFailing"));
}

#[test]
fn what_nobody_can_vouch_for_is_unknown() {
    let before = shown(&report());
    assert_eq!(condition(&before, "LedgerIntact"), is("True", "Verified"));
    let now = Timestamp::UNIX_EPOCH;
    let failing =
        FailingWatches { ledgers: [(None, "forbidden".to_owned())].into(), ..FailingWatches::default() };
    let blind = shown_after(&report(), &failing, &before, now);
    assert_eq!(condition(&blind, "LedgerIntact"), is("Unknown", "WatchFailing"));
    assert!(message(&blind, "LedgerIntact").ends_with("forbidden"), "{}", message(&blind, "LedgerIntact"));
    assert_eq!(
        condition(&shown_after(&report(), &FailingWatches::default(), &blind, now), "LedgerIntact"),
        is("True", "Verified")
    );

    let not_ready = NotReady { reason: NotReadyReason::HeadUnreadable, message: "x".into(), generation: 1 };
    let lost = Report { not_ready: Some(not_ready), ..Report::default() };
    let status = shown_after(&lost, &FailingWatches::default(), &before, now);
    assert_eq!(condition(&status, "LedgerIntact"), is("Unknown", "NotRecovered"));
    for kind in ["PulseStable", "CoresHealthy"] {
        assert_eq!(condition(&status, kind), is("Unknown", "NotBeating"));
    }
    let first = shown(&lost);
    assert!(first.conditions.iter().all(|it| it.type_ != "LedgerIntact"), "there is no ledger to doubt");
}

#[test]
fn not_ready_goes_before_everything_else_and_sets_the_observed_generation() {
    let not_ready = NotReady { reason: NotReadyReason::GenomeInUse, message: "x".into(), generation: 9 };
    let status = shown(&Report { not_ready: Some(not_ready), ..report() });
    assert_eq!(condition(&status, "Ready"), is("False", "GenomeInUse"));
    assert_eq!(status.observed_generation, Some(9));
}

#[test]
fn a_condition_keeps_its_time_until_its_status_changes() {
    let first = shown(&report());
    let later = Timestamp::from_second(100).unwrap();
    let mut report = report();
    report.engine = Some(EngineStatus { phase: Phase::Suspended, ..engine() });
    let second = shown_after(&report, &FailingWatches::default(), &first, later);
    let time = |status: &api::OrganismStatus, kind: &str| {
        status.conditions.iter().find(|it| it.type_ == kind).unwrap().last_transition_time.0
    };
    assert_eq!(time(&second, "Ready"), Timestamp::UNIX_EPOCH, "True it was and True it stays");
    assert_eq!(time(&second, "Beating"), later);
}

#[test]
fn a_body_never_makes_an_organism_unready_and_has_events_of_its_own() {
    let refused = BodyFault::ObjectRefused {
        object: ObjectName { kind: "Service".into(), name: "venom-metrics".into() },
        words: "exceeded quota".into(),
    };
    let body = |faults| Some(Body { faults, ..Body::default() });
    let workload = Some(Workload { wanted: 5, ..Workload::default() });
    let with = |faults, ready_nodes| Report {
        body: body(faults),
        workload: workload.clone(),
        ready_nodes,
        ..report()
    };
    let (starting, failing, whole) =
        (shown(&with(vec![], 3)), shown(&with(vec![refused], 5)), shown(&with(vec![], 5)));
    for status in [&starting, &failing, &whole] {
        assert_eq!(condition(status, "Ready"), is("True", "Beating"));
    }
    assert_eq!(condition(&failing, "BodyAvailable"), is("False", "ObjectRefused"));
    let told = |before: &api::OrganismStatus, next: &api::OrganismStatus| -> Vec<_> {
        let events = events(before, next, None).into_iter();
        events.map(|it| (it.type_ == EventType::Warning, it.reason)).collect()
    };
    assert_eq!(told(&starting, &failing), [(true, "ObjectRefused".to_owned())]);
    assert_eq!(told(&failing, &whole), [(false, "Available".to_owned())]);
    assert_eq!(told(&whole, &starting), [], "pods come and go");
    // The same reason of two conditions is one Event.
    let suspended =
        Report { engine: Some(EngineStatus { phase: Phase::Suspended, ..engine() }), ..with(vec![], 5) };
    assert_eq!(told(&whole, &shown(&suspended)), [(false, "Suspended".to_owned())]);
}

/// The condition Adopted comes and goes with spec.workloadRef, and what cannot be seen is not vouched for.
#[test]
fn an_adoption_is_told_and_what_follows_from_it() {
    let workload_ref = Some(api::WorkloadRef { kind: api::WorkloadKind::Deployment, name: "shop".into() });
    let adopted = Arc::new(Adopted {
        kind: api::WorkloadKind::Deployment,
        name: "shop".into(),
        uid: "1".into(),
        selector: serde_json::from_value(json!({"matchLabels": {"app": "shop"}})).unwrap(),
        labels: std::collections::BTreeMap::new(),
        ready: 2,
        replicas: 2,
        workload: Workload { wanted: 2, ..Workload::default() },
    });
    let with = |adoption: Adoption| Report {
        workload: adoption.adopted().map(|it| it.workload.clone()),
        ready_nodes: 2,
        body: Some(Body::default()),
        adoption: Some(adoption),
        workload_ref: workload_ref.clone(),
        ..report()
    };
    let all = [
        (Adoption::Adopted(adopted.clone()), is("True", "Adopted"), is("True", "Available")),
        (
            Adoption::Unreadable("no answer".into(), Some(adopted.clone())),
            is("Unknown", "Unreadable"),
            is("Unknown", "WatchFailing"),
        ),
        (Adoption::NotFound, is("False", "NotFound"), is("False", "NotAdopted")),
        (Adoption::NotPermitted(None), is("False", "NotPermitted"), is("False", "NotAdopted")),
        (Adoption::NotPermitted(Some("b\n".into())), is("False", "NotPermitted"), is("False", "NotAdopted")),
        (Adoption::InUse("b".into()), is("False", "InUse"), is("False", "NotAdopted")),
    ];
    for (adoption, expected, body) in all {
        let status = shown(&with(adoption.clone()));
        assert_eq!(condition(&status, "Adopted"), expected, "{adoption:?}");
        assert_eq!(condition(&status, "BodyAvailable"), body, "{adoption:?}");
        assert!(!message(&status, "Adopted").contains('\n'));
    }
    let first = shown(&with(Adoption::Adopted(adopted)));
    assert_eq!(first.nodes.as_ref().unwrap().selector, "app=shop");
    assert!(message(&first, "BodyAvailable").starts_with("2 of 2 pods are ready."));
    let own = shown_after(&report(), &FailingWatches::default(), &first, Timestamp::now());
    assert!(
        own.conditions.iter().all(|it| it.type_ != "Adopted"),
        "without a spec.workloadRef there is none"
    );
}

#[test]
fn nothing_is_said_of_a_body_before_it_is_known_and_nothing_of_an_earlier_runs_link() {
    let status = shown(&report());
    assert!(
        status.conditions.iter().all(|it| !["BodyAvailable", "MeshReachable"].contains(&it.type_.as_str()))
    );
    let linked = Report { mesh: Some(MeshLink::Up), workload: Some(Workload::default()), ..report() };
    let before = shown(&linked);
    assert_eq!(condition(&before, "MeshReachable"), is("True", "Linked"));
    let not_ready = NotReady { reason: NotReadyReason::HeadUnreadable, message: "x".into(), generation: 9 };
    let ended = Report { mesh: None, not_ready: Some(not_ready), ..linked };
    let status = shown_after(&ended, &FailingWatches::default(), &before, Timestamp::UNIX_EPOCH);
    assert_eq!(condition(&status, "MeshReachable"), is("Unknown", "Connecting"));
}

/// A publisher over a mocked transport.
struct Harness {
    api_server: ApiServer,
    report: watch::Sender<Report>,
    resources: Arc<Resources>,
    publisher: tokio::task::JoinHandle<Exit>,
}

impl Harness {
    fn new() -> Self {
        Self::after(None)
    }

    /// With what an earlier publisher has published.
    fn after(status: Option<api::OrganismStatus>) -> Self {
        let (client, api_server) = ApiServer::start();
        let resources = Arc::new(Resources {
            recorder: Recorder::new(client.clone(), "venom".into()),
            client,
            metrics: Arc::new(Metrics::new().unwrap()),
            writes: Semaphore::new(1),
            genomes: Genomes::default(),
            failing: watch::channel(FailingWatches::default()).1,
        });
        let mut organism: api::Organism = serde_json::from_value(organism("1")).unwrap();
        organism.status = status;
        let (key, account) = (Key::new("a", "venom"), Account::new("a".into()));
        let tenure = Tenure::new(Arc::new(Permit::unlimited()));
        let mut publisher =
            Publisher::new(key, &organism, account, tenure, resources.clone(), PublishedEnd::default());
        let (report, reports) = watch::channel(Report::default());
        let publisher = tokio::spawn(async move { publisher.run(reports).await });
        Self { api_server, report, resources, publisher }
    }

    /// Answers the next status patch with this version of the Organism. Returns the patch.
    async fn accept(&mut self, resource_version: &str) -> Value {
        let (method, patch) = self.api_server.answer(|_| (StatusCode::OK, organism(resource_version))).await;
        assert_eq!(method, Method::PATCH);
        patch
    }
}

fn organism(resource_version: &str) -> Value {
    let object = json!({
        "apiVersion": "genesis.venom.dev/v1alpha1", "kind": "Organism",
        "metadata": {"name": "venom", "namespace": "a"}, "spec": {},
    });
    mock::stored(&object, "u", resource_version)
}

#[tokio::test(start_paused = true)]
async fn a_conflict_is_answered_with_the_version_found_and_the_uid_stays() {
    let mut harness = Harness::new();
    let (_, first) = harness.api_server.answer(|_| mock::conflict()).await;
    assert_eq!(first["metadata"], json!({"uid": "u", "resourceVersion": "1"}));
    harness.api_server.answer(|_| (StatusCode::OK, organism("9"))).await;
    let second = harness.accept("10").await;
    assert_eq!(second["metadata"], json!({"uid": "u", "resourceVersion": "9"}));
    assert_eq!(second["status"], first["status"]);
}

/// An operator that was stopped does not know yet that another one has taken over.
#[tokio::test(start_paused = true)]
async fn a_later_state_of_the_ledger_is_not_replaced() {
    let mut harness = Harness::new();
    harness.accept("2").await;
    harness.report.send_modify(|it| *it = report());
    harness.api_server.answer(|_| mock::conflict()).await;
    let mut later = organism("9");
    later["status"] = json!({"ledger": {"generation": 99, "size": 1}});
    harness.api_server.answer(|_| (StatusCode::OK, later)).await;
    let again = harness.accept("10").await;
    assert_eq!(again["metadata"], json!({"uid": "u", "resourceVersion": "2"}), "tried again, as before");
}

#[tokio::test(start_paused = true)]
async fn another_organism_of_that_name_is_never_written() {
    let mut harness = Harness::new();
    harness.api_server.answer(|_| mock::conflict()).await;
    harness.api_server.answer(|_| (StatusCode::OK, mock::stored(&organism("9"), "other", "9"))).await;
    assert_eq!(harness.publisher.await.unwrap(), Exit::OrganismGone);
}

#[tokio::test(start_paused = true)]
async fn a_missing_organism_ends_its_publisher() {
    let mut harness = Harness::new();
    harness.api_server.answer(|_| mock::not_found()).await;
    assert_eq!(harness.publisher.await.unwrap(), Exit::OrganismGone);
}

#[tokio::test]
async fn the_last_report_is_written_once_its_senders_are_gone() {
    let mut harness = Harness::new();
    harness.accept("2").await;
    harness.report.send_modify(|it| *it = report());
    harness.accept("3").await;
    // Numbers alone wait for the status interval; the end does not.
    let beats = |count| Report { engine: Some(EngineStatus { beats: count, ..engine() }), ..report() };
    harness.report.send_modify(|it| *it = beats(13));
    drop(harness.report);
    let (_, last) = harness.api_server.answer(|_| (StatusCode::OK, organism("4"))).await;
    assert_eq!(last["status"]["beats"], 13);
    // The Events follow.
    let mut reasons = vec![];
    for _ in 0..2 {
        let (_, event) = harness.api_server.answer(|body| (StatusCode::CREATED, body.clone())).await;
        reasons.push(event["reason"].clone());
    }
    assert_eq!(reasons, ["Beating", "Alert"]);
    assert_eq!(harness.publisher.await.unwrap(), Exit::Finished);
}

/// A restart of three hundred organisms wrote each status twice for it, with an Event each.
#[test]
fn a_share_that_changes_is_no_more_urgent_than_a_number() {
    let whole = report();
    let ledger = CommittedLedger { retain_reduced: true, ..CommittedLedger::default() };
    let reduced = Report { ledger: Some(ledger), ..report() };
    assert_eq!(condition(&shown(&reduced), "LedgerIntact"), is("True", "RetainReduced"));
    assert_eq!(Change::between(&shown(&whole), &shown(&reduced)), Change::Numbers);
    let lost = Report { integrity: Integrity::SegmentLost(1, 2), ..report() };
    assert_eq!(Change::between(&shown(&whole), &shown(&lost)), Change::Urgent);
    assert_eq!(Change::between(&shown(&lost), &shown(&whole)), Change::Urgent);
}

/// A start or a hand-over of thousands costs a status each only where one has something new to say.
#[tokio::test(start_paused = true)]
async fn an_organism_that_soon_beats_as_before_is_not_written() {
    let mut harness = Harness::after(Some(shown(&report())));
    let began = tokio::time::Instant::now();
    tokio::time::sleep(ABOUT_TO_BEAT / 2).await;
    let beats = |count| Report { engine: Some(EngineStatus { beats: count, ..engine() }), ..report() };
    harness.report.send_modify(|it| *it = beats(13));
    let patch = harness.accept("2").await;
    assert_eq!(patch["status"]["beats"], 13);
    assert!(began.elapsed() >= Duration::from_secs(2), "numbers wait for the status interval");
}

#[tokio::test(start_paused = true)]
async fn an_organism_that_does_not_beat_soon_is_shown_so() {
    let mut harness = Harness::after(Some(shown(&report())));
    let began = tokio::time::Instant::now();
    let patch = harness.accept("2").await;
    assert!(began.elapsed() >= ABOUT_TO_BEAT);
    let status: api::OrganismStatus = serde_json::from_value(patch["status"].clone()).unwrap();
    assert_eq!(condition(&status, "Ready"), is("False", "WaitingForFirstCommit"));
}

/// What was to be written when it got in line is not written if the status is right by then.
#[tokio::test(start_paused = true)]
async fn what_is_due_is_looked_at_again_when_it_is_its_turn() {
    let mut harness = Harness::after(Some(shown(&report())));
    let resources = harness.resources.clone();
    let turn = resources.writes.acquire().await.unwrap();
    tokio::time::sleep(ABOUT_TO_BEAT * 2).await;
    harness.report.send_modify(|it| *it = report());
    drop(turn);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let mut failing = report();
    let cause = FaultCause::Refused("no".into(), "Do.");
    failing.ledger_fault = Some(LedgerFault { cause, since: Timestamp::UNIX_EPOCH, shown: true });
    harness.report.send_modify(|it| *it = failing);
    let patch = harness.accept("2").await;
    let status: api::OrganismStatus = serde_json::from_value(patch["status"].clone()).unwrap();
    assert_eq!(condition(&status, "Ready").0, "False", "the first that is written");
}

#[tokio::test(start_paused = true)]
async fn numbers_are_not_written_late_in_a_stop() {
    let mut harness = Harness::after(Some(shown(&report())));
    let ends = Some(tokio::time::Instant::now());
    harness.report.send_modify(|it| *it = Report { ends, ..report() });
    harness.report.send_modify(|it| it.engine = Some(EngineStatus { beats: 13, ..engine() }));
    // Longer than any interval: those of the organisms that are left become shorter as others end.
    tokio::time::sleep(Duration::from_secs(3600)).await;
    drop(harness.report);
    tokio::select! {
        exit = harness.publisher => assert_eq!(exit.unwrap(), Exit::Finished),
        _ = harness.api_server.answer(|_| (StatusCode::OK, organism("2"))) => panic!("it was written"),
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_does_not_wait_long_for_a_turn_to_write_numbers() {
    let mut harness = Harness::new();
    harness.accept("2").await;
    harness.report.send_modify(|it| *it = report());
    harness.accept("3").await;
    let resources = harness.resources.clone();
    let _turn = resources.writes.acquire().await.unwrap();
    harness.report.send_modify(|it| it.engine = Some(EngineStatus { beats: 13, ..engine() }));
    drop(harness.report);
    for reason in ["Beating", "Alert"] {
        let (_, event) = harness.api_server.answer(|body| (StatusCode::CREATED, body.clone())).await;
        assert_eq!(event["reason"], reason);
    }
    assert_eq!(harness.publisher.await.unwrap(), Exit::Finished);
}

/// A long or hostile message still gives an Event that the API server takes, and that names the cure.
#[test]
fn an_event_fits_its_bound() {
    let before = shown(&report());
    let mut failing = report();
    let error = crate::printable::line(&"\u{1b}[2J".repeat(1000), crate::printable::QUOTE);
    let cause = FaultCause::Refused(error, "Raise the namespace's ResourceQuota.");
    failing.ledger_fault = Some(LedgerFault { cause, since: Timestamp::UNIX_EPOCH, shown: true });
    failing.engine.as_mut().unwrap().failed_cores.push(("R".to_owned(), "\r\n".repeat(4000)));
    let told = events(
        &before,
        &shown_after(&failing, &FailingWatches::default(), &before, Timestamp::UNIX_EPOCH),
        None,
    );
    assert_eq!(told.len(), 2);
    for event in told {
        let note = event.note.unwrap();
        assert!(note.len() <= 1024 && !note.chars().any(char::is_control), "{note}");
        assert!(
            note.contains("Raise the namespace's ResourceQuota.") == (event.reason == "CommitFailing"),
            "{note}"
        );
    }
}
