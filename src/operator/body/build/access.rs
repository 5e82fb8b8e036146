//! Who the pods are, whom they trust, who may reach them, and how many may be away.

use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Installation, label_selector, metadata};
use crate::api;

/// What the ConfigMap with the authority's certificate is called after the Organism's name.
pub const AUTHORITY: &str = "-mesh-ca";
/// Its key.
pub const CA: &str = "ca.pem";

/// No role is bound to it, and no token of it is mounted but the one with an audience of our own.
pub fn account(organism: &api::Organism) -> ServiceAccount {
    ServiceAccount {
        metadata: metadata(organism, ""),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}

/// By which the pods know the issuer and one another. It is no secret.
pub fn authority(organism: &api::Organism, on: &Installation) -> ConfigMap {
    ConfigMap {
        metadata: metadata(organism, AUTHORITY),
        data: Some([(CA.to_owned(), on.ca_pem.clone())].into()),
        ..ConfigMap::default()
    }
}

/// The mesh is for peers and the operator; whoever scrapes metrics may be anywhere.
pub fn policy(organism: &api::Organism, on: &Installation) -> NetworkPolicy {
    let tcp = |port: u16| NetworkPolicyPort {
        port: Some(IntOrString::Int(port.into())),
        protocol: Some("TCP".into()),
        end_port: None,
    };
    let labelled = |labels: &[(&str, &str)]| LabelSelector {
        match_labels: Some(labels.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()),
        ..LabelSelector::default()
    };
    let peers = NetworkPolicyPeer { pod_selector: Some(label_selector(organism)), ..Default::default() };
    let operator = NetworkPolicyPeer {
        namespace_selector: Some(labelled(&[("kubernetes.io/metadata.name", &on.namespace)])),
        pod_selector: Some(labelled(&[
            ("app.kubernetes.io/name", "venom"),
            ("app.kubernetes.io/component", "operator"),
        ])),
        ip_block: None,
    };
    NetworkPolicy {
        metadata: metadata(organism, "-body"),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(label_selector(organism)),
            policy_types: Some(vec!["Ingress".into()]),
            ingress: Some(vec![
                NetworkPolicyIngressRule {
                    from: Some(vec![peers, operator]),
                    ports: Some(vec![tcp(organism.spec.mesh.port)]),
                },
                NetworkPolicyIngressRule { from: None, ports: Some(vec![tcp(organism.spec.metrics.port)]) },
            ]),
            egress: None,
        }),
    }
}

/// A drain takes one pod at a time.
pub fn disruption(organism: &api::Organism) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: metadata(organism, ""),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(label_selector(organism)),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    }
}
