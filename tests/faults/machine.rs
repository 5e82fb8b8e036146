//! The processes of the cluster, and its etcd.
use std::fs::{self, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::http::post;

/// A process of a cluster, started by `e2e/cluster/cluster` or again by a test.
pub struct Process {
    name: &'static str,
    /// The cluster's folder.
    state: PathBuf,
    command: Vec<String>,
    /// Once it was started again.
    child: Option<Child>,
}

impl Process {
    /// The process of this name of the cluster with this kubeconfig.
    pub fn of(kubeconfig: &Path, name: &'static str) -> Self {
        let state = kubeconfig.parent().unwrap().to_owned();
        let mut it = Self { name, state, command: vec![], child: None };
        let command = fs::read(format!("/proc/{}/cmdline", it.pid())).unwrap_or_default(); // it may have ended
        let command = String::from_utf8(command).unwrap();
        it.command = command.trim_end_matches('\0').split('\0').map(str::to_owned).collect();
        it
    }

    fn pid_file(&self) -> PathBuf {
        self.state.join(format!("run/{}.pid", self.name))
    }

    fn pid(&self) -> String {
        let text = fs::read_to_string(self.pid_file()).unwrap();
        text.split_whitespace().next().unwrap().to_owned()
    }

    /// When the process was started, in ticks since the machine's start; `None` if it has ended.
    fn started(pid: &str) -> Option<String> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        (fields[0] != "Z").then(|| fields[19].to_owned())
    }

    pub fn runs(&self) -> bool {
        Self::started(&self.pid()).is_some()
    }

    /// Sends a signal by its name, such as STOP, if it runs.
    pub fn signal(&self, signal: &str) {
        let pid = self.pid();
        if Self::started(&pid).is_some() {
            Command::new("sh").args(["-c", r#"kill -s "$0" "$1""#, signal, &pid]).status().unwrap();
        }
    }

    /// Sends SIGKILL and starts it again once it has ended.
    pub fn kill_and_start(&mut self) {
        self.signal("KILL");
        self.start();
    }

    /// Starts it again with the same command, once it has ended.
    pub fn start(&mut self) {
        if let Some(child) = &mut self.child {
            child.wait().unwrap();
        }
        let limit = Instant::now() + Duration::from_secs(30);
        while self.runs() {
            assert!(Instant::now() < limit, "{} does not end", self.name);
            std::thread::sleep(Duration::from_millis(10));
        }
        let log = self.state.join(format!("logs/{}.log", self.name));
        let log = OpenOptions::new().append(true).open(log).unwrap();
        let child = Command::new(&self.command[0])
            .args(&self.command[1..])
            .current_dir(&self.state)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .process_group(0) // `cluster down` ends the group
            .spawn()
            .unwrap();
        let pid = child.id().to_string();
        let began = Self::started(&pid).unwrap();
        fs::write(self.pid_file(), format!("{pid} {began}\n")).unwrap();
        self.child = Some(child);
    }
}

/// The etcd of a cluster, accessed directly.
pub struct Etcd(String);

impl Etcd {
    pub fn of(kubeconfig: &Path) -> Self {
        let settings = fs::read_to_string(kubeconfig.with_file_name("settings")).unwrap();
        let port = settings.lines().find_map(|line| line.strip_prefix("etcd_port=")).unwrap();
        Self(format!("127.0.0.1:{port}"))
    }

    fn alarm(&self, body: &Value) -> Result<Value, String> {
        let (code, text) = post(&self.0, "/v3/maintenance/alarm", &body.to_string())?;
        if code != 200 {
            return Err(text);
        }
        serde_json::from_str(&text).map_err(|error| error.to_string())
    }

    /// Raises the alarm that stands for a full database, or disarms it. While it stands, etcd refuses what makes its database
    /// larger.
    pub fn set_full(&self, full: bool) -> Result<(), String> {
        let member = self.alarm(&json!({"action": "GET"}))?["header"]["member_id"].clone();
        let action = if full { "ACTIVATE" } else { "DEACTIVATE" };
        self.alarm(&json!({"action": action, "memberID": member, "alarm": "NOSPACE"})).map(drop)
    }
}
