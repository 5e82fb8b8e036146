//! How a response limits an autoscaler that the user has handed over with an adopted workload, and how that is undone.
//! Pure.
//!
//! What the autoscaler was like stands in an annotation of it, written and removed in the same call as the change.

use kube::ResourceExt;
use kube::core::DynamicObject;
use serde_json::{Map, Value, json};

use super::plan;
use super::services::{RESTORE_ANNOTATION, changed_by};
use super::target::Target;
use crate::operator::measures::{Measures, ScalingLimit};
use crate::operator::publisher::adoption::ADOPTABLE_BY;

/// The parts of `spec.behavior`.
const DIRECTIONS: [&str; 2] = ["scaleUp", "scaleDown"];
const DISABLED: &str = "Disabled";

/// Whether this autoscaler scales the workload, and the response to the decisions of `organism` may limit it.
#[must_use]
pub fn is_handed_over(autoscaler: &DynamicObject, organism: &str, target: &Target) -> bool {
    let aims = &autoscaler.data["spec"]["scaleTargetRef"];
    let group = aims["apiVersion"].as_str().and_then(|it| it.split('/').next());
    autoscaler.annotations().get(ADOPTABLE_BY).is_some_and(|it| it == organism)
        && (group, aims["kind"].as_str()) == (Some("apps"), Some(target.kind.as_str()))
        && aims["name"] == *target.name
}

/// What API server 1.37 fills in where an autoscaler has no behaviour, or half of one.
fn default_behaviour() -> Value {
    json!({
        "scaleUp": {
            "stabilizationWindowSeconds": 0,
            "selectPolicy": "Max",
            "policies": [
                {"type": "Pods", "value": 4, "periodSeconds": 15},
                {"type": "Percent", "value": 100, "periodSeconds": 15},
            ],
        },
        "scaleDown": {
            "selectPolicy": "Max",
            "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}],
        },
    })
}

/// The autoscaler as `measures` ask for, by the Organism `uid`. Its target utilization is raised in the proportion in which
/// they raise `target`, that of the Organism.
#[must_use]
pub fn limited(autoscaler: &DynamicObject, measures: &Measures, target: u32, uid: &str) -> DynamicObject {
    let before = restored(autoscaler);
    let mut limited = before.clone();
    let (up, down) = measures.scaling.select_policies();
    let disabled: Vec<_> = DIRECTIONS.into_iter().zip([up, down]).filter(|it| it.1.is_some()).collect();
    let spec = &mut limited.data["spec"];
    if !disabled.is_empty() {
        if spec["behavior"].is_null() {
            spec["behavior"] = default_behaviour();
        }
        for (direction, _) in &disabled {
            spec["behavior"][direction]["selectPolicy"] = DISABLED.into();
        }
    }
    let mut raised = Map::new();
    if let Some(utilization) = measures.utilization {
        let gain = f64::from(utilization) / f64::from(target.max(1)) - 1.0;
        for (name, value) in utilizations(spec) {
            let was = value.as_u64().and_then(|it| u32::try_from(it).ok()).unwrap_or_default();
            let set = plan::raised(was, gain);
            *value = set.into();
            raised.insert(name, json!({"was": was, "set": set}));
        }
    }
    if limited.data == before.data {
        return before;
    }
    let disabled: Vec<_> = disabled.iter().map(|it| it.0).collect();
    let behaviour = before.data["spec"]["behavior"].clone();
    let restore =
        json!({"organism": uid, "behavior": behaviour, "disabled": disabled, "utilization": raised});
    limited.annotations_mut().insert(RESTORE_ANNOTATION.into(), restore.to_string());
    limited
}

