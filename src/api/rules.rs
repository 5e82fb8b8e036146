//! The rules of the schema that are not bounds of one number: see [`bounds`](super::bounds) for those.
//!
//! The schema uses CEL rules instead of `minimum`, `maximum` and `pattern`, whose messages come from the API
//! server and state nothing but the bound.
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::core::Rule;

use super::genome::Injectable;
use super::quantity::quantity;
use super::{
    Autoscaling, Nodes, OrganismSpec, Quantities, Resources, TaintEffect, Toleration, TolerationOperator,
};

/// A CEL rule with the message that the API server returns when it does not hold.
pub(super) fn rule(expression: impl Into<String>, message: impl AsRef<str>) -> Rule {
    Rule::new(expression).message(message.as_ref())
}

/// A rule twice: in CEL for the API server, and in Rust for [`validate`](super::validate).
pub(super) struct Requirement<T: ?Sized> {
    field: &'static str,
    /// Follows the field in the message: what must hold, and the remedy.
    must: &'static str,
    cel: &'static str,
    holds: fn(&T) -> bool,
}

impl<T: ?Sized> Requirement<T> {
    pub(super) fn rule(&self) -> Rule {
        rule(self.cel, self.message())
    }

    pub(super) fn check(&self, value: &T) -> Result<(), String> {
        if (self.holds)(value) { Ok(()) } else { Err(self.message()) }
    }

    fn message(&self) -> String {
        format!("{} {}", self.field, self.must)
    }
}

type Strings = BTreeMap<String, String>;

pub(super) const PORTS_DIFFER: Requirement<OrganismSpec> = Requirement {
    field: "spec.mesh.port and spec.metrics.port",
    must: "must differ; change one of them",
    cel: "!has(self.mesh) || self.mesh.port != self.metrics.port",
    holds: |spec| spec.mesh.port != spec.metrics.port,
};
pub(super) const CPU_TO_SCALE_BY: Requirement<OrganismSpec> = Requirement {
    field: "spec.nodes.resources.requests.cpu",
    must: "is required for autoscaling on CPU; set it, or set spec.autoscaling.enabled: false",
    cel: "!has(self.autoscaling) || has(self.workloadRef) \
          || (has(self.autoscaling.enabled) && !self.autoscaling.enabled) \
          || 'cpu' in self.nodes.resources.requests || 'cpu' in self.nodes.resources.limits",
    holds: |spec| {
        let resources = &spec.nodes.resources;
        spec.workload_ref.is_some()
            || !spec.autoscaling_enabled()
            || resources.requests.contains_key("cpu")
            || resources.limits.contains_key("cpu")
    },
};
/// The API server fills in the defaults of `spec.nodes` before it checks rules, so what is left out and what is written
/// as the default look the same.
pub(super) const NODES_OR_WORKLOAD: Requirement<OrganismSpec> = Requirement {
    field: "spec.nodes",
    must: "must be left out with spec.workloadRef, whose pods are the body; remove one of them",
    cel: "!has(self.workloadRef) || !has(self.nodes) || (self.nodes.replicas == 5 \
          && !has(self.nodes.nodeSelector) && !has(self.nodes.tolerations) \
          && !has(self.nodes.topologySpreadConstraints) && !has(self.nodes.priorityClassName) \
          && !has(self.nodes.podTemplate.labels) && !has(self.nodes.podTemplate.annotations) \
          && !has(self.nodes.podTemplate.imagePullSecrets))",
    holds: |spec| {
        let nodes = &spec.nodes;
        spec.workload_ref.is_none()
            || Nodes { resources: Resources::default(), ..nodes.clone() } == Nodes::default()
    },
};
pub(super) const REPLICAS_ORDER: Requirement<Autoscaling> = Requirement {
    field: "spec.autoscaling.minReplicas",
    must: "must not exceed maxReplicas; lower it or raise maxReplicas",
    cel: "!has(self.minReplicas) || self.minReplicas <= self.maxReplicas",
    holds: |it| it.min_replicas <= it.max_replicas,
};
pub(super) const INJECTABLE_ORDER: Requirement<Injectable> = Requirement {
    field: "spec.ml.injectable.min",
    must: "must not exceed max; lower it or raise max",
    cel: "!has(self.min) || self.min <= self.max",
    holds: |it| it.min <= it.max,
};

pub(super) const REQUESTS: Requirement<Quantities> = quantities("spec.nodes.resources.requests");
pub(super) const LIMITS: Requirement<Quantities> = quantities("spec.nodes.resources.limits");
pub(super) const REQUESTS_WITHIN_LIMITS: Requirement<Resources> = Requirement {
    field: "spec.nodes.resources.requests",
    must: "must not exceed the limits of the same resource; raise the limit or lower the request",
    cel: "!has(self.requests) || !has(self.limits) || self.requests.all(name, !(name in self.limits) \
          || !isQuantity(string(self.requests[name])) || !isQuantity(string(self.limits[name])) \
          || quantity(string(self.requests[name])).compareTo(quantity(string(self.limits[name]))) <= 0)",
    holds: |it| {
        it.requests.iter().all(|(name, request)| {
            let pair = (amount(request), it.limits.get(name).and_then(amount));
            !matches!(pair, (Some(request), Some(limit)) if request > limit)
        })
    },
};

