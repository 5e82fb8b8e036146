//! What an engine shows: the decision in force and the status.

use super::{ENTRIES_BEFORE_ACTION, Engine};
use crate::organism::decision::{Rule, rules};
use crate::organism::{Action, Beat};
use crate::runtime::desired::PauseReason;
use crate::runtime::status::{CurrentDecision, EngineStatus, Phase};

impl Engine {
    /// Takes decision, failed cores and stability of a beat over into the status.
    pub(super) fn observe(&mut self, beat: &Beat) {
        let entry = self.pending.size() + ENTRIES_BEFORE_ACTION;
        if self.decision.is_none_or(|decision| decision.action != beat.action) {
            let since = beat.pulse.timestamp;
            self.decision = Some(CurrentDecision { action: beat.action, since, entry });
            self.pending.mark_status_changed();
        }
        if let (Some(details), Some(state)) = (&beat.details, &self.state) {
            self.decided_by = Some((*details, state.genome.thresholds));
        }
        let tau = self.state.as_ref().map_or(0.0, |state| state.tau);
        if beat.action == Action::Quarantine {
            self.last_quarantine = Some(tau);
        }
        let calm = self.last_quarantine.is_none_or(|last| tau - last >= self.desired.release_after);
        if std::mem::replace(&mut self.calm, calm) != calm {
            self.pending.mark_status_changed();
        }
        let failed: Vec<_> =
            beat.flows.failures().map(|(flow, reason)| (flow.to_string(), reason.to_string())).collect();
        let stable = self.state.as_ref().and_then(|state| state.pid.settled());
        if failed != self.failed_cores || stable != self.stable || self.last.is_none() {
            (self.failed_cores, self.stable) = (failed, stable);
            self.pending.mark_status_changed();
        }
    }

    fn phase(&self) -> Phase {
        match self.desired.pause {
            Some(PauseReason::GenomeNotFound) => Phase::GenomeNotFound,
            Some(PauseReason::Suspended) => Phase::Suspended,
            None if self.is_completed() => Phase::Completed,
            None => Phase::Beating,
        }
    }

    pub(super) fn status(&self) -> EngineStatus {
        let state = self.state.as_ref();
        EngineStatus {
            phase: self.phase(),
            generation: self.desired.generation,
            genome_generation: self.desired.genome_generation,
            beats: state.map_or(0, |state| state.beat),
            p: self.desired.config.pulse.p,
            t_lambda: self.last.as_ref().map(|beat| beat.pulse.t_lambda),
            decision: self.decision,
            threat: self.last.as_ref().and_then(|beat| beat.details).map(|it| it.raw_threat),
            gain: self.decided_by.as_ref().map(|(details, _)| details.raw_gain),
            rule: self
                .decided_by
                .as_ref()
                .and_then(|(details, thresholds)| deciding(rules(details, thresholds))),
            calm: self.calm,
            weights: state.map(|state| state.weights),
            anoms: state.map(|state| state.genome_anoms().saturating_add(state.features_anoms())),
            stable: self.stable,
            failed_cores: self.failed_cores.clone(),
        }
    }
}

/// The first rule that applies, or else the one that is nearest to applying.
fn deciding(rules: [Rule; 4]) -> Option<Rule> {
    let margin = |rule: &Rule| rule.tightest().map_or(f64::NEG_INFINITY, |it| it.margin);
    let nearest = || rules.iter().max_by(|a, b| margin(a).total_cmp(&margin(b)));
    rules.iter().find(|rule| rule.applies()).or_else(nearest).cloned()
}
