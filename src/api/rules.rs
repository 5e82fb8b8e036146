//! The schema's rules. Each message names the field and says what to write instead.
//!
//! They are CEL rules and not `minimum`, `maximum` or `pattern`, because those carry the API server's
//! words, which cannot say more than the bound.
use kube::core::Rule;

/// A rule with its message.
pub(super) fn rule(expression: impl Into<String>, message: impl AsRef<str>) -> Rule {
    Rule::new(expression).message(message.as_ref())
}

/// A number of `low` to `high`. `tail` ends the message: the unit, the default, or another way out.
pub(super) fn number(field: &str, low: f64, high: f64, tail: &str) -> Rule {
    // {:?} keeps the point: CEL compares a double with a double.
    rule(
        format!("self >= {low:?} && self <= {high:?}"),
        format!("{field} must be {low} to {high}{tail}; write a number in that range"),
    )
}

/// An integer of `low` to `high`.
pub(super) fn integer(field: &str, low: i64, high: i64) -> Rule {
    rule(
        format!("self >= {low} && self <= {high}"),
        format!("{field} must be {low} to {high}; write a whole number in that range"),
    )
}

/// A port. 8001 is where each node takes injections, on its own loopback.
pub(super) fn port(field: &str) -> Rule {
    rule(
        "self >= 1 && self <= 65535 && self != 8001",
        format!("{field} must be 1 to 65535 and not 8001, where nodes take injections; write another port"),
    )
}

/// Amounts of resources.
pub(super) fn amounts(field: &str) -> Rule {
    rule(
        "self.all(name, isQuantity(string(self[name])) && quantity(string(self[name])).compareTo(quantity('0')) >= 0)",
        format!(
            "{field} must be quantities that are not negative; write them such as cpu: 500m or memory: 256Mi"
        ),
    )
}

/// A duration of 1 ms to 24 h, in the grammar that [`GoDuration`](super::GoDuration) reads.
pub(super) fn duration(field: &str) -> Rule {
    rule(
        format!("{GO_DURATION} && {IN_RANGE}"),
        format!(
            "{field} must be a duration of 1ms to 24h; write it with its unit, such as 500ms, 1.5s or 1h30m"
        ),
    )
}

/// As [`duration`], or zero, which means without end.
pub(super) fn duration_or_zero(field: &str) -> Rule {
    rule(
        format!("{GO_DURATION} && (duration(self) == duration('0s') || ({IN_RANGE}))"),
        format!(
            "{field} must be 0s (for ever) or a duration of 1ms to 24h; write it with its unit, such as 60s or 1h30m"
        ),
    )
}

const GO_DURATION: &str = r"self.matches(r'^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$')";
const IN_RANGE: &str = "duration(self) >= duration('1ms') && duration(self) <= duration('24h')";

/// A size of 256Ki to 16Mi, in the grammar that [`ByteSize`](super::ByteSize) reads.
pub(super) fn byte_size(field: &str) -> Rule {
    rule(
        "self.matches('^[0-9]+([kMG]|[KMG]i)?$') && quantity(self).compareTo(quantity('256Ki')) >= 0 \
         && quantity(self).compareTo(quantity('16Mi')) <= 0",
        format!("{field} must be 256Ki to 16Mi; write a whole number with Ki or Mi, such as 4Mi"),
    )
}

/// A name that the objects made for an organism can be built from: theirs are Services among others, hence
/// DNS-1035; 40 characters leave room for what is appended.
pub(super) fn name(subject: &str, field: &str) -> Rule {
    rule(
        format!("{subject}.size() <= 40 && {subject}.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')"),
        format!(
            "{field} must be at most 40 characters, lower-case letters, digits and '-', begin with a letter \
             and end with a letter or digit; choose a name such as venom-1"
        ),
    )
}

/// 1e-6 on either side of 1, and a few units of the last digit more: four decimals that are off by exactly
/// 0.000001 on paper are let through whatever their doubles add up to.
///
/// When the CRD is installed, the API server tries the rule on the bare default `{}`, in which there are no
/// weights yet; in an object there always are, hence `has`.
pub(super) fn weights_sum() -> Rule {
    let sum = "self.regen + self.balance + self.entropy + self.optimize";
    rule(
        format!("!has(self.regen) || ({sum} >= 0.9999989999999 && {sum} <= 1.0000010000001)"),
        "spec.weights must sum to 1 (±0.000001): regen + balance + entropy + optimize; adjust one of them",
    )
}
