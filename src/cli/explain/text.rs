//! An explanation in lines for people, who may never have seen a ledger before.

use super::super::Error;
use super::super::output::{self, Text, time};
use super::Explained;
use crate::ledger::entry::Change;
use crate::ledger::explain::why_not::{Span, WeightLimit};
use crate::ledger::explain::{
    Anomaly, Asked, BeatFacts, Counted, Decision, EnforcementSeen, Explanation, Response, WhyNot,
};
use crate::organism::Action;
use crate::organism::cores::Flow;
use crate::printable;

/// Columns of a row that quotes others, beyond which it is cut.
const COLUMNS: usize = 100;
/// Number of listed injections and senses.
const ANOMALIES: usize = 5;
/// Number of listed senses that are suppressed.
const SUPPRESSED: usize = 2;
/// Number of listed enforcements.
const ENFORCEMENTS: usize = 3;

/// Prints the explanation.
///
/// # Errors
/// [`Error::Output`].
pub(super) fn print(explained: &Explained) -> Result<(), Error> {
    let it = &explained.explanation;
    let mut out = output::text();
    decision(&mut out, explained)?;
    anomalies(&mut out, &it.beat)?;
    cores(&mut out, &it.beat)?;
    rules(&mut out, &it.beat)?;
    if let Some(why_not) = &it.why_not {
        self::why_not(&mut out, why_not, &it.beat)?;
    }
    response(&mut out, it)?;
    proof(&mut out, explained)?;
    out.finish()
}

/// Prints a row that quotes others.
fn quoting(out: &mut Text, row: &str) -> Result<(), Error> {
    out.line(printable::line(row, COLUMNS))
}

/// A number with the digits that a reader needs.
fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        0.001..1e6 => format!("{value:.4}"),
        _ => format!("{value:.1e}"),
    }
}

