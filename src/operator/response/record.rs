//! Enforcement entries, and the report.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

use super::others::Others;
use super::plan::{self, Refusal};
use super::{Responder, Seen};
use crate::api::{Organism, ResponseMode};
use crate::ledger::entry::Change;
use crate::operator::measures::Measures;
use crate::operator::publisher::response::{InForce, Quarantine, Response};
use crate::organism::Action;
use crate::store::head::LastEnforcement;

impl Responder {
    /// Writes the enforcement entries of a change: of its end, and of what follows it.
    #[allow(clippy::too_many_arguments)] // all of them go into the entries
    pub(super) fn record(
        &mut self,
        organism: &Organism,
        seen: &Seen,
        mode: ResponseMode,
        release: Option<LastEnforcement>,
        demanded: Option<Action>,
        refusal: Option<&Refusal>,
        measures: &Measures,
        others: Others,
    ) {
        let before = match &release {
            Some(it) if plan::mode(it) == ResponseMode::Enforce => {
                plan::measures(Some(it.action), it.utilization)
            }
            _ => Measures::default(),
        };
        let decision = seen.decision;
        let held = release.as_ref().map(|it| it.entry);
        if let Some(ended) = release {
            let mut what = plan::changes(organism, &before, &Measures::default());
            what.extend(others.restored);
            let released =
                LastEnforcement { change: Change::Release, entry: decision.entry, refused: None, ..ended };
            self.enter(released, what);
        }
        let Some(action) = demanded.filter(|_| refusal != Some(&Refusal::NotAdopted)) else { return };
        let would = match mode {
            ResponseMode::Enforce if refusal.is_none() => *measures,
            _ => {
                let target = organism.spec.autoscaling.target_cpu_utilization;
                plan::measures(Some(action), Some(plan::raised(target, seen.gain)))
            }
        };
        let mut what = plan::changes(organism, &Measures::default(), &would);
        what.extend(others.changed);
        let applied = LastEnforcement {
            action,
            change: Change::Apply,
            entry: if action == decision.action { decision.entry } else { held.unwrap_or(decision.entry) },
            mode: mode.as_str().into(),
            refused: refusal.map(|it| it.as_str().to_owned()),
            utilization: would.utilization.filter(|_| action == Action::ApplyOptimize),
        };
        self.enter(applied, what);
    }

    fn enter(&mut self, enforcement: LastEnforcement, what: Vec<String>) {
        if self.recorded.as_ref() == Some(&enforcement) {
            return;
        }
        let result = enforcement.refused.as_deref().unwrap_or("Done");
        let change = if enforcement.change == Change::Apply { "apply" } else { "release" };
        self.resources.metrics.enforced(enforcement.action.as_str(), change, &enforcement.mode, result);
        if enforcement.refused.is_none() && enforcement.mode == ResponseMode::Enforce.as_str() {
            self.resources.metrics.enforcement_seconds(self.noticed.1.elapsed());
        }
        tracing::info!(
            organism = %self.key, action = %enforcement.action, change, mode = enforcement.mode, result,
            entry = enforcement.entry, ?what, "enforcement"
        );
        (self.since, self.what) = (Time(Timestamp::now()), what.clone());
        self.last_change = Some(Instant::now());
        self.looked = None;
        if enforcement.change == Change::Release {
            // It is this operator that has changed them back.
            self.tries.clear();
        }
        self.recorded = Some(enforcement.clone());
        self.connections.inputs.enforced(enforcement, what);
    }

    pub(super) fn report(&self, mode: ResponseMode, quarantine: Quarantine) {
        let in_force = plan::in_force(self.recorded.as_ref()).map(|it| InForce {
            action: it.action,
            entry: it.entry,
            since: self.since.clone(),
            what: self.what.iter().chain(&self.left).cloned().collect(),
        });
        let response = Some(Response { mode, in_force, quarantine });
        self.connections.report.send_if_modified(|report| {
            let changed = report.response != response;
            if changed {
                report.response = response;
            }
            changed
        });
    }
}
