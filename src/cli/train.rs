//! `venom train`: learns the threat model from rows of one's own history, says how good it is, and applies it.
//!
//! 1. Read the Genome to apply to, if any: its model and thresholds are what the new one is compared with and judged by.
//! 2. Read the rows, of a table or of a ledger.
//! 3. Fit and judge ([`Report`], pure), and print.
//! 4. Draw the curves.
//! 5. Show what changes, ask, and apply.

mod apply;
mod history;
mod table;
mod text;

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::output::{self, Format};
use super::{Error, source};
use crate::files::{self, PUBLIC};
use crate::organism::genome::Genome;
use crate::training::{Loss, Options, Report, picture};
use apply::Target;

/// Arguments of `venom train`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// The rows: a file of comma-separated values with a header, or - for stdin
    #[arg(value_name = "DATA", required_unless_present = "from_ledger", conflicts_with = "from_ledger")]
    data: Option<PathBuf>,
    /// The column with the number of anomalies, a whole number of 0 to 1000000
    #[arg(long, value_name = "NAME", default_value = "anoms")]
    anoms: String,
    /// The column that says whether there was an incident: 0 or 1, false or true, no or yes
    #[arg(long, value_name = "NAME", default_value = "label")]
    label: String,
    /// Instead of DATA, take the rows from a ledger: a folder, a file of JSON lines, - for stdin, or organism/NAME
    #[arg(long, value_name = "SOURCE", requires = "incidents")]
    from_ledger: Option<String>,
    /// When there were incidents: a file of comma-separated values with the columns start and end, in RFC 3339
    #[arg(long, value_name = "FILE", requires = "from_ledger", conflicts_with = "data")]
    incidents: Option<PathBuf>,
    /// What to minimise: logistic (negative log-likelihood) or mse (squared error of the threat)
    #[arg(long, value_name = "LOSS", default_value = "logistic", value_parser = loss)]
    loss: Loss,
    /// L2 penalty of the logistic loss, alpha/2 · mlWeight² [default: 1]. 0 is none
    #[arg(long, value_name = "ALPHA", value_parser = alpha)]
    alpha: Option<f64>,
    /// Repeat rows of the rarer label until there are as many as of the other
    #[arg(long)]
    balance: bool,
    /// Share of the rows to hold out, 0 to 0.9: the model is judged by them and does not see them
    #[arg(long, value_name = "SHARE", default_value = "0.25", value_parser = share)]
    test: f64,
    /// Seed by which rows are chosen to be held out or repeated
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Write roc.svg and calibration.svg to this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Set spec.ml of this Genome, genome/NAME, after showing what changes and asking
    #[arg(long, value_name = "GENOME")]
    apply: Option<String>,
    /// Apply without asking
    #[arg(long, short, requires = "apply")]
    yes: bool,
    #[command(flatten)]
    cluster: source::Cluster,
    /// Format of the report
    #[arg(long, short, value_name = "FORMAT", value_enum, default_value_t = Format::Text)]
    output: Format,
}

const HELP: &str = "\
The model is judged by the thresholds of the Genome to apply to, or else by the defaults. From a ledger, a row is the
first beat in each second of the ledger's own time, with all anomalies that counted.

Exit status:
  0  The model is trained, and applied if that was asked for
  1  The rows teach nothing or cannot be read, or the Genome was not changed
  2  Wrong usage";

/// The L2 penalty where none is given, which is also linfa's and scikit-learn's.
const ALPHA: f64 = 1.0;

fn loss(text: &str) -> Result<Loss, String> {
    let found = Loss::ALL.into_iter().find(|it| it.as_str() == text);
    found.ok_or_else(|| format!("write {}", Loss::ALL.map(Loss::as_str).join(" or ")))
}

fn alpha(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|it| (0.0..=1e12).contains(it));
    number.ok_or_else(|| "write a number of 0 to 1e12, such as 0.1".into())
}

fn share(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|it| (0.0..=0.9).contains(it));
    number.ok_or_else(|| "write a number of 0 to 0.9, such as 0.25".into())
}

/// What is printed with `-o json`: the fields of the [`Report`], and these.
#[derive(Debug, Serialize)]
struct Trained {
    /// Name of the source.
    source: String,
    #[serde(flatten)]
    report: Report,
}

/// Trains a model, prints the report, and applies the model if that is asked for.
///
/// # Errors
/// [`Error`] if the rows cannot be read or teach nothing, or if the Genome cannot be read or changed.
pub fn run(args: &Args) -> Result<(), Error> {
    if args.loss == Loss::Mse && args.alpha.is_some() {
        return Err(Error::Usage(
            "--alpha is the penalty of the logistic loss; leave it out with --loss mse".into(),
        ));
    }
    let target = args.apply.as_deref().map(|name| Target::read(name, &args.cluster)).transpose()?;
    let Genome { ml, thresholds, .. } = target.as_ref().map(Target::genome).unwrap_or_default();
    let (source, rows) = match (&args.from_ledger, &args.incidents, &args.data) {
        (Some(ledger), Some(incidents), _) => history::read(ledger, incidents, &args.cluster)?,
        (_, _, Some(data)) => table::rows(data, &args.anoms, &args.label)?,
        _ => return Err(Error::Usage("name a file of rows".into())),
    };
    let options = Options {
        loss: args.loss,
        alpha: args.alpha.unwrap_or(ALPHA),
        balance: args.balance,
        test: args.test,
        seed: args.seed,
    };
    let report = Report::of(&rows, &options, ml, &thresholds)
        .map_err(|error| Error::Failed(format!("{source}: {error}")))?;
    let trained = Trained { source, report };
    match args.output {
        Format::Text => text::print(&trained)?,
        Format::Json => {
            let value = serde_json::to_value(&trained);
            output::json(&value.map_err(|error| Error::Failed(format!("{}: {error}", trained.source)))?)?;
        }
    }
    if let Some(folder) = &args.out {
        draw(folder, &trained.report)?;
    }
    match &target {
        Some(target) => target.apply(&trained.report, args.yes),
        None => Ok(()),
    }
}

/// Writes the pictures.
fn draw(folder: &Path, report: &Report) -> Result<(), Error> {
    let failed = |path: &Path, what: &dyn std::fmt::Display| {
        Error::Failed(format!("{}: {what}; name a folder that can be written", path.display()))
    };
    std::fs::create_dir_all(folder).map_err(|error| failed(folder, &error))?;
    for (name, svg) in [("roc.svg", picture::roc(report)), ("calibration.svg", picture::calibration(report))]
    {
        let path = folder.join(name);
        let svg = svg.map_err(|error| failed(&path, &error))?;
        files::replace(&path, svg.as_bytes(), PUBLIC).map_err(|error| failed(&path, &error))?;
    }
    Ok(())
}
