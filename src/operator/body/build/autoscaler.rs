//! The HorizontalPodAutoscaler.

use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricSource, CrossVersionObjectReference, HPAScalingPolicy, HPAScalingRules,
    HorizontalPodAutoscaler, HorizontalPodAutoscalerBehavior, HorizontalPodAutoscalerSpec, MetricSpec,
    MetricTarget, ResourceMetricSource,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::{Resource, ResourceExt};

use super::deployment::CONTAINER;
use super::metadata;
use crate::api;
use crate::operator::measures::{Measures, ScalingLimit};
use crate::operator::publisher::adoption::Adopted;

/// Scales the Organism through its `/scale` subresource instead of the Deployment. The Deployment follows
/// `spec.nodes.replicas`, so `kubectl scale` and other autoscalers work on the same field.
///
/// The metric is that of the node's container. The metric of a whole pod cannot be computed once somebody injects a
/// container without a CPU request.
///
/// That of an `adopted` workload scales the workload itself, by the CPU of whole pods: their containers are not known.
///
/// `measures` limit what it does, and change nothing else.
pub fn autoscaler(
    organism: &api::Organism,
    measures: &Measures,
    adopted: Option<&Adopted>,
) -> HorizontalPodAutoscaler {
    let api::Autoscaling { min_replicas, max_replicas, target_cpu_utilization, tolerance, .. } =
        organism.spec.autoscaling;
    let cpu = || "cpu".to_owned();
    let target = MetricTarget {
        type_: "Utilization".into(),
        average_utilization: Some(int(measures.utilization.unwrap_or(target_cpu_utilization))),
        ..MetricTarget::default()
    };
    let (scale_target_ref, metric) = match adopted {
        None => (
            CrossVersionObjectReference {
                api_version: Some(api::Organism::api_version(&()).into()),
                kind: api::Organism::kind(&()).into(),
                name: organism.name_any(),
            },
            MetricSpec {
                type_: "ContainerResource".into(),
                container_resource: Some(ContainerResourceMetricSource {
                    name: cpu(),
                    container: CONTAINER.into(),
                    target,
                }),
                ..MetricSpec::default()
            },
        ),
        Some(adopted) => (
            CrossVersionObjectReference {
                api_version: Some("apps/v1".into()),
                kind: adopted.kind.as_str().into(),
                name: adopted.name.clone(),
            },
            MetricSpec {
                type_: "Resource".into(),
                resource: Some(ResourceMetricSource { name: cpu(), target }),
                ..MetricSpec::default()
            },
        ),
    };
    HorizontalPodAutoscaler {
        metadata: metadata(organism, ""),
        spec: HorizontalPodAutoscalerSpec {
            scale_target_ref,
            min_replicas: Some(int(min_replicas)),
            max_replicas: int(max_replicas),
            metrics: Some(vec![metric]),
            behavior: Some(behaviour(tolerance, measures.scaling)),
        },
        status: None,
    }
}

/// Scales up fast: within 30 s by 100 % or two pods, whichever is more. Scales down slowly: by at most 50 % per minute,
/// after the load has been low for five minutes.
fn behaviour(tolerance: Option<f64>, limit: ScalingLimit) -> HorizontalPodAutoscalerBehavior {
    let (up, down) = limit.select_policies();
    let tolerance = tolerance.map(|it| Quantity(it.to_string()));
    let policy =
        |type_: &str, value, period_seconds| HPAScalingPolicy { type_: type_.into(), value, period_seconds };
    HorizontalPodAutoscalerBehavior {
        scale_up: Some(HPAScalingRules {
            policies: Some(vec![policy("Percent", 100, 30), policy("Pods", 2, 30)]),
            select_policy: Some(up.unwrap_or("Max").into()),
            stabilization_window_seconds: Some(0),
            tolerance: tolerance.clone(),
        }),
        scale_down: Some(HPAScalingRules {
            policies: Some(vec![policy("Percent", 50, 60)]),
            select_policy: Some(down.unwrap_or("Max").into()),
            stabilization_window_seconds: Some(300),
            tolerance,
        }),
    }
}

fn int(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
