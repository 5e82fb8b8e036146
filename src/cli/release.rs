//! `venom release`: makes the operator undo what it has done about decisions and keep its hands off, until control is handed
//! back.
//!
//! 1. Set the annotation `genesis.venom.dev/hands-off`.
//! 2. Wait until the status says that nothing is in force any more.
//! 3. Say what was undone.

use std::time::{Duration, Instant};

use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use super::source::{self, Connection, failed, organism_name};
use super::{Error, output, program_name};
use crate::api::{Action, AppliedResponse, GoDuration, Organism, OrganismStatus, ResponseMode};
use crate::operator::response::HANDS_OFF;
use crate::store::{ApiFailure, CALL_TIMEOUT};

/// Interval at which the status is read.
const INTERVAL: Duration = Duration::from_millis(250);

/// Arguments of `venom release`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// The Organism, organism/NAME
    #[arg(value_name = "ORGANISM")]
    organism: String,
    #[command(flatten)]
    cluster: source::Cluster,
    /// Hand control back: decisions are acted on again
    #[arg(long)]
    resume: bool,
    /// Wait at most this long until everything is undone
    #[arg(long, value_name = "DURATION", default_value = "30s", conflicts_with = "resume")]
    timeout: GoDuration,
}

const HELP: &str = "\
The Organism goes on beating, deciding and recording. It takes the right to patch organisms.

Exit status:
  0  Nothing is in force any more; with --resume, control is handed back
  1  The Organism cannot be changed, or something is still in force; the annotation stays then
  2  Wrong usage";

/// Sets or removes the annotation, and waits until it has taken effect.
///
/// # Errors
/// [`Error`] if the Organism cannot be changed, or if something is still in force after the timeout.
pub fn run(args: &Args) -> Result<(), Error> {
    let name = organism_name(&args.organism).ok_or_else(|| {
        Error::Usage(format!("{}: only an Organism is released; write organism/NAME", args.organism))
    })?;
    let Connection { runtime, client, namespace } = args.cluster.connect()?;
    let release = Release {
        organisms: Api::namespaced(client, &namespace),
        name,
        shown: format!("organism/{name} in {namespace}"),
    };
    let mut out = output::text();
    if args.resume {
        runtime.block_on(release.annotate(None))?;
        out.line(format_args!("{}: decisions are acted on again", release.shown))?;
        return out.finish();
    }
    let undone = runtime.block_on(release.release(args.timeout.get()))?;
    match &undone {
        Some(undone) => {
            out.line(format_args!(
                "{}: {}, decided in entry {}, is undone",
                release.shown,
                undone.action.as_str(),
                undone.entry
            ))?;
            for what in &undone.what {
                out.line(format_args!("  no longer: {what}"))?;
            }
        }
        None => out.line(format_args!("{}: nothing was in force", release.shown))?,
    }
    out.line(
        "It beats, decides and records, and nothing is done about its decisions. To hand control back:",
    )?;
    out.line(format_args!("  {} release {} -n {namespace} --resume", program_name(), args.organism))?;
    out.line(format_args!("  or kubectl annotate org {name} -n {namespace} {HANDS_OFF}-"))?;
    out.finish()
}

/// An Organism to release.
struct Release<'a> {
    organisms: Api<Organism>,
    name: &'a str,
    /// The Organism in messages.
    shown: String,
}

impl Release<'_> {
    /// Sets the annotation to this value, or removes it. Returns the Organism as it is then.
    async fn annotate(&self, value: Option<&str>) -> Result<Organism, Error> {
        let patch = Patch::Merge(json!({"metadata": {"annotations": {HANDS_OFF: value}}}));
        let params = PatchParams::default();
        let call = self.organisms.patch(self.name, &params, &patch);
        match tokio::time::timeout(CALL_TIMEOUT, call).await {
            Ok(Ok(organism)) => Ok(organism),
            Ok(Err(error)) => Err(self.refused(error)),
            Err(_) => Err(failed(
                &self.shown,
                &"the API server does not answer, and the annotation may have been set; try again",
            )),
        }
    }

    /// The error about a call that the API server has refused.
    fn refused(&self, error: kube::Error) -> Error {
        match &error {
            kube::Error::Api(status) if status.is_not_found() => {
                failed(&self.shown, &"not found; check the name and --namespace")
            }
            _ => failed(&self.shown, &ApiFailure(error)),
        }
    }

    /// Sets the annotation and waits until nothing is in force. Returns what was.
    async fn release(&self, timeout: Duration) -> Result<Option<AppliedResponse>, Error> {
        let began = Instant::now();
        let mut status = self.annotate(Some("true")).await?.status.unwrap_or_default();
        let mut undone = None;
        let mut unread = None;
        loop {
            let applied = status.response.as_ref().and_then(|it| it.applied.clone());
            undone = applied.or(undone);
            let Some(left) = still_in_force(&status) else { return Ok(undone) };
            if began.elapsed() >= timeout {
                let waited = timeout.as_secs_f64();
                let unread =
                    unread.map(|it| format!("; the status could not be read: {it}")).unwrap_or_default();
                return Err(failed(
                    &self.shown,
                    &format!(
                        "still in force after {waited} s: {left}{unread}. The annotation stays, and an operator that \
runs goes on trying: look at its log"
                    ),
                ));
            }
            tokio::time::sleep(INTERVAL.min(timeout.saturating_sub(began.elapsed()))).await;
            match tokio::time::timeout(CALL_TIMEOUT, self.organisms.get(self.name)).await {
                Ok(Ok(organism)) => {
                    status = organism.status.unwrap_or_default();
                    unread = None;
                }
                Ok(Err(kube::Error::Api(answer))) if answer.is_not_found() => {
                    return Err(failed(
                        &self.shown,
                        &"it was deleted meanwhile; the operator restores what belongs to others before it is gone",
                    ));
                }
                Ok(Err(error)) if matches!(&error, kube::Error::Api(answer) if answer.is_forbidden()) => {
                    return Err(self.refused(error));
                }
                Ok(Err(error)) => unread = Some(ApiFailure(error).to_string()),
                Err(_) => unread = Some("no answer".into()),
            }
        }
    }
}

