//! What is kept of the metadata of a watched object: a tenant may put more than a megabyte into that of each.
//!
//! Only what somebody else may write is bounded. Our schema bounds the spec.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{FieldsV1, ManagedFieldsEntry, ObjectMeta};
use serde_json::json;

/// Labels and annotations of others are not read, but for these: who has made an object, and what was applied to it.
const READ: [&str; 4] = [
    "genesis.venom.dev/",
    "app.kubernetes.io/",
    "kubernetes.io/",
    "kubectl.kubernetes.io/last-applied-configuration",
];
/// Most labels, annotations, managers, owners and finalizers that are kept, each.
const MOST: usize = 32;
/// Largest value of an annotation, and largest set of fields of one manager, in bytes. Those of a spec of ours have fewer.
const LARGEST: usize = 16 << 10;

/// Drops what is not read, and what is too large to be kept.
pub fn trim(metadata: &mut ObjectMeta) {
    for map in [&mut metadata.labels, &mut metadata.annotations].into_iter().flatten() {
        let mut kept = 0;
        map.retain(|key, value| {
            let keep = READ.iter().any(|it| key.starts_with(it)) && value.len() <= LARGEST && kept < MOST;
            kept += usize::from(keep);
            keep
        });
    }
    if let Some(managers) = &mut metadata.managed_fields {
        managers.retain(|it| fields_bytes(it) <= LARGEST);
        managers.truncate(MOST);
        managers.shrink_to_fit();
    }
    if let Some(owners) = &mut metadata.owner_references {
        owners.truncate(MOST);
        owners.shrink_to_fit();
    }
    if let Some(finalizers) = &mut metadata.finalizers {
        finalizers.truncate(MOST);
        finalizers.shrink_to_fit();
    }
}

/// Keeps of the managers of an Organism or a Genome those that have set spec.nodes.replicas, and of what each has set
/// only that. All of it takes several times as much memory as the object itself.
pub fn trim_managers(metadata: &mut ObjectMeta) {
    let Some(managers) = &mut metadata.managed_fields else { return };
    managers.retain_mut(|entry| {
        let fields = entry.fields_v1.take();
        let sets = fields.is_some_and(|it| !it.0["f:spec"]["f:nodes"]["f:replicas"].is_null());
        // Not the nested maps of the original: each takes half a kilobyte.
        entry.fields_v1 = sets.then(|| FieldsV1(json!("f:replicas")));
        sets
    });
    managers.shrink_to_fit();
}

/// Size of a manager's set of fields as JSON.
fn fields_bytes(entry: &ManagedFieldsEntry) -> usize {
    entry.fields_v1.as_ref().and_then(|it| serde_json::to_string(&it.0).ok()).map_or(0, |it| it.len())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn of_the_managers_of_an_organism_it_is_kept_who_scales() {
        let more =
            json!({"f:spec": {".": {}, "f:nodes": {"f:replicas": {}, "f:image": {}}}, "f:metadata": {}});
        let entry = |manager: &str, fields: &Value| json!({"manager": manager, "fieldsV1": fields});
        let managers = [
            entry("a", &more),
            entry("b", &json!({"f:status": {"f:conditions": {}}})),
            json!({"manager": "c", "subresource": "scale"}),
        ];
        let mut metadata: ObjectMeta = serde_json::from_value(json!({"managedFields": managers})).unwrap();
        trim_managers(&mut metadata);
        let kept = [entry("a", &json!("f:replicas"))];
        assert_eq!(serde_json::to_value(metadata).unwrap(), json!({"managedFields": kept}));
    }

    fn trimmed(metadata: Value) -> Value {
        let mut metadata: ObjectMeta = serde_json::from_value(metadata).unwrap();
        trim(&mut metadata);
        serde_json::to_value(metadata).unwrap()
    }

    #[test]
    fn ordinary_metadata_is_kept() {
        let ordinary = json!({
            "name": "venom",
            "labels": {"genesis.venom.dev/organism": "venom", "app.kubernetes.io/managed-by": "venom"},
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"},
            "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {"f:beats": {}}}}],
            "ownerReferences": [{"apiVersion": "v1", "kind": "Organism", "name": "a", "uid": "u"}],
            "finalizers": ["a/b"],
        });
        assert_eq!(trimmed(ordinary.clone()), ordinary);
    }

    #[test]
    fn what_a_tenant_can_make_large_is_dropped() {
        let many = |kind: &str| -> Value {
            (0..5_000)
                .map(|at| (format!("{kind}/{at}"), json!("x".repeat(60))))
                .collect::<serde_json::Map<_, _>>()
                .into()
        };
        let fields: Value = many("f:");
        let large = json!({
            "name": "venom",
            "labels": many("genesis.venom.dev"),
            "annotations": {"genesis.venom.dev/a": "x".repeat(250_000), "other": "x".repeat(1_000)},
            "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:metadata": {"f:labels": fields}}}],
            "ownerReferences": vec![json!({"apiVersion": "v1", "kind": "Pod", "name": "a", "uid": "u"}); 5_000],
            "finalizers": vec!["a/b"; 5_000],
        });
        assert!(large.to_string().len() > 1_000_000);
        let kept = trimmed(large);
        assert_eq!(kept["annotations"], json!({}));
        assert!(kept.to_string().len() < 10_000, "{}", kept.to_string().len());
    }
}
