//! `venom ledger export`: writes the entries as JSON lines, which any implementation of SHA3-256 can verify.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use super::super::source::{self, Source, WalkFrom, walk};
use super::super::{Error, stdout};
use super::progress::Progress;

/// Arguments of `venom ledger export`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: source::Args,
    /// Write to this file instead of stdout
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Writes the entries to stdout, or to `--output`.
///
/// # Errors
/// [`Error`] if the ledger cannot be read or the output cannot be written.
pub fn run(args: &Args) -> Result<(), Error> {
    let mut source = args.source.open()?;
    let Some(path) = &args.output else {
        return write(&mut source, &mut stdout());
    };
    let file_error = |error: std::io::Error| Error::Failed(format!("{}: {error}", path.display()));
    let mut file = BufWriter::with_capacity(1 << 16, File::create(path).map_err(file_error)?);
    write(&mut source, &mut file).map_err(|error| match error {
        Error::Output(error) => file_error(error),
        error => error,
    })
}

fn write(source: &mut Source, out: &mut dyn Write) -> Result<(), Error> {
    let progress = Progress::new("exported");
    walk(source, WalkFrom::AfterGaps, &mut |entry| {
        progress.add(1);
        Ok(writeln!(out, "{}", entry.to_line())?)
    })?;
    Ok(out.flush()?)
}
