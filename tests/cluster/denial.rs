//! An admission policy that denies chosen writes, so that an operator gets exactly so far and no further.
use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::harness::eventually;
use crate::world::World;

/// The policy's words.
pub const WORDS: &str = "denied until the test lets it through";
/// What an enforcement writes, and a release undoes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Write {
    /// NetworkPolicy `-body`.
    Body,
    /// NetworkPolicy `-quarantine`.
    Isolation,
    /// The HorizontalPodAutoscaler.
    Autoscaler,
    /// The Organism's finalizer.
    Finalizer,
    /// The Service of a user.
    Detached,
    /// The commit of the enforcement entry.
    Entry,
    /// The Organism's status.
    Status,
}

/// An admission policy that denies writes of this namespace.
pub struct Denial<'a> {
    world: &'a World,
    name: String,
    /// A ConfigMap by which the test learns whether the policy is in force.
    probe: String,
}

impl<'a> Denial<'a> {
    /// Denies the writes of these Organisms; of enforcement entries those of this change. Returns once it is in force.
    pub async fn of(world: &'a World, change: &str, denied: &[(&str, &[Write])]) -> Self {
        let names = |which: &[Write], kind: &str, suffix: &str| -> Vec<String> {
            let of = denied.iter().filter(|(_, writes)| which.iter().any(|it| writes.contains(it)));
            of.map(|(name, _)| format!("{kind}{name}{suffix}")).collect()
        };
        let probe = format!("probe-{change}");
        let mut objects = vec![format!("configmaps/{probe}")];
        objects.extend(names(&[Write::Body], "networkpolicies/", "-body"));
        objects.extend(names(&[Write::Isolation], "networkpolicies/", "-quarantine"));
        objects.extend(names(&[Write::Autoscaler], "horizontalpodautoscalers/", ""));
        objects.extend(names(&[Write::Detached], "services/", ""));
        let finalizers = names(&[Write::Finalizer], "", "");
        let statuses = names(&[Write::Status], "", "");
        let heads = names(&[Write::Entry], "", "-ledger");
        let organism = |sub: &str| {
            format!(
                "request.resource.resource == 'organisms' && \
                 (has(request.subResource) ? request.subResource : '') == '{sub}'"
            )
        };
        let finalizers_of =
            |it: &str| format!("(has({it}.metadata.finalizers) ? {it}.metadata.finalizers : [])");
        let denials = [
            format!("(request.resource.resource + '/' + request.name) in {}", json!(objects)),
            format!(
                "{} && request.name in {} && {} != {}",
                organism(""),
                json!(finalizers),
                finalizers_of("object"),
                finalizers_of("oldObject")
            ),
            format!("{} && request.name in {}", organism("status"), json!(statuses)),
            format!(
                r#"request.resource.resource == 'configmaps' && request.name in {} && object.data.head.contains('"change":"{change}"')"#,
                json!(heads)
            ),
        ];
        let validations: Vec<_> =
            denials.iter().map(|it| json!({"expression": format!("!({it})"), "message": WORDS})).collect();
        let rules = [
            ("", "v1", json!(["configmaps", "services"])),
            ("networking.k8s.io", "v1", json!(["networkpolicies"])),
            ("autoscaling", "v2", json!(["horizontalpodautoscalers"])),
            ("genesis.venom.dev", "v1alpha1", json!(["organisms", "organisms/status"])),
        ];
        let rules = rules.map(|(group, version, resources)| {
            json!({
                "apiGroups": [group], "apiVersions": [version], "operations": ["UPDATE"], "resources": resources,
            })
        });
        let name = format!("{change}-{}", world.namespace);
        let selector = json!({"matchLabels": {"kubernetes.io/metadata.name": world.namespace}});
        let policy = json!({"metadata": {"name": name}, "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"namespaceSelector": selector, "resourceRules": rules},
            "validations": validations,
        }});
        let binding = json!({
            "metadata": {"name": name}, "spec": {"policyName": name, "validationActions": ["Deny"]},
        });
        let map = json!({"metadata": {"name": probe}});
        // There may be one of an earlier denial.
        let _ = world.maps.create(&PostParams::default(), &serde_json::from_value(map).unwrap()).await;
        let denial = Self { world, name, probe };
        let post = PostParams::default();
        denial.policies().create(&post, &serde_json::from_value(policy).unwrap()).await.unwrap();
        denial.bindings().create(&post, &serde_json::from_value(binding).unwrap()).await.unwrap();
        denial.until(true).await;
        denial
    }

    fn policies(&self) -> Api<ValidatingAdmissionPolicy> {
        Api::all(self.world.client.clone())
    }

    fn bindings(&self) -> Api<ValidatingAdmissionPolicyBinding> {
        Api::all(self.world.client.clone())
    }

    async fn until(&self, denied: bool) {
        eventually(if denied { "the denial" } else { "its end" }, async || {
            let patch = Patch::Merge(json!({"data": {"a": "b"}}));
            let params = PatchParams { dry_run: true, ..PatchParams::default() };
            match self.world.maps.patch(&self.probe, &params, &patch).await {
                Err(kube::Error::Api(it)) if it.message.contains(WORDS) == denied => Ok(()),
                Ok(_) if !denied => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }

    /// Ends it. Returns when writes are let through.
    pub async fn lift(self) {
        self.bindings().delete(&self.name, &DeleteParams::default()).await.unwrap();
        self.policies().delete(&self.name, &DeleteParams::default()).await.unwrap();
        self.until(false).await;
    }
}
