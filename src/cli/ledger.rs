//! `venom ledger`: reading a ledger, and checking it.

pub mod export;
mod progress;
pub mod replay;
pub mod show;
pub mod verify;

use super::Error;

/// What `venom ledger` takes.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List entries
    Show(show::Args),
    /// Check every hash, every link and the root
    Verify(verify::Args),
    /// Derive every number anew from the recorded inputs
    Replay(replay::Args),
    /// Write the entries as JSON lines
    Export(export::Args),
}

/// Does it.
///
/// # Errors
/// [`Error`].
pub fn run(args: &Args) -> Result<(), Error> {
    match &args.command {
        Command::Show(args) => show::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Replay(args) => replay::run(args),
        Command::Export(args) => export::run(args),
    }
}
