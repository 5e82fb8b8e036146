//! `venom ledger show`: entries for people.

use std::collections::VecDeque;
use std::io::Write;

use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::super::source::{self, From, walk};
use super::super::{Error, stdout};
use crate::ledger::Entry;
use crate::ledger::entry::Data;
use crate::organism::cores::Flow;

/// What `venom ledger show` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: source::Args,
    /// Only the last so many
    #[arg(long, value_name = "N")]
    tail: Option<u64>,
    /// Only entries of this type, such as action; repeated or separated by commas
    #[arg(long, value_name = "TYPE", value_delimiter = ',')]
    kind: Vec<String>,
    /// As JSON lines
    #[arg(long)]
    json: bool,
}

/// Longest gist of an entry that has no shorter one than its own text.
const GIST: usize = 100;

/// Shows.
///
/// # Errors
/// [`Error`].
pub fn run(args: &Args) -> Result<(), Error> {
    let mut source = args.source.open()?;
    let mut out = stdout();
    let shown = |entry: &Entry| args.kind.is_empty() || args.kind.contains(&entry.kind());
    let mut print = |entry: &Entry| -> Result<(), Error> {
        if args.json {
            writeln!(out, "{}", entry.to_line())?;
        } else {
            row(&mut out, entry)?;
        }
        Ok(())
    };
    match args.tail {
        None => {
            walk(&mut source, From::Oldest, &mut |entry| if shown(&entry) { print(&entry) } else { Ok(()) })?
        }
        Some(tail) => {
            // Of one kind there may be few: they can stand anywhere.
            let from = if args.kind.is_empty() { From::Last(tail) } else { From::Oldest };
            let mut last = VecDeque::new();
            walk(&mut source, from, &mut |entry| {
                if shown(&entry) {
                    last.push_back(entry);
                }
                if last.len() as u64 > tail {
                    last.pop_front();
                }
                Ok(())
            })?;
            last.iter().try_for_each(&mut print)?;
        }
    }
    Ok(out.flush()?)
}

fn row(out: &mut dyn Write, entry: &Entry) -> std::io::Result<()> {
    let kind = entry.kind();
    writeln!(out, "{:>9}  {}  {kind:<11}  {}", entry.index, time(entry.timestamp), gist(entry))
}

/// RFC 3339 with milliseconds, or the bare number where that is no moment.
fn time(seconds: f64) -> String {
    let moment = Timestamp::from_millisecond((seconds * 1000.0).floor() as i64);
    moment.map_or_else(|_| seconds.to_string(), |moment| format!("{moment:.3}"))
}

/// What an entry says, in a few words.
fn gist(entry: &Entry) -> String {
    match entry.data() {
        Ok(data) => gist_of(&data).unwrap_or_else(|| text(entry)),
        Err(_) => text(entry),
    }
}

/// The entry's own text without its type, clipped. It is ASCII.
fn text(entry: &Entry) -> String {
    let mut value: Value = serde_json::from_str(&entry.data).unwrap_or_default();
    if let Some(fields) = value.as_object_mut() {
        fields.remove("type");
    }
    let text = crate::ledger::canonical::to_string(&value).unwrap_or_default();
    if text.len() > GIST { format!("{}…", &text[..GIST]) } else { text }
}

fn gist_of(data: &Data) -> Option<String> {
    Some(match data {
        Data::Genesis(it) => {
            let pulse = &it.config.pulse;
            format!("{}, version {}, k {}, P {}", it.message, it.version, pulse.k, pulse.p)
        }
        Data::Injection(it) => {
            let mut said = format!("{}: {} anoms", it.id, it.anoms.unwrap_or_default());
            for (name, value) in [("ml_weight", it.ml_weight), ("ml_bias", it.ml_bias)] {
                if let Some(value) = value {
                    said += &format!(", {name} {value}");
                }
            }
            said
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
            let said = match (&it.failed, &it.result) {
                (Some(why), _) => format!("failed: {why}"),
                (None, Some(result)) => flow(it.flow, result)?,
                (None, None) => return None,
            };
            format!("{}: {said}", it.flow)
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
    let said = |field: &str| Some(format!("{} {:.4}", field.replace('_', " "), result[field].as_f64()?));
    match flow {
        Flow::R => said("urgency"),
        Flow::B => said("conserve"),
        Flow::E => Some(format!("{} at {} anoms", said("threat_score")?, result["total_anoms"])),
        Flow::O => said("expected_gain"),
    }
}
