//! What a workload tells of itself. Pure.

use kube::ResourceExt;
use kube::core::{DynamicObject, Resource};

use crate::api::{Organism, WorkloadRef};
use crate::operator::publisher::adoption::{ADOPTABLE_BY, Adopted};
use crate::operator::publisher::body::Workload;

/// Who may adopt a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Permission {
    /// This Organism.
    Ours,
    /// Nobody.
    Nobody,
    /// An Organism of another name.
    Other(String),
    /// It is what the operator itself has made for this Organism.
    BodyOf(String),
}

/// Whether the Organism named `organism` may adopt this workload.
#[must_use]
pub fn permission(workload: &DynamicObject, organism: &str) -> Permission {
    let kind = Organism::kind(&());
    let maker = workload.owner_references().iter().find(|it| it.controller == Some(true) && it.kind == kind);
    if let Some(maker) = maker {
        return Permission::BodyOf(maker.name.clone());
    }
    match workload.annotations().get(ADOPTABLE_BY) {
        Some(name) if name == organism => Permission::Ours,
        Some(name) => Permission::Other(name.clone()),
        None => Permission::Nobody,
    }
}

/// The workload; none if it is not of the form of its kind.
#[must_use]
pub fn parse(reference: &WorkloadRef, object: &DynamicObject) -> Option<Adopted> {
    let spec = &object.data["spec"];
    let number = |field: &str| object.data["status"][field].as_u64().unwrap_or_default();
    Some(Adopted {
        kind: reference.kind,
        name: reference.name.clone(),
        uid: object.uid()?,
        selector: serde_json::from_value(spec["selector"].clone()).ok()?,
        labels: serde_json::from_value(spec["template"]["metadata"]["labels"].clone()).unwrap_or_default(),
        ready: number("readyReplicas"),
        replicas: number("replicas"),
        workload: Workload::of(object.metadata.generation, &object.data)?,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::api::WorkloadKind;

    fn workload(kind: &str, metadata: Value, spec: Value, status: Value) -> DynamicObject {
        let mut object = json!({
            "apiVersion": "apps/v1", "kind": kind,
            "metadata": {"name": "shop", "namespace": "a", "uid": "1", "generation": 2},
            "spec": {
                "replicas": 3, "selector": {"matchLabels": {"app": "shop"}},
                "template": {"metadata": {"labels": {"app": "shop", "tier": "web"}}},
            },
            "status": {
                "observedGeneration": 2, "replicas": 3, "readyReplicas": 2, "updatedReplicas": 3,
            },
        });
        for (part, more) in [("metadata", metadata), ("spec", spec), ("status", status)] {
            object[part].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        }
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn only_the_named_organism_may_adopt_a_workload_that_is_nobodys_body() {
        let of = |metadata: Value| workload("Deployment", metadata, json!({}), json!({}));
        let by = |name: &str| of(json!({"annotations": {(ADOPTABLE_BY): name}}));
        assert_eq!(permission(&of(json!({})), "shop"), Permission::Nobody);
        assert_eq!(permission(&by("shop"), "shop"), Permission::Ours);
        assert_eq!(permission(&by("other"), "shop"), Permission::Other("other".into()));
        assert_eq!(permission(&by(""), "shop"), Permission::Other(String::new()));
        let mut body = by("shop");
        body.metadata.owner_references = serde_json::from_value(json!([{
            "apiVersion": "genesis.venom.dev/v1alpha1", "kind": "Organism", "name": "venom", "uid": "2",
            "controller": true,
        }]))
        .unwrap();
        assert_eq!(permission(&body, "shop"), Permission::BodyOf("venom".into()));
    }

    #[test]
    fn a_workload_tells_its_pods_and_whether_they_are_being_replaced() {
        let deployment = WorkloadRef { kind: WorkloadKind::Deployment, name: "shop".into() };
        let stateful = WorkloadRef { kind: WorkloadKind::StatefulSet, name: "shop".into() };
        let found = parse(&deployment, &workload("Deployment", json!({}), json!({}), json!({}))).unwrap();
        assert_eq!((found.ready, found.replicas, &*found.uid), (2, 3, "1"));
        assert_eq!((found.workload.wanted, found.workload.replaces), (3, Some(false)));
        assert_eq!(found.labels["tier"], "web");
        let replaces = |reference: &WorkloadRef, spec: Value, status: Value| {
            let object = workload(reference.kind.as_str(), json!({}), spec, status);
            parse(reference, &object).unwrap().workload.replaces
        };
        let half = json!({"updatedReplicas": 1});
        assert_eq!(replaces(&deployment, json!({}), half.clone()), Some(true));
        assert_eq!(replaces(&deployment, json!({"paused": true}), half.clone()), Some(false));
        assert_eq!(replaces(&stateful, json!({}), half.clone()), Some(true));
        let kept = json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}});
        assert_eq!(replaces(&stateful, kept, half.clone()), Some(false), "two stay as they are");
        let by_hand = json!({"updateStrategy": {"type": "OnDelete"}});
        assert_eq!(replaces(&stateful, by_hand, half), Some(false), "whoever deletes them replaces them");
        assert_eq!(replaces(&deployment, json!({}), json!({"observedGeneration": 1})), None);
        let odd = workload("Deployment", json!({}), json!({"selector": 1}), json!({}));
        assert_eq!(parse(&deployment, &odd), None);
    }
}
