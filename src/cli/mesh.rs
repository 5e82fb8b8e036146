//! `venom mesh`: certificates for a mesh without a cluster.

use std::path::PathBuf;

use super::Error;
use super::output::complain;
use crate::api::GoDuration;
use crate::node::directory;

/// Arguments of `venom mesh`.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Create a CA and certificates in a directory; if it has a CA, renew the certificates
    Init(Init),
}

/// Arguments of `venom mesh init`.
#[derive(Debug, clap::Args)]
struct Init {
    /// The directory; DIR/operator is for venom run --mesh, DIR/node-1 and so on for venom node
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Number of nodes
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    nodes: u32,
    /// Validity of the certificates; running nodes pick up renewed ones
    #[arg(long, value_name = "DURATION", default_value = "24h")]
    life: GoDuration,
}

/// Runs the command.
///
/// # Errors
/// [`Error`] if the directory cannot be written or its CA cannot be loaded.
pub fn run(args: &Args) -> Result<(), Error> {
    let Command::Init(Init { directory, nodes, life }) = &args.command;
    if life.get().is_zero() {
        return Err(Error::Usage("--life must be more than 0; omit it for 24h".into()));
    }
    directory::init(directory, *nodes, life.get()).map_err(|error| Error::Failed(error.to_string()))?;
    complain(&format!("{}: certificates for operator and node-1 to node-{nodes}", directory.display()));
    Ok(())
}