/// The autoscaler as it was. What others have changed meanwhile stays.
#[must_use]
pub fn restored(autoscaler: &DynamicObject) -> DynamicObject {
    let mut restored = autoscaler.clone();
    let Some(restore) = restored.annotations_mut().remove(RESTORE_ANNOTATION) else {
        return autoscaler.clone();
    };
    if restored.annotations().is_empty() {
        restored.metadata.annotations = None;
    }
    let restore: Value = serde_json::from_str(&restore).unwrap_or_default();
    let was = &restore["behavior"];
    let spec = &mut restored.data["spec"];
    for direction in restore["disabled"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        let policy = &mut spec["behavior"][direction]["selectPolicy"];
        if *policy == DISABLED {
            let before = &was[direction]["selectPolicy"];
            *policy = if before.is_null() { "Max".into() } else { before.clone() };
        }
    }
    if was.is_null()
        && spec["behavior"] == default_behaviour()
        && let Some(spec) = spec.as_object_mut()
    {
        spec.remove("behavior");
    }
    for (name, value) in utilizations(spec) {
        let of = &restore["utilization"][&name];
        if *value == of["set"] && !of["was"].is_null() {
            *value = of["was"].clone();
        }
    }
    restored
}

/// The target CPU utilizations, with what identifies each.
fn utilizations(spec: &mut Value) -> impl Iterator<Item = (String, &mut Value)> {
    let metrics = spec["metrics"].as_array_mut().into_iter().flatten();
    metrics.filter_map(|metric| {
        let (field, container) = match metric["type"].as_str()? {
            "Resource" => ("resource", String::new()),
            "ContainerResource" => {
                let container = metric["containerResource"]["container"].as_str().unwrap_or_default();
                ("containerResource", container.to_owned())
            }
            _ => return None,
        };
        let source = metric.get_mut(field)?;
        if source["name"] != "cpu" {
            return None;
        }
        Some((format!("{field}/{container}"), source.get_mut("target")?.get_mut("averageUtilization")?))
    })
}

/// What was done to the autoscaler, as the ledger says it.
#[must_use]
pub fn what(autoscaler: &DynamicObject, measures: &Measures) -> String {
    let name = autoscaler.name_any();
    let mut parts = vec![];
    if measures.scaling != ScalingLimit::Free {
        parts.push(plan::scaling(measures.scaling).to_owned());
    }
    let restore = autoscaler.annotations().get(RESTORE_ANNOTATION);
    let restore: Value = restore.and_then(|it| serde_json::from_str(it).ok()).unwrap_or_default();
    for of in restore["utilization"].as_object().into_iter().flat_map(Map::values) {
        parts.push(format!("aims at {} % CPU instead of {} %", of["set"], of["was"]));
    }
    format!("HorizontalPodAutoscaler {name} {}", parts.join(" and "))
}

