//! The custom resources [`Organism`] and [`Genome`]: fields, defaults, bounds, printer columns and labels.
//!
//! The doc comments of fields become the descriptions in the CRDs, which `kubectl explain` prints: they are
//! written for users. Each default is stated once, in the `Default` of its type: serde uses it for a missing
//! field, and the schema is generated from it. Each bound is stated once, in `bounds`, and each other rule in `rules`: the
//! schema and [`validate`] use them.
mod action;
mod body;
mod bounds;
mod conditions;
mod duration;
mod genome;
pub mod labels;
mod organism;
mod quantity;
mod read;
mod response;
mod rules;
mod schema;
pub mod validate;

pub use action::Action;
pub use body::{
    Autoscaling, Mesh, Metrics, MetricsService, Nodes, PodTemplate, Quantities, Resources, SecretRef,
    ServiceType, TaintEffect, Toleration, TolerationOperator, TopologySpread, WhenUnsatisfiable,
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
pub use read::{ReadError, document, read};
pub use response::{
    AppliedResponse, PrometheusQuery, Response, ResponseMode, ResponseStatus, Sensing, SensingWeights,
    ServicesPolicy, WorkloadKind, WorkloadRef,
};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{CustomResourceExt, ResourceExt};

/// The API group of both kinds.
pub const GROUP: &str = "genesis.venom.dev";

/// The only version of the group.
pub const VERSION: &str = "v1alpha1";

/// Both CustomResourceDefinitions.
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![Genome::crd(), Organism::crd()]
}

/// Both CustomResourceDefinitions as pairs of name, such as `genomes.genesis.venom.dev`, and YAML. The
/// repository holds each as `crds/<name>.yaml`.
pub fn crds_yaml() -> Result<Vec<(String, String)>, serde_yaml::Error> {
    crds()
        .iter()
        .map(|crd| {
            let text = serde_yaml::to_string(crd)?;
            Ok((crd.name_any(), format!("# Generated from src/api by `make crds`. DO NOT EDIT.\n{text}")))
        })
        .collect()
}
