//! Identity, trust, network access and disruption budget of the pods.

use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Installation, label_selector, metadata};
use crate::api;

/// Suffix of the name of the ConfigMap with the CA certificate.
pub const CA_SUFFIX: &str = "-mesh-ca";
/// Key of the CA certificate in the ConfigMap.
pub const CA_KEY: &str = "ca.pem";

/// Has no role bindings. The pods mount no API server token, only one with the issuer's audience.
pub fn service_account(organism: &api::Organism) -> ServiceAccount {
    ServiceAccount {
        metadata: metadata(organism, ""),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}

/// The CA certificate, with which the pods verify the issuer and each other. It is public, so a ConfigMap is enough.
pub fn ca_config_map(organism: &api::Organism, installation: &Installation) -> ConfigMap {
    ConfigMap {
        metadata: metadata(organism, CA_SUFFIX),
        data: Some([(CA_KEY.to_owned(), installation.ca_pem.clone())].into()),
        ..ConfigMap::default()
    }
}

/// Allows mesh connections only from peers and the operator. The metrics port is open, since a scraper may run in any
/// namespace or outside the cluster.
pub fn network_policy(organism: &api::Organism, installation: &Installation) -> NetworkPolicy {
    let tcp = |port: u16| NetworkPolicyPort {
        port: Some(IntOrString::Int(port.into())),
        protocol: Some("TCP".into()),
        end_port: None,
    };
    let label_selector_of = |labels: &[(&str, &str)]| LabelSelector {
        match_labels: Some(labels.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()),
        ..LabelSelector::default()
    };
    let peers = NetworkPolicyPeer { pod_selector: Some(label_selector(organism)), ..Default::default() };
    let operator = NetworkPolicyPeer {
        namespace_selector: Some(label_selector_of(&[(
            "kubernetes.io/metadata.name",
            &installation.namespace,
        )])),
        pod_selector: Some(label_selector_of(&[
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

/// Limits voluntary disruptions, such as drains, to one pod at a time.
pub fn pod_disruption_budget(organism: &api::Organism) -> PodDisruptionBudget {
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
