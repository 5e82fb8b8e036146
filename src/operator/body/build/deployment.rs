//! The Deployment of the nodes.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapVolumeSource, Container, ContainerPort, HTTPGetAction, LocalObjectReference,
    PodSecurityContext, PodSpec, PodTemplateSpec, Probe, ProjectedVolumeSource, ResourceRequirements,
    SeccompProfile, SecurityContext, ServiceAccountTokenProjection, Toleration, TopologySpreadConstraint,
    Volume, VolumeMount, VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use super::access::{CA_KEY, CA_SUFFIX};
use super::{INJECTABLE, Installation, MESH_SUFFIX, TOKEN_AUDIENCE, label_selector, labels, metadata};
use crate::api;

/// Name of the container in each pod.
pub const CONTAINER: &str = "node";
/// Lifetime of a node's token. The kubelet renews it before it expires.
const TOKEN_SECONDS: i64 = 3600;
/// Mount path of the volume with the token.
const TOKEN_DIRECTORY: &str = "/var/run/secrets/genesis.venom.dev/node";
/// File name of the token in its volume.
const TOKEN_FILE: &str = "token";
/// Mount path of the volume with the CA certificate.
const CA_DIRECTORY: &str = "/etc/venom/mesh-ca";

/// The replicas always follow the Organism. Autoscalers scale the Organism, not the Deployment.
pub fn deployment(organism: &api::Organism, installation: &Installation) -> Deployment {
    let nodes = &organism.spec.nodes;
    Deployment {
        metadata: metadata(organism, ""),
        spec: DeploymentSpec {
            replicas: Some(i32::try_from(nodes.replicas).unwrap_or(i32::MAX)),
            selector: label_selector(organism),
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".into()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_unavailable: Some(IntOrString::String("25%".into())),
                    max_surge: Some(IntOrString::String("25%".into())),
                }),
            }),
            template: PodTemplateSpec {
                metadata: Some(pod_metadata(organism)),
                spec: Some(pod_spec(organism, installation)),
            },
            ..DeploymentSpec::default()
        },
        status: None,
    }
}

/// The operator's own labels take precedence over those of the spec.
pub fn pod_labels(organism: &api::Organism) -> BTreeMap<String, String> {
    let mut all = organism.spec.nodes.pod_template.labels.clone();
    all.extend(labels(organism));
    all
}

fn pod_metadata(organism: &api::Organism) -> ObjectMeta {
    let annotations = &organism.spec.nodes.pod_template.annotations;
    ObjectMeta {
        labels: Some(pod_labels(organism)),
        annotations: (!annotations.is_empty()).then(|| annotations.clone()),
        ..ObjectMeta::default()
    }
}

fn pod_spec(organism: &api::Organism, installation: &Installation) -> PodSpec {
    let nodes = &organism.spec.nodes;
    PodSpec {
        service_account_name: Some(organism.name_any()),
        automount_service_account_token: Some(false),
        // Nodes find their peers by DNS and do not use the environment variables of the namespace's Services.
        enable_service_links: Some(false),
        // No user and no group: those of the image apply, or those that the cluster assigns to the namespace (OpenShift).
        // Without them the kubelet makes the token readable for all users of the pod.
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), ..Default::default() }),
            ..PodSecurityContext::default()
        }),
        node_selector: (!nodes.node_selector.is_empty()).then(|| nodes.node_selector.clone()),
        tolerations: non_empty(nodes.tolerations.iter().map(toleration)),
        topology_spread_constraints: non_empty(
            nodes.topology_spread_constraints.iter().map(|it| topology_spread(organism, it)),
        ),
        priority_class_name: nodes.priority_class_name.clone(),
        image_pull_secrets: non_empty(
            nodes
                .pod_template
                .image_pull_secrets
                .iter()
                .map(|it| LocalObjectReference { name: it.name.clone() }),
        ),
        volumes: Some(volumes(organism)),
        containers: vec![container(organism, installation)],
        ..PodSpec::default()
    }
}

fn container(organism: &api::Organism, installation: &Installation) -> Container {
    let mount = |name: &str, path: &str| VolumeMount {
        name: name.into(),
        mount_path: path.into(),
        read_only: Some(true),
        ..VolumeMount::default()
    };
    let port = |name: &str, port: u16| ContainerPort {
        name: Some(name.into()),
        container_port: port.into(),
        protocol: Some("TCP".into()),
        ..ContainerPort::default()
    };
    let resources = &organism.spec.nodes.resources;
    Container {
        name: CONTAINER.into(),
        image: Some(installation.node_image.clone()),
        args: Some(args(organism, installation)),
        ports: Some(vec![port("mesh", organism.spec.mesh.port), port("metrics", organism.spec.metrics.port)]),
        readiness_probe: Some(probe("/readyz", 5, 3)),
        liveness_probe: Some(probe("/healthz", 20, 4)),
        resources: Some(ResourceRequirements {
            requests: quantities(&resources.requests),
            limits: quantities(&resources.limits),
            ..ResourceRequirements::default()
        }),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), add: None }),
            read_only_root_filesystem: Some(true),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(vec![mount("token", TOKEN_DIRECTORY), mount("mesh-ca", CA_DIRECTORY)]),
        ..Container::default()
    }
}

