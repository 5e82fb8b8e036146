//! The CRD schemas, generated from the Rust types.
use schemars::transform::{RecursiveTransform, Transform};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use super::rules;

/// The schema of one kind. It is built by hand because a derived root schema lists `spec` as required.
pub(super) fn root<Spec: JsonSchema, Status: JsonSchema>(
    generator: &mut SchemaGenerator,
    description: &str,
) -> Schema {
    let mut spec = generator.subschema_for::<Spec>();
    RecursiveTransform(for_input).transform(&mut spec);
    spec.insert("default".into(), json!({}));
    let mut status = generator.subschema_for::<Status>();
    RecursiveTransform(for_status).transform(&mut status);
    let name = rules::OBJECT_NAME.rule().field_path(".metadata.name");
    let mut root = json_schema!({
        "description": description,
        "type": "object",
        "properties": {
            // The name is declared because the rule's fieldPath refers to it.
            "metadata": {"type": "object", "properties": {"name": {"type": "string"}}},
            "spec": spec,
            "status": status,
        },
        "x-kubernetes-validations": [name],
    });
    RecursiveTransform(plain).transform(&mut root);
    root
}

/// Adapts the schema of a spec. Objects default to `{}`, so that the API server fills in their fields one by one and
/// the schema states each default once; a map keeps its default because it has no fields. Integers lose the bounds of
/// their Rust type, because the CEL rules state the bounds of the field.
fn for_input(schema: &mut Schema) {
    if schema.get("default").is_some_and(Value::is_object) && schema.get("additionalProperties").is_none() {
        schema.insert("default".into(), json!({}));
    }
    if schema.get("type") == Some(&json!("integer")) {
        schema.remove("minimum");
        schema.remove("maximum");
    }
}

/// Adapts the schema of a status: no defaults, and no rules, because rounded weights need not sum to 1.
fn for_status(schema: &mut Schema) {
    schema.remove("default");
    schema.remove("x-kubernetes-validations");
}

/// Reduces a schema to what Kubernetes supports: no null as a second type (the API server drops nulls) and no formats
/// for unsigned integers. Line breaks within a paragraph of a description become spaces.
fn plain(schema: &mut Schema) {
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            schema.insert("type".into(), only);
        }
    }
    if let Some(Value::Array(choice)) = schema.get("anyOf")
        && let [Value::Object(only), null] = choice.as_slice()
        && null["type"] == "null"
    {
        let only = only.clone();
        let own = std::mem::replace(schema.ensure_object(), only);
        schema.ensure_object().extend(own);
        schema.remove("anyOf");
    }
    match schema.get("format").and_then(Value::as_str) {
        Some("uint16" | "uint32") => schema.insert("format".into(), json!("int32")),
        Some("uint64") => schema.insert("format".into(), json!("int64")),
        _ => None,
    };
    if let Some(Value::String(text)) = schema.get_mut("description") {
        *text = text.split("\n\n").map(|p| p.replace('\n', " ")).collect::<Vec<_>>().join("\n\n");
    }
}