fn plural(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

fn decision(out: &mut Text, explained: &Explained) -> Result<(), Error> {
    let Explanation { decision, beat, asked, replayed_from, .. } = &explained.explanation;
    let Decision { action, since, taken_earlier, before, until, beats, held_beats, .. } = decision;
    let is_first = since.entry == beat.action_entry;
    let verb = if is_first && !taken_earlier { "decided" } else { "in force" };
    out.line(format_args!(
        "{action}, {verb} on beat {} at {} (entry {})",
        beat.beat, explained.time, beat.action_entry
    ))?;
    match &explained.organism {
        Some(it) => quoting(
            out,
            &format!(
                "  organism {}/{}, generation {} of its ledger, UID {}",
                it.namespace, it.name, it.generation, it.uid
            ),
        )?,
        None => quoting(out, &format!("  ledger {}", explained.source))?,
    }
    if *taken_earlier {
        out.line(format_args!(
            "  taken before entry {replayed_from}, from which the ledger can be replayed; the beat that took it cannot"
        ))?;
    } else if !is_first {
        out.line(format_args!(
            "  decided on beat {} at {} (entry {})",
            since.beat,
            time(since.timestamp),
            since.entry
        ))?;
    }
    let before = before.map(|it| format!("before it {it}; ")).unwrap_or_default();
    match until {
        Some(it) => out.line(format_args!(
            "  {before}in force until {} (entry {}), then {}",
            time(it.timestamp),
            it.entry,
            it.action
        ))?,
        None => out.line(format_args!(
            "  {before}still in force at the last entry, {}",
            explained.explanation.last_entry
        ))?,
    }
    if *held_beats > 0 {
        out.line(format_args!(
            "  {held_beats} of its {} held: a core failed, so the decision before stood",
            plural(*beats, "beat was", "beats were")
        ))?;
    }
    if let Some(Asked { entry, r#type, counts }) = asked {
        let what = match (r#type.as_str(), counts) {
            (_, Some(true)) => "counts from this beat on",
            (_, Some(false)) => "counts 0: it is suppressed or has no anomalies",
            ("enforcement", _) => "follows from this decision",
            ("genesis" | "config" | "scale" | "resume", _) => "is in force from this beat on",
            _ => "is followed by this beat",
        };
        quoting(out, &format!("  asked for: entry {entry} ({}), which {what}", printable::line(r#type, 24)))?;
    }
    Ok(())
}

fn anomalies(out: &mut Text, beat: &BeatFacts) -> Result<(), Error> {
    let Counted { total, genome, genome_set_by, window, listed, suppressed, .. } = &beat.anomalies;
    let window = match window {
        0.0 => "without end: no risk window is set".into(),
        _ => format!("for {window:?} s in which the organism beats: the risk window"),
    };
    out.line(format_args!("What counted: {} (each {window})", plural(*total, "anomaly", "anomalies")))?;
    let shown = listed.len().min(ANOMALIES);
    for it in &listed[..shown] {
        quoting(out, &row(it))?;
    }
    let rest = &listed[shown..];
    let more = rest.len() as u64 + beat.anomalies.more;
    if more > 0 {
        let anoms = rest.iter().fold(beat.anomalies.more_anoms, |sum, it| sum.saturating_add(it.anoms));
        out.line(format_args!("  {anoms:>7}  and {more} more"))?;
    }
    out.line(format_args!("  {genome:>7}  risk.anoms of the Genome, set by entry {genome_set_by}"))?;
    let count = suppressed.len() as u64 + beat.anomalies.more_suppressed;
    for it in &suppressed[..suppressed.len().min(SUPPRESSED)] {
        quoting(out, &format!("{}, suppressed: counts 0", row(it)))?;
    }
    if count > SUPPRESSED as u64 {
        out.line(format_args!("        0  and {} more suppressed", count - SUPPRESSED as u64))?;
    }
    Ok(())
}

fn row(it: &Anomaly) -> String {
    let Anomaly { r#type, anoms, entry, age, id, from, by, source, kind, subject, .. } = it;
    let Some(entry) = entry else {
        return format!("  {anoms:>7}  {age:.1} s old: {type} before the replay starts");
    };
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let what = match *r#type {
        "sense" => format!("{} {} ({})", text(kind), text(subject), text(source)),
        _ => {
            let named = |name: &str, text: &Option<String>| {
                text.as_ref().map(|text| format!(" {name} {text}")).unwrap_or_default()
            };
            format!("{}{}{}", text(id), named("from", from), named("by", by))
        }
    };
    format!("  {anoms:>7}  {age:.1} s old, entry {entry}: {type} {what}")
}

fn cores(out: &mut Text, beat: &BeatFacts) -> Result<(), Error> {
    out.line(format_args!(
        "What the cores made of it: number × weight (model set by entry {}, weights by {})",
        beat.model.set_by, beat.weights_set_by
    ))?;
    for it in &beat.cores {
        let name = it.core.to_string();
        if let Some(reason) = &it.failed {
            quoting(out, &format!("  {name:<9}failed: {reason}"))?;
            continue;
        }
        let value = it.value.map(number).unwrap_or_default();
        let product = it.product.map(|product| format!(" = {} {}", it.product_name, number(product)));
        let model = match it.core {
            Flow::E => format!(
                ", from sigmoid({} · {} + {})",
                number(beat.model.ml_weight),
                beat.anomalies.total,
                number(beat.model.ml_bias)
            ),
            _ => String::new(),
        };
        out.line(format_args!(
            "  {name:<9}{:<14}{value:<8} × {}{}{model}",
            it.quantity,
            number(it.weight),
            product.unwrap_or_default(),
        ))?;
    }
    Ok(())
}

fn rules(out: &mut Text, beat: &BeatFacts) -> Result<(), Error> {
    if beat.held {
        return out
            .line("The beat was held: a core failed, no rule was evaluated, and the decision before stood");
    }
    out.line(format_args!(
        "Rules in order, the first that holds decides (thresholds set by entry {})",
        beat.thresholds_set_by
    ))?;
    for it in &beat.rules {
        let decided = if it.decided { "  ← decided" } else { "" };
        let last = it.rule.comparisons.len().saturating_sub(1);
        for (at, comparison) in it.rule.comparisons.iter().enumerate() {
            let name = if at == 0 { it.rule.action.as_str() } else { "           and" };
            let verb = if comparison.holds() { "holds by" } else { "fails by" };
            out.line(format_args!(
                "  {name:<15}{:<13}{:<8} {:<2} {:<12}{:<7} {verb} {}{}",
                comparison.quantity,
                number(comparison.value),
                comparison.relation,
                comparison.threshold,
                format!("{:?}", comparison.limit),
                number(comparison.margin.abs()),
                if at == last { decided } else { "" },
            ))?;
        }
    }
    let decided = if beat.action == Action::Noop { "  ← decided" } else { "" };
    out.line(format_args!("  {:<15}if no rule holds{decided}", Action::Noop.as_str()))
}

fn why_not(out: &mut Text, it: &WhyNot, beat: &BeatFacts) -> Result<(), Error> {
    out.line(format_args!("Why not {}", it.action))?;
    if beat.held {
        return out.line("  the beat was held: no rule was evaluated");
    }
    if it.decided {
        return out.line("  it is what was decided");
    }
    if let Some(earlier) = it.preceded_by {
        out.line(format_args!("  {earlier} comes before it, and its rule holds"))?;
    }
    for missing in &it.missing {
        out.line(format_args!(
            "  {} {} is not {} {:?}: {} is missing",
            missing.quantity,
            number(missing.value),
            missing.relation,
            missing.limit,
            number(missing.margin.abs())
        ))?;
    }
    let total = beat.anomalies.total;
    match &it.anomalies {
        Some(needed) if !needed.contains(total) => {
            out.line(format_args!(
                "  it takes {}; there were {total}{}",
                anoms(needed),
                distance(needed, total)
            ))?;
        }
        Some(_) => {}
        None => out.line("  no number of anomalies leads to it, with this model and these thresholds")?,
    }
    if let Some(needed) = &it.genome_anomalies {
        let counted = beat.anomalies.genome.saturating_add(beat.anomalies.injected);
        if !needed.contains(counted) {
            out.line(format_args!(
                "  repair_score takes {} of Genome and injections; there were {counted}",
                anoms(needed)
            ))?;
        }
    }
    if let Some(limit) = &it.weight {
        weight(out, it.action, limit)?;
    }
    out.line(if it.reachable {
        "  within reach without a change of weights, thresholds or model"
    } else {
        "  out of reach without a change of weights, thresholds or model"
    })
}

fn weight(out: &mut Text, action: Action, it: &WeightLimit) -> Result<(), Error> {
    let WeightLimit { name, value, limit, needed, most, most_evolved, evolves } = it;
    let formula =
        if action == Action::ApplyBalance { "stability ≤ 0.5·B" } else { "opt_gain = 0.12·O²" };
    out.line(format_args!(
        "  {formula}: at most {} with {name} = {}; it takes {name} above {}",
        number(*most),
        number(*value),
        number(*needed)
    ))?;
    if value > needed {
        return Ok(());
    }
    if !evolves {
        return out.line("  the weights are frozen: they do not evolve");
    }
    let Some(most) = most_evolved else { return Ok(()) };
    let reach = if most > limit { "above the threshold" } else { "never above the threshold" };
    out.line(format_args!("  evolution can bring it to at most {}: {reach}", number(*most)))
}

fn anoms(it: &Span) -> String {
    match (it.from, it.to) {
        (from, None) => format!("at least {}", plural(from, "anomaly", "anomalies")),
        (from, Some(to)) if from == to => plural(from, "anomaly", "anomalies"),
        (0, Some(to)) => format!("at most {}", plural(to, "anomaly", "anomalies")),
        (from, Some(to)) => format!("{from} to {to} anomalies"),
    }
}

fn distance(needed: &Span, total: u64) -> String {
    match needed.to {
        _ if total < needed.from => format!(", {} too few", needed.from - total),
        Some(to) if total > to => format!(", {} too many", total - to),
        _ => String::new(),
    }
}

fn response(out: &mut Text, explanation: &Explanation) -> Result<(), Error> {
    let Explanation { response, replayed_from, last_entry, .. } = explanation;
    let Response { in_force, enforcements, more, applied, released, in_ledger } = response;
    out.line("What was done about it")?;
    if let Some(it) = in_force {
        enforcement(out, "in force already: ", it)?;
    } else if enforcements.is_empty() {
        let range = format!("entries {replayed_from} to {last_entry}");
        return out.line(match in_ledger {
            0 => format!("  nothing is recorded: {range} have no enforcement entry at all"),
            _ => format!("  nothing is recorded: no enforcement entry of {range} follows from it"),
        });
    }
    let shown = enforcements.len().min(ENFORCEMENTS);
    for it in &enforcements[..shown] {
        enforcement(out, "", it)?;
    }
    let more = (enforcements.len() - shown) as u64 + more;
    if more > 0 {
        out.line(format_args!("  and {}", plural(more, "more entry", "more entries")))?;
    }
    let is_shown = |it: &EnforcementSeen| enforcements[..shown].iter().any(|shown| shown.entry == it.entry);
    match released {
        Some(it) if is_shown(it) => Ok(()),
        Some(it) => enforcement(out, "", it),
        None if *applied || in_force.is_some() => {
            out.line(format_args!("  not undone up to entry {last_entry}"))
        }
        None => Ok(()),
    }
}

fn enforcement(out: &mut Text, first: &str, it: &EnforcementSeen) -> Result<(), Error> {
    let verb = match (it.change, it.mode.as_str(), &it.refused) {
        (Change::Apply, _, Some(_)) => "refused",
        (Change::Release, _, Some(_)) => "undoing refused",
        (Change::Apply, "Observe", None) => "only observed, would have done",
        (Change::Release, "Observe", None) => "only observed, would have undone",
        (Change::Apply, ..) => "applied",
        (Change::Release, ..) => "undone",
    };
    let reason = it.refused.as_ref().map(|it| format!(" ({it})")).unwrap_or_default();
    let more = if it.more > 0 { format!("; and {} more", it.more) } else { String::new() };
    let what = if it.what.is_empty() { "no object".to_owned() } else { it.what.join("; ") };
    quoting(
        out,
        &format!("  {first}entry {}, {}: {verb}{reason}: {what}{more}", it.entry, time(it.timestamp)),
    )
}

fn proof(out: &mut Text, explained: &Explained) -> Result<(), Error> {
    let Explanation { beat, replayed_from, last_entry, .. } = &explained.explanation;
    out.line("Proof")?;
    out.line(format_args!(
        "  the beat is entries {} to {}; its action, entry {}, has the SHA3-256",
        beat.first_entry, beat.last_entry, beat.action_entry
    ))?;
    out.line(format_args!("    {}", beat.action_hash))?;
    out.line(format_args!(
        "  entries {replayed_from} to {last_entry}: every hash checked, every number derived again"
    ))?;
    if !explained.end_anchored {
        out.line(format_args!("  end not anchored: nothing here shows whether entries follow {last_entry}"))?;
    }
    match &explained.root {
        Some(_) => out.line(format_args!("  check it, with size and root of the ledger as read here:"))?,
        None => out.line("  no root: it also covers entries that are missing here. Check what is here:")?,
    }
    for command in &explained.check {
        match command.split_once(" --root ") {
            Some((start, root)) => {
                out.line(format_args!("    {start} \\"))?;
                out.line(format_args!("      --root {root}"))?;
            }
            None => out.line(format_args!("    {command}"))?,
        }
    }
    Ok(())
}
