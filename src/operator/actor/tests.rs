use axum::http::{Method, StatusCode};
use kube::runtime::events::Recorder;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::mailbox::End;
use super::*;
use crate::operator::beater::Beater;
use crate::operator::budget::{Budget, Limits};
use crate::operator::committer;
use crate::operator::members::Members;
use crate::operator::metrics::Metrics;
use crate::operator::mock::{self, ApiServer};
use crate::operator::ownership::Ownership;
use crate::operator::publisher::genomes::Genomes;
use crate::operator::recovery::RecoveryError;
use crate::operator::recovery::lists::SharedLists;
use crate::organism::cores::Cores;

fn organism() -> Arc<api::Organism> {
    let object = json!({
        "apiVersion": "genesis.venom.dev/v1alpha1", "kind": "Organism",
        "metadata": {"name": "venom", "namespace": "a", "uid": "u", "resourceVersion": "1", "generation": 1},
        "spec": {},
    });
    Arc::new(serde_json::from_value(object).unwrap())
}

/// One beat, then none for a minute.
fn desired() -> Desired {
    let mut desired = Desired::for_tests();
    desired.config.pulse.min_period = Some(60.0);
    desired
}

/// What actors share, and the API servers that get its ledger's and its status's requests.
fn resources() -> (Arc<Resources>, ApiServer, ApiServer) {
    let ((ledger_client, ledger), (client, status)) = (ApiServer::start(), ApiServer::start());
    let metrics = Arc::new(Metrics::new().unwrap());
    let budget = Arc::new(Budget::new(&Limits::for_tests()));
    let (_, stopping) = watch::channel(false);
    let codec = Arc::new(crate::operator::codec::Codec::default());
    let resources = Resources {
        lists: SharedLists::new(ledger_client.clone()),
        ledger_client,
        ownership: Arc::new(Ownership::new(Members::alone("alpha"))),
        beater: Arc::new(Beater::start(Cores::default(), budget.clone(), metrics.clone()).unwrap()),
        committers: Arc::new(committer::Resources::new(
            budget.clone(),
            metrics.clone(),
            stopping,
            codec.clone(),
        )),
        publishers: Arc::new(publisher::Resources {
            recorder: Recorder::new(client.clone(), "venom".into()),
            client,
            metrics: metrics.clone(),
            writes: Semaphore::new(1),
            genomes: Genomes::default(),
            failing: watch::channel(Default::default()).1,
        }),
        bodies: None,
        codec,
        recoveries: Semaphore::new(1),
        hand_overs: Semaphore::new(1),
        metrics,
    };
    (Arc::new(resources), ledger, status)
}

/// The watch may report a deleted head after the recovery has read it and before the committer runs. The committer
/// still learns of it, and creates or replaces the head once more.
#[tokio::test]
async fn an_event_during_the_recovery_reaches_the_committer() {
    let (resources, mut ledger, _status) = resources();
    let (mailbox, receiver) = mailbox::Mailbox::new("u");
    let mut actor = Actor::new(organism(), resources);
    let actor = tokio::spawn(async move { actor.run(receiver).await });
    mailbox.send(Message::Organism(organism()));
    mailbox.send(Message::Desired(Box::new(desired()), "venom".into()));

    let (method, _) = ledger.answer(|_| mock::not_found()).await;
    assert_eq!(method, Method::GET, "the recovery reads the head");
    let deleted = LedgerEvent::Deleted { name: "venom-ledger".into(), uid: "head".into() };
    mailbox.send(Message::LedgerObjects(deleted));
    ledger.answer(|_| mock::metadata_list(&[])).await;
    let mut heads: Vec<Value> = vec![];
    // The recovery's own head, the first commits, and one head that repeats the one before it.
    for version in 2.. {
        let stored = |body: &Value| (StatusCode::OK, mock::stored(body, "object", &version.to_string()));
        let (_, object) = ledger.answer(stored).await;
        let Some(head) = object["data"]["head"].as_str().filter(|_| object["binaryData"].is_null()) else {
            continue;
        };
        let head: Value = serde_json::from_str(head).unwrap();
        if heads.last() == Some(&head) {
            break;
        }
        heads.push(head);
    }
    assert_eq!(heads[0]["epoch"], 1);
    actor.abort();
}

/// Each status write brings the desired state again. What the last recovery found must outlast that, or Ready would
/// change with every write.
#[tokio::test]
async fn what_a_recovery_found_outlasts_a_reconcile_and_ends_with_the_next_recovery() {
    let (resources, _ledger, _status) = resources();
    let mut actor = Actor::new(organism(), resources);
    let reason = |actor: &Actor| actor.report.borrow().not_ready.as_ref().map(|it| it.reason);
    let desired = || Message::Desired(Box::new(desired()), "venom".into());
    actor.handle(desired());
    assert!(actor.recovered(Err(RecoveryError::NameTaken("venom-ledger".into()))).is_continue());
    actor.handle(desired());
    assert_eq!(reason(&actor), Some(NotReadyReason::NameTaken));
    let gone = NotReady { reason: NotReadyReason::GenomeNotFound, message: "gone".into(), generation: 1 };
    actor.handle(Message::NotReady(gone));
    assert_eq!(reason(&actor), Some(NotReadyReason::GenomeNotFound), "the reconciler's goes first");
    actor.handle(desired());
    assert_eq!(reason(&actor), Some(NotReadyReason::NameTaken));
    actor.unrecovered = None;
    actor.handle(desired());
    assert_eq!(reason(&actor), None);
}

/// Nothing can be created in a namespace that is being deleted, so the recovery is not tried again and again.
#[tokio::test]
async fn an_organism_in_a_terminating_namespace_stops_for_good() {
    let (resources, mut ledger, mut status) = resources();
    let (mailbox, receiver) = mailbox::Mailbox::new("u");
    let mut actor = Actor::new(organism(), resources);
    let actor = tokio::spawn(async move { actor.run(receiver).await });
    mailbox.send(Message::Organism(organism()));
    mailbox.send(Message::Desired(Box::new(desired()), "venom".into()));
    ledger.answer(|_| mock::not_found()).await;
    ledger.answer(|_| mock::metadata_list(&[])).await;
    let terminating = json!({
        "kind": "Status", "status": "Failure", "code": 403, "reason": "Forbidden", "message": "it is being terminated",
        "details": {"causes": [{"reason": "NamespaceTerminating"}]},
    });
    let (method, _) = ledger.answer(|_| (StatusCode::FORBIDDEN, terminating)).await;
    assert_eq!(method, Method::POST, "the recovery creates the head");
    loop {
        let stored = |body: &Value| {
            let mut object = serde_json::to_value(&*organism()).unwrap();
            object["status"] = body["status"].clone();
            (StatusCode::OK, object)
        };
        let (_, patch) = status.answer(stored).await;
        let conditions = patch["status"]["conditions"].as_array().cloned().unwrap_or_default();
        if conditions.iter().any(|it| it["type"] == "Ready" && it["reason"] == "Deleting") {
            break;
        }
    }
    mailbox.send(Message::Organism(organism()));
    mailbox.end(End::Stop).await;
    actor.await.unwrap();
}
