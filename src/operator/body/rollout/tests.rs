use serde_json::json;

use super::*;

fn rolling() -> Workload {
    Workload { wanted: 5, rolling: true, ..Workload::default() }
}

#[tokio::test]
async fn a_place_is_held_until_the_rollout_is_complete_stuck_or_too_long() {
    let now = Instant::now();
    let complete = Workload { rolling: false, ..rolling() };
    let stalled = Workload { stalled: true, ..rolling() };
    for (workload, at) in
        [(Some(complete), now), (Some(stalled), now), (None, now), (Some(rolling()), now + LONGEST)]
    {
        let places = Arc::new(Semaphore::new(1));
        let (mut first, mut second) = (RolloutPlace::new(places.clone()), RolloutPlace::new(places));
        assert!(first.try_take(now) && first.try_take(now), "it is held once");
        assert!(!second.try_take(now));
        assert_eq!(first.release_if_done(Some(&rolling()), now), Some(LONGEST));
        assert!(!second.try_take(now), "{workload:?}");
        assert_eq!(first.release_if_done(workload.as_ref(), at), None);
        second.take().await;
        assert!(second.try_take(now) && !first.try_take(now));
    }
}

#[test]
fn the_annotation_follows_the_template_and_nothing_else() {
    let annotated = |replicas: u32, image: &str| {
        let object = json!({
            "metadata": {"name": "venom"}, "spec": {"replicas": replicas, "template": {"image": image}},
        });
        let object = Some(serde_json::from_value(object).unwrap());
        let mut children = [ChildObject { kind: Kind::Deployment, name: "venom".into(), object }];
        annotate(&mut children);
        template(&children[0]).unwrap().clone()
    };
    assert_eq!(annotated(5, "a"), annotated(6, "a"));
    assert_ne!(annotated(5, "a"), annotated(5, "b"));
    let mut children =
        [ChildObject { kind: Kind::HorizontalPodAutoscaler, name: "venom".into(), object: None }];
    annotate(&mut children);
    assert_eq!(template(&children[0]), None);
}
