//! The fields of the body: the pods of an Organism, what scales them, and where they are reached.
use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::rules;

/// The pods of an Organism.
#[derive(Clone, Debug, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(default = "Nodes::default", rename_all = "camelCase")]
pub struct Nodes {
    /// How many pods, 0 to 1000. Default 5. This is what /scale sets; leave it out where an autoscaler
    /// sets it.
    #[x_kube(validation = rules::integer("spec.nodes.replicas", 0, 1000))]
    pub replicas: u32,
    /// What each pod asks for and what it may use.
    pub resources: Resources,
    /// Labels that a node of the cluster must have to run these pods. At most 32.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "selector")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that these pods bear. At most 16.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub tolerations: Vec<Toleration>,
    /// How the pods are spread over the cluster. At most 8; the pods counted are those of this Organism.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend(
        "x-kubernetes-list-type" = "map",
        "x-kubernetes-list-map-keys" = ["topologyKey", "whenUnsatisfiable"],
    ))]
    pub topology_spread_constraints: Vec<TopologySpread>,
    /// PriorityClass of the pods. Default: the cluster's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    #[x_kube(validation = rules::rule(
        "self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')",
        "spec.nodes.priorityClassName must be the name of a PriorityClass: lower-case letters, digits, '-' and '.'; \
         leave it out for the cluster's default",
    ))]
    pub priority_class_name: Option<String>,
}

impl Default for Nodes {
    fn default() -> Self {
        Self {
            replicas: 5,
            resources: Resources::default(),
            node_selector: BTreeMap::new(),
            tolerations: vec![],
            topology_spread_constraints: vec![],
            priority_class_name: None,
        }
    }
}

/// Amounts of resources by name, such as cpu and memory.
pub type Amounts = BTreeMap<String, IntOrString>;

/// What each pod asks for and what it may use. A list that is given stands for itself: what it leaves out is
/// not asked for, or not limited.
#[derive(Clone, Debug, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(default = "Resources::default")]
#[x_kube(validation = rules::rule(
    "!has(self.requests) || !has(self.limits) || self.requests.all(name, !(name in self.limits) \
     || !isQuantity(string(self.requests[name])) || !isQuantity(string(self.limits[name])) \
     || quantity(string(self.requests[name])).compareTo(quantity(string(self.limits[name]))) <= 0)",
    "spec.nodes.resources.requests must not be above the limits of the same name; raise the limit or lower the request",
))]
pub struct Resources {
    /// What the scheduler sets aside for each pod. Default cpu 100m, memory 256Mi.
    #[schemars(schema_with = "amounts")]
    #[x_kube(validation = rules::amounts("spec.nodes.resources.requests"))]
    pub requests: Amounts,
    /// What each pod may use. Default cpu 500m, memory 512Mi.
    #[schemars(schema_with = "amounts")]
    #[x_kube(validation = rules::amounts("spec.nodes.resources.limits"))]
    pub limits: Amounts,
}

impl Default for Resources {
    fn default() -> Self {
        let amounts = |cpu: &str, memory: &str| {
            let of = |name: &str, amount: &str| (name.to_owned(), IntOrString::String(amount.to_owned()));
            [of("cpu", cpu), of("memory", memory)].into()
        };
        Self { requests: amounts("100m", "256Mi"), limits: amounts("500m", "512Mi") }
    }
}

/// A taint that is borne.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(default = "Toleration::default", rename_all = "camelCase")]
#[x_kube(validation = rules::rule(
    "self.key != '' || self.operator == 'Exists'",
    "spec.nodes.tolerations: without a key the operator must be Exists; give the taint's key, or operator: Exists for \
     every taint",
))]
#[x_kube(validation = rules::rule(
    "self.value == '' || self.operator == 'Equal'",
    "spec.nodes.tolerations: a value goes with operator Equal only; remove the value or write operator: Equal",
))]
#[x_kube(validation = rules::rule(
    "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
    "spec.nodes.tolerations: tolerationSeconds goes with effect NoExecute only; write effect: NoExecute or remove it",
))]
pub struct Toleration {
    /// Key of the taint; empty, with operator Exists, is every taint.
    #[schemars(length(max = 317))]
    pub key: String,
    /// Equal (the default): key and value are the taint's. Exists: any value.
    pub operator: TolerationOperator,
    /// Value of the taint.
    #[schemars(length(max = 63))]
    pub value: String,
    /// Effect of the taint; every effect if it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effect: Option<TaintEffect>,
    /// How long a NoExecute taint is borne, in seconds; for ever if it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::integer("spec.nodes.tolerations: tolerationSeconds", 0, 31_536_000))]
    pub toleration_seconds: Option<u32>,
}

/// How a toleration is compared with a taint.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub enum TolerationOperator {
    /// Key and value are the same.
    #[default]
    Equal,
    /// The key is the same.
    Exists,
}

/// What a taint does.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub enum TaintEffect {
    /// No new pods.
    NoSchedule,
    /// No new pods where there is another node.
    PreferNoSchedule,
    /// Pods there are evicted.
    NoExecute,
}