pub(super) const TOLERATION_OF_ALL: Requirement<Toleration> = Requirement {
    field: "spec.nodes.tolerations:",
    must: "operator must be Exists when key is empty; set the key, or operator: Exists to tolerate every taint",
    cel: "self.key != '' || self.operator == 'Exists'",
    holds: |it| !it.key.is_empty() || it.operator == TolerationOperator::Exists,
};
pub(super) const TOLERATION_VALUE: Requirement<Toleration> = Requirement {
    field: "spec.nodes.tolerations:",
    must: "value is allowed only with operator Equal; remove it, or set operator: Equal",
    cel: "self.value == '' || self.operator == 'Equal'",
    holds: |it| it.value.is_empty() || it.operator == TolerationOperator::Equal,
};
pub(super) const TOLERATION_TIME: Requirement<Toleration> = Requirement {
    field: "spec.nodes.tolerations:",
    must: "tolerationSeconds is allowed only with effect NoExecute; remove it, or set effect: NoExecute",
    cel: "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
    holds: |it| it.toleration_seconds.is_none() || it.effect == Some(TaintEffect::NoExecute),
};

pub(super) const SELECTOR_KEYS: Requirement<Strings> = label_keys("spec.nodes.nodeSelector");
pub(super) const SELECTOR_VALUES: Requirement<Strings> = label_values("spec.nodes.nodeSelector");
pub(super) const POD_LABELS_RESERVED: Requirement<Strings> = reserved("spec.nodes.podTemplate.labels");
pub(super) const POD_LABEL_KEYS: Requirement<Strings> = label_keys("spec.nodes.podTemplate.labels");
pub(super) const POD_LABEL_VALUES: Requirement<Strings> = label_values("spec.nodes.podTemplate.labels");
pub(super) const POD_ANNOTATIONS_RESERVED: Requirement<Strings> =
    reserved("spec.nodes.podTemplate.annotations");
pub(super) const POD_ANNOTATION_KEYS: Requirement<Strings> =
    annotation_keys("spec.nodes.podTemplate.annotations");
pub(super) const SERVICE_ANNOTATION_KEYS: Requirement<Strings> =
    annotation_keys("spec.metrics.service.annotations");

pub(super) const GENOME_NAME: Requirement<str> = name("spec.genomeRef.name", NAME_OF_SELF);
pub(super) const OBJECT_NAME: Requirement<str> = name("metadata.name", NAME_OF_OBJECT);
pub(super) const PRIORITY_CLASS: Requirement<str> = Requirement {
    field: "spec.nodes.priorityClassName",
    must: "must be the name of a PriorityClass: lower-case letters, digits, '-' and '.'; correct it, or leave it out \
           for the cluster's default",
    cel: SUBDOMAIN,
    holds: is_subdomain,
};
pub(super) const WORKLOAD_NAME: Requirement<str> = Requirement {
    field: "spec.workloadRef.name",
    must: "must be the name of the workload: lower-case letters, digits, '-' and '.'; correct it",
    cel: SUBDOMAIN,
    holds: is_subdomain,
};
pub(super) const QUERY_NAME: Requirement<str> = Requirement {
    field: "spec.sensing.prometheus: name",
    must: "must be at most 40 characters, lower-case letters, digits and '-', begin with a letter and end with a letter \
           or digit; choose a name such as error-rate",
    cel: NAME_OF_SELF,
    holds: is_name,
};
pub(super) const PULL_SECRET: Requirement<str> = Requirement {
    field: "spec.nodes.podTemplate.imagePullSecrets: name",
    must: "must be the name of a Secret: lower-case letters, digits, '-' and '.'; correct it",
    cel: SUBDOMAIN,
    holds: is_subdomain,
};

pub(super) const SOURCE_RANGES: Requirement<[String]> = Requirement {
    field: "spec.metrics.service.loadBalancerSourceRanges",
    must: "must be in CIDR notation; write ranges such as 10.0.0.0/8 or fd00::/8",
    cel: "self.all(range, isCIDR(range))",
    holds: |ranges| ranges.iter().all(|it| is_cidr(it)),
};
pub(super) const SOURCE_RANGES_TYPE: Requirement<super::MetricsService> = Requirement {
    field: "spec.metrics.service.loadBalancerSourceRanges",
    must: "is allowed only with type LoadBalancer; remove it, or set type: LoadBalancer",
    cel: "!has(self.loadBalancerSourceRanges) || self.loadBalancerSourceRanges.size() == 0 || self.type == 'LoadBalancer'",
    holds: |it| it.load_balancer_source_ranges.is_empty() || it.type_ == super::ServiceType::LoadBalancer,
};

