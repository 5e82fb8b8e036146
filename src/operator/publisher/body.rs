//! The condition BodyAvailable: whether all nodes are ready, and what keeps them from it. Pure.

use std::time::Duration;

use serde_json::Value;

use crate::operator::measures::Measures;
use crate::printable::{QUOTE, line};

/// The Deployment of a body, as the cluster reports it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workload {
    /// Its spec.replicas.
    pub wanted: u64,
    /// Whether pods of an earlier template are being replaced, or the wanted number is not there yet.
    pub rolling: bool,
    /// Whether pods of an earlier template are being replaced; none while its controller has not seen the spec.
    pub replaces: Option<bool>,
    /// Whether it has made no progress for its progressDeadlineSeconds.
    pub stalled: bool,
    /// Why its pods are refused, in the API server's words.
    pub refusal: Option<String>,
}

impl Workload {
    /// Parses a Deployment or StatefulSet; none for another object.
    #[must_use]
    pub fn of(generation: Option<i64>, object: &Value) -> Option<Self> {
        let wanted = object["spec"]["replicas"].as_u64()?;
        let status = &object["status"];
        let number = |field: &str| status[field].as_u64().unwrap_or_default();
        let condition = |kind: &str, value: &str| {
            let mut all = status["conditions"].as_array().into_iter().flatten();
            all.find(|it| it["type"] == kind && it["status"] == value)
        };
        let observed = status["observedGeneration"].as_i64() >= generation;
        let updated = number("updatedReplicas");
        let strategy = &object["spec"]["updateStrategy"];
        // Pods that nobody replaces: of a paused Deployment, and of a StatefulSet below its partition.
        let left_alone = object["spec"]["paused"] == true || strategy["type"] == "OnDelete";
        let kept = strategy["rollingUpdate"]["partition"].as_u64().unwrap_or_default();
        let replaced = updated.saturating_add(kept) < number("replicas") && !left_alone;
        let refusal = condition("ReplicaFailure", "True");
        Some(Self {
            wanted,
            rolling: !observed || replaced || (updated.saturating_add(kept) < wanted && !left_alone),
            replaces: observed.then_some(replaced),
            stalled: condition("Progressing", "False")
                .is_some_and(|it| it["reason"] == "ProgressDeadlineExceeded"),
            refusal: refusal.map(|it| it["message"].as_str().unwrap_or_default().to_owned()),
        })
    }
}

/// What the body's reconciler found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Body {
    /// What is wrong, the most important first.
    pub faults: Vec<BodyFault>,
    /// Whether a changed pod template waits for the rollouts of other bodies.
    pub waits_for_rollout: bool,
    /// Objects of a deleted Organism of this name that the garbage collector has not deleted yet.
    pub uncollected: Vec<ObjectName>,
    /// UID of the Deployment; none before it exists.
    pub workload: Option<String>,
    /// What the response to a decision has changed in all objects that it concerns; none while they are not all as it
    /// asks for.
    pub measures: Option<Measures>,
    /// Hash of the objects as they were applied; none while they are not all as they should be.
    pub applied: Option<String>,
    /// An autoscaler of someone else that scales the nodes, as messages name it.
    pub foreign_autoscaler: Option<String>,
}

/// Kind and name of an object in the namespace of the Organism.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectName {
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
}

impl std::fmt::Display for ObjectName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// One thing that is wrong with a body. In the order of importance.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BodyFault {
    /// These objects have names of the body's and belong to someone else.
    NameTaken {
        /// Namespace of the Organism.
        namespace: String,
        /// The objects.
        objects: Vec<ObjectName>,
    },
    /// The API server does not accept an object.
    ObjectRefused {
        /// The object.
        object: ObjectName,
        /// The API server's words.
        words: String,
    },
    /// Another client undoes what the operator writes, again and again.
    Contested(Contest),
    /// Pods cannot start or do not stay up.
    Pods(PodFault),
}

