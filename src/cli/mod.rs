//! The command line: one module a subcommand.
//!
//! Results go to stdout, everything else to stderr. An error is one line: what, and what to do. The exit code
//! is 2 for wrong usage, 1 for a check that failed or anything else that did not work, 0 else.

pub mod crds;
pub mod inject;
pub mod ledger;
pub mod mesh;
pub mod node;
pub mod operator;
pub mod run;
pub mod signals;
pub mod source;

use std::io::{self, BufWriter, StdoutLock, Write};
use std::process::ExitCode;

use crate::store::directory::FolderError;

/// Why a command did not do what it was to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line, or a file that it names, asks for what cannot be.
    #[error("{0}")]
    Usage(String),
    /// A check failed, or something else did not work.
    #[error("{0}")]
    Failed(String),
    /// A ledger's folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// stdout cannot be written.
    #[error("stdout: {0}")]
    Output(#[from] io::Error),
}

/// stdout, buffered. A reader that has gone is no panic but an [`Error::Output`].
pub type Out = BufWriter<StdoutLock<'static>>;

/// stdout, buffered.
#[must_use]
pub fn stdout() -> Out {
    BufWriter::new(io::stdout().lock())
}

/// The name this program was called by, as a user types it.
#[must_use]
pub fn program_name() -> &'static str {
    let called = std::env::args_os().next().unwrap_or_default();
    let stem = std::path::Path::new(&called).file_stem().unwrap_or_default();
    // kubectl finds a plug-in by its file's name.
    if stem == "kubectl-venom" { "kubectl venom" } else { "venom" }
}

/// Reports how a command ended.
#[must_use]
pub fn exit_code(name: &str, done: Result<(), Error>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // `venom ledger show | head`: the reader has what it wanted.
        Err(Error::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("{name}: {error}"));
            ExitCode::from(if matches!(error, Error::Usage(_)) { 2 } else { 1 })
        }
    }
}

/// Reports a command line that cannot be understood, or prints the help that it asks for.
#[must_use]
pub fn usage(name: &str, error: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind;
    let text = error.to_string();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            exit_code(name, stdout().write_all(text.as_bytes()).map_err(Error::from))
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            complain(text.trim_end());
            ExitCode::from(2)
        }
        _ => {
            // clap's first paragraphs say what is wrong and perhaps what was meant; then follows the usage.
            let said = text.split("\n\nUsage:").next().unwrap_or_default();
            let said = said.split("\n\nFor more information").next().unwrap_or_default();
            let said = said.strip_prefix("error: ").unwrap_or(said).trim_end();
            let line = |paragraph: &str| paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
            let said = said.split("\n\n").map(line).collect::<Vec<_>>().join("; ");
            complain(&format!("{name}: {said}; see --help"));
            ExitCode::from(2)
        }
    }
}

/// Writes a line to stderr; where that fails there is nobody to tell.
pub fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// The name of this machine, for records.
#[must_use]
pub fn host_name() -> Option<String> {
    let told = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    told.or_else(|| std::env::var("HOSTNAME").ok())
        .map(|name| name.trim().to_owned())
        .filter(|it| !it.is_empty())
}
