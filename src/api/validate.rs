//! The schema's bounds for objects that no API server validates, such as the file of `venom run`.
//!
//! Only the fields that take effect without a cluster are checked. `spec.pulse.k` may be 1 here, because the
//! number of nodes is fixed: whether k·P is above 1 is checked where T_Λ is computed.
use super::{GenomeSpec, OrganismSpec, bounds};

/// Checks an Organism's spec against the bounds of its schema.
///
/// # Errors
/// The message that the API server would return: the field, its bounds and the remedy.
pub fn organism(spec: &OrganismSpec) -> Result<(), String> {
    let OrganismSpec { beats, pulse, nodes, ledger, .. } = spec;
    bounds::check_beats(*beats)?;
    bounds::check_k(pulse.k)?;
    bounds::T1.check(pulse.t1)?;
    bounds::check_u(pulse.u)?;
    if let Some(period) = pulse.min_period {
        bounds::MIN_PERIOD.check(period)?;
    }
    bounds::REPLICAS.check(nodes.replicas)?;
    bounds::COMMIT_INTERVAL.check(ledger.commit_interval)
}

/// Checks a Genome's spec against the bounds of its schema.
///
/// # Errors
/// The message that the API server would return: the field, its bounds and the remedy.
pub fn genome(spec: &GenomeSpec) -> Result<(), String> {
    let GenomeSpec { weights, pid, risk, ml, thresholds, .. } = spec;
    for (bounds, value) in [
        (bounds::REGEN, weights.regen),
        (bounds::BALANCE, weights.balance),
        (bounds::ENTROPY, weights.entropy),
        (bounds::OPTIMIZE, weights.optimize),
    ] {
        bounds.check(value)?;
    }
    bounds::check_weight_sum(weights.regen + weights.balance + weights.entropy + weights.optimize)?;
    bounds::ANOMS.check(risk.anoms)?;
    bounds::WINDOW.check(risk.window)?;
    for (bounds, value) in [
        (bounds::KP, pid.kp),
        (bounds::KI, pid.ki),
        (bounds::KD, pid.kd),
        (bounds::SETPOINT, pid.threshold),
        (bounds::ML_WEIGHT, ml.ml_weight),
        (bounds::BIAS, ml.bias),
        (bounds::QUARANTINE, thresholds.quarantine),
        (bounds::ALERT, thresholds.alert),
        (bounds::STABILITY, thresholds.stability),
        (bounds::REPAIR, thresholds.repair),
        (bounds::GAIN, thresholds.gain),
    ] {
        bounds.check(value)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_within_their_bounds() {
        assert_eq!(organism(&OrganismSpec::default()), Ok(()));
        assert_eq!(genome(&GenomeSpec::default()), Ok(()));
    }

    #[test]
    fn k_may_be_1_without_a_cluster() {
        let mut spec = OrganismSpec::default();
        spec.pulse.k = 1;
        assert_eq!(organism(&spec), Ok(()));
        for k in [0, 1001] {
            spec.pulse.k = k;
            assert!(organism(&spec).unwrap_err().starts_with("spec.pulse.k must be 1 to 1000"));
        }
    }

    #[test]
    fn values_out_of_bounds_are_refused_by_name() {
        let mut spec = OrganismSpec::default();
        spec.nodes.replicas = 1001;
        assert!(organism(&spec).unwrap_err().starts_with("spec.nodes.replicas must be 0 to 1000"));
        let mut spec = GenomeSpec::default();
        spec.pid.kp = f64::NAN;
        assert!(genome(&spec).unwrap_err().starts_with("spec.pid.kp must be 0 to 100"));
        spec = GenomeSpec::default();
        spec.weights.regen = 0.5;
        assert!(genome(&spec).unwrap_err().starts_with("spec.weights must sum to 1"));
    }
}
