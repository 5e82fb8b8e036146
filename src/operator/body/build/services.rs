//! The Services of the pods.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{MESH_SUFFIX, metadata, selector};
use crate::api;

/// A headless Service: its DNS name resolves to all pods. It includes pods that are not ready, because a node becomes
/// ready only after it has found its peers.
pub fn mesh_service(organism: &api::Organism) -> Service {
    Service {
        metadata: metadata(organism, MESH_SUFFIX),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".into()),
            publish_not_ready_addresses: Some(true),
            selector: Some(selector(organism)),
            ports: Some(vec![port("mesh", organism.spec.mesh.port)]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// Exposes `/metrics` of the pods. The user chooses its type, annotations and source ranges.
pub fn metrics_service(organism: &api::Organism) -> Service {
    let api::MetricsService { type_, annotations, load_balancer_source_ranges } =
        &organism.spec.metrics.service;
    let mut metadata = metadata(organism, "-metrics");
    metadata.annotations = (!annotations.is_empty()).then(|| annotations.clone());
    Service {
        metadata,
        spec: Some(ServiceSpec {
            type_: Some(type_.as_str().into()),
            selector: Some(selector(organism)),
            ports: Some(vec![port("metrics", organism.spec.metrics.port)]),
            load_balancer_source_ranges: (!load_balancer_source_ranges.is_empty())
                .then(|| load_balancer_source_ranges.clone()),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

fn port(name: &str, port: u16) -> ServicePort {
    ServicePort {
        name: Some(name.into()),
        port: port.into(),
        protocol: Some("TCP".into()),
        target_port: Some(IntOrString::String(name.into())),
        ..ServicePort::default()
    }
}
