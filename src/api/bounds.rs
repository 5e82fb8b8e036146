//! The bounds of the numeric fields.
//!
//! Each bound is stated once, here. The schema takes its CEL rules from this table, and
//! [`validate`](super::validate) checks objects against the same table where there is no API server. The error
//! of a check is the message of the rule.
use std::time::Duration;

use kube::core::Rule;

use super::rules::rule;
use super::{ByteSize, GoDuration};

/// An inclusive range of a floating-point field.
pub(super) struct Number {
    field: &'static str,
    min: f64,
    max: f64,
    /// Follows the range in the message; empty for a number without a unit.
    unit: &'static str,
}

impl Number {
    const fn new(field: &'static str, min: f64, max: f64) -> Self {
        Self { field, min, max, unit: "" }
    }

    const fn unit(self, unit: &'static str) -> Self {
        Self { unit, ..self }
    }

    fn message(&self) -> String {
        let Self { field, min, max, unit } = self;
        format!("{field} must be {min} to {max}{unit}; write a number in that range")
    }

    pub(super) fn rule(&self) -> Rule {
        // CEL compares a double only with a double, and {:?} writes 1.0 where {} writes 1.
        rule(format!("self >= {:?} && self <= {:?}", self.min, self.max), self.message())
    }

    /// NaN is outside every range.
    pub(super) fn check(&self, value: f64) -> Result<(), String> {
        if (self.min..=self.max).contains(&value) { Ok(()) } else { Err(self.message()) }
    }
}

/// An inclusive range of an integer field.
pub(super) struct Integer {
    field: &'static str,
    min: u32,
    max: u32,
}

impl Integer {
    const fn new(field: &'static str, min: u32, max: u32) -> Self {
        Self { field, min, max }
    }

    fn message(&self) -> String {
        let Self { field, min, max } = self;
        format!("{field} must be {min} to {max}; write a whole number in that range")
    }

    pub(super) fn rule(&self) -> Rule {
        rule(format!("self >= {} && self <= {}", self.min, self.max), self.message())
    }

    pub(super) fn check(&self, value: impl Into<u64>) -> Result<(), String> {
        let range = u64::from(self.min)..=u64::from(self.max);
        if range.contains(&value.into()) { Ok(()) } else { Err(self.message()) }
    }
}

/// A duration of [`DURATION_MIN`] to [`DURATION_MAX`].
pub(super) struct Span {
    field: &'static str,
    /// What 0s means, where it is allowed as well.
    zero: Option<&'static str>,
}

const DURATION_MIN: Duration = Duration::from_millis(1);
const DURATION_MAX: Duration = Duration::from_secs(24 * 3600);
/// The same in Go's grammar, as rules and messages write them.
const DURATION_MIN_TEXT: &str = "1ms";
const DURATION_MAX_TEXT: &str = "24h";

/// The grammar of [`GoDuration`]. CEL's own `duration` also takes signs.
const GO_DURATION: &str = r"self.matches(r'^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$')";

impl Span {
    fn message(&self) -> String {
        let field = self.field;
        let zero = self.zero.map(|meaning| format!("0s ({meaning}) or ")).unwrap_or_default();
        format!(
            "{field} must be {zero}a duration of {DURATION_MIN_TEXT} to {DURATION_MAX_TEXT}; write it with its unit, \
             such as 500ms, 1.5s or 1h30m"
        )
    }

    pub(super) fn rule(&self) -> Rule {
        let range = format!(
            "duration(self) >= duration('{DURATION_MIN_TEXT}') && duration(self) <= duration('{DURATION_MAX_TEXT}')"
        );
        let range = match self.zero {
            Some(_) => format!("(duration(self) == duration('0s') || ({range}))"),
            None => range,
        };
        rule(format!("{GO_DURATION} && {range}"), self.message())
    }

    pub(super) fn check(&self, value: GoDuration) -> Result<(), String> {
        let value = value.get();
        let zero = self.zero.is_some() && value.is_zero();
        if zero || (DURATION_MIN..=DURATION_MAX).contains(&value) { Ok(()) } else { Err(self.message()) }
    }
}

/// An inclusive range of a size in bytes.
pub(super) struct Size {
    field: &'static str,
    min: ByteSize,
    max: ByteSize,
}

impl Size {
    fn message(&self) -> String {
        let Self { field, min, max } = self;
        format!("{field} must be {min} to {max}; write a whole number with Ki or Mi, such as 4Mi")
    }

    pub(super) fn rule(&self) -> Rule {
        let Self { min, max, .. } = self;
        rule(
            // The grammar of `ByteSize`. CEL's own `quantity` also takes fractions and signs.
            format!(
                "self.matches('^[0-9]+([kMG]|[KMG]i)?$') && quantity(self).compareTo(quantity('{min}')) >= 0 \
                 && quantity(self).compareTo(quantity('{max}')) <= 0"
            ),
            self.message(),
        )
    }

