use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use super::report::{CommittedLedger, Integrity, NotReady, NotReadyReason};
use super::status::organism_status;
use super::*;
use crate::operator::mock::{self, ApiServer};
use crate::organism::Action;
use crate::runtime::{CurrentDecision, EngineStatus, Phase};

fn engine() -> EngineStatus {
    EngineStatus {
        phase: Phase::Beating,
        generation: 3,
        genome_generation: 2,
        beats: 12,
        p: 5,
        t_lambda: Some(0.004_210_526_315_789_474),
        decision: Some(CurrentDecision { action: Action::Alert, since: 1_000.5, entry: 83 }),
        threat: Some(0.645_656_306_225_796),
        weights: None,
        anoms: Some(5),
        stable: Some(true),
        failed_cores: vec![],
    }
}

fn report() -> Report {
    Report { engine: Some(engine()), ledger: Some(CommittedLedger::default()), nodes: 5, ..Report::default() }
}

fn condition(status: &api::OrganismStatus, kind: &str) -> (String, String) {
    let it = status.conditions.iter().find(|it| it.type_ == kind).unwrap();
    (it.status.clone(), it.reason.clone())
}

fn shown(report: &Report) -> api::OrganismStatus {
    organism_status(report, "venom", &api::OrganismStatus::default(), Timestamp::UNIX_EPOCH)
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

#[test]
fn each_phase_has_its_own_reasons() {
    for (phase, ready, beating) in [
        (Phase::Beating, is("True", "Beating"), is("True", "Beating")),
        (Phase::Throttled, is("True", "Beating"), is("True", "Throttled")),
        (Phase::Suspended, is("True", "Suspended"), is("False", "Suspended")),
        (Phase::Completed, is("True", "Completed"), is("False", "Completed")),
        (Phase::GenomeNotFound, is("False", "GenomeNotFound"), is("False", "GenomeNotFound")),
    ] {
        let status = shown(&Report { engine: Some(EngineStatus { phase, ..engine() }), ..report() });
        assert_eq!((condition(&status, "Ready"), condition(&status, "Beating")), (ready, beating));
    }
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
    let second = organism_status(&report, "venom", &first, later);
    let time = |status: &api::OrganismStatus, kind: &str| {
        status.conditions.iter().find(|it| it.type_ == kind).unwrap().last_transition_time.0
    };
    assert_eq!(time(&second, "Ready"), Timestamp::UNIX_EPOCH, "True it was and True it stays");
    assert_eq!(time(&second, "Beating"), later);
}

/// A publisher over a mocked transport.
struct Harness {
    api_server: ApiServer,
    report: watch::Sender<Report>,
    publisher: tokio::task::JoinHandle<Exit>,
}

impl Harness {
    fn new() -> Self {
        let (client, api_server) = ApiServer::start();
        let resources = Arc::new(Resources {
            recorder: Recorder::new(client.clone(), "venom".into()),
            client,
            budget: Arc::new(Budget::new(50.0, 1 << 20, 1 << 28)),
            metrics: Arc::new(Metrics::new().unwrap()),
            writes: Semaphore::new(1),
        });
        let organism: api::Organism = serde_json::from_value(organism("1")).unwrap();
        let publisher = Publisher::new(Key::new("a", "venom"), &organism, resources);
        let (sender, reports) = watch::channel(Report::default());
        Self { api_server, report: sender, publisher: tokio::spawn(publisher.run(reports)) }
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

#[tokio::test]
async fn a_conflict_is_answered_with_the_version_found_and_the_uid_stays() {
    let mut harness = Harness::new();
    let (_, first) = harness.api_server.answer(|_| mock::conflict()).await;
    assert_eq!(first["metadata"], json!({"uid": "u", "resourceVersion": "1"}));
    harness.api_server.answer(|_| (StatusCode::OK, organism("9"))).await;
    let second = harness.accept("10").await;
    assert_eq!(second["metadata"], json!({"uid": "u", "resourceVersion": "9"}));
    assert_eq!(second["status"], first["status"]);
}

#[tokio::test]
async fn another_organism_of_that_name_is_never_written() {
    let mut harness = Harness::new();
    harness.api_server.answer(|_| mock::conflict()).await;
    harness.api_server.answer(|_| (StatusCode::OK, mock::stored(&organism("9"), "other", "9"))).await;
    assert_eq!(harness.publisher.await.unwrap(), Exit::OrganismGone);
}

#[tokio::test]
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
