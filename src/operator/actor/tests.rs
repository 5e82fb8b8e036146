use axum::http::{Method, StatusCode};
use kube::runtime::events::Recorder;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::*;
use crate::operator::beater::Beater;
use crate::operator::budget::Budget;
use crate::operator::metrics::Metrics;
use crate::operator::mock::{self, ApiServer};
use crate::operator::recovery::first_lists::FirstLists;
use crate::organism::cores::Cores;
use crate::organism::{Config, Genome};

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
    let mut config = Config::default();
    config.pulse.min_period = Some(60.0);
    Desired {
        genome: Genome::default(),
        config,
        beats: None,
        pause: None,
        commit_interval: Duration::from_secs(1),
        retain: 4 << 20,
        generation: 1,
        genome_generation: 1,
        injectable: crate::mesh::Injectable::default(),
    }
}

/// What actors share, and the API servers that get its ledger's and its status's requests.
fn resources() -> (Arc<Resources>, ApiServer, ApiServer) {
    let ((ledger_client, ledger), (client, status)) = (ApiServer::start(), ApiServer::start());
    let metrics = Arc::new(Metrics::new().unwrap());
    let budget = Arc::new(Budget::new(50.0, 1 << 20, 1 << 28));
    let (_, stopping) = watch::channel(false);
    let first_lists = FirstLists::new(0);
    let resources = Resources {
        ledger_client,
        identity: "alpha".into(),
        beater: Arc::new(Beater::start(Cores::default(), budget.clone(), metrics.clone()).unwrap()),
        committers: Arc::new(committer::Resources::new(budget.clone(), metrics.clone(), stopping)),
        publishers: Arc::new(publisher::Resources {
            recorder: Recorder::new(client.clone(), "venom".into()),
            client,
            budget,
            metrics: metrics.clone(),
            writes: Semaphore::new(1),
        }),
        bodies: None,
        first_lists: Arc::new(first_lists),
        recoveries: Semaphore::new(1),
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
    let actor = tokio::spawn(Actor::new(organism(), resources).run(receiver));
    mailbox.send(Message::Organism(organism()));
    mailbox.send(Message::Desired(Box::new(desired()), "venom".into()));

    let (method, _) = ledger.answer(|_| mock::not_found()).await;
    assert_eq!(method, Method::GET, "the recovery reads the head");
    let deleted = ObjectEvent::Deleted { name: "venom-ledger".into(), uid: "head".into() };
    mailbox.send(Message::LedgerObjects(deleted));
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
