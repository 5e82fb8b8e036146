//! `venom crds`: the two CustomResourceDefinitions.

use std::io::Write;
use std::path::PathBuf;

use super::{Error, stdout};
use crate::api;

/// What `venom crds` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Write each into this folder as <name>.yaml instead of printing them
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Prints or writes them.
///
/// # Errors
/// [`Error`].
pub fn run(args: &Args) -> Result<(), Error> {
    let crds = api::crds_yaml().map_err(|error| Error::Failed(error.to_string()))?;
    let Some(dir) = &args.dir else {
        let mut out = stdout();
        for (_, text) in crds {
            write!(out, "---\n{text}")?;
        }
        return Ok(out.flush()?);
    };
    for (name, text) in crds {
        let path = dir.join(format!("{name}.yaml"));
        std::fs::create_dir_all(dir)
            .and_then(|()| std::fs::write(&path, text))
            .map_err(|error| Error::Failed(format!("{}: {error}", path.display())))?;
    }
    Ok(())
}
