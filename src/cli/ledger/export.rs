//! `venom ledger export`: writes the entries as JSON lines, which any implementation of SHA3-256 can verify.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::super::source::{self, Source, WalkFrom, walk};
use super::super::{Error, output};
use super::progress::Progress;
use crate::files::{NewFile, PUBLIC};

/// Arguments of `venom ledger export`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: source::Args,
    /// Write to this file instead of stdout. An existing file is replaced when the export is complete
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// The file that stdout is redirected to, if any.
const STDOUT: &str = "/dev/stdout";

/// Writes the entries to stdout, or to `--output`.
///
/// # Errors
/// [`Error`] if the ledger cannot be read or has no entry, or if the output cannot be written or is the source. The
/// file at `--output` is then left as it was.
pub fn run(args: &Args) -> Result<(), Error> {
    let target = args.output.as_deref().unwrap_or(Path::new(STDOUT));
    if let Some(why) = args.source.contains(target) {
        let target = args.output.as_ref().map_or_else(|| "stdout".into(), |path| path.display().to_string());
        return Err(Error::Failed(format!("{target} {why}; write to another file")));
    }
    let mut source = args.source.open()?;
    let Some(path) = &args.output else {
        return write(&mut source, &mut output::data());
    };
    let file_error = |error: std::io::Error| Error::Failed(format!("{}: {error}", path.display()));
    let mut file = NewFile::create(path, PUBLIC).map_err(file_error)?;
    write(&mut source, &mut file).map_err(|error| match error {
        Error::Output(error) => file_error(error),
        error => error,
    })?;
    file.commit().map_err(file_error)
}

fn write(source: &mut Source, out: &mut dyn Write) -> Result<(), Error> {
    let progress = Progress::new("entries exported");
    let mut is_empty = true;
    walk(source, WalkFrom::AfterGaps, &mut |entry| {
        progress.add(1);
        is_empty = false;
        Ok(writeln!(out, "{}", entry.to_line())?)
    })?;
    if is_empty {
        // Otherwise `venom … | venom ledger export - -o FILE` would empty FILE when the first command fails.
        return Err(Error::Failed(format!("{}: contains no entry", source.name())));
    }
    Ok(out.flush()?)
}
