//! What a real API server cannot be made to do on demand, over a mocked transport.

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use super::*;
use crate::api::labels::{MANAGED_BY_LABEL, MANAGER, ORGANISM_LABEL};
use crate::ledger::Chain;
use crate::ledger::entry::{Genesis, Origin, Record};
use crate::operator::budget::Limits;
use crate::operator::mock::{self, Answer, ApiServer, conflict, not_found, server_error};
use crate::operator::publisher::report::Report;
use crate::organism::{Config, Genome, VERSION};
use crate::store::configmap::ConfigMaps;

/// A committer of an empty ledger, with the API server's end of its transport.
struct Harness {
    api_server: ApiServer,
    commits: mpsc::Sender<CommitRequest>,
    events: mpsc::UnboundedSender<LedgerEvent>,
    committer: tokio::task::JoinHandle<Exit>,
    report: watch::Receiver<Report>,
    metrics: Arc<Metrics>,
    turns: Arc<Turns>,
    _stopping: watch::Sender<bool>,
}

impl Harness {
    fn new() -> Self {
        let (client, api_server) = ApiServer::start();
        let store = ConfigMaps::new(client, "a", "venom", "u");
        let ledger = OwnedLedger::new(store, Head::empty("u", 1, 3, "alpha"), "10".into(), origin());
        let (stopping, stopped) = watch::channel(false);
        let budget = Arc::new(Budget::new(&Limits::for_tests()));
        let metrics = Arc::new(Metrics::new().unwrap());
        let resources = Arc::new(Resources::new(budget, metrics.clone(), stopped, Arc::default()));
        let turns = resources.turns.clone();
        let (report, reports) = watch::channel(Report::default());
        let mut committer = Committer::new(
            Key::new("a", "venom"),
            ledger,
            resources,
            Account::new("a".into()),
            report,
            Arc::new(Notify::new()),
        );
        let (commits, requests) = mpsc::channel(1);
        let (events, event_receiver) = mpsc::unbounded_channel();
        let committer = tokio::spawn(async move { committer.run(requests, event_receiver).await });
        Self { api_server, commits, events, committer, report: reports, metrics, turns, _stopping: stopping }
    }

    /// The fault that a status would show.
    fn shown(&self) -> Option<FaultCause> {
        let fault = self.report.borrow().ledger_fault.clone();
        fault.filter(|it| it.shown).map(|it| it.cause)
    }

    /// Hands over a batch with one genesis entry. Returns a receiver that gets its acknowledgement.
    async fn commit(&self) -> tokio::sync::oneshot::Receiver<()> {
        self.commit_batch(batch()).await
    }

    async fn commit_batch(&self, batch: Batch) -> tokio::sync::oneshot::Receiver<()> {
        let (acknowledge, acknowledged) = tokio::sync::oneshot::channel();
        let acknowledge = Box::new(move || {
            let _ = acknowledge.send(());
        });
        assert!(self.commits.send(CommitRequest { batch: Box::new(batch), acknowledge }).await.is_ok());
        acknowledged
    }

    async fn answer(&mut self, answer: impl FnOnce(&Value) -> Answer) -> (Method, Value) {
        self.api_server.answer(answer).await
    }

    /// Accepts the creation of the segment.
    async fn accept_segment(&mut self) {
        let (method, _) = self.answer(|body| (StatusCode::CREATED, stored(body, "11"))).await;
        assert_eq!(method, Method::POST);
    }
}

fn origin() -> Origin {
    Origin { generation: 1, name: "venom".into(), namespace: "a".into(), uid: "u".into() }
}

fn batch() -> Batch {
    let genesis = Genesis {
        config: Config::default(),
        continues: None,
        genome: Genome::default(),
        message: "test".into(),
        origin: Some(origin()),
        version: VERSION.into(),
    };
    let record = Record::genesis(1_000.0, &genesis).unwrap();
    let before = Chain::default();
    let mut after = before.clone();
    after.record(&record).unwrap();
    let (records, injections) = (vec![record], vec![]);
    let status = EngineStatus::for_tests();
    Batch {
        records,
        before,
        after,
        injections,
        senses: vec![],
        enforcements: vec![],
        status,
        retain: 4 << 20,
        urgent: true,
        last: false,
    }
}

