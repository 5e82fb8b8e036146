//! Reads objects from files as the API server would: with defaults filled in and unknown fields rejected.
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Why an object in a file is invalid.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A value has the wrong type or cannot be parsed.
    #[error(transparent)]
    Value(#[from] serde_json::Error),
    /// The kind has no such field.
    #[error("unknown field {0}: correct its spelling or remove it")]
    UnknownField(String),
    /// The text is no YAML, or has a key twice.
    #[error(transparent)]
    Yaml(#[from] serde_yaml::Error),
    /// A number is NaN, or too large for a double.
    #[error("{0} is not a finite number: write one, such as 0.5")]
    NotFinite(String),
}

/// Parses one document of a YAML file, strictly as the API server does: JSON has neither NaN nor infinities, and serde
/// would turn them into nulls, which mean defaults.
///
/// # Errors
/// [`ReadError::Yaml`] and [`ReadError::NotFinite`].
pub fn document(document: serde_yaml::Deserializer<'_>) -> Result<Value, ReadError> {
    let parsed = serde_yaml::Value::deserialize(document)?;
    match not_finite(&parsed) {
        Some(number) => Err(ReadError::NotFinite(number.to_string())),
        None => Ok(serde_json::to_value(parsed)?),
    }
}

fn not_finite(value: &serde_yaml::Value) -> Option<f64> {
    match value {
        serde_yaml::Value::Number(number) => number.as_f64().filter(|it| !it.is_finite()),
        serde_yaml::Value::Sequence(items) => items.iter().find_map(not_finite),
        serde_yaml::Value::Mapping(fields) => fields.values().find_map(not_finite),
        _ => None,
    }
}

/// Reads an [`Organism`](super::Organism) or a [`Genome`](super::Genome) from a user's manifest. Missing and null
/// fields, `spec` included, take their defaults. Unknown fields are rejected, as with kubectl's strict validation.
/// The bounds of the schema are checked separately, by [`validate`](super::validate).
///
/// # Errors
/// [`ReadError`] names the field.
pub fn read<K: DeserializeOwned + Serialize>(mut object: Value) -> Result<K, ReadError> {
    drop_nulls(&mut object);
    if let Value::Object(fields) = &mut object {
        fields.entry("spec").or_insert_with(|| Value::Object(Map::new()));
        fields.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    }
    let read = K::deserialize(&object)?;
    match unknown(&object, &serde_json::to_value(&read)?) {
        Some(path) => Err(ReadError::UnknownField(path)),
        None => Ok(read),
    }
}

/// Removes nulls. The API server does the same before it fills in defaults, because no field is nullable.
fn drop_nulls(value: &mut Value) {
    if let Value::Object(fields) = value {
        fields.retain(|_, value| !value.is_null());
        fields.values_mut().for_each(drop_nulls);
    }
}

/// The path of the first field of `given` that `read` does not have. Empty fields are ignored, because serde may skip
/// them (`labels: {}`).
fn unknown(given: &Value, read: &Value) -> Option<String> {
    let fields = given.as_object()?;
    fields.iter().find_map(|(name, value)| match read.get(name) {
        Some(read) => unknown(value, read).map(|path| format!("{name}.{path}")),
        None if value.as_object().is_some_and(Map::is_empty) => None,
        None if value.as_array().is_some_and(Vec::is_empty) => None,
        None => Some(name.clone()),
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Genome, Organism, OrganismSpec};
    use super::*;
    use serde_json::json;

    #[test]
    fn spec_is_optional() {
        for spec in [json!({}), json!({"spec": null}), json!({"spec": {"pulse": {"k": null}, "beats": null}})]
        {
            let mut object = json!({"apiVersion": "genesis.venom.dev/v1alpha1", "kind": "Organism",
                "metadata": {"name": "venom", "labels": {}, "creationTimestamp": null}});
            object.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
            assert_eq!(read::<Organism>(object).unwrap().spec, OrganismSpec::default());
        }
    }

    #[test]
    fn numbers_that_json_lacks_and_keys_given_twice_are_errors() {
        for text in ["pid: {kp: .nan}", "pulse: [{u: -.inf}]", "{beats: 1, beats: 2}", "a: ["] {
            assert!(document(serde_yaml::Deserializer::from_str(text)).is_err(), "{text}");
        }
        let read = document(serde_yaml::Deserializer::from_str("pid: {kp: 0.6, ki: 1e-3, kd: ~}"));
        assert_eq!(read.unwrap(), json!({"pid": {"kp": 0.6, "ki": 0.001, "kd": null}}));
    }

    #[test]
    fn a_misspelt_field_is_an_error() {
        let object = json!({"metadata": {"name": "venom"}, "spec": {"pulse": {"minperiod": "1s"}}});
        let error = read::<Organism>(object).unwrap_err();
        assert_eq!(
            error.to_string(),
            "unknown field spec.pulse.minperiod: correct its spelling or remove it"
        );
    }

    #[test]
    fn a_value_that_does_not_parse_is_an_error() {
        for spec in [
            json!({"risk": {"window": "99999999999999999999h"}}),
            json!({"pid": {"kp": "0.6"}}),
            json!({"risk": {"anoms": -1}}),
        ] {
            assert!(read::<Genome>(json!({"metadata": {"name": "venom"}, "spec": spec})).is_err());
        }
    }
}
