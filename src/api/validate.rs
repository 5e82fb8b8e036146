//! The schema's rules for objects that no API server validates, such as the file of `venom run`.
//!
//! A spec that the API server refuses is refused here, by a rule of the schema with the same message. The exception is
//! `spec.pulse.k` = 1: the number of nodes is fixed here, and whether k·P is above 1 is checked where T_Λ is computed.
use kube::CustomResourceExt;
use serde_json::Value;

use super::{Autoscaling, Genome, GenomeSpec, Nodes, Organism, OrganismSpec, Sensing, bounds, rules};

/// Checks an Organism's spec against its schema.
///
/// # Errors
/// A message that names the field, what it must be and the remedy.
pub fn organism(spec: &OrganismSpec) -> Result<(), String> {
    sizes::<Organism>(&serde_json::to_value(spec).map_err(|error| error.to_string())?)?;
    let OrganismSpec {
        genome_ref,
        beats,
        suspend: _,
        pulse,
        workload_ref,
        nodes: pods,
        autoscaling: scaling,
        mesh,
        metrics,
        sensing: sensors,
        ledger,
        response,
    } = spec;
    if let Some(genome) = genome_ref {
        rules::GENOME_NAME.check(&genome.name)?;
    }
    bounds::check_beats(*beats)?;
    bounds::check_k(pulse.k)?;
    bounds::T1.check(pulse.t1)?;
    bounds::check_u(pulse.u)?;
    if let Some(period) = pulse.min_period {
        bounds::MIN_PERIOD.check(period)?;
    }
    if let Some(workload) = workload_ref {
        rules::WORKLOAD_NAME.check(&workload.name)?;
    }
    rules::NODES_OR_WORKLOAD.check(spec)?;
    nodes(pods)?;
    autoscaling(scaling)?;
    sensing(sensors)?;
    bounds::RELEASE_AFTER.check(response.release_after)?;
    bounds::MESH_PORT.check(mesh.port)?;
    bounds::METRICS_PORT.check(metrics.port)?;
    rules::PORTS_DIFFER.check(spec)?;
    rules::CPU_TO_SCALE_BY.check(spec)?;
    rules::SERVICE_ANNOTATION_KEYS.check(&metrics.service.annotations)?;
    rules::SOURCE_RANGES.check(&metrics.service.load_balancer_source_ranges)?;
    rules::SOURCE_RANGES_TYPE.check(&metrics.service)?;
    bounds::COMMIT_INTERVAL.check(ledger.commit_interval)?;
    bounds::RETAIN_BYTES.check(ledger.retain.bytes)
}

fn nodes(nodes: &Nodes) -> Result<(), String> {
    let Nodes {
        replicas,
        resources,
        node_selector,
        tolerations,
        topology_spread_constraints,
        priority_class_name,
        pod_template,
    } = nodes;
    bounds::REPLICAS.check(*replicas)?;
    rules::REQUESTS.check(&resources.requests)?;
    rules::LIMITS.check(&resources.limits)?;
    rules::REQUESTS_WITHIN_LIMITS.check(resources)?;
    rules::SELECTOR_KEYS.check(node_selector)?;
    rules::SELECTOR_VALUES.check(node_selector)?;
    for toleration in tolerations {
        rules::TOLERATION_OF_ALL.check(toleration)?;
        rules::TOLERATION_VALUE.check(toleration)?;
        rules::TOLERATION_TIME.check(toleration)?;
        if let Some(seconds) = toleration.toleration_seconds {
            bounds::TOLERATION_SECONDS.check(seconds)?;
        }
    }
    for spread in topology_spread_constraints {
        bounds::MAX_SKEW.check(spread.max_skew)?;
    }
    if let Some(name) = priority_class_name {
        rules::PRIORITY_CLASS.check(name)?;
    }
    rules::POD_LABELS_RESERVED.check(&pod_template.labels)?;
    rules::POD_LABEL_KEYS.check(&pod_template.labels)?;
    rules::POD_LABEL_VALUES.check(&pod_template.labels)?;
    rules::POD_ANNOTATIONS_RESERVED.check(&pod_template.annotations)?;
    rules::POD_ANNOTATION_KEYS.check(&pod_template.annotations)?;
    pod_template.image_pull_secrets.iter().try_for_each(|it| rules::PULL_SECRET.check(&it.name))
}