fn stored(object: &Value, resource_version: &str) -> Value {
    mock::stored(object, "object", resource_version)
}

/// A stored head; `edit` changes its JSON.
fn stored_head(head: &Value, resource_version: &str, edit: impl FnOnce(&mut Value)) -> Value {
    let mut object = stored(head, resource_version);
    let mut text: Value = serde_json::from_str(object["data"]["head"].as_str().unwrap()).unwrap();
    edit(&mut text);
    object["data"]["head"] = json!(text.to_string());
    object["metadata"]["labels"][MANAGED_BY_LABEL] = json!(MANAGER);
    object
}

#[tokio::test]
async fn a_put_that_happened_although_its_answer_was_an_error_is_a_commit() {
    let mut harness = Harness::new();
    let acknowledged = harness.commit().await;
    harness.accept_segment().await;
    let (method, head) = harness.answer(|_| server_error()).await;
    assert_eq!(method, Method::PUT);
    let (method, _) = harness.answer(|_| (StatusCode::OK, stored_head(&head, "12", |_| {}))).await;
    assert_eq!(method, Method::GET);
    acknowledged.await.expect("an acknowledgement");
    assert_eq!(harness.report.borrow().ledger.as_ref().unwrap().size, 1);
}

#[tokio::test]
async fn a_conflict_with_our_own_bytes_is_a_commit_and_the_next_put_carries_the_version_found() {
    let mut harness = Harness::new();
    let acknowledged = harness.commit().await;
    harness.accept_segment().await;
    let (_, head) = harness.answer(|_| conflict()).await;
    harness.answer(|_| (StatusCode::OK, stored_head(&head, "77", |_| {}))).await;
    acknowledged.await.expect("an acknowledgement");
    drop(harness.commits);
    assert!(matches!(harness.committer.await.unwrap(), Exit::Finished));
}

#[tokio::test]
async fn a_conflict_with_the_head_that_we_replace_is_retried_at_once_with_the_same_bytes() {
    let mut harness = Harness::new();
    let acknowledged = harness.commit().await;
    harness.accept_segment().await;
    let (_, head) = harness.answer(|_| conflict()).await;
    // Someone has set a label: the head itself is the one before this commit.
    let before = serde_json::to_value(Head::empty("u", 1, 3, "alpha")).unwrap();
    harness.answer(|_| (StatusCode::OK, stored_head(&head, "21", |text| *text = before))).await;
    let (method, again) = harness.answer(|body| (StatusCode::OK, stored(body, "22"))).await;
    assert_eq!((method, &again["data"]), (Method::PUT, &head["data"]));
    assert_eq!(again["metadata"]["resourceVersion"], "21");
    acknowledged.await.expect("an acknowledgement");
}

#[tokio::test]
async fn foreign_bytes_of_the_same_epoch_are_replaced_after_a_wait_and_nothing_is_acknowledged_before() {
    let mut harness = Harness::new();
    let mut acknowledged = harness.commit().await;
    harness.accept_segment().await;
    let (_, head) = harness.answer(|_| conflict()).await;
    let foreign = |text: &mut Value| text["injectedTotal"] = json!(5);
    harness.answer(|_| (StatusCode::OK, stored_head(&head, "31", foreign))).await;
    assert!(acknowledged.try_recv().is_err());
    let (method, again) = harness.answer(|body| (StatusCode::OK, stored(body, "32"))).await;
    assert_eq!((method, &again["data"]), (Method::PUT, &head["data"]));
    acknowledged.await.expect("an acknowledgement");
}

