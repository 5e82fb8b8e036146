//! A namespace of a test, with the operations of a user: create, patch, delete, get.
use std::path::PathBuf;
use std::process::Command;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::ApiResource;
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::{Value, json};
use venom::api::labels::{ORGANISM_LABEL, UID_LABEL};
use venom::api::{Genome, Organism, OrganismStatus};
use venom::operator::members::owner::{Candidate, owner};
use venom::store::configmap::ConfigMaps;

use crate::harness::{cluster, eventually, free_port, in_namespace};
use crate::ledger::Live;
use crate::operator::Operator;

/// The namespace of a test.
pub struct World {
    pub client: Client,
    pub namespace: String,
    pub organisms: Api<Organism>,
    pub genomes: Api<Genome>,
    pub maps: Api<ConfigMap>,
    /// `--issuer-url` of operators that manage bodies.
    pub issuer_url: String,
    /// For child processes; `None` if they find the cluster by KUBECONFIG.
    pub kubeconfig: Option<PathBuf>,
}

/// Runs `test` in a new namespace.
pub async fn in_world(test: impl AsyncFnOnce(World)) {
    let kubeconfig = cluster().await.kubeconfig.clone();
    in_namespace(async |client, namespace| test(World::new(client, namespace, kubeconfig)).await).await;
}

impl World {
    pub fn new(client: Client, namespace: &str, kubeconfig: Option<PathBuf>) -> Self {
        Self {
            organisms: Api::namespaced(client.clone(), namespace),
            genomes: Api::namespaced(client.clone(), namespace),
            maps: Api::namespaced(client.clone(), namespace),
            client,
            issuer_url: format!("https://127.0.0.1:{}/v1/certificates", free_port()),
            namespace: namespace.to_owned(),
            kubeconfig,
        }
    }

    /// Starts an operator for this namespace.
    pub fn operator(&self, identity: &str) -> Operator {
        self.operator_with(identity, &[])
    }

    pub fn operator_with(&self, identity: &str, more: &[&str]) -> Operator {
        Operator::start(&self.namespace, identity, self.kubeconfig.as_deref(), more)
    }

    /// Like [`World::operator_with`], for an operator that manages bodies.
    pub fn operator_with_bodies(&self, identity: &str, more: &[&str]) -> Operator {
        let bodies = ["--node-image", "localhost/venom:test", "--issuer-url", &*self.issuer_url];
        self.operator_with(identity, &[&bodies, more].concat())
    }

    /// Runs `venom ledger COMMAND organism/NAME` and returns its output, or its error.
    pub fn venom_ledger(&self, command: &str, name: &str) -> Result<String, String> {
        self.venom_ledger_with(command, name, &[])
    }

    /// Like [`World::venom_ledger`], with more arguments.
    pub fn venom_ledger_with(&self, command: &str, name: &str, more: &[&str]) -> Result<String, String> {
        let organism = format!("organism/{name}");
        self.venom(&[&["ledger", command, &*organism, "-n", &*self.namespace], more].concat())
    }

    /// Runs `venom` with these arguments and returns its output, or its error.
    pub fn venom(&self, arguments: &[&str]) -> Result<String, String> {
        let mut venom = Command::new(env!("CARGO_BIN_EXE_venom"));
        venom.args(arguments).stdin(std::process::Stdio::null());
        if let Some(path) = &self.kubeconfig {
            venom.env("KUBECONFIG", path);
        }
        let out = venom.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        if out.status.success() { Ok(text(out.stdout)) } else { Err(text(out.stdout) + &text(out.stderr)) }
    }

    /// Creates an object with this spec, unchanged; without a spec for null.
    pub async fn create<K: Resource<DynamicType = ()>>(&self, name: &str, spec: Value) {
        self.create_owned::<K>(name, spec, vec![]).await;
    }