fn autoscaling(scaling: &Autoscaling) -> Result<(), String> {
    let Autoscaling { enabled: _, min_replicas, max_replicas, target_cpu_utilization, tolerance } = scaling;
    bounds::MIN_REPLICAS.check(*min_replicas)?;
    bounds::MAX_REPLICAS.check(*max_replicas)?;
    bounds::TARGET_CPU_UTILIZATION.check(*target_cpu_utilization)?;
    if let Some(tolerance) = tolerance {
        bounds::TOLERANCE.check(*tolerance)?;
    }
    rules::REPLICAS_ORDER.check(scaling)
}

fn sensing(sensing: &Sensing) -> Result<(), String> {
    let weights = &sensing.weights;
    for (bounds, weight) in [
        (bounds::RESTART, weights.restart),
        (bounds::OOM_KILL, weights.oom_kill),
        (bounds::CRASH_LOOP, weights.crash_loop),
        (bounds::NOT_READY, weights.not_ready),
        (bounds::EVICTION, weights.eviction),
    ] {
        bounds.check(weight)?;
    }
    for query in &sensing.prometheus {
        rules::QUERY_NAME.check(&query.name)?;
        bounds::QUERY_INTERVAL.check(query.interval)?;
        bounds::ABOVE.check(query.above)?;
        bounds::ANOMS_PER_UNIT.check(query.anoms_per_unit)?;
        bounds::QUERY_MAX.check(query.max)?;
    }
    Ok(())
}

/// Checks a Genome's spec against its schema.
///
/// # Errors
/// A message that names the field, what it must be and the remedy.
pub fn genome(spec: &GenomeSpec) -> Result<(), String> {
    sizes::<Genome>(&serde_json::to_value(spec).map_err(|error| error.to_string())?)?;
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
        (bounds::INJECTABLE_MIN, ml.injectable.min),
        (bounds::INJECTABLE_MAX, ml.injectable.max),
        (bounds::QUARANTINE, thresholds.quarantine),
        (bounds::ALERT, thresholds.alert),
        (bounds::STABILITY, thresholds.stability),
        (bounds::REPAIR, thresholds.repair),
        (bounds::GAIN, thresholds.gain),
    ] {
        bounds.check(value)?;
    }
    rules::INJECTABLE_ORDER.check(&ml.injectable)
}

/// Checks `spec` against the sizes that the schema of the kind allows for texts, lists and maps.
fn sizes<K: CustomResourceExt>(spec: &Value) -> Result<(), String> {
    let crd = serde_json::to_value(K::crd()).map_err(|error| error.to_string())?;
    sizes_of(&crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"], spec, "spec")
}

fn sizes_of(schema: &Value, value: &Value, path: &str) -> Result<(), String> {
    let limit = |name: &str| schema[name].as_u64().and_then(|it| usize::try_from(it).ok());
    let at_most = |max: Option<usize>, size: usize, unit: &str| match max {
        Some(max) if size > max => {
            Err(format!("{path} must have at most {max} {unit}, not {size}; shorten it"))
        }
        _ => Ok(()),
    };
    match value {
        Value::String(text) => {
            let length = text.chars().count();
            if limit("minLength").is_some_and(|min| length < min) {
                return Err(format!("{path} must not be empty; set it"));
            }
            at_most(limit("maxLength"), length, "characters")
        }
        Value::Array(items) => {
            at_most(limit("maxItems"), items.len(), "items")?;
            if let Some(keys) = schema["x-kubernetes-list-map-keys"].as_array() {
                let key_of = |item: &Value| -> Vec<String> {
                    keys.iter().filter_map(Value::as_str).map(|key| item[key].to_string()).collect()
                };
                if !rules::are_distinct(items.iter().map(key_of)) {
                    let keys: Vec<_> = keys.iter().filter_map(Value::as_str).collect();
                    return Err(format!(
                        "{path} must not have two items with the same {}; remove one",
                        keys.join(" and ")
                    ));
                }
            }
            items.iter().try_for_each(|item| sizes_of(&schema["items"], item, path))
        }
        Value::Object(fields) => {
            at_most(limit("maxProperties"), fields.len(), "entries")?;
            fields.iter().try_for_each(|(name, field)| {
                let schema = schema["properties"].get(name).unwrap_or(&schema["additionalProperties"]);
                sizes_of(schema, field, &format!("{path}.{name}"))
            })
        }
        _ => Ok(()),
    }
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

    /// tests/cluster/admission.rs compares all messages with those of an API server.
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
