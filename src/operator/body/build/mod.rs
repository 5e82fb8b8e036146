//! The body of an Organism as Kubernetes objects. Pure: no client required.
//!
//! | object | name | for |
//! |---|---|---|
//! | ServiceAccount | the Organism's | the pods' identity; it has no rights |
//! | ConfigMap | `-mesh-ca` | the certificate of the authority that the pods trust |
//! | Deployment | the Organism's | the pods |
//! | Service, headless | `-mesh` | where peers find one another |
//! | Service | `-metrics` | `/metrics` of all pods |
//! | PodDisruptionBudget | the Organism's | one pod at a time when nodes are drained |
//! | NetworkPolicy | `-body` | mesh from peers and the operator, metrics from anywhere |
//! | HorizontalPodAutoscaler | the Organism's | sets spec.nodes.replicas of the Organism |
//!
//! All are owned by the Organism: the cluster's garbage collector takes them when it is deleted.

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

use crate::api;
use crate::api::labels::ORGANISM_LABEL;
use crate::mesh::Injectable;

type Labels = BTreeMap<String, String>;

/// The mesh Service's name is the Organism's and this.
pub const MESH_SUFFIX: &str = "-mesh";

/// Weights that a node lets in, and the operator's place in its mesh too: all that a Genome can say. The operator
/// keeps to what it does say; a node that knew would have to be replaced whenever that changes.
pub const INJECTABLE: Injectable = Injectable { min: -100.0, max: 100.0 };

/// Audience of the tokens by which a node proves to the operator who it is.
pub const TOKEN_AUDIENCE: &str = "genesis.venom.dev/node";

/// Label of all that belongs to a body; with [`ORGANISM_LABEL`] alone it might be a ledger's.
pub const COMPONENT_LABEL: &str = "app.kubernetes.io/component";
/// Value of [`COMPONENT_LABEL`].
pub const COMPONENT: &str = "node";

/// What the operator was started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    /// Image of the pods.
    pub node_image: String,
    /// Namespace of the operator, whose pods may reach the mesh.
    pub namespace: String,
    /// Where the pods get their certificates.
    pub issuer_url: String,
    /// The authority's certificate in PEM form, by which they know the issuer and one another.
    pub ca_pem: String,
}

/// The kinds of a body, in the order in which they are made: who is referred to goes first.
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
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::ConfigMap,
        Self::ServiceAccount,
        Self::Service,
        Self::NetworkPolicy,
        Self::Deployment,
        Self::PodDisruptionBudget,
        Self::HorizontalPodAutoscaler,
    ];

    /// As the API names it.
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

    /// As people name many of them.
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

    /// Where objects of this kind are read and written.
    #[must_use]
    pub fn api(self, client: Client, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(client, namespace, &self.resource())
    }
}

/// One object of a body.
#[derive(Clone, Debug, PartialEq)]
pub struct Child {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// All of it, or none where an object of ours is not to be there.
    pub object: Option<DynamicObject>,
}

/// The body that `organism` asks for.
///
/// # Errors
/// Never in fact: objects of Kubernetes' types are JSON.
pub fn body(organism: &api::Organism, on: &Installation) -> Result<Vec<Child>, serde_json::Error> {
    let autoscaler = match organism.spec.autoscaling.enabled {
        true => child(&autoscaler::autoscaler(organism))?,
        false => Child { kind: Kind::HorizontalPodAutoscaler, name: organism.name_any(), object: None },
    };
    Ok(vec![
        child(&access::authority(organism, on))?,
        child(&access::account(organism))?,
        child(&services::mesh(organism))?,
        child(&services::metrics(organism))?,
        child(&access::policy(organism, on))?,
        child(&deployment::deployment(organism, on))?,
        child(&access::disruption(organism))?,
        autoscaler,
    ])
}

/// Its kind is found by its type.
fn child<K>(object: &K) -> Result<Child, serde_json::Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + serde::Serialize,
{
    let resource = ApiResource::erase::<K>(&());
    let kind = Kind::ALL.into_iter().find(|kind| kind.resource() == resource);
    let kind =
        kind.ok_or_else(|| serde::ser::Error::custom(format!("{} is no kind of a body", K::kind(&()))))?;
    let name = object.meta().name.clone().unwrap_or_default();
    Ok(Child { kind, name, object: Some(serde_json::from_value(serde_json::to_value(object)?)?) })
}

/// By what the pods of an Organism are known: nothing else carries this label in its namespace but the
/// ledger's ConfigMaps.
fn selector(organism: &api::Organism) -> Labels {
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

/// Metadata of the object whose name is the Organism's and `suffix`.
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
