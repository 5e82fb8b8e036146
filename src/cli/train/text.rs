//! The report for people.

use super::super::Error;
use super::super::output::{self, Text};
use super::Trained;
use crate::ledger::explain::why_not::Span;
use crate::organism::Action;
use crate::training::report::{Judged, Report};
use crate::training::score::{BINS, Bin, Scores};
use crate::training::{Loss, Tally};

/// Prints the report.
pub(super) fn print(trained: &Trained) -> Result<(), Error> {
    let Trained { source, report } = trained;
    let mut out = output::text();
    rows(&mut out, source, report)?;
    model(&mut out, report)?;
    decisions(&mut out, report)?;
    scores(&mut out, report)?;
    calibration(&mut out, &report.new)?;
    if !report.warnings.is_empty() {
        out.line("Before you use it")?;
        for warning in &report.warnings {
            out.line(format_args!("  {warning}"))?;
        }
    }
    out.finish()
}

fn rows(out: &mut Text, source: &str, report: &Report) -> Result<(), Error> {
    let count = |it: Tally| format!("{} rows ({} incidents, {} calm)", it.rows(), it.incident, it.calm);
    let Judged { train, held_out, .. } = &report.new;
    out.line(format_args!("{source}: trained on {}", count(train.rows)))?;
    match held_out {
        Some(held_out) => {
            out.line(format_args!("  held out: {}, chosen by seed {}", count(held_out.rows), report.seed))
        }
        None => {
            out.line("  held out: none, so nothing says how good the model is on rows that it has not seen")
        }
    }
}

fn model(out: &mut Text, report: &Report) -> Result<(), Error> {
    let how = match (report.loss, report.alpha) {
        (Loss::Logistic, Some(alpha)) => format!("logistic loss, L2 penalty alpha {alpha}"),
        _ => "squared error".into(),
    };
    let balanced = if report.balanced { ", balanced" } else { "" };
    out.line(format_args!("Model: threat = sigmoid(mlWeight · anomalies + bias), by {how}{balanced}"))?;
    out.line(format_args!("  {:<22}{:>18}{:>18}{:>18}", "", "present", "trained", "standard error"))?;
    let (present, new) = (report.present.model, report.new.model);
    let errors = report.standard_errors;
    for (name, present, new, error) in [
        ("mlWeight", present.ml_weight, new.ml_weight, errors.map(|it| it.ml_weight)),
        ("bias", present.bias, new.bias, errors.map(|it| it.bias)),
    ] {
        let error = error.map_or_else(|| "-".into(), number);
        out.line(format_args!("  {name:<22}{:>18}{:>18}{error:>18}", number(present), number(new)))?;
    }
    Ok(())
}

/// With four digits. The weight of anomalies that are counted by the thousand is a small number.
fn number(it: f64) -> String {
    if it == 0.0 || it.abs() >= 0.001 { format!("{it:.4}") } else { format!("{it:.3e}") }
}

fn decisions(out: &mut Text, report: &Report) -> Result<(), Error> {
    out.line("Decisions, by the number of anomalies")?;
    let (present, new) = (report.present.decisions, report.new.decisions);
    for (name, limit, present, new) in [
        ("ALERT", report.thresholds.alert, present.alert, new.alert),
        ("QUARANTINE", report.thresholds.quarantine, present.quarantine, new.quarantine),
    ] {
        let rule = format!("{name}, threat >= {limit}");
        out.line(format_args!("  {rule:<22}{:>18}{:>18}", span(present), span(new)))?;
    }
    for line in changes(report) {
        out.line(format_args!("  {line}"))?;
    }
    Ok(())
}

/// What the trained model decides otherwise than the present one, a line each.
pub(super) fn changes(report: &Report) -> Vec<String> {
    if report.changes.is_empty() {
        return vec!["no decision changes".into()];
    }
    let name = |action: Option<Action>| action.map_or("neither", |it| it.as_str());
    let line = |it: &crate::training::decisions::Change| {
        format!("changes at {} anomalies: {} -> {}", span(Some(it.anoms)), name(it.before), name(it.after))
    };
    report.changes.iter().map(line).collect()
}

fn span(it: Option<Span>) -> String {
    match it {
        None => "never".into(),
        Some(Span { from, to: None }) => format!("{from} or more"),
        Some(Span { from, to: Some(to) }) if from == to => from.to_string(),
        Some(Span { from, to: Some(to) }) => format!("{from} to {to}"),
    }
}

fn scores(out: &mut Text, report: &Report) -> Result<(), Error> {
    let Report { present, new, .. } = report;
    let unseen = if new.held_out.is_some() { "held out" } else { "train" };
    out.line("How good it is")?;
    let columns: Vec<(String, &Scores)> =
        [(format!("present, {unseen}"), present.unseen()), ("trained, train".into(), &new.train)]
            .into_iter()
            .chain(new.held_out.as_ref().map(|scores| ("trained, held out".into(), scores)))
            .collect();
    let row = |out: &mut Text, name: &str, cell: &dyn Fn(&Scores) -> String| {
        let cells: String = columns.iter().map(|(_, scores)| format!("{:>18}", cell(scores))).collect();
        out.line(format_args!("  {name:<22}{cells}"))
    };
    let header: String = columns.iter().map(|(name, _)| format!("{name:>18}")).collect();
    out.line(format_args!("  {:<22}{header}", ""))?;
    row(out, "AUC", &|it| it.auc.map_or_else(|| "one label".into(), |auc| format!("{auc:.4}")))?;
    row(out, "Brier score", &|it| format!("{:.4}", it.brier))?;
    for name in ["ALERT", "QUARANTINE"] {
        let of = |it: &Scores| if name == "ALERT" { it.alert } else { it.quarantine };
        row(out, &format!("{name} catches"), &|it| {
            let it = of(it);
            format!("{} of {}", it.incidents_caught, it.incidents_caught + it.incidents_missed)
        })?;
        row(out, &format!("{name} hits calm"), &|it| {
            let it = of(it);
            format!("{} of {}", it.calm_hit, it.calm_hit + it.calm_left)
        })?;
    }
    Ok(())
}

fn calibration(out: &mut Text, new: &Judged) -> Result<(), Error> {
    out.line("Calibration: rows by their threat, and how many of them are incidents")?;
    let parts: Vec<(&str, &Scores)> = [("train", Some(&new.train)), ("held out", new.held_out.as_ref())]
        .into_iter()
        .filter_map(|(name, scores)| Some((name, scores?)))
        .collect();
    let header: String = parts
        .iter()
        .map(|(name, _)| format!("{:>17}{:>9}{:>11}", format!("{name}: rows"), "threat", "incidents"))
        .collect();
    out.line(format_args!("  {:<14}{header}", "threat"))?;
    for bin in 0..BINS {
        let found: Vec<Option<&Bin>> =
            parts.iter().map(|(_, scores)| scores.calibration.iter().find(|it| it.bin == bin)).collect();
        if found.iter().all(Option::is_none) {
            continue;
        }
        let cells: String = found
            .iter()
            .map(|bin| match bin {
                Some(it) => format!("{:>17}{:>9.4}{:>11.4}", it.rows, it.mean_threat, it.incident_share),
                None => format!("{:>17}{:>9}{:>11}", 0, "-", "-"),
            })
            .collect();
        let edge = |bin: usize| bin as f64 / BINS as f64;
        let range = format!("{:.1} to {:.1}", edge(bin), edge(bin + 1));
        out.line(format_args!("  {range:<14}{cells}"))?;
    }
    Ok(())
}
