use serde_json::json;

use super::*;

const MODES: [ResponseMode; 2] = [ResponseMode::Enforce, ResponseMode::Observe];

fn organism(spec: serde_json::Value) -> Organism {
    serde_json::from_value(json!({
        "apiVersion": "genesis.venom.dev/v1alpha1", "kind": "Organism", "spec": spec,
        "metadata": {"name": "venom", "namespace": "a", "uid": "1"},
    }))
    .unwrap()
}

/// What is demanded after each (in force, decided, calm). Rows: in force; columns: decided.
#[test]
fn a_decision_replaces_what_is_in_force_and_a_quarantine_outlasts_it() {
    use Action::{Alert, ApplyBalance, ApplyOptimize, Noop, Quarantine};
    for before in [None, Some(Quarantine), Some(ApplyBalance), Some(ApplyOptimize)] {
        for calm in [false, true] {
            assert_eq!(demanded(Quarantine, calm, before), Some(Quarantine), "{before:?} {calm}");
            let held = before == Some(Quarantine) && !calm;
            for (decided, free) in [
                (Alert, None),
                (ApplyBalance, Some(ApplyBalance)),
                (ApplyOptimize, Some(ApplyOptimize)),
                (Noop, None),
            ] {
                let expected = if held { Some(Quarantine) } else { free };
                assert_eq!(demanded(decided, calm, before), expected, "{before:?} {decided} {calm}");
            }
        }
    }
}

#[test]
fn only_what_was_applied_and_neither_released_nor_refused_is_in_force() {
    let recorded = |change, refused: Option<&str>| LastEnforcement {
        action: Action::Quarantine,
        change,
        entry: 83,
        mode: "Enforce".into(),
        refused: refused.map(str::to_owned),
        utilization: None,
    };
    assert!(in_force(None).is_none());
    assert!(in_force(Some(&recorded(Change::Apply, None))).is_some());
    assert!(in_force(Some(&recorded(Change::Release, None))).is_none());
    for refused in ["LimitReached", "SelectorOverlap", "HandsOff"] {
        assert!(in_force(Some(&recorded(Change::Apply, Some(refused)))).is_none());
    }
    for it in MODES {
        let recorded = LastEnforcement { mode: it.as_str().into(), ..recorded(Change::Apply, None) };
        assert_eq!(mode(&recorded), it);
    }
}

/// Every (action before → action after), with and without an autoscaler, own body and adopted.
#[test]
fn every_change_says_what_it_does_and_its_reverse_undoes_it() {
    let own = organism(json!({}));
    let fixed = organism(json!({"autoscaling": {"enabled": false}}));
    let adopted = organism(json!({"workloadRef": {"kind": "Deployment", "name": "shop"}}));
    let actions = [None, Some(Action::Quarantine), Some(Action::ApplyBalance), Some(Action::ApplyOptimize)];
    let of = |action| measures(action, Some(55));
    for organism in [&own, &fixed, &adopted] {
        for before in actions {
            for after in actions {
                let there = changes(organism, &of(before), &of(after));
                let back = changes(organism, &of(after), &of(before));
                assert_eq!(there.len(), back.len(), "{before:?} {after:?}");
                assert!(before != after || there.is_empty(), "{there:?}");
                let scaler = there.iter().filter(|it| it.contains("Autoscaler")).count();
                assert!(organism.spec.autoscaling_enabled() || scaler == 0, "{there:?}");
            }
        }
    }
    let none = Measures::default();
    assert_eq!(
        changes(&own, &none, &of(Some(Action::Quarantine))),
        [
            "NetworkPolicy venom-quarantine selects the pods",
            "NetworkPolicy venom-body closes the metrics port",
            "HorizontalPodAutoscaler venom may neither add nor remove pods",
        ]
    );
    assert_eq!(
        changes(&own, &of(Some(Action::Quarantine)), &none),
        [
            "NetworkPolicy venom-quarantine selects no pod",
            "NetworkPolicy venom-body opens the metrics port",
            "HorizontalPodAutoscaler venom may add and remove pods",
        ]
    );
    assert_eq!(
        changes(&adopted, &none, &of(Some(Action::Quarantine))),
        ["NetworkPolicy venom-quarantine selects the pods"]
    );
    assert_eq!(
        changes(&own, &none, &of(Some(Action::ApplyBalance))),
        ["HorizontalPodAutoscaler venom may not remove pods"]
    );
    assert_eq!(
        changes(&own, &none, &of(Some(Action::ApplyOptimize))),
        ["HorizontalPodAutoscaler venom aims at 55 % CPU instead of 50 %"]
    );
    assert!(changes(&fixed, &none, &of(Some(Action::ApplyOptimize))).is_empty());
}

#[test]
fn a_target_is_raised_by_the_gain_and_at_most_to_90() {
    assert_eq!(raised(50, 0.1), 55);
    assert_eq!(raised(50, 0.042), 52);
    assert_eq!(raised(80, 0.5), 90);
    assert_eq!(raised(95, 0.1), 95, "a target above 90 stays");
    assert_eq!(raised(50, -0.3), 50);
    assert_eq!(raised(50, f64::NAN), 50);
}
