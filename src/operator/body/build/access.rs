//! Identity, trust, network access and disruption budget of the pods.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer,
    NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{BODY_SUFFIX, Installation, QUARANTINE_SUFFIX, label_selector, metadata};
use crate::api;
use crate::operator::measures::QUARANTINE_LABEL;
use crate::operator::publisher::adoption::Adopted;

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

/// Allows what the nodes need, also in a namespace that denies everything else: links with their peers and the operator,
/// certificates from the operator, and DNS. The metrics port is open, since a scraper may run in any namespace or outside
/// the cluster. Policies add up: users allow more, for example for a container that they inject, by policies of their own.
/// And so this one must not allow metrics while the pods are `isolated`.
pub fn network_policy(
    organism: &api::Organism,
    installation: &Installation,
    isolated: bool,
) -> NetworkPolicy {
    let mut policy = policy(organism, installation, BODY_SUFFIX);
    if let Some(spec) = policy.spec.as_mut().filter(|_| !isolated) {
        spec.ingress.get_or_insert_default().push(NetworkPolicyIngressRule {
            from: None,
            ports: Some(vec![port("TCP", organism.spec.metrics.port)]),
        });
    }
    policy
}

/// Selects the pods while they are `isolated`, and otherwise none. It stands all the time: a response only changes objects
/// that exist.
pub fn quarantine_policy(
    organism: &api::Organism,
    installation: &Installation,
    isolated: bool,
) -> NetworkPolicy {
    let mut policy = policy(organism, installation, QUARANTINE_SUFFIX);
    if let Some(spec) = policy.spec.as_mut().filter(|_| !isolated) {
        select_none(spec.pod_selector.get_or_insert_default());
    }
    policy
}

/// The same for the pods of an adopted workload, which are no nodes: only DNS is left to them.
pub fn adopted_quarantine_policy(
    organism: &api::Organism,
    adopted: &Adopted,
    isolated: bool,
) -> NetworkPolicy {
    let mut selector = adopted.selector.clone();
    if !isolated {
        select_none(&mut selector);
    }
    NetworkPolicy {
        metadata: metadata(organism, QUARANTINE_SUFFIX),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(selector),
            policy_types: Some(vec!["Ingress".into(), "Egress".into()]),
            ingress: Some(vec![]),
            egress: Some(vec![dns()]),
        }),
    }
}

fn select_none(selector: &mut LabelSelector) {
    selector.match_labels.get_or_insert_default().insert(QUARANTINE_LABEL.into(), "released".into());
}

/// DNS at any address: a node-local cache has one outside of the pods' network.
fn dns() -> NetworkPolicyEgressRule {
    let ports = DNS_PORTS.iter().flat_map(|number| ["UDP", "TCP"].map(|protocol| port(protocol, *number)));
    NetworkPolicyEgressRule { to: None, ports: Some(ports.collect()) }
}

/// A policy that selects the pods and allows links with their peers and the operator, certificates from the operator, and
/// DNS.
fn policy(organism: &api::Organism, installation: &Installation, suffix: &str) -> NetworkPolicy {
    let peers = NetworkPolicyPeer { pod_selector: Some(label_selector(organism)), ..Default::default() };
    let pods = NetworkPolicyPeer {
        namespace_selector: Some(select(&[("kubernetes.io/metadata.name", &installation.namespace)])),
        pod_selector: Some(select(&[
            ("app.kubernetes.io/name", "venom"),
            ("app.kubernetes.io/component", "operator"),
        ])),
        ip_block: None,
    };
    let mesh_port = vec![port("TCP", organism.spec.mesh.port)];
    let operator: Vec<_> = [pods].into_iter().chain(installation.issuer_address.map(address)).collect();
    NetworkPolicy {
        metadata: metadata(organism, suffix),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(label_selector(organism)),
            policy_types: Some(vec!["Ingress".into(), "Egress".into()]),
            ingress: Some(vec![NetworkPolicyIngressRule {
                from: Some([std::slice::from_ref(&peers), &operator].concat()),
                ports: Some(mesh_port.clone()),
            }]),
            egress: Some(vec![
                dns(),
                NetworkPolicyEgressRule { to: Some(vec![peers]), ports: Some(mesh_port) },
                NetworkPolicyEgressRule {
                    to: Some(operator),
                    ports: Some(vec![port("TCP", installation.issuer_port)]),
                },
            ]),
        }),
    }
}

/// A policy applies to the port of the pod behind a Service. That of OpenShift's DNS is 5353.
const DNS_PORTS: [u16; 2] = [53, 5353];

fn port(protocol: &str, port: u16) -> NetworkPolicyPort {
    NetworkPolicyPort {
        port: Some(IntOrString::Int(port.into())),
        protocol: Some(protocol.into()),
        end_port: None,
    }
}

fn select(labels: &[(&str, &str)]) -> LabelSelector {
    LabelSelector {
        match_labels: Some(labels.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()),
        ..LabelSelector::default()
    }
}

fn address(address: IpAddr) -> NetworkPolicyPeer {
    let length = if address.is_ipv4() { 32 } else { 128 };
    let block = IPBlock { cidr: format!("{address}/{length}"), except: None };
    NetworkPolicyPeer { ip_block: Some(block), ..NetworkPolicyPeer::default() }
}

/// Limits voluntary disruptions, such as drains, to one pod at a time.
pub fn pod_disruption_budget(organism: &api::Organism) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: metadata(organism, ""),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(label_selector(organism)),
            // A pod that is not ready must not block a drain: it may be what the drain is to cure.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".into()),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    }
}
