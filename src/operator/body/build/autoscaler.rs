//! The HorizontalPodAutoscaler.

use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricSource, CrossVersionObjectReference, HPAScalingPolicy, HPAScalingRules,
    HorizontalPodAutoscaler, HorizontalPodAutoscalerBehavior, HorizontalPodAutoscalerSpec, MetricSpec,
    MetricTarget,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::{Resource, ResourceExt};

use super::deployment::CONTAINER;
use super::metadata;
use crate::api;

/// Scales the Organism through its `/scale` subresource instead of the Deployment. The Deployment follows
/// `spec.nodes.replicas`, so `kubectl scale` and other autoscalers work on the same field.
///
/// The metric is that of the node's container. The metric of a whole pod cannot be computed once somebody injects a
/// container without a CPU request.
pub fn autoscaler(organism: &api::Organism) -> HorizontalPodAutoscaler {
    let api::Autoscaling { min_replicas, max_replicas, target_cpu_utilization, tolerance, .. } =
        organism.spec.autoscaling;
    HorizontalPodAutoscaler {
        metadata: metadata(organism, ""),
        spec: HorizontalPodAutoscalerSpec {
            scale_target_ref: CrossVersionObjectReference {
                api_version: Some(api::Organism::api_version(&()).into()),
                kind: api::Organism::kind(&()).into(),
                name: organism.name_any(),
            },
            min_replicas: Some(int(min_replicas)),
            max_replicas: int(max_replicas),
            metrics: Some(vec![MetricSpec {
                type_: "ContainerResource".into(),
                container_resource: Some(ContainerResourceMetricSource {
                    name: "cpu".into(),
                    container: CONTAINER.into(),
                    target: MetricTarget {
                        type_: "Utilization".into(),
                        average_utilization: Some(int(target_cpu_utilization)),
                        ..MetricTarget::default()
                    },
                }),
                ..MetricSpec::default()
            }]),
            behavior: Some(behaviour(tolerance)),
        },
        status: None,
    }
}

/// Scales up fast: within 30 s by 100 % or two pods, whichever is more. Scales down slowly: by at most 50 % per minute,
/// after the load has been low for five minutes.
fn behaviour(tolerance: Option<f64>) -> HorizontalPodAutoscalerBehavior {
    let tolerance = tolerance.map(|it| Quantity(it.to_string()));
    let policy =
        |type_: &str, value, period_seconds| HPAScalingPolicy { type_: type_.into(), value, period_seconds };
    HorizontalPodAutoscalerBehavior {
        scale_up: Some(HPAScalingRules {
            policies: Some(vec![policy("Percent", 100, 30), policy("Pods", 2, 30)]),
            select_policy: Some("Max".into()),
            stabilization_window_seconds: Some(0),
            tolerance: tolerance.clone(),
        }),
        scale_down: Some(HPAScalingRules {
            policies: Some(vec![policy("Percent", 50, 60)]),
            select_policy: Some("Max".into()),
            stabilization_window_seconds: Some(300),
            tolerance,
        }),
    }
}

fn int(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