#[tokio::test]
async fn a_higher_epoch_fences_and_nothing_more_is_written() {
    let mut harness = Harness::new();
    let acknowledged = harness.commit().await;
    harness.accept_segment().await;
    let (_, head) = harness.answer(|_| conflict()).await;
    let theirs = |text: &mut Value| {
        text["epoch"] = json!(4);
        text["holder"] = json!("beta");
    };
    harness.answer(|_| (StatusCode::OK, stored_head(&head, "41", theirs))).await;
    assert!(acknowledged.await.is_err(), "the batch is not committed");
    match harness.committer.await.unwrap() {
        Exit::Fenced(Fenced { ours, theirs, holder, .. }) => {
            assert_eq!((ours, theirs, &*holder), (3, 4, "beta"));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_unreadable_head_is_reported_until_it_can_be_written() {
    let mut harness = Harness::new();
    let acknowledged = harness.commit().await;
    harness.accept_segment().await;
    let (_, head) = harness.answer(|_| conflict()).await;
    let absurd = |text: &mut Value| text["epoch"] = json!(u64::MAX);
    harness.answer(|_| (StatusCode::OK, stored_head(&head, "51", absurd))).await;
    harness.report.wait_for(|report| report.ledger_fault.is_some()).await.unwrap();
    assert!(
        matches!(harness.shown(), Some(FaultCause::HeadUnreadable(text)) if text.contains("venom-ledger") && text.contains("repair organism/venom -n a"))
    );
    harness.answer(|_| conflict()).await;
    let before = serde_json::to_value(Head::empty("u", 1, 3, "alpha")).unwrap();
    harness.answer(|_| (StatusCode::OK, stored_head(&head, "52", |text| *text = before))).await;
    harness.answer(|body| (StatusCode::OK, stored(body, "53"))).await;
    acknowledged.await.expect("an acknowledgement");
    assert_eq!(harness.report.borrow().ledger_fault, None);
}

#[tokio::test]
async fn a_deleted_head_is_created_again() {
    let mut harness = Harness::new();
    let acknowledged = harness.commit().await;
    harness.accept_segment().await;
    let (_, head) = harness.answer(|_| not_found()).await;
    harness.answer(|_| not_found()).await;
    // Its own segments, and what is not named like one.
    harness.answer(|_| objects(&["venom-ledger-3-0-1", "venom-ledger-g9"])).await;
    let (method, created) = harness.answer(|body| (StatusCode::CREATED, stored(body, "61"))).await;
    assert_eq!((method, &created["data"]), (Method::POST, &head["data"]));
    acknowledged.await.expect("an acknowledgement");
}

#[tokio::test]
async fn a_deleted_head_is_not_created_again_over_the_segments_of_a_later_writer() {
    let mut harness = Harness::new();
    let _acknowledged = harness.commit().await;
    harness.accept_segment().await;
    harness.answer(|_| not_found()).await;
    harness.answer(|_| not_found()).await;
    harness.answer(|_| objects(&["venom-ledger-3-0-1", "venom-ledger-4-0-7"])).await;
    let Exit::Fenced(fenced) = harness.committer.await.unwrap() else { panic!("not fenced") };
    assert_eq!((fenced.ours, fenced.theirs), (3, 4));
}

/// Where this writer has committed nothing, an earlier one cannot see that it took over.
#[tokio::test]
async fn what_an_earlier_writer_has_committed_in_a_head_made_again_is_not_replaced() {
    let mut harness = Harness::new();
    let _acknowledged = harness.commit().await;
    harness.accept_segment().await;
    let (_, head) = harness.answer(|_| conflict()).await;
    let of_earlier = |text: &mut Value| {
        text["epoch"] = json!(2);
        text["segments"][0][2] = json!(2);
    };
    harness.answer(|_| (StatusCode::OK, stored_head(&head, "52", of_earlier))).await;
    let Exit::Failed(why) = harness.committer.await.unwrap() else { panic!("it went on") };
    assert!(why.contains("committed more"), "{why}");
}

/// Whoever waits for the mark would wait for another write.
#[tokio::test]
async fn the_head_is_marked_with_the_last_entries_and_written_no_more() {
    let mut harness = Harness::new();
    harness.events.send(LedgerEvent::Release).unwrap();
    let acknowledged = harness.commit_batch(Batch { last: true, ..batch() }).await;
    harness.accept_segment().await;
    let (method, head) = harness.answer(|head| (StatusCode::OK, stored(head, "11"))).await;
    assert_eq!(method, Method::PUT);
    let head: Value = serde_json::from_str(head["data"]["head"].as_str().unwrap()).unwrap();
    assert_eq!((&head["released"], &head["epoch"], &head["size"]), (&json!(true), &json!(4), &json!(1)));
    acknowledged.await.expect("an acknowledgement");
    drop(harness.commits);
    // A further write would not be answered.
    assert!(matches!(harness.committer.await.unwrap(), Exit::Finished));
}

/// Objects written after an orphaning deletion must not name the Organism that is gone: they would be collected.
#[tokio::test]
async fn the_last_entries_have_the_owner_that_was_asked_for_last() {
    let mut harness = Harness::new();
    for event in [LedgerEvent::OnDelete(OnDelete::Delete), LedgerEvent::Release] {
        harness.events.send(event).unwrap();
    }
    let _acknowledged = harness.commit_batch(Batch { last: true, ..batch() }).await;
    let (_, segment) = harness.answer(|body| (StatusCode::CREATED, stored(body, "1"))).await;
    let (_, head) = harness.answer(|head| (StatusCode::OK, stored(head, "11"))).await;
    for object in [segment, head] {
        assert_eq!(object["metadata"]["ownerReferences"][0]["uid"], "u", "{object}");
    }
}

#[tokio::test]
async fn a_head_with_nothing_to_commit_is_marked_at_the_end() {
    let mut harness = Harness::new();
    harness.events.send(LedgerEvent::Retain).unwrap();
    drop(harness.commits);
    let (method, head) = harness.api_server.answer(|head| (StatusCode::OK, stored(head, "11"))).await;
    assert_eq!(method, Method::PUT);
    let head: Value = serde_json::from_str(head["data"]["head"].as_str().unwrap()).unwrap();
    assert_eq!((&head["retained"], &head["epoch"]), (&json!(true), &json!(4)));
    assert!(matches!(harness.committer.await.unwrap(), Exit::Finished));
}

/// A list of objects with these names, metadata only.
fn objects(names: &[&str]) -> Answer {
    let object = |name: &&str| {
        let labels = json!({(ORGANISM_LABEL): "venom"});
        json!({"metadata": {"name": name, "uid": format!("uid of {name}"), "labels": labels}})
    };
    mock::metadata_list(&names.iter().map(object).collect::<Vec<_>>())
}

#[tokio::test]
async fn an_object_of_someone_else_in_the_heads_place_is_reported_and_never_replaced() {
    let mut harness = Harness::new();
    let _acknowledged = harness.commit().await;
    harness.accept_segment().await;
    let (_, head) = harness.answer(|_| conflict()).await;
    let mut theirs = stored(&head, "71");
    theirs["metadata"]["labels"] = json!({});
    theirs["data"] = json!({"theirs": "1"});
    harness.answer(|_| (StatusCode::OK, theirs)).await;
    harness.report.wait_for(|report| report.ledger_fault.is_some()).await.unwrap();
    assert_eq!(harness.shown(), Some(FaultCause::NameTaken("venom-ledger".into())));
    let (method, again) = harness.answer(|_| conflict()).await;
    assert_eq!((method, &again["metadata"]["resourceVersion"]), (Method::PUT, &json!("10")));
}

fn exceeded_quota() -> Answer {
    let message =
        "configmaps \"venom-ledger-3-0-1\" is forbidden: exceeded quota: few, requested: count/configmaps=1";
    (
        StatusCode::FORBIDDEN,
        json!({"kind": "Status", "status": "Failure", "code": 403, "reason": "Forbidden", "message": message}),
    )
}

#[tokio::test(start_paused = true)]
async fn a_refused_commit_is_shown_after_five_seconds_with_the_clusters_words_and_goes_by_itself() {
    let mut harness = Harness::new();
    let acknowledged = harness.commit().await;
    let began = tokio::time::Instant::now();
    loop {
        let (method, body) = harness.answer(|_| exceeded_quota()).await;
        assert_eq!(method, Method::POST, "the same segment again");
        assert_eq!(body["metadata"]["name"], "venom-ledger-3-0-1");
        // Whether this process is still the writer.
        harness.answer(|_| not_found()).await;
        let lasted = began.elapsed();
        match harness.shown() {
            None => assert!(lasted < std::time::Duration::from_secs(6), "not shown after {lasted:?}"),
            Some(FaultCause::Refused(error, advice)) => {
                assert!(lasted >= std::time::Duration::from_secs(5), "shown after {lasted:?}");
                assert_eq!(
                    error,
                    "create ConfigMap a/venom-ledger-3-0-1: configmaps \"venom-ledger-3-0-1\" is forbidden: exceeded quota: few, requested: count/configmaps=1"
                );
                assert!(advice.contains("ResourceQuota"), "{advice}");
                break;
            }
            Some(other) => panic!("{other:?}"),
        }
    }
    assert!(harness.metrics.text().contains("venom_organisms_commit_failing 1"));
    harness.accept_segment().await;
    harness.answer(|body| (StatusCode::OK, stored(body, "12"))).await;
    acknowledged.await.expect("an acknowledgement");
    assert_eq!(harness.shown(), None);
    assert!(harness.metrics.text().contains("venom_organisms_commit_failing 0"));
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_is_not_answered_is_shown_after_five_seconds() {
    let mut harness = Harness::new();
    let _acknowledged = harness.commit().await;
    harness.report.wait_for(|report| report.ledger_fault.is_some()).await.unwrap();
    assert_eq!(harness.shown(), Some(FaultCause::Unanswered));
    harness.committer.abort();
    harness
        .report
        .wait_for(|report| report.ledger_fault.is_none())
        .await
        .expect("it goes with the committer");
}

/// All turns for urgent commits but `left`.
async fn turns(harness: &Harness, left: usize) -> Vec<Turn> {
    let mut taken = vec![];
    for _ in left..32 {
        taken.push(harness.turns.next(true).await);
    }
    taken
}

/// A thousand organisms that stop together commit one after the other: those that wait do not fail.
#[tokio::test(start_paused = true)]
async fn waiting_for_a_turn_is_shown_only_where_nobody_commits() {
    let mut harness = Harness::new();
    let taken = turns(&harness, 0).await;
    let acknowledged = harness.commit().await;
    for _ in 0..20 {
        harness.turns.committed();
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        assert_eq!(harness.shown(), None);
    }
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    assert_eq!(harness.shown(), Some(FaultCause::Unanswered));
    drop(taken);
    harness.accept_segment().await;
    harness.answer(|body| (StatusCode::OK, stored(body, "12"))).await;
    acknowledged.await.expect("an acknowledgement");
    assert_eq!(harness.shown(), None);
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_does_not_come_is_shown_although_others_commit() {
    let harness = Harness::new();
    let _taken = turns(&harness, 0).await;
    let _acknowledged = harness.commit().await;
    let began = tokio::time::Instant::now();
    while harness.shown().is_none() {
        harness.turns.committed();
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
    assert!((29..33).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    harness.committer.abort();
}

#[tokio::test(start_paused = true)]
async fn the_time_that_a_turn_was_waited_for_is_none_that_an_answer_was() {
    let harness = Harness::new();
    let taken = turns(&harness, 0).await;
    let _acknowledged = harness.commit().await;
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    drop(taken);
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    assert_eq!(harness.shown(), None);
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert_eq!(harness.shown(), Some(FaultCause::Unanswered));
    harness.committer.abort();
}

#[tokio::test(start_paused = true)]
async fn the_head_is_written_in_the_turn_of_its_segment() {
    let mut harness = Harness::new();
    let _taken = turns(&harness, 1).await;
    let acknowledged = harness.commit().await;
    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    let other = tokio::spawn({
        let turns = harness.turns.clone();
        async move { turns.next(true).await }
    });
    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    harness.accept_segment().await;
    harness.answer(|body| (StatusCode::OK, stored(body, "12"))).await;
    acknowledged.await.expect("an acknowledgement");
    assert!(other.await.expect("its turn afterwards").is_some());
}

#[tokio::test(start_paused = true)]
async fn a_terminating_namespace_ends_the_run_at_once() {
    let mut harness = Harness::new();
    let _acknowledged = harness.commit().await;
    let terminating = json!({
        "kind": "Status", "status": "Failure", "code": 403, "reason": "Forbidden",
        "message": "unable to create new content in namespace a because it is being terminated",
        "details": {"causes": [{"reason": "NamespaceTerminating", "message": "namespace a is being terminated", "field": "metadata.namespace"}]},
    });
    harness.answer(|_| (StatusCode::FORBIDDEN, terminating)).await;
    assert!(matches!(harness.committer.await.unwrap(), Exit::NamespaceTerminating));
}
