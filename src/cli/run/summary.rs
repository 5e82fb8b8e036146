//! The figures of a run. Each is computed by the code it describes; the ledger is read again for it.

use super::super::Error;
use super::super::ledger::verify::{self, Expected, Report};
use super::super::output::{self, Text};
use super::tally::Tally;
use crate::ledger::hex;
use crate::organism::cores::{CoreInput, entropy};
use crate::organism::{Action, State};
use crate::store::directory::Folder;

/// The mission's example: so many anomalies.
const EXAMPLE_ANOMS: u64 = 5;

/// Prints the summary of a run that ended in `state`, with its ledger in `folder`.
pub(super) fn print(state: Option<&State>, tally: &Tally, folder: &Folder) -> Result<(), Error> {
    let report = verify::store(folder, &Expected::default())?;
    let printed = print_report(state, tally, folder, &report);
    // A failed verification goes before a closed stdout.
    report.into_result(&folder.path().display().to_string())?;
    printed
}

fn print_report(state: Option<&State>, tally: &Tally, folder: &Folder, report: &Report) -> Result<(), Error> {
    let mut out = output::text();
    if let Some(state) = state {
        figures(&mut out, state, tally)?;
    }
    let verdict = if report.findings.is_empty() { "verified ✓" } else { "FAILED ✗" };
    out.line(format_args!(
        "Ledger integrity: {verdict} ({} entries read again)",
        report.size - report.floor
    ))?;
    for finding in &report.findings {
        out.line(format_args!("  {finding}"))?;
    }
    out.line(format_args!("Merkle root: {}", report.root.as_ref().map_or_else(|| "unknown".into(), hex)))?;
    out.line(format_args!(
        "Ledger: {}, {} entries, {} bytes",
        folder.path().display(),
        report.size,
        folder.size()?
    ))?;
    out.finish()
}

fn figures(out: &mut Text, state: &State, tally: &Tally) -> Result<(), Error> {
    let seconds = tally.elapsed.as_secs_f64();
    out.line(format_args!(
        "Beats: {} in {seconds:.2} s ({} since genesis, {} deadlines missed)",
        tally.beats, state.beat, tally.missed
    ))?;
    let Some(last) = &tally.last else { return Ok(()) };
    let pulse = &last.pulse;
    out.line(format_args!("T_Λ computed: {:.6} s (k = {}, P = {})", pulse.t_lambda, pulse.k, pulse.p))?;
    pid(out, tally)?;
    let example = example(state, pulse.t_lambda);
    out.line(format_args!(
        "Entropy inference: {} anoms → {:.4} threat (weight {}, bias {})",
        example.total_anoms, example.threat_score, example.ml_weight, example.ml_bias
    ))?;
    let anoms = state.genome_anoms().saturating_add(state.features_anoms());
    match last.details {
        Some(details) => {
            out.line(format_args!("Threat: {:.4} at {anoms} anoms, {}", details.raw_threat, last.action))?
        }
        None => out.line(format_args!("Threat: held at {anoms} anoms, {}", last.action))?,
    }
    let counts = Action::ALL.iter().zip(tally.decisions);
    let counts: Vec<String> = counts.map(|(action, count)| format!("{action} {count}")).collect();
    out.line(format_args!("Decisions: {}", counts.join(", ")))?;
    let weights = &state.weights;
    out.line(format_args!(
        "Weights: R {:.4}, B {:.4}, E {:.4}, O {:.4}",
        weights.regen, weights.balance, weights.entropy, weights.optimize
    ))?;
    Ok(())
}

/// The first step, where the error sets in, and the last beside it.
fn pid(out: &mut Text, tally: &Tally) -> Result<(), Error> {
    let steps = tally.history.steps();
    let (Some(first), Some(last), count) = (tally.first_step, tally.history.steps().last(), steps.len())
    else {
        return Ok(());
    };
    let stable = steps.filter(|step| step.stable).count();
    let word = if stable == count { "PID stable" } else { "PID not always stable" };
    let sign = if first.delta_v < 0.0 { " (ΔV < 0 ✓)" } else { "" };
    out.line(format_args!(
        "{word}: ΔT={:.6}, ΔV={:.6}{sign} on the first beat,",
        first.error, first.delta_v
    ))?;
    out.line(format_args!(
        "  ΔT={:.6}, ΔV={:.6} on the last; ΔV ≤ 0 on {stable} of the last {count} beats",
        last.error, last.delta_v
    ))?;
    Ok(())
}

/// What the model in force makes of the mission's example.
fn example(state: &State, t_lambda: f64) -> entropy::Entropy {
    entropy::execute(&CoreInput {
        t_lambda,
        genome_anoms: EXAMPLE_ANOMS,
        features_anoms: 0,
        weights: state.weights,
        ml: state.ml,
        gains: state.config.pid,
        balance_state: state.balance_state,
        version: state.version.clone(),
    })
}
