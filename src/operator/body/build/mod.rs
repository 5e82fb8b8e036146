//! Builds the Kubernetes objects of an Organism's body. Pure: no client required.
//!
//! | object | name | purpose |
//! |---|---|---|
//! | ServiceAccount | the Organism's | identity of the pods; has no rights |
//! | ConfigMap | `-mesh-ca` | the CA certificate that the pods trust |
//! | Deployment | the Organism's | the pods |
//! | Service, headless | `-mesh` | DNS name by which nodes find each other |
//! | Service | `-metrics` | `/metrics` of all pods |
//! | PodDisruptionBudget | the Organism's | drains evict one pod at a time |
//! | NetworkPolicy | `-body` | allows what the pods need: mesh, certificates, DNS, and metrics for anyone |
//! | NetworkPolicy | `-quarantine` | selects the pods while they are isolated, else none |
//! | HorizontalPodAutoscaler | the Organism's | sets `spec.nodes.replicas` of the Organism |
//!
//! Of an Organism that adopts a workload only the NetworkPolicy `-quarantine`, where decisions are acted on, and the
//! HorizontalPodAutoscaler, which aims at the workload, where the spec asks for one.
//!
//! A name that starts with `-` is a suffix of the Organism's name. The Organism owns all objects, so the garbage
//! collector deletes them after it. The ownerReferences do not set `blockOwnerDeletion`: nobody has to wait for a body,
//! and the admission plugin OwnerReferencesPermissionEnforcement (OpenShift) would require the right to update
//! `organisms/finalizers`.

mod access;
mod autoscaler;
mod deployment;
mod services;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::core::{ApiResource, DynamicObject, Resource};
use kube::{Api, Client, ResourceExt};
use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::api;
use crate::api::labels::ORGANISM_LABEL;
use crate::mesh::Injectable;
use crate::operator::measures::Measures;
use crate::operator::publisher::adoption::Adopted;

type Labels = BTreeMap<String, String>;

/// Suffix of the mesh Service's name, after the Organism's name.
pub const MESH_SUFFIX: &str = "-mesh";
/// Suffix of the name of the policy that allows what the pods need.
pub const BODY_SUFFIX: &str = "-body";
/// Suffix of the name of the policy that isolates the pods.
pub const QUARANTINE_SUFFIX: &str = "-quarantine";

/// Weights that nodes and the operator's mesh peers accept: the widest range that a Genome can set. The operator
/// enforces the Genome's own range when it commits an injection. As an argument of the nodes, that range would cause
/// a rollout whenever it changes.
pub const INJECTABLE: Injectable = Injectable { min: -100.0, max: 100.0 };

/// Audience of the tokens with which nodes authenticate to the issuer.
pub const TOKEN_AUDIENCE: &str = "genesis.venom.dev/node";

/// Label of all objects of a body. [`ORGANISM_LABEL`] alone also selects the objects of the ledger.
pub const COMPONENT_LABEL: &str = "app.kubernetes.io/component";
/// Value of [`COMPONENT_LABEL`].
pub const COMPONENT: &str = "node";

/// The settings of the operator that the bodies depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    /// Image of the pods.
    pub node_image: String,
    /// Namespace of the operator; the NetworkPolicy allows connections from and to its pods.
    pub namespace: String,
    /// URL from which the pods request their certificates.
    pub issuer_url: String,
    /// Port of that URL, on which the operator's pods listen as well.
    pub issuer_port: u16,
    /// Address in that URL; none if it has a name. An operator outside of the cluster has one.
    pub issuer_address: Option<IpAddr>,
    /// CA certificate in PEM form, with which the pods verify the issuer and each other.
    pub ca_pem: String,
}

/// The kinds of a body's objects, in creation order: a referenced object precedes those that refer to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// core/v1.
    ConfigMap,
    /// core/v1.
    ServiceAccount,
    /// core/v1.
    Service,
    /// networking.k8s.io/v1.
    NetworkPolicy,
    /// apps/v1.
    Deployment,
    /// policy/v1.
    PodDisruptionBudget,
    /// autoscaling/v2.
    HorizontalPodAutoscaler,
}

impl Kind {
    /// All kinds, in creation order.
    pub const ALL: [Self; 7] = [
        Self::ConfigMap,
        Self::ServiceAccount,
        Self::Service,
        Self::NetworkPolicy,
        Self::Deployment,
        Self::PodDisruptionBudget,
        Self::HorizontalPodAutoscaler,
    ];

    /// Group, version, kind and plural of the kind in the API.
    #[must_use]
    pub fn resource(self) -> ApiResource {
        match self {
            Self::ConfigMap => ApiResource::erase::<ConfigMap>(&()),
            Self::ServiceAccount => ApiResource::erase::<ServiceAccount>(&()),
            Self::Service => ApiResource::erase::<Service>(&()),
            Self::NetworkPolicy => ApiResource::erase::<NetworkPolicy>(&()),
            Self::Deployment => ApiResource::erase::<Deployment>(&()),
            Self::PodDisruptionBudget => ApiResource::erase::<PodDisruptionBudget>(&()),
            Self::HorizontalPodAutoscaler => ApiResource::erase::<HorizontalPodAutoscaler>(&()),
        }
    }

