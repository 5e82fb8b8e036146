//! `venom ledger export`: the entries as JSON lines, the form in which anybody can check them.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use super::super::source::{self, From, Source, walk};
use super::super::{Error, stdout};
use super::progress::Progress;

/// What `venom ledger export` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: source::Args,
    /// Write to this file instead of stdout
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Exports.
///
/// # Errors
/// [`Error`].
pub fn run(args: &Args) -> Result<(), Error> {
    let mut source = args.source.open()?;
    let Some(path) = &args.output else {
        return write(&mut source, &mut stdout());
    };
    let refused = |error: std::io::Error| Error::Failed(format!("{}: {error}", path.display()));
    let mut file = BufWriter::with_capacity(1 << 16, File::create(path).map_err(refused)?);
    write(&mut source, &mut file).map_err(|error| match error {
        Error::Output(error) => refused(error),
        error => error,
    })
}

fn write(source: &mut Source, out: &mut dyn Write) -> Result<(), Error> {
    let progress = Progress::new("exported");
    walk(source, From::AfterGaps, &mut |entry| {
        progress.add(1);
        Ok(writeln!(out, "{}", entry.to_line())?)
    })?;
    Ok(out.flush()?)
}