/// What a status says is still in force, or may be; `None` if nothing is.
fn still_in_force(status: &OrganismStatus) -> Option<String> {
    let quarantined = status.conditions.iter().find(|it| it.type_ == "Quarantined");
    let applied = status.response.as_ref().and_then(|it| it.applied.as_ref());
    let enforces = status.response.as_ref().is_some_and(|it| it.mode == ResponseMode::Enforce);
    let decided = status.decision.as_ref().is_some_and(|it| it.action == Action::Quarantine);
    let isolated = quarantined.is_some_and(|it| it.status != "False");
    // Where it is decided the condition says that nothing is done about it: until then some of it may be done already.
    let told = quarantined.is_some_and(|it| it.reason == "HandsOff");
    if applied.is_none() && !isolated && (!enforces || !decided || told) {
        return None;
    }
    let applied = applied.map(|it| format!("{} ({})", it.action.as_str(), it.what.join("; ")));
    let says = quarantined.map(|it| format!("Quarantined={} {}: {}", it.status, it.reason, it.message));
    Some(
        [applied, says].into_iter().flatten().collect::<Vec<_>>().join(". ").trim_end_matches('.').to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(decided: &str, mode: &str, applied: bool, quarantined: (&str, &str)) -> OrganismStatus {
        let time = "2026-01-01T00:00:00Z";
        let what =
            json!({"action": "QUARANTINE", "entry": 7, "since": time, "what": ["Service a selects no pod"]});
        serde_json::from_value(json!({
            "decision": {"action": decided, "threat": 0.9, "since": time, "entry": 7},
            "response": {"mode": mode, "applied": applied.then_some(what)},
            "conditions": [{
                "type": "Quarantined", "status": quarantined.0, "reason": quarantined.1, "message": "Words.",
                "lastTransitionTime": time,
            }],
        }))
        .unwrap()
    }

    #[test]
    fn something_may_be_in_force_until_the_status_says_that_nothing_is() {
        for (decided, mode, applied, quarantined) in [
            ("QUARANTINE", "Enforce", true, ("True", "Isolated")),
            ("NOOP", "Enforce", true, ("True", "Isolated")),
            ("APPLY_BALANCE", "Enforce", true, ("False", "Clear")),
            ("NOOP", "Enforce", false, ("True", "Releasing")),
            ("NOOP", "Enforce", false, ("Unknown", "Unverified")),
            // Decided a moment ago.
            ("QUARANTINE", "Enforce", false, ("False", "Clear")),
            ("QUARANTINE", "Enforce", false, ("False", "Incomplete")),
        ] {
            let left = still_in_force(&status(decided, mode, applied, quarantined));
            let left = left.unwrap_or_else(|| panic!("{decided} {quarantined:?}"));
            assert_eq!(left.contains("Service a selects no pod"), applied, "{left}");
            assert!(left.contains(quarantined.1) && !left.ends_with('.'), "{left}");
        }
        for (decided, mode, quarantined) in [
            ("QUARANTINE", "Enforce", ("False", "HandsOff")),
            ("NOOP", "Enforce", ("False", "Clear")),
            ("QUARANTINE", "Observe", ("False", "Observed")),
        ] {
            assert_eq!(still_in_force(&status(decided, mode, false, quarantined)), None, "{decided}");
        }
        assert_eq!(still_in_force(&OrganismStatus::default()), None, "it has never beaten");
    }
}
