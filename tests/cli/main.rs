//! Tests of the command line: the binary on real folders.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod explain;
mod files;
mod flips;
mod kill;
mod printed;
mod run;
mod sources;
mod train;
mod usage;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;
use venom::ledger::Entry;
use venom::ledger::entry::Data;

/// The binary.
const VENOM: &str = env!("CARGO_BIN_EXE_venom");

/// A temporary working folder.
struct Place(TempDir);

/// Exit code and output of a command.
#[derive(Debug)]
struct Done {
    code: Option<i32>,
    out: String,
    err: String,
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Place {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The ledger's folder.
    fn ledger(&self) -> PathBuf {
        self.path("venom-ledger")
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(VENOM);
        command.args(line.split_whitespace()).current_dir(&self.0).stdin(Stdio::null());
        command
    }

    /// Runs `venom` with the arguments in `line`.
    fn venom(&self, line: &str) -> Done {
        self.command(line).output().unwrap().into()
    }

    /// Runs `venom`, which must succeed. Returns stdout.
    fn ok(&self, line: &str) -> String {
        let done = self.venom(line);
        assert_eq!(done.code, Some(0), "venom {line}: {done:?}");
        done.out
    }

    /// Runs `venom`, which must fail with this code and one line on stderr. Returns that line.
    fn fails(&self, line: &str, code: i32) -> String {
        let done = self.venom(line);
        assert_eq!(done.code, Some(code), "venom {line}: {done:?}");
        assert_eq!(done.err.lines().count(), 1, "venom {line}: {done:?}");
        done.err
    }

    /// The exported entries of the ledger.
    fn entries(&self) -> Vec<Entry> {
        let text = self.ok("ledger export venom-ledger");
        text.lines().map(|line| Entry::from_line(line).unwrap()).collect()
    }
}

fn kinds(entries: &[Entry]) -> Vec<String> {
    entries.iter().map(Entry::kind).collect()
}

fn data(entry: &Entry) -> Data {
    entry.data().unwrap()
}

/// All files of a ledger's folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let list = |folder: &Path| -> Vec<PathBuf> {
        std::fs::read_dir(folder).unwrap().map(|it| it.unwrap().path()).filter(|it| it.is_file()).collect()
    };
    let mut files = list(folder);
    files.extend(list(&folder.join("segments")));
    files.sort();
    files
}

/// An Organism that commits with every beat, for ledgers of many segments.
const MANY_SEGMENTS: &str = "
apiVersion: genesis.venom.dev/v1alpha1
kind: Organism
metadata: {name: venom}
spec: {ledger: {commitInterval: 1ms}, pulse: {t1: 0.0005}}
";