    pub(super) fn check(&self, value: ByteSize) -> Result<(), String> {
        if (self.min..=self.max).contains(&value) { Ok(()) } else { Err(self.message()) }
    }
}

/// A port of the node pods. Port 8001 is taken: each node accepts injections there, on its loopback interface.
pub(super) struct Port {
    field: &'static str,
}

const INJECTION_PORT: u16 = 8001;

impl Port {
    fn message(&self) -> String {
        let field = self.field;
        format!(
            "{field} must be 1 to 65535 and not {INJECTION_PORT}, which is reserved for injections; choose another port"
        )
    }

    pub(super) fn rule(&self) -> Rule {
        rule(format!("self >= 1 && self <= 65535 && self != {INJECTION_PORT}"), self.message())
    }

    pub(super) fn check(&self, value: u16) -> Result<(), String> {
        if value != 0 && value != INJECTION_PORT { Ok(()) } else { Err(self.message()) }
    }
}

// Organism.

pub(super) const REPLICAS: Integer = Integer::new("spec.nodes.replicas", 0, 1000);
pub(super) const TOLERATION_SECONDS: Integer =
    Integer::new("spec.nodes.tolerations: tolerationSeconds", 0, 31_536_000);
pub(super) const MAX_SKEW: Integer = Integer::new("spec.nodes.topologySpreadConstraints: maxSkew", 1, 1000);
pub(super) const MIN_REPLICAS: Integer = Integer::new("spec.autoscaling.minReplicas", 1, 1000);
pub(super) const MAX_REPLICAS: Integer = Integer::new("spec.autoscaling.maxReplicas", 1, 1000);
/// Above 100 because it is a percentage of the request, and usage may exceed the request.
pub(super) const TARGET_CPU_UTILIZATION: Integer =
    Integer::new("spec.autoscaling.targetCPUUtilization", 1, 1000);
pub(super) const TOLERANCE: Number =
    Number::new("spec.autoscaling.tolerance", 0.0, 1.0).unit(" (a fraction of the target)");
pub(super) const MESH_PORT: Port = Port { field: "spec.mesh.port" };
pub(super) const METRICS_PORT: Port = Port { field: "spec.metrics.port" };
/// The smallest k for which T_Λ is defined whatever the number of ready nodes.
const K_MIN: u32 = 2;
/// The smallest k for which T_Λ is defined with two nodes or more.
const K_MIN_WITHOUT_CLUSTER: u32 = 1;
const K_MAX: u32 = 1000;
pub(super) const T1: Number = Number::new("spec.pulse.t1", 1e-9, 60.0).unit(" (seconds)");
/// Exclusive: ln(u) is a factor of T_Λ and must be positive.
const U_ABOVE: f64 = 1.0;
/// Inclusive.
const U_MAX: f64 = 1e6;
pub(super) const MIN_PERIOD: Span = Span { field: "spec.pulse.minPeriod", zero: None };
pub(super) const COMMIT_INTERVAL: Span = Span { field: "spec.ledger.commitInterval", zero: None };
pub(super) const RETAIN_BYTES: Size =
    Size { field: "spec.ledger.retain.bytes", min: ByteSize::kibibytes(256), max: ByteSize::mebibytes(16) };

pub(super) const RESTART: Integer = Integer::new("spec.sensing.weights.restart", 0, 1000);
pub(super) const OOM_KILL: Integer = Integer::new("spec.sensing.weights.oomKill", 0, 1000);
pub(super) const CRASH_LOOP: Integer = Integer::new("spec.sensing.weights.crashLoop", 0, 1000);
pub(super) const NOT_READY: Integer = Integer::new("spec.sensing.weights.notReady", 0, 1000);
pub(super) const EVICTION: Integer = Integer::new("spec.sensing.weights.eviction", 0, 1000);
pub(super) const QUERY_INTERVAL: Span = Span { field: "spec.sensing.prometheus: interval", zero: None };
pub(super) const ABOVE: Number = Number::new("spec.sensing.prometheus: above", -1e15, 1e15);
pub(super) const ANOMS_PER_UNIT: Number = Number::new("spec.sensing.prometheus: anomsPerUnit", 0.0, 1e6);
pub(super) const QUERY_MAX: Integer = Integer::new("spec.sensing.prometheus: max", 1, 1_000_000);
pub(super) const RELEASE_AFTER: Span = Span { field: "spec.response.releaseAfter", zero: Some("at once") };

/// Apart from [`k_max_rule`], because only the lower bound needs an explanation.
pub(super) fn k_min_rule() -> Rule {
    rule(
        format!("self >= {K_MIN}"),
        format!("k must be at least {K_MIN}: with one ready node k·P would be 1 and T_Λ undefined"),
    )
}

pub(super) fn k_max_rule() -> Rule {
    rule(
        format!("self <= {K_MAX}"),
        format!("spec.pulse.k must be at most {K_MAX}; write {K_MIN} to {K_MAX}"),
    )
}

