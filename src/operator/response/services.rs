//! How a quarantine changes the Services of others, and how that is undone. Pure.
//!
//! A Service is detached by one more label in its selector, which no pod carries. What its selector was like stands in
//! an annotation of the Service, written and removed in the same call as the label.

use std::collections::BTreeMap;

use kube::ResourceExt;
use kube::core::DynamicObject;
use serde_json::{Value, json};

use crate::api::labels::ORGANISM_LABEL;
use crate::operator::measures::QUARANTINE_LABEL;

/// Annotation of an object of somebody else that a response has changed: what it was like.
pub const RESTORE_ANNOTATION: &str = "genesis.venom.dev/restore";

/// Labels of a pod, or of a selector.
pub type Labels = BTreeMap<String, String>;

/// The labels by which a Service selects pods, without that of a quarantine; none for one without a selector.
#[must_use]
pub fn selector(service: &DynamicObject) -> Option<Labels> {
    let selector = service.data["spec"]["selector"].as_object()?;
    let labels: Labels = selector
        .iter()
        .filter(|(name, _)| *name != QUARANTINE_LABEL)
        .map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()))
        .collect();
    (!labels.is_empty()).then_some(labels)
}

/// Whether `selector` selects a pod with these labels.
#[must_use]
pub fn selects(selector: &Labels, labels: &Labels) -> bool {
    selector.iter().all(|(name, value)| labels.get(name) == Some(value))
}

/// Whether the operator has made the Service for an Organism. Those stay as they are.
#[must_use]
pub fn is_ours(service: &DynamicObject) -> bool {
    service.labels().contains_key(ORGANISM_LABEL)
        && service.owner_references().iter().any(|it| it.kind == "Organism" && it.controller == Some(true))
}

/// Whether no pod is selected because of a quarantine.
#[must_use]
pub fn is_detached(service: &DynamicObject) -> bool {
    !service.data["spec"]["selector"][QUARANTINE_LABEL].is_null()
}

/// UID of the Organism that has changed an object of somebody else; none if none has.
#[must_use]
pub fn changed_by(object: &DynamicObject) -> Option<String> {
    let restore: Value = serde_json::from_str(object.annotations().get(RESTORE_ANNOTATION)?).ok()?;
    restore["organism"].as_str().map(str::to_owned)
}

/// The Service such that it selects no pod, by the Organism `uid`.
#[must_use]
pub fn detach(service: &DynamicObject, uid: &str) -> DynamicObject {
    let mut detached = service.clone();
    // Where somebody has put the selector back, it may be another one by now.
    let selector = selector(service).unwrap_or_default();
    let restore = json!({"organism": uid, "selector": selector});
    detached.annotations_mut().insert(RESTORE_ANNOTATION.into(), restore.to_string());
    detached.data["spec"]["selector"][QUARANTINE_LABEL] = "isolated".into();
    detached
}

/// The Service as it was. What others have changed meanwhile stays.
#[must_use]
pub fn restore(service: &DynamicObject) -> DynamicObject {
    let mut restored = service.clone();
    restored.annotations_mut().remove(RESTORE_ANNOTATION);
    if restored.annotations().is_empty() {
        restored.metadata.annotations = None;
    }
    if let Some(selector) = restored.data["spec"]["selector"].as_object_mut() {
        selector.remove(QUARANTINE_LABEL);
    }
    restored
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(annotations: Value, selector: Value) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "shop", "namespace": "a", "annotations": annotations},
            "spec": {"selector": selector, "ports": [{"port": 80, "somethingNew": 1}]},
        }))
        .unwrap()
    }

    #[test]
    fn a_detached_service_is_restored_exactly() {
        let selector = json!({"app": "shop"});
        for annotations in [json!(null), json!({"team": "a"})] {
            let before = service(annotations, selector.clone());
            let detached = detach(&before, "uid");
            assert!(is_detached(&detached) && !is_detached(&before));
            assert_eq!(changed_by(&detached).as_deref(), Some("uid"));
            assert_eq!(self::selector(&detached), self::selector(&before));
            assert_eq!(
                serde_json::to_value(restore(&detached)).unwrap(),
                serde_json::to_value(&before).unwrap()
            );
        }
    }

    #[test]
    fn what_others_change_while_it_is_detached_stays() {
        let mut detached = detach(&service(json!(null), json!({"app": "shop"})), "uid");
        detached.data["spec"]["selector"]["tier"] = "web".into();
        detached.data["spec"]["ports"] = json!([{"port": 81}]);
        let restored = restore(&detached);
        assert_eq!(restored.data["spec"]["selector"], json!({"app": "shop", "tier": "web"}));
        assert_eq!(restored.data["spec"]["ports"], json!([{"port": 81}]));
        // Detached again, it is that which comes back.
        assert_eq!(restore(&detach(&restored, "uid")).data, restored.data);
    }

    #[test]
    fn a_service_selects_pods_with_all_of_its_labels() {
        let labels = |pairs: &[(&str, &str)]| -> Labels {
            pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
        };
        let selector = self::selector(&service(json!(null), json!({"app": "shop"}))).unwrap();
        assert!(selects(&selector, &labels(&[("app", "shop"), ("tier", "web")])));
        assert!(!selects(&selector, &labels(&[("app", "other")])));
        assert!(!selects(&selector, &labels(&[])));
        assert_eq!(
            self::selector(&service(json!(null), json!(null))),
            None,
            "without one it selects nothing"
        );
    }
}
