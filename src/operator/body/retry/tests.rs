use kube::core::Status;
use serde_json::json;

use super::*;
use crate::store::ApiFailure;

fn refused(causes: serde_json::Value) -> CallError {
    let status = json!({
        "status": "Failure", "code": 403, "reason": "Forbidden", "message": "exceeded quota",
        "details": {"causes": causes},
    });
    let status: Status = serde_json::from_value(status).unwrap();
    CallError::Api {
        verb: "create",
        object: "Service a/b".into(),
        source: Box::new(ApiFailure(kube::Error::Api(Box::new(status)))),
    }
}

fn no_answer() -> CallError {
    CallError::TimeOut { verb: "create", object: "Service a/b".into() }
}

#[test]
fn waits_grow_and_start_afresh_with_another_step() {
    let now = Instant::now();
    let mut failure = None;
    for wait in [5, 10, 20, 40, 80, 160, 300, 300] {
        let next = Failure::after(failure.take(), Some(1), Step::Create, &refused(json!([])), now);
        assert_eq!(next.wait(now), Duration::from_secs(wait));
        failure = Some(next);
    }
    let failure = failure.unwrap();
    assert!(failure.holds_back(Some(1), &Step::Create, now));
    assert!(!failure.holds_back(Some(2), &Step::Create, now), "the spec has changed");
    assert!(!failure.holds_back(Some(1), &Step::ConvertToApply, now), "the object has changed");
    assert!(!failure.holds_back(Some(1), &Step::Create, now + Duration::from_secs(300)));
    let other = Failure::after(Some(failure), Some(2), Step::Create, &refused(json!([])), now);
    assert_eq!(other.wait(now), FIRST_WAIT);
}

#[test]
fn an_answer_is_shown_at_once_and_silence_when_it_lasts() {
    let now = Instant::now();
    let first = |error: &CallError| Failure::after(None, Some(1), Step::Create, error, now);
    assert_eq!(first(&refused(json!([]))).words(), Some("exceeded quota"));
    let terminating =
        json!([{"reason": "NamespaceTerminating", "message": "namespace a is being terminated"}]);
    assert_eq!(first(&refused(terminating)).words(), None);
    let mut failure = first(&no_answer());
    for _ in 1..SHOWN_FROM {
        assert_eq!(failure.words(), None);
        failure = Failure::after(Some(failure), Some(1), Step::Create, &no_answer(), now);
    }
    assert_eq!(failure.words(), Some("create Service a/b: no answer within 10 s"));
}
