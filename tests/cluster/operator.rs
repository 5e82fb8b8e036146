//! The operator as a child process of the test.
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::harness::eventually;

/// Number of lines of the log that a failed test prints.
const SHOWN: usize = 60;

/// A running operator. Dropping it kills the process, and prints its log if the test failed.
pub struct Operator {
    child: Child,
    log: PathBuf,
    identity: String,
}

impl Operator {
    /// Starts an operator that watches `namespace`.
    pub fn start(namespace: &str, identity: &str, kubeconfig: Option<&Path>, more: &[&str]) -> Self {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("operators");
        std::fs::create_dir_all(&folder).unwrap();
        let log = folder.join(format!("{namespace}-{identity}-{number}.log"));
        let file = File::create(&log).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_venom"));
        command.args(["operator", "--namespace", namespace, "--identity", identity]);
        if !more.contains(&"--metrics-addr") {
            // The test does not read the metrics: use any free port.
            command.args(["--metrics-addr", "127.0.0.1:0"]);
        }
        if let Some(path) = kubeconfig {
            command.env("KUBECONFIG", path);
        }
        command.args(more).stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        let child = command.spawn().unwrap();
        Self { child, log, identity: identity.to_owned() }
    }

    /// Sends SIGKILL and waits for the process to end.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends SIGTERM and returns the exit status.
    pub async fn terminate(&mut self) -> ExitStatus {
        let pid = self.child.id().to_string();
        assert!(Command::new("sh").args(["-c", r#"kill -TERM "$0""#, &pid]).status().unwrap().success());
        self.ended().await
    }

    /// Waits for the process to end and returns the exit status.
    pub async fn ended(&mut self) -> ExitStatus {
        let what = format!("operator {} to end", self.identity);
        eventually(&what, async || self.child.try_wait().unwrap().ok_or_else(|| "still running".to_owned()))
            .await
    }

    /// Whether the process is running.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// The log, without ANSI colours.
    pub fn log(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap();
        let mut parts = text.split("\u{1b}[");
        let first = parts.next().unwrap_or_default().to_owned();
        parts.fold(first, |log, part| log + part.split_once('m').map_or(part, |(_, rest)| rest))
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let running = self.child.try_wait().is_ok_and(|ended| ended.is_none());
        // The process may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let from = lines.len().saturating_sub(SHOWN);
            let state = if running { "was running" } else { "had exited" };
            println!("--- operator {} {state}; last lines of {}:", self.identity, self.log.display());
            lines[from..].iter().for_each(|line| println!("{line}"));
        } else {
            let _ = std::fs::remove_file(&self.log);
        }
    }
}
