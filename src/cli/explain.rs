//! `venom explain`: why a decision was taken, on one screen.

mod text;

use k8s_openapi::jiff::Timestamp;
use serde::Serialize;

use super::ledger::progress::Progress;
use super::output::{self, Format, time};
use super::source::{self, Source, WalkFrom, Walked, walk};
use super::{Error, program_name};
use crate::ledger::entry::Origin;
use crate::ledger::explain::{ExplainError, Explainer, Explanation, Target};
use crate::ledger::hex;
use crate::organism::Action;

/// Arguments of `venom explain`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    #[command(flatten)]
    source: source::Args,
    /// Explain the beat that contains entry N, or from which it is in force; for an enforcement the decision that it
    /// follows from
    #[arg(long, value_name = "N", conflicts_with = "at")]
    entry: Option<u64>,
    /// Explain the decision that was in force at this time: RFC 3339, or seconds since 1970
    #[arg(long, value_name = "TIME", value_parser = moment)]
    at: Option<f64>,
    /// Say what this action would have needed to be decided instead
    #[arg(long, value_name = "ACTION", value_parser = action)]
    why_not: Option<Action>,
    /// Format of the result
    #[arg(long, short, value_name = "FORMAT", value_enum, default_value_t = Format::Text)]
    output: Format,
}

const HELP: &str = "\
Without --entry and --at, the decision in force is explained. All numbers are derived again from the recorded inputs
first: of a ledger that does not replay, nothing is explained.

Exit status:
  0  The decision is explained
  1  The ledger cannot be read, does not replay, or does not have what was asked for
  2  Wrong usage";

fn moment(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().ok().filter(|it| it.is_finite());
    let parsed = || text.parse::<Timestamp>().ok().map(|it| it.as_nanosecond() as f64 / 1e9);
    seconds
        .or_else(parsed)
        .ok_or_else(|| "write a time such as 2026-11-23T06:23:26Z, or seconds since 1970".into())
}

fn action(text: &str) -> Result<Action, String> {
    Action::ALL
        .into_iter()
        .find(|it| it.as_str().eq_ignore_ascii_case(text))
        .ok_or_else(|| format!("write {}", Action::ALL.map(Action::as_str).join(", ")))
}

/// What is printed with `-o json`: the fields of the [`Explanation`], and these.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explained {
    /// Name of the source.
    pub source: String,
    /// Time of the explained beat, RFC 3339, UTC.
    pub time: String,
    /// Identity of the ledger; `None` outside a cluster and for JSON lines.
    pub organism: Option<Origin>,
    /// Number of entries since genesis, up to the last one that was read. All that were read have verified hashes.
    pub size: u64,
    /// Merkle root over these, in hexadecimal digits; `None` for JSON lines that do not begin with entry 0.
    pub root: Option<String>,
    /// Whether a head says that no entry follows. JSON lines have none.
    pub end_anchored: bool,
    /// Commands that check the hashes and derive the numbers again.
    pub check: [String; 2],
    /// The explanation.
    #[serde(flatten)]
    pub explanation: Explanation,
}

/// Explains a decision.
///
/// # Errors
/// [`Error`] if the ledger cannot be read, does not replay, or does not have what was asked for.
pub fn run(args: &Args) -> Result<(), Error> {
    let target = match (args.entry, args.at) {
        (Some(entry), _) => Target::Entry(entry),
        (_, Some(at)) => Target::At(at),
        _ => Target::Newest,
    };
    let explained = match read(args, target)? {
        Ok(explained) => explained,
        // The entry precedes what is kept while reading.
        Err((_, ExplainError::ReadAgain { asked, follows })) if !args.source.is_stdin() => {
            let mut again =
                read(args, Target::Entry(follows))?.map_err(|(name, error)| failed(&name, &error))?;
            again.explanation.asked = Some(asked);
            again
        }
        Err((name, error)) => return Err(failed(&name, &error)),
    };
    match args.output {
        Format::Text => text::print(&explained),
        Format::Json => {
            let value = serde_json::to_value(&explained);
            output::json(&value.map_err(|error| Error::Failed(format!("{}: {error}", explained.source)))?)
        }
    }
}

fn failed(name: &str, error: &ExplainError) -> Error {
    Error::Failed(match error {
        ExplainError::TooEarly { timestamp, .. } => format!("{name}: {error}, at {}", time(*timestamp)),
        _ => format!("{name}: {error}"),
    })
}

/// The explanation, or why there is none and the name of the source.
type Read = Result<Explained, (String, ExplainError)>;

/// Reads the source once.
fn read(args: &Args, target: Target) -> Result<Read, Error> {
    let mut source = args.source.open()?;
    let name = source.name();
    let mut explainer = Explainer::new(target, args.why_not);
    let progress = Progress::new("entries derived");
    let mut stopped = None;
    let walked = walk(&mut source, WalkFrom::AfterGaps, &mut |entry| {
        progress.add(1);
        explainer.feed(entry).map_err(|error| {
            let told = failed(&name, &error);
            stopped = Some(error);
            told
        })
    });
    drop(progress);
    if let Some(error) = stopped {
        return Ok(Err((name, error)));
    }
    let Walked { size, root, origin } = walked?;
    let explanation = match explainer.finish() {
        Ok(explanation) => explanation,
        Err(error) => return Ok(Err((name, error))),
    };
    let root = root.as_ref().map(hex);
    let (program, again) = (program_name(), args.source.for_shell());
    let expected = root.as_ref().map(|root| format!(" --size {size} --root {root}")).unwrap_or_default();
    Ok(Ok(Explained {
        time: time(explanation.beat.timestamp),
        end_anchored: !matches!(source, Source::Lines(_)),
        check: [
            format!("{program} ledger verify {again}{expected}"),
            format!("{program} ledger replay {again}"),
        ],
        organism: origin,
        size,
        root,
        source: name,
        explanation,
    }))
}