/// A fight over one object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Contest {
    /// The object.
    pub object: ObjectName,
    /// What the other one does to it.
    pub change: ForeignChange,
    /// The operator writes it again after this wait.
    pub wait: Duration,
}

/// What another client does to an object of a body.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ForeignChange {
    /// It deletes the object.
    Deleted,
    /// It changes the object.
    Changed {
        /// Path of the field; none if it is not known.
        field: Option<String>,
        /// Name of the field manager; none if it is not known.
        manager: Option<String>,
    },
}

/// Why pods are not ready. In the order of importance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PodFaultKind {
    /// The image cannot be pulled.
    ImageUnavailable,
    /// A container exits again and again.
    CrashLoop,
    /// A container cannot be made or started.
    ContainerFailed,
    /// No node of the cluster takes the pod.
    Unschedulable,
    /// The pod has ended: evicted, or refused by the kubelet.
    PodFailed,
    /// The container of a node runs and its readiness probe fails: it has no certificate.
    NoCertificate,
    /// The container of an adopted pod runs and its readiness probe fails.
    NotReady,
}

impl PodFaultKind {
    /// The reason as the condition has it.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::ImageUnavailable => "ImageUnavailable",
            Self::CrashLoop => "CrashLoop",
            Self::ContainerFailed => "ContainerFailed",
            Self::Unschedulable => "Unschedulable",
            Self::PodFailed => "PodFailed",
            Self::NoCertificate => "NoCertificate",
            Self::NotReady => "NotReady",
        }
    }
}

/// Pods that are not ready for the same reason.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodFault {
    /// The reason.
    pub kind: PodFaultKind,
    /// Name of one of the pods.
    pub pod: String,
    /// Number of other pods with this reason.
    pub others: usize,
    /// What the cluster says of that one.
    pub words: String,
}

impl BodyFault {
    /// The reason as the condition has it.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NameTaken { .. } => "NameTaken",
            Self::ObjectRefused { .. } => "ObjectRefused",
            Self::Contested(_) => "Contested",
            Self::Pods(fault) => fault.kind.reason(),
        }
    }

    /// What is wrong and what to do.
    #[must_use]
    pub fn message(&self) -> String {
        match self {
            Self::NameTaken { namespace, objects } => name_taken(namespace, objects),
            Self::ObjectRefused { object, words } => {
                format!("{object} is not accepted: {}. Change that, or the spec.", sentence(words))
            }
            Self::Contested(contest) => contested(contest),
            Self::Pods(fault) => pods(fault),
        }
    }
}

fn name_taken(namespace: &str, objects: &[ObjectName]) -> String {
    let names: Vec<_> = objects.iter().map(ToString::to_string).collect();
    let command: Vec<_> =
        objects.iter().map(|it| format!("{}/{}", it.kind.to_lowercase(), it.name)).collect();
    let (exist, they) = match objects {
        [_] => ("exists and does not belong to this Organism", "It is"),
        _ => ("exist and do not belong to this Organism", "They are"),
    };
    format!(
        "{} {exist}. {they} left unchanged. Delete what nobody needs: kubectl delete {} -n {namespace}",
        names.join(", "),
        command.join(" "),
    )
}

fn contested(Contest { object, change, wait }: &Contest) -> String {
    let wait = wait.as_secs();
    match change {
        ForeignChange::Deleted => format!(
            "{object} is deleted again and again; the API server's audit log names the client. The operator creates \
             it again, at most every {wait} s."
        ),
        ForeignChange::Changed { field, manager } => {
            let manager =
                manager.as_ref().map_or_else(|| "another client".into(), |it| format!("field manager {it}"));
            let field = field.as_deref().unwrap_or("a field");
            format!(
                "{object}: {manager} changes {field} again and again. The operator sets it back, at most every {wait} \
                 s. Let only one of them write the field."
            )
        }
    }
}

