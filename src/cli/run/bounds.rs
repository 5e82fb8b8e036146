//! The bounds that the API server keeps by the schema's rules, for files that never reach one.
//!
//! `spec.pulse.k` is the exception: k = 1 is taken here, where the number of nodes is known beforehand.

use std::time::Duration;

use crate::api::{GenomeSpec, GoDuration, OrganismSpec};

fn number(field: &str, value: f64, low: f64, high: f64) -> Result<(), String> {
    if (low..=high).contains(&value) {
        Ok(())
    } else {
        Err(format!("{field} must be {low} to {high}; write a number in that range"))
    }
}

fn duration(field: &str, value: GoDuration, zero: bool) -> Result<(), String> {
    let (low, high) = (Duration::from_millis(1), Duration::from_secs(86_400));
    if (low..=high).contains(&value.get()) || (zero && value.get().is_zero()) {
        Ok(())
    } else {
        Err(format!("{field} must be a duration of 1ms to 24h; write it with its unit, such as 500ms"))
    }
}

/// Whether the API server would take these numbers.
pub(super) fn organism(spec: &OrganismSpec) -> Result<(), String> {
    if spec.beats != -1 && spec.beats < 1 {
        return Err("spec.beats must be -1 (for ever) or at least 1".into());
    }
    number("spec.pulse.k", f64::from(spec.pulse.k), 1.0, 1000.0)?;
    number("spec.pulse.t1", spec.pulse.t1, 1e-9, 60.0)?;
    if !(spec.pulse.u > 1.0 && spec.pulse.u <= 1e6) {
        return Err("spec.pulse.u must be above 1 and at most 1000000; e^4 is 54.598150033144236".into());
    }
    if let Some(period) = spec.pulse.min_period {
        duration("spec.pulse.minPeriod", period, false)?;
    }
    number("spec.nodes.replicas", f64::from(spec.nodes.replicas), 0.0, 1000.0)?;
    duration("spec.ledger.commitInterval", spec.ledger.commit_interval, false)
}

/// Whether the API server would take these numbers.
pub(super) fn genome(spec: &GenomeSpec) -> Result<(), String> {
    let GenomeSpec { weights, pid, risk, ml, thresholds, .. } = spec;
    let parts = [
        ("regen", weights.regen),
        ("balance", weights.balance),
        ("entropy", weights.entropy),
        ("optimize", weights.optimize),
    ];
    for (name, value) in parts {
        number(&format!("spec.weights.{name}"), value, 0.0, 1.0)?;
    }
    let sum: f64 = parts.iter().map(|(_, value)| value).sum();
    if !(0.999_998_999_999_9..=1.000_001_000_000_1).contains(&sum) {
        return Err(format!("spec.weights must sum to 1, not {sum}; adjust one of them"));
    }
    for (name, value, high) in [
        ("kp", pid.kp, 100.0),
        ("ki", pid.ki, 100.0),
        ("kd", pid.kd, 100.0),
        ("threshold", pid.threshold, 60.0),
    ] {
        number(&format!("spec.pid.{name}"), value, 0.0, high)?;
    }
    if risk.anoms > 1_000_000 {
        return Err("spec.risk.anoms must be 0 to 1000000; write a whole number in that range".into());
    }
    duration("spec.risk.window", risk.window, true)?;
    number("spec.ml.mlWeight", ml.ml_weight, -100.0, 100.0)?;
    number("spec.ml.bias", ml.bias, -100.0, 100.0)?;
    for (name, value) in [
        ("quarantine", thresholds.quarantine),
        ("alert", thresholds.alert),
        ("stability", thresholds.stability),
        ("repair", thresholds.repair),
        ("gain", thresholds.gain),
    ] {
        number(&format!("spec.thresholds.{name}"), value, 0.0, 1.0)?;
    }
    Ok(())
}
