//! The command line: one module per subcommand.
//!
//! Results go to stdout, everything else to stderr, both through [`output`]. An error is one line that states the problem and the remedy. The
//! exit code is 0 for success, 2 for wrong usage, and 1 for a failed check and every other error.

pub mod crds;
pub mod explain;
pub mod inject;
pub mod ledger;
pub mod log;
pub mod mesh;
pub mod node;
pub mod operator;
pub mod output;
pub mod release;
pub mod run;
pub mod signals;
pub mod source;
pub mod train;

use std::io::{self, Write};
use std::process::ExitCode;

use crate::store::directory::FolderError;
use output::complain;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Invalid arguments, or an invalid file that they name. Exit code 2.
    #[error("{0}")]
    Usage(String),
    /// A failed check, or any other error. Exit code 1.
    #[error("{0}")]
    Failed(String),
    /// An error about a ledger's folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// Writing to stdout failed.
    #[error("stdout: {0}")]
    Output(#[from] io::Error),
}

/// The name of this program as the user typed it: `venom` or `kubectl venom`.
#[must_use]
pub fn program_name() -> &'static str {
    let path = std::env::args_os().next().unwrap_or_default();
    let stem = std::path::Path::new(&path).file_stem().unwrap_or_default();
    // kubectl runs a plug-in by its file name.
    if stem == "kubectl-venom" { "kubectl venom" } else { "venom" }
}

/// Prints the error of a command, if any, and returns its exit code.
#[must_use]
pub fn exit_code(name: &str, result: Result<(), Error>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // The reader closed the pipe, as in `venom ledger show | head`.
        Err(Error::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("{name}: {error}"));
            ExitCode::from(if matches!(error, Error::Usage(_)) { 2 } else { 1 })
        }
    }
}

/// Prints clap's error in one line, or the requested help, and returns the exit code.
#[must_use]
pub fn usage(name: &str, error: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind;
    let text = error.to_string();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            exit_code(name, output::data().write_all(text.as_bytes()).map_err(Error::from))
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            // Its lines are ours.
            text.trim_end().lines().for_each(complain);
            ExitCode::from(2)
        }
        _ => {
            // The usage follows clap's paragraphs about the problem and similar arguments.
            let message = text.split("\n\nUsage:").next().unwrap_or_default();
            let message = message.split("\n\nFor more information").next().unwrap_or_default();
            let message = message.strip_prefix("error: ").unwrap_or(message).trim_end();
            let line = |paragraph: &str| paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
            let message = message.split("\n\n").map(line).collect::<Vec<_>>().join("; ");
            complain(&format!("{name}: {message}; see --help"));
            ExitCode::from(2)
        }
    }
}

/// The host name of this machine, for the ledger's records.
#[must_use]
pub fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    name.or_else(|| std::env::var("HOSTNAME").ok())
        .map(|name| name.trim().to_owned())
        .filter(|it| !it.is_empty())
}
