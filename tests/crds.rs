//! The CRD schemas: the committed files are up to date, defaults are the same in Rust and in the schema, and every field
//! is bounded and described.
#![allow(clippy::unwrap_used)] // clippy.toml's allowance does not reach a test's helpers

use std::path::Path;

use serde_json::{Map, Value, json};
use venom::api::{self, GenomeSpec, OrganismSpec};

/// Users install crds/ or the chart, which contains a copy because a chart is packaged from one folder.
#[test]
fn committed_crds_are_up_to_date() {
    let made = api::crds_yaml().unwrap();
    for folder in ["crds", "charts/venom/files/crds"] {
        let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        for (name, text) in &made {
            let path = committed.join(format!("{name}.yaml"));
            let stale = std::fs::read_to_string(path).ok().as_deref() != Some(text);
            assert!(!stale, "{folder}/{name}.yaml is stale; run make crds manifests");
            // The chart inserts its annotation after this line.
            assert_eq!(text.matches("\nmetadata:\n").count(), 1, "{name}: one place for annotations");
        }
        assert_eq!(
            std::fs::read_dir(committed).unwrap().count(),
            made.len(),
            "{folder} holds one file a CRD"
        );
    }
}

/// The API server and serde fill in the same defaults, for an object without a spec and for one with a field of each
/// level.
#[test]
fn schema_defaults_are_serde_defaults() {
    let organism = serde_json::to_value(OrganismSpec::default()).unwrap();
    let genome = serde_json::to_value(GenomeSpec::default()).unwrap();
    assert_eq!(filled("Organism", json!({})), organism);
    assert_eq!(filled("Genome", json!({})), genome);

    let given = json!({
        "pulse": {"k": 8}, "nodes": {"resources": {"limits": {"cpu": 1}}}, "mesh": {}, "metrics": {"service": {}},
        "autoscaling": {"maxReplicas": 3}, "ledger": {"onDelete": "Retain", "retain": {}},
    });
    let read: OrganismSpec = serde_json::from_value(given.clone()).unwrap();
    assert_eq!(filled("Organism", given), serde_json::to_value(read).unwrap());
    let given = json!({"weights": {"regen": 0.3}, "risk": {"anoms": 5}, "ml": {"injectable": {"min": 0.1}}, "pid": {"kd": 1}});
    let read: GenomeSpec = serde_json::from_value(given.clone()).unwrap();
    assert_eq!(doubles(filled("Genome", given)), doubles(serde_json::to_value(read).unwrap()));
}

/// The mission's numbers, written out: the tests above would not notice a wrong default.
#[test]
fn the_defaults_are_the_missions() {
    assert_eq!(
        serde_json::to_value(OrganismSpec::default()).unwrap(),
        json!({
            "beats": -1,
            "suspend": false,
            "pulse": {"k": 4, "t1": 0.001, "u": 54.598150033144236},
            "nodes": {"replicas": 5, "resources": {
                "requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"cpu": "500m", "memory": "512Mi"},
            }, "podTemplate": {}},
            "autoscaling": {"minReplicas": 1, "maxReplicas": 10, "targetCPUUtilization": 50},
            "mesh": {"port": 9000},
            "metrics": {"port": 8000, "service": {"type": "LoadBalancer"}},
            "sensing": {"weights": {"restart": 2, "oomKill": 5, "crashLoop": 5, "notReady": 1, "eviction": 2}},
            "ledger": {"commitInterval": "1s", "retain": {"bytes": "4Mi"}, "onDelete": "Delete"},
            "response": {"releaseAfter": "60s", "services": "Detach"},
        })
    );
    assert_eq!(
        serde_json::to_value(GenomeSpec::default()).unwrap(),
        json!({
            "weights": {"regen": 0.25, "balance": 0.25, "entropy": 0.15, "optimize": 0.35},
            "pid": {"kp": 0.6, "ki": 0.1, "kd": 0.05, "threshold": 0.02},
            "risk": {"anoms": 0, "window": "60s"},
            "ml": {"mlWeight": 0.12, "bias": 0.0, "injectable": {"min": 0.01, "max": 1.0}},
            "thresholds": {"quarantine": 0.85, "alert": 0.60, "stability": 0.25, "repair": 0.1, "gain": 0.1},
            "evolution": "Enabled",
        })
    );
}