/// Whether the Organism `uid` has changed the autoscaler.
#[must_use]
pub fn is_limited_by(autoscaler: &DynamicObject, uid: &str) -> bool {
    changed_by(autoscaler).as_deref() == Some(uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn autoscaler(behaviour: &Value, annotations: &Value) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "shop", "namespace": "a", "annotations": annotations},
            "spec": {
                "maxReplicas": 9, "behavior": behaviour,
                "metrics": [
                    {"type": "Resource", "resource": {
                        "name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60},
                    }},
                    {"type": "Resource", "resource": {
                        "name": "memory", "target": {"type": "Utilization", "averageUtilization": 70},
                    }},
                    {"type": "ContainerResource", "containerResource": {
                        "name": "cpu", "container": "web",
                        "target": {"type": "Utilization", "averageUtilization": 80},
                    }},
                    {"type": "Resource", "resource": {
                        "name": "cpu", "target": {"type": "AverageValue", "averageValue": "1"},
                    }},
                ],
            },
        }))
        .unwrap()
    }

    fn bare(mut object: DynamicObject) -> DynamicObject {
        object.data["spec"].as_object_mut().unwrap().retain(|_, it| !it.is_null());
        object
    }

    fn all_measures() -> [Measures; 3] {
        [
            Measures { isolated: true, scaling: ScalingLimit::Frozen, utilization: None },
            Measures { scaling: ScalingLimit::NoScaleDown, ..Measures::default() },
            Measures { utilization: Some(55), ..Measures::default() },
        ]
    }

    /// Every change from one measure to another, and back to none, for autoscalers with and without a behaviour.
    #[test]
    fn a_limited_autoscaler_is_restored_exactly() {
        let mut own = default_behaviour();
        own["scaleDown"] = json!({"selectPolicy": "Min", "policies": [], "stabilizationWindowSeconds": 60});
        let mut up_disabled = default_behaviour();
        up_disabled["scaleUp"]["selectPolicy"] = DISABLED.into();
        for behaviour in [json!(null), own, up_disabled] {
            for annotations in [json!(null), json!({"team": "a"})] {
                let before = bare(autoscaler(&behaviour, &annotations));
                for first in all_measures() {
                    for second in all_measures() {
                        let once = limited(&before, &first, 50, "uid");
                        assert_eq!(limited(&once, &first, 50, "uid"), once, "the same again changes nothing");
                        assert!(is_limited_by(&once, "uid") && !is_limited_by(&once, "other"));
                        let twice = limited(&once, &second, 50, "uid");
                        assert_eq!(
                            twice,
                            limited(&before, &second, 50, "uid"),
                            "nothing of the first is left"
                        );
                        assert_eq!(restored(&twice), before);
                        assert_eq!(limited(&twice, &Measures::default(), 50, "uid"), before);
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_done_to_it_is_said() {
        let before = bare(autoscaler(&json!(null), &json!(null)));
        let [frozen, no_scale_down, denser] = all_measures();
        let policy = |it: &DynamicObject, direction: &str| {
            it.data["spec"]["behavior"][direction]["selectPolicy"].as_str().map(str::to_owned)
        };
        let now = limited(&before, &frozen, 50, "uid");
        assert_eq!(policy(&now, "scaleUp").as_deref(), Some("Disabled"));
        assert_eq!(policy(&now, "scaleDown").as_deref(), Some("Disabled"));
        assert_eq!(what(&now, &frozen), "HorizontalPodAutoscaler shop may neither add nor remove pods");
        let now = limited(&before, &no_scale_down, 50, "uid");
        assert_eq!(policy(&now, "scaleUp").as_deref(), Some("Max"));
        assert_eq!(policy(&now, "scaleDown").as_deref(), Some("Disabled"));
        let now = limited(&before, &denser, 50, "uid");
        assert_eq!(policy(&now, "scaleUp"), None);
        assert_eq!(
            what(&now, &denser),
            "HorizontalPodAutoscaler shop aims at 88 % CPU instead of 80 % and aims at 66 % CPU instead of 60 %"
        );
        assert_eq!(now.data["spec"]["metrics"][1], before.data["spec"]["metrics"][1], "memory stays");
        // There is nothing to raise where all is at the highest already.
        let mut high = before;
        high.data["spec"]["metrics"] = json!([]);
        assert_eq!(limited(&high, &denser, 50, "uid"), high);
    }

    #[test]
    fn what_others_change_while_it_is_limited_stays() {
        let before = bare(autoscaler(&json!(null), &json!(null)));
        let [frozen, _, denser] = all_measures();
        let mut now = limited(&before, &frozen, 50, "uid");
        now.data["spec"]["maxReplicas"] = 20.into();
        now.data["spec"]["behavior"]["scaleUp"]["stabilizationWindowSeconds"] = 30.into();
        let after = restored(&now);
        assert_eq!(after.data["spec"]["maxReplicas"], 20);
        assert_eq!(after.data["spec"]["behavior"]["scaleUp"]["stabilizationWindowSeconds"], 30);
        assert_eq!(after.data["spec"]["behavior"]["scaleDown"]["selectPolicy"], "Max");
        let mut now = limited(&before, &denser, 50, "uid");
        now.data["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"] = 40.into();
        assert_eq!(restored(&now).data["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 40);
        // An annotation that somebody has broken takes nothing along.
        now.annotations_mut().insert(RESTORE_ANNOTATION.into(), "{".into());
        assert_eq!(restored(&now).data, now.data);
    }
}
