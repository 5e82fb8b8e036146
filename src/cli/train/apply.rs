//! Applies a model to a Genome.

use kube::api::{Api, Patch, PatchParams};
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::super::Error;
use super::super::output::{complain, confirm};
use super::super::source::{Cluster, Connection, failed};
use super::text;
use crate::api::Genome;
use crate::organism::genome;
use crate::store::{ApiFailure, CALL_TIMEOUT};
use crate::training::Report;
use crate::training::fit::Warning;

/// The field manager of what is applied. It owns `spec.ml.mlWeight` and `spec.ml.bias`, and nothing else.
pub const FIELD_MANAGER: &str = "venom-train";

/// The Genome that a model is for.
pub(super) struct Target {
    runtime: Runtime,
    genomes: Api<Genome>,
    genome: Genome,
    name: String,
    /// The Genome in messages.
    shown: String,
}

impl Target {
    /// Reads the Genome `genome/NAME`.
    pub(super) fn read(argument: &str, cluster: &Cluster) -> Result<Self, Error> {
        let name = ["genome/", "genomes/", "gen/"].iter().find_map(|it| argument.strip_prefix(it));
        let name = name.filter(|name| !name.is_empty()).ok_or_else(|| {
            Error::Usage(format!("{argument}: a model is applied to a Genome; write genome/NAME"))
        })?;
        let Connection { runtime, client, namespace } = cluster.connect()?;
        let genomes: Api<Genome> = Api::namespaced(client, &namespace);
        let shown = format!("genome/{name} in {namespace}");
        let genome = runtime.block_on(call(&shown, genomes.get(name)))?;
        Ok(Self { runtime, genomes, genome, name: name.to_owned(), shown })
    }

    /// The Genome as the engine has it.
    pub(super) fn genome(&self) -> genome::Genome {
        crate::runtime::desired::genome(&self.genome.spec)
    }

    /// Shows what changes, asks unless `yes`, and applies the trained model. One that has not converged is not applied.
    pub(super) fn apply(&self, report: &Report, yes: bool) -> Result<(), Error> {
        complain(&format!("{}:", self.shown));
        let (before, after) = (report.present.model, report.new.model);
        for (field, before, after) in
            [("mlWeight", before.ml_weight, after.ml_weight), ("bias", before.bias, after.bias)]
        {
            complain(&format!("  spec.ml.{field}: {before} -> {after}"));
        }
        for line in text::changes(report) {
            complain(&format!("  {line}"));
        }
        for warning in &report.warnings {
            complain(&format!("  {warning}"));
        }
        for manager in self.other_managers() {
            complain(&format!("  spec.ml was set by {manager}: what it applies later may set it back"));
        }
        if report.warnings.iter().any(|it| matches!(it, Warning::NotConverged(_))) {
            return Err(failed(&self.shown, &"nothing was applied, for the fit has not converged"));
        }
        if !yes {
            confirm("Apply this?", "nothing was applied")?;
        }
        let applied = self.runtime.block_on(self.write(report))?;
        let bound = applied.status.and_then(|status| status.bound_to);
        complain(&match bound {
            Some(organism) => format!(
                "{}: applied; organism/{} records it as a config entry, in force from its next beat",
                self.shown, organism.name
            ),
            None => format!("{}: applied; no Organism is bound to it", self.shown),
        });
        Ok(())
    }

    async fn write(&self, report: &Report) -> Result<Genome, Error> {
        // What was shown has to be what is changed.
        let now = call(&self.shown, self.genomes.get(&self.name)).await?;
        let (was, is) = (&self.genome.spec, &now.spec);
        if now.uid() != self.genome.uid() || is.ml != was.ml || is.thresholds != was.thresholds {
            let what = "it was changed meanwhile, and nothing was applied; run again";
            return Err(failed(&self.shown, &what));
        }
        let model = report.new.model;
        // With its UID: server-side apply would create a Genome that was deleted meanwhile.
        let object = json!({
            "apiVersion": Genome::api_version(&()),
            "kind": Genome::kind(&()),
            "metadata": {"name": self.name, "uid": now.uid()},
            "spec": {"ml": {"mlWeight": model.ml_weight, "bias": model.bias}},
        });
        // By force: whoever created the Genome owns all its fields, also those that were defaulted.
        let params = PatchParams::apply(FIELD_MANAGER).force();
        call(&self.shown, self.genomes.patch(&self.name, &params, &Patch::Apply(object))).await
    }

    /// Who else has set one of the two fields.
    fn other_managers(&self) -> Vec<String> {
        let mut managers: Vec<String> = vec![];
        for entry in self.genome.metadata.managed_fields.iter().flatten() {
            let fields = entry.fields_v1.as_ref().map_or(&Value::Null, |fields| &fields.0);
            let ml = &fields["f:spec"]["f:ml"];
            let manager = entry.manager.clone().unwrap_or_default();
            let owns = ["f:mlWeight", "f:bias"].iter().any(|field| ml.get(field).is_some());
            if owns && manager != FIELD_MANAGER && !managers.contains(&manager) {
                managers.push(manager);
            }
        }
        managers
    }
}

async fn call<T>(shown: &str, call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Error> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(kube::Error::Api(status))) if status.is_not_found() => {
            Err(failed(shown, &"not found; check the name and --namespace"))
        }
        Ok(Err(error)) => Err(failed(shown, &ApiFailure(error))),
        Err(_) => Err(failed(
            shown,
            &"the API server does not answer; look at spec.ml of the Genome before you try again",
        )),
    }
}
