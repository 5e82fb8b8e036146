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

    /// Sends a signal by its name, such as STOP.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("sh").args(["-c", r#"kill -s "$0" "$1""#, name, &pid]).status();
        assert!(sent.unwrap().success());
    }

    /// Sends SIGTERM and returns the exit status.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.ended().await
    }

    /// Waits for the process to end and returns the exit status.
    pub async fn ended(&mut self) -> ExitStatus {
        let what = format!("operator {} to end", self.identity);
        eventually(&what, async || self.child.try_wait().unwrap().ok_or_else(|| "still running".to_owned()))
            .await
    }

    /// Waits until the log says that another replica has an organism of this one.
    pub async fn loses_to_another(&self) {
        eventually("an organism to be lost", async || {
            if self.log().lines().any(says_lost) { Ok(()) } else { Err("not yet".into()) }
        })
        .await;
    }

    /// Waits until this operator knows that the one of that name takes organisms as well.
    pub async fn shares_with(&self, other: &str) {
        let mut names = [&*self.identity, other];
        names.sort_unstable();
        let says = format!("taking_organisms=\"{}\"", names.join(", "));
        eventually("operators to share their organisms", async || {
            if self.log().contains(&says) { Ok(()) } else { Err("not yet".into()) }
        })
        .await;
    }

    /// Its name.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Whether the process is running.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// The log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
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

/// Whether this line of a log says that another replica has an organism of its operator.
pub fn says_lost(line: &str) -> bool {
    line.contains("took the ledger over") || line.contains("has taken it over")
}