fn pods(PodFault { kind, pod, others, words }: &PodFault) -> String {
    let others = match others {
        0 => String::new(),
        1 => " (and 1 other)".into(),
        count => format!(" (and {count} others)"),
    };
    match kind {
        PodFaultKind::NoCertificate => format!(
            "Pod {pod}{others} runs and is not ready: it has no valid certificate, or the kubelet cannot reach its \
             /readyz. Its log says why: kubectl logs {pod}"
        ),
        PodFaultKind::NotReady => {
            format!("Pod {pod}{others} runs and is not ready. Its events say why: kubectl describe pod {pod}")
        }
        PodFaultKind::CrashLoop => {
            format!("Pod {pod}{others}: {}. See kubectl logs {pod} --previous", sentence(words))
        }
        _ => format!("Pod {pod}{others}: {}.", sentence(words)),
    }
}

/// `words` of the cluster without the full stop at their end: a webhook may send anything.
fn sentence(words: &str) -> String {
    line(words.trim().trim_end_matches('.'), QUOTE)
}

/// Status, reason and message of the condition, for a body with this number of ready nodes, or of ready pods where it is
/// `adopted`.
#[must_use]
pub fn condition(
    body: &Body,
    workload: Option<&Workload>,
    ready: u64,
    adopted: bool,
) -> (&'static str, &'static str, String) {
    let mut faults: Vec<_> = body.faults.iter().map(|it| (it.reason(), it.message())).collect();
    if let Some(words) = workload.and_then(|it| it.refusal.as_ref()) {
        // What pods say comes last: they may be the ones of an earlier template.
        let at = body.faults.iter().take_while(|it| !matches!(it, BodyFault::Pods(_))).count();
        let message = format!("Pods are refused: {}. Change that, or the spec.", sentence(words));
        faults.insert(at, ("PodsRefused", message));
    }
    let count = match workload {
        None => String::new(),
        Some(Workload { wanted: 0, .. }) if adopted => "No pod is wanted: its spec.replicas is 0.".into(),
        Some(Workload { wanted: 0, .. }) => "No node is wanted: spec.nodes.replicas is 0.".into(),
        Some(Workload { wanted, .. }) if adopted => format!("{ready} of {wanted} pods are ready."),
        Some(Workload { wanted, .. }) => format!("{ready} of {wanted} nodes are ready."),
    };
    let (status, reason, more) = match faults.first() {
        Some((reason, _)) => {
            let all: Vec<_> = faults.iter().map(|(_, message)| message.as_str()).collect();
            ("False", *reason, all.join(" "))
        }
        None => without_fault(body, workload, ready),
    };
    (status, reason, [count, more].join(" ").trim().to_owned())
}

fn without_fault(
    body: &Body,
    workload: Option<&Workload>,
    ready: u64,
) -> (&'static str, &'static str, String) {
    if !body.uncollected.is_empty() {
        let names: Vec<_> = body.uncollected.iter().map(ToString::to_string).collect();
        let message = format!(
            "Waiting for the garbage collector to delete what a deleted Organism of this name has left: {}.",
            names.join(", ")
        );
        return ("False", "Progressing", message);
    }
    let Some(workload) = workload else {
        return ("False", "Progressing", "The Deployment does not exist yet.".into());
    };
    let status = if ready >= workload.wanted { "True" } else { "False" };
    if body.waits_for_rollout {
        let message = "A new pod template waits until other bodies have rolled out (--rollouts).";
        return (status, "WaitingForRollout", message.into());
    }
    match (status, workload.rolling) {
        ("True", false) => ("True", "Available", String::new()),
        (status, true) if workload.stalled => {
            (status, "Progressing", "The rollout has made no progress for ten minutes.".into())
        }
        (status, true) => (status, "Progressing", "A rollout is in progress.".into()),
        (status, false) => (status, "Progressing", String::new()),
    }
}

#[cfg(test)]
mod tests;
