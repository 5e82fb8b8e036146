//! The CEL rules of the schema. Each message names the field and the remedy. [`bounds`](super::bounds) has those
//! of the numeric fields.
//!
//! The schema uses CEL rules instead of `minimum`, `maximum` and `pattern`, whose messages come from the API
//! server and state nothing but the bound.
use kube::core::Rule;

/// A CEL rule with the message that the API server returns when it does not hold.
pub(super) fn rule(expression: impl Into<String>, message: impl AsRef<str>) -> Rule {
    Rule::new(expression).message(message.as_ref())
}

/// A rule for a port of the node pods. Port 8001 is taken: each node accepts injections there, on its loopback
/// interface.
pub(super) fn port(field: &str) -> Rule {
    rule(
        "self >= 1 && self <= 65535 && self != 8001",
        format!(
            "{field} must be 1 to 65535 and not 8001, which is reserved for injections; choose another port"
        ),
    )
}

/// A rule for resource requests or limits.
pub(super) fn quantities(field: &str) -> Rule {
    rule(
        "self.all(name, isQuantity(string(self[name])) && quantity(string(self[name])).compareTo(quantity('0')) >= 0)",
        format!(
            "{field} must be non-negative quantities, such as cpu: 500m or memory: 256Mi; correct the value"
        ),
    )
}

/// A rule for the name of an Organism or a Genome. The names of other objects, Services among them, are derived from
/// it: hence a DNS-1035 label, and 40 characters to leave room for suffixes.
pub(super) fn name(subject: &str, field: &str) -> Rule {
    rule(
        format!("{subject}.size() <= 40 && {subject}.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')"),
        format!(
            "{field} must be at most 40 characters, lower-case letters, digits and '-', begin with a letter \
             and end with a letter or digit; choose a name such as venom-1"
        ),
    )
}
