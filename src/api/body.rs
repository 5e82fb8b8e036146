//! The part of an Organism's spec that describes its body: pods, autoscaling, mesh and metrics.
use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::{bounds, rules};

/// Configuration of the pods.
#[derive(Clone, Debug, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(default = "Nodes::default", rename_all = "camelCase")]
pub struct Nodes {
    /// replicas is the desired number of pods, 0 to 1000. The scale subresource sets this field. With
    /// spec.autoscaling.enabled, leave it out: applying a manifest that contains it overrides the autoscaler.
    /// Defaults to 5.
    #[x_kube(validation = bounds::REPLICAS.rule())]
    pub replicas: u32,
    /// resources are the compute resources of each pod.
    pub resources: Resources,
    /// nodeSelector is the set of labels that a cluster node must have to run these pods. At most 32 labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "labels")]
    #[x_kube(validation = rules::SELECTOR_KEYS.rule())]
    #[x_kube(validation = rules::SELECTOR_VALUES.rule())]
    pub node_selector: BTreeMap<String, String>,
    /// tolerations are the node taints that these pods tolerate. At most 16.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub tolerations: Vec<Toleration>,
    /// topologySpreadConstraints spread the pods over the topology domains of the cluster. At most 8. The label
    /// selector is set by the operator and matches the pods of this Organism.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend(
        "x-kubernetes-list-type" = "map",
        "x-kubernetes-list-map-keys" = ["topologyKey", "whenUnsatisfiable"],
    ))]
    pub topology_spread_constraints: Vec<TopologySpread>,
    /// priorityClassName is the PriorityClass of the pods. Defaults to the cluster's default class.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    #[x_kube(validation = rules::PRIORITY_CLASS.rule())]
    pub priority_class_name: Option<String>,
    /// podTemplate adds metadata and pull secrets to the pods, for example what the rules of the cluster require.
    pub pod_template: PodTemplate,
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
            pod_template: PodTemplate::default(),
        }
    }
}

/// Additions to the pods. A change replaces them, a few at a time.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(default = "PodTemplate::default", rename_all = "camelCase")]
pub struct PodTemplate {
    /// labels are added to the pods. At most 32. Keys that begin with genesis.venom.dev/ are reserved. The operator's
    /// own labels (app.kubernetes.io/name, instance, component, part-of and managed-by) take precedence.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "labels")]
    #[x_kube(validation = rules::POD_LABELS_RESERVED.rule())]
    #[x_kube(validation = rules::POD_LABEL_KEYS.rule())]
    #[x_kube(validation = rules::POD_LABEL_VALUES.rule())]
    pub labels: BTreeMap<String, String>,
    /// annotations are added to the pods. At most 32. Keys that begin with genesis.venom.dev/ are reserved.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "annotations")]
    #[x_kube(validation = rules::POD_ANNOTATIONS_RESERVED.rule())]
    #[x_kube(validation = rules::POD_ANNOTATION_KEYS.rule())]
    pub annotations: BTreeMap<String, String>,
    /// imagePullSecrets are the Secrets of this namespace with which the image of the pods is pulled. At most 8.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend(
        "x-kubernetes-list-type" = "map",
        "x-kubernetes-list-map-keys" = ["name"],
    ))]
    pub image_pull_secrets: Vec<SecretRef>,
}

/// A reference to a Secret in the same namespace.
#[derive(Clone, Debug, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
pub struct SecretRef {
    /// name is the name of the Secret. Required.
    #[schemars(length(max = 253))]
    #[x_kube(validation = rules::PULL_SECRET.rule())]
    pub name: String,
}

/// Quantities by resource name, such as cpu and memory.
pub type Quantities = BTreeMap<String, IntOrString>;

/// Compute resources of each pod. A given map replaces the default as a whole: a resource that it leaves out is not
/// requested, or not limited.
#[derive(Clone, Debug, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(default = "Resources::default")]
#[x_kube(validation = rules::REQUESTS_WITHIN_LIMITS.rule())]
pub struct Resources {
    /// requests are the resources that the scheduler reserves for each pod. Defaults to cpu 100m and memory 256Mi.
    #[schemars(schema_with = "quantities")]
    #[x_kube(validation = rules::REQUESTS.rule())]
    pub requests: Quantities,
    /// limits are the resources that each pod may use at most. Defaults to cpu 500m and memory 512Mi.
    #[schemars(schema_with = "quantities")]
    #[x_kube(validation = rules::LIMITS.rule())]
    pub limits: Quantities,
}

