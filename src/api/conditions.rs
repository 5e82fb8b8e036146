//! The schema of `status.conditions`: metav1.Condition with the bounds of its Go type.
//!
//! k8s-openapi's schema for it has no bounds, and its `schemars` feature compiles a schema for every type of
//! Kubernetes.
use schemars::{Schema, SchemaGenerator, json_schema};

/// A map list keyed by `type`, so that server-side apply merges the conditions of several field managers.
pub(super) fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "lastTransitionTime", "reason", "message"],
            "properties": {
                "type": {
                    "description": "type is the name of the condition.",
                    "type": "string",
                    "maxLength": 316,
                    "pattern": r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$",
                },
                "status": {
                    "description": "status is True, False or Unknown.",
                    "type": "string",
                    "enum": ["True", "False", "Unknown"],
                },
                "observedGeneration": {
                    "description": "observedGeneration is the metadata.generation that this condition reflects.",
                    "type": "integer",
                    "format": "int64",
                    "minimum": 0,
                },
                "lastTransitionTime": {
                    "description": "lastTransitionTime is the time at which the status last changed.",
                    "type": "string",
                    "format": "date-time",
                },
                "reason": {
                    "description": "reason is a machine-readable reason for the status, in CamelCase.",
                    "type": "string",
                    "minLength": 1,
                    "maxLength": 1024,
                    "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
                },
                "message": {
                    "description": "message is a human-readable explanation, with the remedy if something is wrong.",
                    "type": "string",
                    "maxLength": 32768,
                },
            },
        },
    })
}

/// A timestamp in RFC 3339.
pub(super) fn time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": "date-time"})
}
