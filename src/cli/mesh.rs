//! `venom mesh`: a mesh without a cluster.

use std::path::PathBuf;

use super::{Error, complain};
use crate::api::GoDuration;
use crate::node::folder;

/// What `venom mesh` takes.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make an authority and certificates in a folder, or new certificates where there is one
    Init(Init),
}

/// What `venom mesh init` takes.
#[derive(Debug, clap::Args)]
struct Init {
    /// The folder; DIR/operator is for venom run --mesh, DIR/node-1 and so on for venom node
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// How many nodes
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    nodes: u32,
    /// How long the certificates are good; made anew in time, they are taken up without a gap
    #[arg(long, value_name = "DURATION", default_value = "24h")]
    life: GoDuration,
}

/// Does it.
///
/// # Errors
/// [`Error`].
pub fn run(args: &Args) -> Result<(), Error> {
    let Command::Init(Init { folder, nodes, life }) = &args.command;
    if life.get().is_zero() {
        return Err(Error::Usage("--life must be above 0; leave it out for 24h".into()));
    }
    folder::init(folder, *nodes, life.get()).map_err(|error| Error::Failed(error.to_string()))?;
    complain(&format!("{}: certificates for operator and node-1 to node-{nodes}", folder.display()));
    Ok(())
}