impl Default for Resources {
    fn default() -> Self {
        let quantities = |cpu: &str, memory: &str| {
            [("cpu", cpu), ("memory", memory)]
                .map(|(name, quantity)| (name.to_owned(), IntOrString::String(quantity.to_owned())))
                .into()
        };
        Self { requests: quantities("100m", "256Mi"), limits: quantities("500m", "512Mi") }
    }
}

/// A toleration of node taints, as in a pod.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(default = "Toleration::default", rename_all = "camelCase")]
#[x_kube(validation = rules::TOLERATION_OF_ALL.rule())]
#[x_kube(validation = rules::TOLERATION_VALUE.rule())]
#[x_kube(validation = rules::TOLERATION_TIME.rule())]
pub struct Toleration {
    /// key is the key of the taint. Empty, together with operator Exists, matches every taint. Defaults to empty.
    #[schemars(length(max = 317))]
    pub key: String,
    /// operator is Equal to match key and value of the taint, or Exists to match any value. Defaults to Equal.
    pub operator: TolerationOperator,
    /// value is the value of the taint. Must be empty with operator Exists. Defaults to empty.
    #[schemars(length(max = 63))]
    pub value: String,
    /// effect is the effect of the taint: NoSchedule, PreferNoSchedule or NoExecute. Defaults to every effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effect: Option<TaintEffect>,
    /// tolerationSeconds is how long a NoExecute taint is tolerated, 0 to 31536000 seconds. Allowed only with
    /// effect NoExecute. Defaults to no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = bounds::TOLERATION_SECONDS.rule())]
    pub toleration_seconds: Option<u32>,
}

/// How a toleration matches a taint.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub enum TolerationOperator {
    /// Key and value must be equal.
    #[default]
    Equal,
    /// The key must be equal; the value may be any.
    Exists,
}

/// The effect of a taint on pods that do not tolerate it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub enum TaintEffect {
    /// They are not scheduled onto the node.
    NoSchedule,
    /// They are scheduled onto the node only if no other node fits.
    PreferNoSchedule,
    /// They are not scheduled onto the node, and evicted from it.
    NoExecute,
}

/// A topology spread constraint, as in a pod.
#[derive(Clone, Debug, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TopologySpread {
    /// maxSkew is the largest allowed difference in the number of pods between two topology domains, 1 to 1000.
    #[x_kube(validation = bounds::MAX_SKEW.rule())]
    pub max_skew: u32,
    /// topologyKey is the node label whose values are the topology domains, such as topology.kubernetes.io/zone.
    #[schemars(length(min = 1, max = 317))]
    pub topology_key: String,
    /// whenUnsatisfiable is DoNotSchedule to keep a pod pending that would violate the constraint, or
    /// ScheduleAnyway to prefer nodes that violate it least.
    pub when_unsatisfiable: WhenUnsatisfiable,
}

/// What happens to a pod that would violate a topology spread constraint.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub enum WhenUnsatisfiable {
    /// The pod stays pending.
    DoNotSchedule,
    /// The pod runs where it violates the constraint least.
    ScheduleAnyway,
}