/// Checks `spec.pulse.k` where the number of nodes is fixed, so that k = 1 may be valid.
pub(super) fn check_k(k: u32) -> Result<(), String> {
    Integer::new("spec.pulse.k", K_MIN_WITHOUT_CLUSTER, K_MAX).check(k)
}

fn u_message() -> String {
    format!(
        "spec.pulse.u must be above {U_ABOVE} (ln(u) must be positive) and at most {U_MAX}; e^4 is 54.598150033144236"
    )
}

pub(super) fn u_rule() -> Rule {
    rule(format!("self > {U_ABOVE:?} && self <= {U_MAX:?}"), u_message())
}

pub(super) fn check_u(u: f64) -> Result<(), String> {
    if u > U_ABOVE && u <= U_MAX { Ok(()) } else { Err(u_message()) }
}

const BEATS_MESSAGE: &str = "spec.beats must be -1 (no limit) or at least 1; to stop the organism from beating, set spec.suspend: true";

pub(super) fn beats_rule() -> Rule {
    rule("self == -1 || self >= 1", BEATS_MESSAGE)
}

pub(super) fn check_beats(beats: i64) -> Result<(), String> {
    if beats == -1 || beats >= 1 { Ok(()) } else { Err(BEATS_MESSAGE.into()) }
}

// Genome.

pub(super) const REGEN: Number = Number::new("spec.weights.regen", 0.0, 1.0);
pub(super) const BALANCE: Number = Number::new("spec.weights.balance", 0.0, 1.0);
pub(super) const ENTROPY: Number = Number::new("spec.weights.entropy", 0.0, 1.0);
pub(super) const OPTIMIZE: Number = Number::new("spec.weights.optimize", 0.0, 1.0);
/// 1e-6 on either side of 1, plus a few units in the last place: four decimals whose exact sum is off by
/// 0.000001 are accepted, however their doubles add up.
const WEIGHT_SUM_MIN: f64 = 0.999_998_999_999_9;
const WEIGHT_SUM_MAX: f64 = 1.000_001_000_000_1;
const WEIGHT_SUM_MESSAGE: &str =
    "spec.weights must sum to 1 (±0.000001): regen + balance + entropy + optimize; adjust one of them";
pub(super) const KP: Number = Number::new("spec.pid.kp", 0.0, 100.0);
pub(super) const KI: Number = Number::new("spec.pid.ki", 0.0, 100.0);
pub(super) const KD: Number = Number::new("spec.pid.kd", 0.0, 100.0);
pub(super) const SETPOINT: Number = Number::new("spec.pid.threshold", 0.0, 60.0).unit(" (seconds of T_Λ)");
pub(super) const ANOMS: Integer = Integer::new("spec.risk.anoms", 0, 1_000_000);
pub(super) const WINDOW: Span = Span { field: "spec.risk.window", zero: Some("no expiry") };
pub(super) const ML_WEIGHT: Number = Number::new("spec.ml.mlWeight", -100.0, 100.0);
pub(super) const BIAS: Number = Number::new("spec.ml.bias", -100.0, 100.0);
pub(super) const INJECTABLE_MIN: Number = Number::new("spec.ml.injectable.min", -100.0, 100.0);
pub(super) const INJECTABLE_MAX: Number = Number::new("spec.ml.injectable.max", -100.0, 100.0);
pub(super) const QUARANTINE: Number = Number::new("spec.thresholds.quarantine", 0.0, 1.0);
pub(super) const ALERT: Number = Number::new("spec.thresholds.alert", 0.0, 1.0);
pub(super) const STABILITY: Number = Number::new("spec.thresholds.stability", 0.0, 1.0);
pub(super) const REPAIR: Number = Number::new("spec.thresholds.repair", 0.0, 1.0);
pub(super) const GAIN: Number = Number::new("spec.thresholds.gain", 0.0, 1.0);

/// The API server tries the rule on the bare default `{}` when the CRD is installed. There are no weights in
/// it yet, unlike in every object: hence `has`.
pub(super) fn weight_sum_rule() -> Rule {
    let sum = "self.regen + self.balance + self.entropy + self.optimize";
    rule(
        format!("!has(self.regen) || ({sum} >= {WEIGHT_SUM_MIN:?} && {sum} <= {WEIGHT_SUM_MAX:?})"),
        WEIGHT_SUM_MESSAGE,
    )
}

pub(super) fn check_weight_sum(sum: f64) -> Result<(), String> {
    if (WEIGHT_SUM_MIN..=WEIGHT_SUM_MAX).contains(&sum) { Ok(()) } else { Err(WEIGHT_SUM_MESSAGE.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duration_bounds_are_their_texts() {
        for (bound, text) in [(DURATION_MIN, DURATION_MIN_TEXT), (DURATION_MAX, DURATION_MAX_TEXT)] {
            assert_eq!(text.parse::<GoDuration>(), Ok(bound.into()));
        }
    }
}