/// One rule of spreading the pods.
#[derive(Clone, Debug, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TopologySpread {
    /// By how many pods two domains may differ, 1 to 1000.
    #[x_kube(validation = rules::integer("spec.nodes.topologySpreadConstraints: maxSkew", 1, 1000))]
    pub max_skew: u32,
    /// Label of the cluster's nodes that makes the domains, such as topology.kubernetes.io/zone.
    #[schemars(length(min = 1, max = 317))]
    pub topology_key: String,
    /// DoNotSchedule, or ScheduleAnyway where it cannot be had.
    pub when_unsatisfiable: WhenUnsatisfiable,
}

/// What becomes of a pod that would break the rule.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub enum WhenUnsatisfiable {
    /// It waits.
    DoNotSchedule,
    /// It runs where it breaks the rule least.
    ScheduleAnyway,
}

/// A HorizontalPodAutoscaler for the body: it sets spec.nodes.replicas by way of /scale.
#[derive(Clone, Debug, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(default = "Autoscaling::default", rename_all = "camelCase")]
#[x_kube(validation = rules::rule(
    "!has(self.minReplicas) || self.minReplicas <= self.maxReplicas",
    "spec.autoscaling.minReplicas must not be above maxReplicas; lower it or raise maxReplicas",
))]
pub struct Autoscaling {
    /// Default true. With false spec.nodes.replicas is yours: `kubectl scale org NAME --replicas=3`.
    pub enabled: bool,
    /// Never fewer pods, 1 to 1000. Default 1.
    #[x_kube(validation = rules::integer("spec.autoscaling.minReplicas", 1, 1000))]
    pub min_replicas: u32,
    /// Never more pods, 1 to 1000. Default 10.
    #[x_kube(validation = rules::integer("spec.autoscaling.maxReplicas", 1, 1000))]
    pub max_replicas: u32,
    /// CPU use to aim at, in per cent of what a pod requests, 1 to 1000. Default 50.
    #[serde(rename = "targetCPUUtilization")]
    #[x_kube(validation = rules::integer("spec.autoscaling.targetCPUUtilization", 1, 1000))]
    pub target_cpu_utilization: u32,
}

impl Default for Autoscaling {
    fn default() -> Self {
        Self { enabled: true, min_replicas: 1, max_replicas: 10, target_cpu_utilization: 50 }
    }
}

/// How the pods talk to one another.
#[derive(Clone, Debug, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(default = "Mesh::default")]
pub struct Mesh {
    /// Port of the mesh, 1 to 65535. Default 9000.
    #[x_kube(validation = rules::port("spec.mesh.port"))]
    pub port: u16,
}

impl Default for Mesh {
    fn default() -> Self {
        Self { port: 9000 }
    }
}

/// Where the pods show their metrics.
#[derive(Clone, Debug, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(default = "Metrics::default")]
pub struct Metrics {
    /// Port of /metrics, 1 to 65535. Default 8000.
    #[x_kube(validation = rules::port("spec.metrics.port"))]
    pub port: u16,
    /// The Service in front of it.
    pub service: MetricsService,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { port: 8000, service: MetricsService::default() }
    }
}

/// The Service in front of the pods' metrics.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(default = "MetricsService::default", rename_all = "camelCase")]
#[x_kube(validation = rules::rule(
    "!has(self.loadBalancerSourceRanges) || self.loadBalancerSourceRanges.size() == 0 || self.type == 'LoadBalancer'",
    "spec.metrics.service.loadBalancerSourceRanges goes with type LoadBalancer only; remove it or write type: LoadBalancer",
))]
pub struct MetricsService {
    /// ClusterIP, NodePort or LoadBalancer (the default).
    #[serde(rename = "type")]
    pub type_: ServiceType,
    /// Annotations of the Service, which load balancers are set up by. At most 32.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "annotations")]
    pub annotations: BTreeMap<String, String>,
    /// Who may reach the load balancer, as ranges such as 10.0.0.0/8. At most 64; everybody if there is none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 43)))]
    #[x_kube(validation = rules::rule(
        "self.all(range, isCIDR(range))",
        "spec.metrics.service.loadBalancerSourceRanges must be address ranges; write them such as 10.0.0.0/8",
    ))]
    pub load_balancer_source_ranges: Vec<String>,
}

/// What kind of Service.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub enum ServiceType {
    /// An address within the cluster.
    ClusterIP,
    /// And a port of every node of the cluster.
    NodePort,
    /// And a load balancer, where the cluster has any.
    #[default]
    LoadBalancer,
}

impl ServiceType {
    /// As Kubernetes writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClusterIP => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
        }
    }
}

fn texts(most: u32, longest: u32) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": most,
        "additionalProperties": {"type": "string", "maxLength": longest},
    })
}

fn selector(_: &mut SchemaGenerator) -> Schema {
    texts(32, 63)
}

fn annotations(_: &mut SchemaGenerator) -> Schema {
    texts(32, 4096)
}

/// Numbers as well as texts, as in every pod: `cpu: 2` and `cpu: 500m`.
fn amounts(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 8,
        "additionalProperties": {"x-kubernetes-int-or-string": true, "maxLength": 32},
    })
}
