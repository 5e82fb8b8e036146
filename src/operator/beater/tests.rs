use super::*;
use crate::ledger::entry::Origin;
use crate::operator::budget::Limits;
use crate::operator::members::permit::Permit;
use crate::runtime::History;

fn beater() -> Beater {
    let budget = Arc::new(Budget::new(&Limits::for_tests()));
    Beater::start(Cores::default(), budget, Arc::new(Metrics::new().unwrap())).unwrap()
}

fn desired() -> Desired {
    Desired { commit_interval: Duration::from_millis(20), ..Desired::for_tests() }
}

fn params() -> StartParams {
    let origin = Origin { generation: 1, name: "venom".into(), namespace: "a".into(), uid: "u".into() };
    StartParams {
        enforcement: None,
        desired: desired(),
        epoch: 1,
        operator: "test".into(),
        history: History::Empty { origin: Some(origin), continues: None },
        batch_spacing: Duration::from_millis(1),
        min_period: Duration::ZERO,
        publishes: true,
    }
}

fn start(beater: &Beater) -> (EngineHandle, mpsc::Receiver<CommitRequest>) {
    let (commits, requests) = mpsc::channel(1);
    (
        beater.start_engine(
            Key::new("a", "venom"),
            params(),
            Account::new("a".into()),
            Tenure::new(Arc::new(Permit::unlimited())),
            Outputs { commits, outcomes: None, report: ReportSender::default() },
        ),
        requests,
    )
}

#[tokio::test]
async fn one_batch_is_in_flight_until_it_is_acknowledged() {
    let beater = beater();
    let (_engine, mut requests) = start(&beater);
    let first = requests.recv().await.unwrap();
    assert_eq!(first.batch.before.size(), 0);
    let second = tokio::time::timeout(Duration::from_millis(200), requests.recv()).await;
    assert!(second.is_err(), "the first batch is not acknowledged");
    let size = first.batch.after.size();
    (first.acknowledge)();
    assert_eq!(requests.recv().await.unwrap().batch.before.size(), size);
}

#[tokio::test]
async fn a_flush_returns_when_everything_is_acknowledged_and_the_engine_never_beats_again() {
    let beater = beater();
    let (engine, mut requests) = start(&beater);
    let mut size = 0;
    let flushed = {
        let mut flush = std::pin::pin!(engine.flush());
        loop {
            tokio::select! {
                () = &mut flush => break true,
                request = requests.recv() => {
                    let request = request.unwrap();
                    size = request.batch.after.size();
                    (request.acknowledge)();
                }
            }
        }
    };
    assert!(flushed);
    let mut changed = desired();
    changed.config.pulse.p = 3;
    engine.set_desired(changed);
    // The changed status is handed over; no entry is.
    if let Ok(Some(request)) = tokio::time::timeout(Duration::from_millis(300), requests.recv()).await {
        assert_eq!((request.batch.records.len(), request.batch.after.size()), (0, size));
    }
}

#[tokio::test]
async fn a_dropped_handle_removes_the_engine_and_late_commands_reach_no_other() {
    let beater = beater();
    let (engine, mut requests) = start(&beater);
    let request = requests.recv().await.unwrap();
    let inputs = engine.inputs();
    drop(engine);
    assert!(requests.recv().await.is_none(), "the channel closes with the engine");
    let (_next, mut next_requests) = start(&beater);
    let first = next_requests.recv().await.unwrap();
    // An acknowledgement of the removed engine's batch must not acknowledge this one.
    (request.acknowledge)();
    drop(inputs);
    let second = tokio::time::timeout(Duration::from_millis(200), next_requests.recv()).await;
    assert!(second.is_err());
    (first.acknowledge)();
    assert!(next_requests.recv().await.is_some());
}

#[test]
fn a_beater_whose_thread_has_panicked_is_not_healthy() {
    let beater = beater();
    assert!(beater.is_healthy());
    beater.panic();
    assert!(!beater.is_healthy());
}
