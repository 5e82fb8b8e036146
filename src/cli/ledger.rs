//! `venom ledger`: reads and verifies a ledger.

pub mod export;
pub(super) mod progress;
pub mod repair;
pub mod replay;
pub mod show;
pub mod verify;

use super::Error;

/// Arguments of `venom ledger`.
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
    /// Verify every hash, every link and the Merkle root
    Verify(verify::Args),
    /// Re-derive every number from the recorded inputs
    Replay(replay::Args),
    /// Write the entries as JSON lines
    Export(export::Args),
    /// Rebuild the unreadable or missing head of an Organism's ledger
    Repair(repair::Args),
}

/// Runs the subcommand.
///
/// # Errors
/// [`Error`] of the subcommand.
pub fn run(args: &Args) -> Result<(), Error> {
    match &args.command {
        Command::Show(args) => show::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Replay(args) => replay::run(args),
        Command::Export(args) => export::run(args),
        Command::Repair(args) => repair::run(args),
    }
}