/// The API server's cost estimate for CEL rules requires bounds. Users need messages and descriptions.
#[test]
fn every_field_is_bounded_and_described() {
    for kind in ["Organism", "Genome"] {
        let schema = schema(kind);
        for part in ["spec", "status"] {
            each(&schema["properties"][part], part, &mut |path, node| {
                assert!(
                    node.get("description").is_some() || path.ends_with("[]") || path.ends_with("{}"),
                    "{kind} {path}: described"
                );
                assert!(node.get("nullable").is_none(), "{kind} {path}: no nulls");
                let bounded = ["maxLength", "enum", "format"].iter().any(|bound| node.get(bound).is_some());
                let text = node["type"] == "string" && part == "spec";
                assert!(!text || bounded, "{kind} {path}: a bounded string");
                for rule in node["x-kubernetes-validations"].as_array().into_iter().flatten() {
                    assert_eq!(part, "spec", "{kind} {path}: a status has no rules");
                    assert!(rule["message"].is_string(), "{kind} {path}: {rule}");
                }
                let map = node.get("additionalProperties").is_some();
                let list = node["type"] == "array";
                let counted = node.get("maxProperties").is_some() || node.get("maxItems").is_some();
                assert!(part != "spec" || !(map || list) || counted, "{kind} {path}: a bounded list or map");
                let filled = !map
                    && !path.ends_with("genomeRef")
                    && !path.ends_with("workloadRef")
                    && !path.ends_with("[]");
                if part == "spec" && node["type"] == "object" && filled {
                    assert_eq!(node["default"], json!({}), "{kind} {path}: filled in from nothing");
                }
            });
        }
        assert!(schema.get("required").is_none(), "{kind}: nothing but a name is required");
    }
}

/// The CRD's schema of one kind.
fn schema(kind: &str) -> Value {
    let crd = api::crds().into_iter().find(|crd| crd.spec.names.kind == kind).unwrap();
    serde_json::to_value(&crd.spec.versions[0].schema).unwrap()["openAPIV3Schema"].clone()
}

/// `spec` with defaults as the API server fills them in: missing properties, outer ones first.
fn filled(kind: &str, spec: Value) -> Value {
    fn fill(schema: &Value, value: &mut Value) {
        let (Some(properties), Some(fields)) = (schema["properties"].as_object(), value.as_object_mut())
        else {
            return;
        };
        for (name, schema) in properties {
            if let Some(default) = schema.get("default") {
                fields.entry(name).or_insert_with(|| default.clone());
            }
            if let Some(field) = fields.get_mut(name) {
                fill(schema, field);
            }
        }
    }
    let mut object = json!({"spec": spec});
    fill(&schema(kind), &mut object);
    object["spec"].take()
}

/// Converts every number to a double: an integer in a float field stays an integer in the API server.
fn doubles(value: Value) -> Value {
    match value {
        Value::Number(number) => json!(number.as_f64()),
        Value::Object(fields) => {
            fields.into_iter().map(|(name, value)| (name, doubles(value))).collect::<Map<_, _>>().into()
        }
        other => other,
    }
}

/// Calls `check` with every node of a schema and its path.
fn each(node: &Value, path: &str, check: &mut dyn FnMut(&str, &Value)) {
    check(path, node);
    for (name, field) in node["properties"].as_object().into_iter().flatten() {
        each(field, &format!("{path}.{name}"), check);
    }
    if let Some(items) = node.get("items") {
        each(items, &format!("{path}[]"), check);
    }
    if let Some(values) = node.get("additionalProperties") {
        each(values, &format!("{path}{{}}"), check);
    }
}
