//! `venom ledger show`: prints entries in a human-readable form.

use std::collections::VecDeque;
use std::io::Write;

use serde_json::Value;

use super::super::source::{self, Source, WalkFrom, walk};
use super::super::{Error, output};
use crate::ledger::Entry;
use crate::ledger::entry::Data;
use crate::organism::cores::Flow;

/// Arguments of `venom ledger show`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: source::Args,
    /// Print only the last N entries
    #[arg(long, value_name = "N")]
    tail: Option<u64>,
    /// Print only entries of this type, such as action; repeat it or separate types by commas
    #[arg(long, value_name = "TYPE", value_delimiter = ',')]
    kind: Vec<String>,
    /// Print JSON lines
    #[arg(long)]
    json: bool,
}

/// Length at which an entry's own text is truncated, for types without a summary.
const TRUNCATE_AT: usize = 100;

/// Prints the selected entries.
///
/// # Errors
/// [`Error`] if the ledger cannot be read or stdout cannot be written.
pub fn run(args: &Args) -> Result<(), Error> {
    let mut source = args.source.open()?;
    if args.json {
        let mut out = output::data();
        select(args, &mut source, &mut |entry| Ok(writeln!(out, "{}", entry.to_line())?))?;
        return Ok(out.flush()?);
    }
    let mut out = output::text();
    select(args, &mut source, &mut |entry| out.line(row(entry)))?;
    out.finish()
}

/// Calls `print` with the selected entries.
fn select(
    args: &Args,
    source: &mut Source,
    print: &mut dyn FnMut(&Entry) -> Result<(), Error>,
) -> Result<(), Error> {
    let shown = |entry: &Entry| args.kind.is_empty() || args.kind.contains(&entry.kind());
    match args.tail {
        None => {
            walk(source, WalkFrom::Oldest, &mut |entry| {
                if shown(&entry) { print(&entry) } else { Ok(()) }
            })?;
        }
        Some(tail) => {
            // Entries of a rare type may be anywhere in the ledger, so all of it is read.
            let from = if args.kind.is_empty() { WalkFrom::Last(tail) } else { WalkFrom::Oldest };
            let mut last = VecDeque::new();
            walk(source, from, &mut |entry| {
                if shown(&entry) {
                    last.push_back(entry);
                }
                if last.len() as u64 > tail {
                    last.pop_front();
                }
                Ok(())
            })?;
            last.iter().try_for_each(print)?;
        }
    }
    Ok(())
}

fn row(entry: &Entry) -> String {
    let kind = entry.kind();
    format!("{:>9}  {}  {kind:<11}  {}", entry.index, output::time(entry.timestamp), summary(entry))
}

/// One-line summary of an entry.
fn summary(entry: &Entry) -> String {
    match entry.data() {
        Ok(data) => summary_of(&data).unwrap_or_else(|| text(entry)),
        Err(_) => text(entry),
    }
}

/// The entry's own text without its type, truncated. Canonical JSON is ASCII, so every index is a char boundary.
fn text(entry: &Entry) -> String {
    let mut value: Value = serde_json::from_str(&entry.data).unwrap_or_default();
    if let Some(fields) = value.as_object_mut() {
        fields.remove("type");
    }
    let text = crate::ledger::canonical::to_string(&value).unwrap_or_default();
    if text.len() > TRUNCATE_AT { format!("{}…", &text[..TRUNCATE_AT]) } else { text }
}

fn summary_of(data: &Data) -> Option<String> {
    Some(match data {
        Data::Genesis(it) => {
            let pulse = &it.config.pulse;
            format!("{}, version {}, k {}, P {}", it.message, it.version, pulse.k, pulse.p)
        }
        Data::Injection(it) => {
            let mut text = format!("{}: {} anoms", it.id, it.anoms.unwrap_or_default());
            for (name, value) in [("ml_weight", it.ml_weight), ("ml_bias", it.ml_bias)] {
                if let Some(value) = value {
                    text += &format!(", {name} {value}");
                }
            }
            text
        }
        Data::Sense(it) => {
            let suppressed = if it.suppressed { ", suppressed" } else { "" };
            format!("{}: {} of {}: {} anoms{suppressed}", it.source, it.kind, it.subject, it.anoms)
        }
        Data::Scale(it) => format!("P {} → {}", it.from, it.p),
        Data::Resume(it) => {
            let reason = serde_json::to_value(it.reason).unwrap_or_default();
            format!("{}, epoch {}, {}", reason.as_str().unwrap_or_default(), it.epoch, it.operator)
        }
        Data::Snapshot(it) => format!("after beat {}, τ {:.3} s", it.beat, it.tau),
        Data::Pulse(it) => {
            let pulse = &it.pulse;
            format!("beat {}, T_Λ {:.6} s, k {}, P {}", pulse.pulse_id, pulse.t_lambda, pulse.k, pulse.p)
        }
        Data::FlowResult(it) => {
            let outcome = match (&it.failed, &it.result) {
                (Some(error), _) => format!("failed: {error}"),
                (None, Some(result)) => flow(it.flow, result)?,
                (None, None) => return None,
            };
            format!("{}: {outcome}", it.flow)
        }
        Data::Action(it) => match it.details["raw_threat"].as_f64() {
            Some(threat) => format!("{}, threat {threat:.4}", it.action),
            None => format!("{}, held", it.action),
        },
        Data::Evolution(it) => {
            let weights = &it.evolved.weights;
            format!(
                "R {:.4}, B {:.4}, E {:.4}, O {:.4}",
                weights.regen, weights.balance, weights.entropy, weights.optimize
            )
        }
        Data::Enforcement(it) => {
            format!("{:?} for entry {} ({}): {}", it.change, it.entry, it.mode, it.what.join(", "))
        }
        Data::Config(_) | Data::Unknown => return None,
    })
}

fn flow(flow: Flow, result: &Value) -> Option<String> {
    let score = |field: &str| Some(format!("{} {:.4}", field.replace('_', " "), result[field].as_f64()?));
    match flow {
        Flow::R => score("urgency"),
        Flow::B => score("conserve"),
        Flow::E => Some(format!("{} at {} anoms", score("threat_score")?, result["total_anoms"])),
        Flow::O => score("expected_gain"),
    }
}