    async fn create_owned<K: Resource<DynamicType = ()>>(
        &self,
        name: &str,
        spec: Value,
        owners: Vec<OwnerReference>,
    ) -> Api<DynamicObject> {
        let kind = ApiResource::erase::<K>(&());
        let data = if spec.is_null() { json!({}) } else { json!({"spec": spec}) };
        let mut object = DynamicObject::new(name, &kind).data(data);
        object.metadata.owner_references = Some(owners);
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &self.namespace, &kind);
        api.create(&PostParams::default(), &object).await.unwrap();
        api
    }

    /// Creates an object whose owner is gone, and waits until the garbage collector has deleted it: it then knows whatever of
    /// this kind was there before.
    pub async fn left_behind<K: Resource<DynamicType = ()>>(&self, spec: Value) {
        let owner = OwnerReference {
            api_version: "v1".into(),
            kind: "ConfigMap".into(),
            name: "gone".into(),
            uid: "00000000-0000-0000-0000-000000000002".into(),
            ..OwnerReference::default()
        };
        let api = self.create_owned::<K>("left", spec, vec![owner]).await;
        eventually("an object without its owner to be collected", async || {
            let found = api.get_metadata_opt("left").await.map_err(|error| error.to_string())?;
            found.map_or(Ok(()), |_| Err(format!("{} is there", K::kind(&()))))
        })
        .await;
    }

    /// Merges `spec` into the spec of an Organism. Returns the new generation.
    pub async fn patch_organism(&self, name: &str, spec: Value) -> i64 {
        let patch = Patch::Merge(json!({"spec": spec}));
        self.organisms
            .patch(name, &PatchParams::default(), &patch)
            .await
            .unwrap()
            .metadata
            .generation
            .unwrap()
    }

    /// Merges `spec` into the spec of a Genome. Returns the new generation.
    pub async fn patch_genome(&self, name: &str, spec: Value) -> i64 {
        let patch = Patch::Merge(json!({"spec": spec}));
        self.genomes.patch(name, &PatchParams::default(), &patch).await.unwrap().metadata.generation.unwrap()
    }

    pub async fn delete_organism(&self, name: &str) {
        self.organisms.delete(name, &DeleteParams::default()).await.unwrap();
    }

    /// Waits until the Organism and every object of its ledger are deleted.
    pub async fn collected(&self, name: &str) {
        self.gone(name).await;
        eventually(&format!("the ledger of {name} to be collected"), async || {
            let left = self.ledger_objects(name).await;
            if left.is_empty() { Ok(()) } else { Err(left.join(", ")) }
        })
        .await;
    }

    /// Waits until the Organism is deleted, including its finalizers.
    pub async fn gone(&self, name: &str) {
        eventually(&format!("Organism {name} to be gone"), async || {
            let found = self.organisms.get_metadata_opt(name).await.map_err(|error| error.to_string())?;
            found.map_or(Ok(()), |found| Err(format!("finalizers {:?}", found.finalizers())))
        })
        .await;
    }

    pub async fn status(&self, name: &str) -> OrganismStatus {
        self.organisms.get(name).await.unwrap().status.unwrap_or_default()
    }

    /// Waits until `holds` accepts the status of the Organism. Returns the status.
    pub async fn until(
        &self,
        name: &str,
        what: &str,
        mut holds: impl FnMut(&OrganismStatus) -> bool,
    ) -> OrganismStatus {
        eventually(&format!("{name}: {what}"), async || {
            let status = self.organisms.get(name).await.map_err(|error| error.to_string())?.status;
            let status = status.unwrap_or_default();
            if holds(&status) { Ok(status) } else { Err(json!(status).to_string()) }
        })
        .await
    }

    /// Waits until a condition has this status and reason.
    pub async fn condition(&self, name: &str, kind: &str, status: &str, reason: &str) -> OrganismStatus {
        self.until(name, &format!("{kind}={status} {reason}"), |it| {
            condition(it, kind) == (status.to_owned(), reason.to_owned())
        })
        .await
    }

    pub async fn beating(&self, name: &str) -> OrganismStatus {
        self.condition(name, "Ready", "True", "Beating").await
    }

    /// Waits until `status.beats` has grown by `count`.
    pub async fn beats_more(&self, name: &str, count: u64) -> OrganismStatus {
        let before = self.status(name).await.beats.unwrap_or_default();
        self.until(name, &format!("{count} beats after {before}"), |it| it.beats >= Some(before + count))
            .await
    }

    /// A name for an operator that is to hold this Organism beside one of the name `other`.
    pub async fn successor(&self, name: &str, other: &str) -> String {
        self.beside(name, other, true).await
    }

    /// A name for an operator beside one of the name `other`: it is to hold this Organism, or the other is.
    pub async fn beside(&self, name: &str, other: &str, holds: bool) -> String {
        let uid = self.organisms.get(name).await.unwrap().uid().unwrap();
        let fits = |name: &String| *name != *other && (*owner_among(&[name, other], &uid) == *name) == holds;
        (0..).map(|at| format!("beta-{at}")).find(fits).unwrap()
    }

    /// Waits until the operator of this name holds an Organism.
    pub async fn held_by(&self, name: &str, holder: &str) {
        let what = format!("to be held by {holder}");
        self.until(name, &what, |it| it.ledger.as_ref().is_some_and(|it| it.holder == holder)).await;
    }

    /// Access to the ConfigMaps of an Organism's ledger.
    pub async fn store(&self, name: &str) -> ConfigMaps {
        let uid = self.organisms.get(name).await.unwrap().uid().unwrap();
        ConfigMaps::new(self.client.clone(), &self.namespace, name, &uid)
    }

    /// Changes the JSON of a ledger's head, as by hand, in one write that wins against the operator's.
    pub async fn edit_head(&self, name: &str, edit: impl Fn(&mut Value)) {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        let name = format!("{name}-ledger");
        loop {
            let mut object = maps.get(&name).await.unwrap();
            let text = object.data.as_mut().unwrap().get_mut("head").unwrap();
            let mut head = serde_json::from_str(text).unwrap();
            edit(&mut head);
            *text = head.to_string();
            match maps.replace(&name, &PostParams::default(), &object).await {
                Ok(_) => return,
                Err(kube::Error::Api(error)) if error.is_conflict() => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Reads the committed ledger of an Organism.
    pub async fn ledger(&self, name: &str) -> Live {
        Live::read(&self.store(name).await).await
    }

    /// Names of the ConfigMaps that are labelled as an Organism's ledger.
    pub async fn ledger_objects(&self, name: &str) -> Vec<String> {
        // The ConfigMap of the body has no UID label.
        let labelled = ListParams::default().labels(&format!("{ORGANISM_LABEL}={name},{UID_LABEL}"));
        let found = self.maps.list_metadata(&labelled).await.unwrap();
        found.items.iter().map(ResourceExt::name_any).collect()
    }
}

/// Which of these operators is to hold the Organism with this UID.
pub fn owner_among(names: &[&str], uid: &str) -> String {
    let candidates: Vec<_> = names.iter().map(|it| Candidate::new((*it).into())).collect();
    owner(&candidates, uid).unwrap().to_string()
}

/// Status and reason of a condition; empty if there is no such condition.
pub fn condition(status: &OrganismStatus, kind: &str) -> (String, String) {
    let found = status.conditions.iter().find(|it| it.type_ == kind);
    found.map(|it| (it.status.clone(), it.reason.clone())).unwrap_or_default()
}

/// Message of a condition; empty if there is no such condition.
pub fn message(status: &OrganismStatus, kind: &str) -> String {
    status.conditions.iter().find(|it| it.type_ == kind).map(|it| it.message.clone()).unwrap_or_default()
}