/// Configuration of the HorizontalPodAutoscaler, which sets spec.nodes.replicas through the scale subresource.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(default = "Autoscaling::default", rename_all = "camelCase")]
#[x_kube(validation = rules::REPLICAS_ORDER.rule())]
pub struct Autoscaling {
    /// enabled creates a HorizontalPodAutoscaler for the pods. With false, set spec.nodes.replicas or use
    /// `kubectl scale org NAME --replicas=3`. Defaults to true, and with spec.workloadRef to false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// minReplicas is the lower limit for the number of pods, 1 to 1000. Must not exceed maxReplicas. Defaults
    /// to 1.
    #[x_kube(validation = bounds::MIN_REPLICAS.rule())]
    pub min_replicas: u32,
    /// maxReplicas is the upper limit for the number of pods, 1 to 1000. Defaults to 10.
    #[x_kube(validation = bounds::MAX_REPLICAS.rule())]
    pub max_replicas: u32,
    /// targetCPUUtilization is the target average CPU utilization of the node containers, in percent of the CPU that
    /// they request, 1 to 1000. Containers that others add to the pods do not count. Defaults to 50.
    #[serde(rename = "targetCPUUtilization")]
    #[x_kube(validation = bounds::TARGET_CPU_UTILIZATION.rule())]
    pub target_cpu_utilization: u32,
    /// tolerance is the deviation from the target, as a fraction of it, that does not change the number of pods, 0 to 1.
    /// Requires Kubernetes 1.35. 1.33 and 1.34 drop it unless the feature gate HPAConfigurableTolerance is enabled,
    /// and 1.31 and 1.32 refuse an autoscaler that has it. Defaults to the cluster's tolerance, usually 0.1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = bounds::TOLERANCE.rule())]
    pub tolerance: Option<f64>,
}

impl Default for Autoscaling {
    fn default() -> Self {
        Self { enabled: None, min_replicas: 1, max_replicas: 10, target_cpu_utilization: 50, tolerance: None }
    }
}

/// Configuration of the mesh, the mTLS connections between the pods.
#[derive(Clone, Debug, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(default = "Mesh::default")]
pub struct Mesh {
    /// port is the port on which each pod accepts its peers, 1 to 65535 except 8001. Must differ from
    /// spec.metrics.port. Defaults to 9000.
    #[x_kube(validation = bounds::MESH_PORT.rule())]
    pub port: u16,
}

impl Default for Mesh {
    fn default() -> Self {
        Self { port: 9000 }
    }
}

/// Configuration of the pods' metrics endpoint.
#[derive(Clone, Debug, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(default = "Metrics::default")]
pub struct Metrics {
    /// port is the port on which each pod serves /metrics, 1 to 65535 except 8001. Must differ from
    /// spec.mesh.port. Defaults to 8000.
    #[x_kube(validation = bounds::METRICS_PORT.rule())]
    pub port: u16,
    /// service configures the Service that exposes the metrics port.
    pub service: MetricsService,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { port: 8000, service: MetricsService::default() }
    }
}

/// Configuration of the metrics Service.
#[derive(Clone, Debug, Default, Deserialize, Eq, KubeSchema, PartialEq, Serialize)]
#[serde(default = "MetricsService::default", rename_all = "camelCase")]
#[x_kube(validation = rules::SOURCE_RANGES_TYPE.rule())]
pub struct MetricsService {
    /// type is the type of the Service: ClusterIP, NodePort or LoadBalancer. Defaults to LoadBalancer.
    #[serde(rename = "type")]
    pub type_: ServiceType,
    /// annotations are added to the Service, for example to configure a cloud load balancer. At most 32.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "annotations")]
    #[x_kube(validation = rules::SERVICE_ANNOTATION_KEYS.rule())]
    pub annotations: BTreeMap<String, String>,
    /// loadBalancerSourceRanges are the client address ranges that may use the load balancer, in CIDR notation
    /// such as 10.0.0.0/8. At most 64. Allowed only with type LoadBalancer. Defaults to all addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 43)))]
    #[x_kube(validation = rules::SOURCE_RANGES.rule())]
    pub load_balancer_source_ranges: Vec<String>,
}

/// The type of a Service.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub enum ServiceType {
    /// Reachable within the cluster only.
    ClusterIP,
    /// Reachable on a port of every cluster node too.
    NodePort,
    /// Reachable through a load balancer too, if the cluster provides one.
    #[default]
    LoadBalancer,
}

impl ServiceType {
    /// The value of `spec.type` of a Service.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClusterIP => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
        }
    }
}

fn string_map(max_properties: u32, max_length: u32) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": max_properties,
        "additionalProperties": {"type": "string", "maxLength": max_length},
    })
}

fn labels(_: &mut SchemaGenerator) -> Schema {
    string_map(32, 63)
}

fn annotations(_: &mut SchemaGenerator) -> Schema {
    string_map(32, 4096)
}

/// Integers as well as strings, as in a pod: `cpu: 2` and `cpu: 500m`.
fn quantities(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 8,
        "additionalProperties": {"x-kubernetes-int-or-string": true, "maxLength": 32},
    })
}
