//! `venom crds`: prints the CustomResourceDefinitions.

use std::io::Write;
use std::path::PathBuf;

use super::{Error, output};
use crate::api;
use crate::files;

/// Arguments of `venom crds`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Write each one to this folder as <name>.yaml instead of printing it
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Prints the CRDs to stdout, or writes them to `--dir`.
///
/// # Errors
/// [`Error`] if the output cannot be written.
pub fn run(args: &Args) -> Result<(), Error> {
    let crds = api::crds_yaml().map_err(|error| Error::Failed(error.to_string()))?;
    let Some(dir) = &args.dir else {
        let mut out = output::data();
        for (_, text) in crds {
            write!(out, "---\n{text}")?;
        }
        return Ok(out.flush()?);
    };
    for (name, text) in crds {
        let path = dir.join(format!("{name}.yaml"));
        std::fs::create_dir_all(dir)
            .and_then(|()| files::replace(&path, text.as_bytes(), files::PUBLIC))
            .map_err(|error| Error::Failed(format!("{}: {error}", path.display())))?;
    }
    Ok(())
}
