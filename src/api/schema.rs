//! From Rust types to the two CRD schemas.
use schemars::transform::{RecursiveTransform, Transform};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use super::rules;

/// The schema of one kind. It is put together here and not derived, because only so `spec` may be left
/// out: derived roots list it as required.
pub(super) fn root<Spec: JsonSchema, Status: JsonSchema>(
    generator: &mut SchemaGenerator,
    description: &str,
) -> Schema {
    let mut spec = generator.subschema_for::<Spec>();
    RecursiveTransform(for_input).transform(&mut spec);
    spec.insert("default".into(), json!({}));
    let mut status = generator.subschema_for::<Status>();
    RecursiveTransform(for_status).transform(&mut status);
    let name = rules::name("self.metadata.name", "metadata.name").field_path(".metadata.name");
    let mut root = json_schema!({
        "description": description,
        "type": "object",
        "properties": {
            // The name is declared so that the rule's fieldPath may point to it.
            "metadata": {"type": "object", "properties": {"name": {"type": "string"}}},
            "spec": spec,
            "status": status,
        },
        "x-kubernetes-validations": [name],
    });
    RecursiveTransform(plain).transform(&mut root);
    root
}

/// Objects default to `{}`: the API server then fills their fields one by one, and each default stands in
/// the schema once. A map has no fields: its default stays. Bounds of unsigned integers are rules of ours.
fn for_input(schema: &mut Schema) {
    if schema.get("default").is_some_and(Value::is_object) && schema.get("additionalProperties").is_none() {
        schema.insert("default".into(), json!({}));
    }
    if schema.get("type") == Some(&json!("integer")) {
        schema.remove("minimum");
        schema.remove("maximum");
    }
}

/// A status is published as it is: nothing is filled in and the user's rules do not bind it (its weights
/// are rounded and need not sum to 1).
fn for_status(schema: &mut Schema) {
    schema.remove("default");
    schema.remove("x-kubernetes-validations");
}

/// What Kubernetes knows of JSON schema: no null beside a type (a null is dropped like a missing field),
/// no formats for unsigned integers. Descriptions are paragraphs, not lines.
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