    /// Whether the response to decisions changes objects of this kind.
    #[must_use]
    pub fn is_enforced(self) -> bool {
        matches!(self, Self::NetworkPolicy | Self::HorizontalPodAutoscaler)
    }

    /// The plural for messages.
    #[must_use]
    pub fn plural(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMaps",
            Self::ServiceAccount => "ServiceAccounts",
            Self::Service => "Services",
            Self::NetworkPolicy => "NetworkPolicies",
            Self::Deployment => "Deployments",
            Self::PodDisruptionBudget => "PodDisruptionBudgets",
            Self::HorizontalPodAutoscaler => "HorizontalPodAutoscalers",
        }
    }

    /// An API handle for the objects of this kind in `namespace`.
    #[must_use]
    pub fn api(self, client: Client, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(client, namespace, &self.resource())
    }
}

/// The desired state of one object of a body.
#[derive(Clone, Debug, PartialEq)]
pub struct ChildObject {
    /// Kind of the object.
    pub kind: Kind,
    /// Name of the object in the Organism's namespace.
    pub name: String,
    /// The object as it is applied; `None` if it should not exist.
    pub object: Option<DynamicObject>,
}

/// Builds the objects of the body of `organism`, changed by `measures`, in creation order. With a spec.workloadRef the
/// body is the `adopted` workload; without that too there is none.
///
/// # Errors
/// Serialization errors, which do not occur in practice because every Kubernetes object serializes to JSON.
pub fn children(
    organism: &api::Organism,
    installation: &Installation,
    measures: &Measures,
    adopted: Option<&Adopted>,
) -> Result<Vec<ChildObject>, serde_json::Error> {
    let adopts = organism.spec.workload_ref.is_some();
    let autoscaler = match organism.spec.autoscaling_enabled() && (!adopts || adopted.is_some()) {
        true => child(&autoscaler::autoscaler(organism, measures, adopted))?,
        false => ChildObject { kind: Kind::HorizontalPodAutoscaler, name: organism.name_any(), object: None },
    };
    let own = vec![
        child(&access::ca_config_map(organism, installation))?,
        child(&access::service_account(organism))?,
        child(&services::mesh_service(organism))?,
        child(&services::metrics_service(organism))?,
        // What cuts the pods off comes first: time counts there.
        child(&access::quarantine_policy(organism, installation, measures.isolated))?,
        child(&access::network_policy(organism, installation, measures.isolated))?,
        child(&deployment::deployment(organism, installation))?,
        child(&access::pod_disruption_budget(organism))?,
        autoscaler,
    ];
    if !adopts {
        return Ok(own);
    }
    let enforces = organism.spec.response_mode() == api::ResponseMode::Enforce;
    let quarantine = match adopted.filter(|_| enforces) {
        Some(adopted) => {
            child(&access::adopted_quarantine_policy(organism, adopted, measures.isolated))?.object
        }
        None => None,
    };
    // What it had before it adopted a workload goes.
    let quarantine_name = format!("{}{QUARANTINE_SUFFIX}", organism.name_any());
    Ok(own
        .into_iter()
        .map(|it| match it.kind {
            Kind::HorizontalPodAutoscaler => it,
            Kind::NetworkPolicy if it.name == quarantine_name => {
                ChildObject { object: quarantine.clone(), ..it }
            }
            _ => ChildObject { object: None, ..it },
        })
        .collect())
}

/// Converts a typed object. The [`Kind`] follows from the type.
fn child<K>(object: &K) -> Result<ChildObject, serde_json::Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + serde::Serialize,
{
    let resource = ApiResource::erase::<K>(&());
    let kind = Kind::ALL.into_iter().find(|kind| kind.resource() == resource);
    let kind =
        kind.ok_or_else(|| serde::ser::Error::custom(format!("{} is not a kind of a body", K::kind(&()))))?;
    let name = object.meta().name.clone().unwrap_or_default();
    Ok(ChildObject { kind, name, object: Some(serde_json::from_value(serde_json::to_value(object)?)?) })
}

/// Selects the pods of an Organism. No other pods of its namespace have this label.
#[must_use]
pub fn selector(organism: &api::Organism) -> Labels {
    [(ORGANISM_LABEL.to_owned(), organism.name_any())].into()
}

fn label_selector(organism: &api::Organism) -> LabelSelector {
    LabelSelector { match_labels: Some(selector(organism)), ..LabelSelector::default() }
}

fn labels(organism: &api::Organism) -> Labels {
    let mut labels = selector(organism);
    labels.insert(COMPONENT_LABEL.into(), COMPONENT.into());
    for (name, value) in [
        ("name", "venom"),
        ("instance", organism.name_any().as_str()),
        ("part-of", "venom"),
        ("managed-by", "venom"),
    ] {
        labels.insert(format!("app.kubernetes.io/{name}"), value.to_owned());
    }
    labels
}

/// The labels of the pods.
#[must_use]
pub fn pod_labels(organism: &api::Organism) -> Labels {
    deployment::pod_labels(organism)
}

/// Metadata of the object whose name is that of the Organism followed by `suffix`.
fn metadata(organism: &api::Organism, suffix: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(format!("{}{suffix}", organism.name_any())),
        namespace: organism.namespace(),
        labels: Some(labels(organism)),
        owner_references: organism.controller_owner_ref(&()).map(|owner| vec![owner]),
        ..ObjectMeta::default()
    }
}

#[cfg(test)]
mod tests;