/// Arguments of `venom node`. They contain no identity: that is in the node's certificate.
fn args(organism: &api::Organism, installation: &Installation) -> Vec<String> {
    let name = organism.name_any();
    let namespace = organism.namespace().unwrap_or_default();
    let mesh_port = organism.spec.mesh.port;
    vec![
        "node".into(),
        format!("--peers={name}{MESH_SUFFIX}.{namespace}.svc:{mesh_port}"),
        format!("--mesh-port={mesh_port}"),
        format!("--http-port={}", organism.spec.metrics.port),
        format!("--issuer={}", installation.issuer_url),
        format!("--issuer-token={TOKEN_DIRECTORY}/{TOKEN_FILE}"),
        format!("--issuer-ca={CA_DIRECTORY}/{CA_KEY}"),
        format!("--injectable={}..{}", INJECTABLE.min, INJECTABLE.max),
        "--log-format=json".into(),
    ]
}

/// The token has the issuer's audience, so the API server does not accept it. The ConfigMap with the CA certificate is
/// optional, so that the pod starts without it; the node then waits for the file.
fn volumes(organism: &api::Organism) -> Vec<Volume> {
    let token = ServiceAccountTokenProjection {
        audience: Some(TOKEN_AUDIENCE.into()),
        expiration_seconds: Some(TOKEN_SECONDS),
        path: TOKEN_FILE.into(),
        ..ServiceAccountTokenProjection::default()
    };
    vec![
        Volume {
            name: "token".into(),
            projected: Some(ProjectedVolumeSource {
                sources: Some(vec![VolumeProjection {
                    service_account_token: Some(token),
                    ..VolumeProjection::default()
                }]),
                ..ProjectedVolumeSource::default()
            }),
            ..Volume::default()
        },
        Volume {
            name: "mesh-ca".into(),
            config_map: Some(ConfigMapVolumeSource {
                name: format!("{}{CA_SUFFIX}", organism.name_any()),
                optional: Some(true),
                ..ConfigMapVolumeSource::default()
            }),
            ..Volume::default()
        },
    ]
}

fn probe(path: &str, period_seconds: i32, failure_threshold: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.into()),
            port: IntOrString::String("metrics".into()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        failure_threshold: Some(failure_threshold),
        ..Probe::default()
    }
}

fn quantities(amounts: &api::Quantities) -> Option<BTreeMap<String, Quantity>> {
    let text = |amount: &IntOrString| match amount {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(text) => text.clone(),
    };
    let amounts: BTreeMap<_, _> =
        amounts.iter().map(|(name, amount)| (name.clone(), Quantity(text(amount)))).collect();
    (!amounts.is_empty()).then_some(amounts)
}

fn toleration(it: &api::Toleration) -> Toleration {
    let text = |text: &String| (!text.is_empty()).then(|| text.clone());
    Toleration {
        key: text(&it.key),
        operator: Some(
            match it.operator {
                api::TolerationOperator::Equal => "Equal",
                api::TolerationOperator::Exists => "Exists",
            }
            .into(),
        ),
        value: text(&it.value),
        effect: it.effect.map(|effect| {
            match effect {
                api::TaintEffect::NoSchedule => "NoSchedule",
                api::TaintEffect::PreferNoSchedule => "PreferNoSchedule",
                api::TaintEffect::NoExecute => "NoExecute",
            }
            .into()
        }),
        toleration_seconds: it.toleration_seconds.map(i64::from),
    }
}

fn topology_spread(organism: &api::Organism, it: &api::TopologySpread) -> TopologySpreadConstraint {
    TopologySpreadConstraint {
        label_selector: Some(label_selector(organism)),
        max_skew: i32::try_from(it.max_skew).unwrap_or(i32::MAX),
        topology_key: it.topology_key.clone(),
        when_unsatisfiable: match it.when_unsatisfiable {
            api::WhenUnsatisfiable::DoNotSchedule => "DoNotSchedule",
            api::WhenUnsatisfiable::ScheduleAnyway => "ScheduleAnyway",
        }
        .into(),
        ..TopologySpreadConstraint::default()
    }
}

/// Collects the items; `None` if there are none, as the API represents an empty list.
fn non_empty<T>(items: impl Iterator<Item = T>) -> Option<Vec<T>> {
    let items: Vec<T> = items.collect();
    (!items.is_empty()).then_some(items)
}