const fn quantities(field: &'static str) -> Requirement<Quantities> {
    Requirement {
        field,
        must: "must be non-negative quantities, such as cpu: 500m or memory: 256Mi; correct the value",
        cel: "self.all(name, isQuantity(string(self[name])) && quantity(string(self[name])).compareTo(quantity('0')) >= 0)",
        holds: |it| it.values().all(|value| amount(value).is_some_and(|amount| amount >= 0.0)),
    }
}

fn amount(value: &IntOrString) -> Option<f64> {
    match value {
        IntOrString::Int(number) => Some(f64::from(*number)),
        IntOrString::String(text) => quantity(text),
    }
}

/// The prefix of the operator's own keys.
const fn reserved(field: &'static str) -> Requirement<Strings> {
    Requirement {
        field,
        must: "must not have keys that begin with genesis.venom.dev/, which are reserved for the operator; rename the key",
        cel: "self.all(key, !key.startsWith('genesis.venom.dev/'))",
        holds: |it| it.keys().all(|key| !key.starts_with("genesis.venom.dev/")),
    }
}

const KEYS: &str = "must have keys such as team or example.com/team: an optional lower-case DNS name and '/', and at most \
     63 letters, digits, '-', '_' and '.' that begin and end with a letter or digit; correct the key";

/// The syntax of label keys. The API server would refuse the object that the labels are for.
const fn label_keys(field: &'static str) -> Requirement<Strings> {
    Requirement {
        field,
        must: KEYS,
        cel: "self.all(key, key.matches('^(([a-z0-9]([-a-z0-9]*[a-z0-9])?)([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?\
              [A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$') && key.size() <= 317)",
        holds: |it| it.keys().all(|key| is_key(key)),
    }
}

/// The same as for labels, but the API server ignores the case of the prefix.
const fn annotation_keys(field: &'static str) -> Requirement<Strings> {
    Requirement {
        field,
        must: KEYS,
        cel: "self.all(key, key.matches('^(([a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?)([.][a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?)*/)?\
              [A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$') && key.size() <= 317)",
        holds: |it| it.keys().all(|key| is_key(&key.to_ascii_lowercase())),
    }
}

const fn label_values(field: &'static str) -> Requirement<Strings> {
    Requirement {
        field,
        must: "must have values of at most 63 letters, digits, '-', '_' and '.' that begin and end with a letter or digit, \
               or empty ones; correct the value",
        cel: "self.all(key, self[key].matches('^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$'))",
        holds: |it| it.values().all(|value| value.is_empty() || is_label(value)),
    }
}

const NAME_OF_SELF: &str = "self.size() <= 40 && self.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')";
const NAME_OF_OBJECT: &str =
    "self.metadata.name.size() <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')";

/// A rule for the name of an Organism or a Genome. The names of other objects, Services among them, are derived from
/// it: hence a DNS-1035 label, and 40 characters to leave room for suffixes.
const fn name(field: &'static str, cel: &'static str) -> Requirement<str> {
    Requirement {
        field,
        must: "must be at most 40 characters, lower-case letters, digits and '-', begin with a letter and end with a letter \
               or digit; choose a name such as venom-1",
        cel,
        holds: is_name,
    }
}

fn is_name(name: &str) -> bool {
    name.len() <= 40 && name.starts_with(|first: char| first.is_ascii_lowercase()) && is_dns_label(name)
}

const SUBDOMAIN: &str = "self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')";

fn is_subdomain(name: &str) -> bool {
    begins_and_ends_well(name, |it| it.is_ascii_lowercase() || it.is_ascii_digit(), "-.")
}

fn is_dns_label(name: &str) -> bool {
    begins_and_ends_well(name, |it| it.is_ascii_lowercase() || it.is_ascii_digit(), "-")
}

fn is_label(value: &str) -> bool {
    value.len() <= 63 && begins_and_ends_well(value, |it| it.is_ascii_alphanumeric(), "-_.")
}

fn is_key(key: &str) -> bool {
    let (prefix, name) = key.rsplit_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    key.len() <= 317 && is_label(name) && prefix.is_none_or(|it| it.split('.').all(is_dns_label))
}

/// Whether `text` consists of `outer` characters, and inside also of `inner` ones.
fn begins_and_ends_well(text: &str, outer: fn(char) -> bool, inner: &str) -> bool {
    text.starts_with(outer) && text.ends_with(outer) && text.chars().all(|it| outer(it) || inner.contains(it))
}

/// As CEL's `isCIDR`: an address without a zone, and a prefix length in plain decimals.
fn is_cidr(range: &str) -> bool {
    let Some((address, length)) = range.split_once('/') else { return false };
    let plain = length == "0" || (!length.starts_with(['0', '+']));
    let max = match address.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(address)) if address.to_ipv4_mapped().is_none() => 128,
        _ => return false,
    };
    plain && length.parse::<u8>().is_ok_and(|length| length <= max)
}

/// Whether no two elements are equal.
pub(super) fn are_distinct<T: Ord>(items: impl IntoIterator<Item = T>) -> bool {
    let mut seen = BTreeSet::new();
    items.into_iter().all(|item| seen.insert(item))
}
