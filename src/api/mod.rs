//! The two custom resources, [`Organism`] and [`Genome`]: their fields, defaults, bounds and columns.
//!
//! No behaviour lives here. The doc comments of fields are what `kubectl explain` shows, so they speak to
//! the user. Each default stands once, in the `Default` of its type: serde takes it for a missing field,
//! and the schema is generated from it.
mod action;
mod body;
mod conditions;
mod duration;
mod genome;
mod organism;
mod quantity;
pub mod labels;
mod read;
mod rules;
mod schema;

pub use action::Action;
pub use body::{
    Amounts, Autoscaling, Mesh, Metrics, MetricsService, Nodes, Resources, ServiceType, TaintEffect,
    Toleration, TolerationOperator, TopologySpread, WhenUnsatisfiable,
};
pub use duration::{GoDuration, InvalidDuration};
pub use genome::{
    BoundTo, Evolution, Genome, GenomeSpec, GenomeStatus, Injectable, Ml, Pid, Risk, Thresholds, Weights,
};
pub use organism::{
    Decision, GenomeRef, Ledger, LedgerStatus, NodesStatus, OnDelete, Organism, OrganismSpec, OrganismStatus,
    Pulse, ReplayableFrom, Retain,
};
pub use quantity::{ByteSize, InvalidByteSize};
pub use read::{ReadError, read};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{CustomResourceExt, ResourceExt};

/// The API group of both kinds.
pub const GROUP: &str = "genesis.venom.dev";

/// The one version served.
pub const VERSION: &str = "v1alpha1";

/// Both CustomResourceDefinitions, as they are installed.
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![Genome::crd(), Organism::crd()]
}

/// Both CustomResourceDefinitions as YAML, each with its name, such as `genomes.genesis.venom.dev`; `crds/`
/// holds each text as `<name>.yaml`.
pub fn crds_yaml() -> Result<Vec<(String, String)>, serde_yaml::Error> {
    crds()
        .iter()
        .map(|crd| {
            let text = serde_yaml::to_string(crd)?;
            Ok((crd.name_any(), format!("# Made from src/api by `venom crds`: change it there.\n{text}")))
        })
        .collect()
}
