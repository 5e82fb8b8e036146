//! The binary: `venom mesh init`, `venom node`, `venom run --mesh` and `venom inject`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use venom::ledger::Entry;
use venom::ledger::entry::Data;

use crate::support::PATIENCE;

const VENOM: &str = env!("CARGO_BIN_EXE_venom");

/// An empty working directory.
pub struct Workspace(TempDir);

/// A process that is killed when dropped, also if the test fails.
pub struct Process {
    child: Child,
    pub mesh: String,
    pub inject: String,
    /// Empty if it serves none.
    pub http: String,
    lines: Receiver<String>,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Workspace {
    pub fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(VENOM);
        command.args(line.split_whitespace()).current_dir(&self.0).stdin(Stdio::null());
        command
    }

    fn venom(&self, line: &str) -> Output {
        self.command(line).output().unwrap()
    }

    pub fn ok(&self, line: &str) -> String {
        let done = self.venom(line);
        assert!(done.status.success(), "venom {line}: {done:?}");
        String::from_utf8(done.stdout).unwrap()
    }

    /// Starts `venom`, and waits until it prints its listening addresses.
    fn start(&self, line: &str) -> Process {
        Self::started(self.command(line), line)
    }

    fn started(mut command: Command, line: &str) -> Process {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            while let Some(Ok(line)) = stderr.next() {
                let _ = sender.send(line);
            }
        });
        let mut seen = vec![];
        let said = loop {
            match lines.recv_timeout(PATIENCE) {
                Ok(said) if said.starts_with("mesh on ") => break said,
                Ok(other) => seen.push(other),
                Err(_) => {
                    let _ = child.kill();
                    panic!("venom {line}: {seen:?}");
                }
            }
        };
        let port = |name: &str| -> String {
            let address = said.split(", ").find_map(|part| part.strip_prefix(name));
            address.map(|it| it.rsplit_once(':').unwrap().1.to_owned()).unwrap_or_default()
        };
        let (mesh, inject, http) = (port("mesh on "), port("injections on "), port("http on "));
        Process { child, mesh, inject, http, lines }
    }

    /// Certificate and key of a node, and the CA's certificate.
    pub fn identity(&self, number: usize) -> String {
        std::fs::read_to_string(self.0.path().join(format!("venom-mesh/node-{number}/identity.pem"))).unwrap()
    }

    /// A node without peers that may open no more than `descriptors` files and sockets.
    pub fn node_with_descriptors(&self, number: usize, descriptors: usize) -> Process {
        let line =
            format!("node --identity venom-mesh/node-{number} --mesh-port 0 --http-port 0 --inject-port 0");
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -n {descriptors} && exec {VENOM} {line}")]);
        command.current_dir(&self.0).stdin(Stdio::null());
        Self::started(command, &line)
    }

    pub fn node(&self, number: usize, peers: &[&Process]) -> Process {
        let peers: Vec<String> = peers.iter().map(|it| format!("localhost:{}", it.mesh)).collect();
        let peers = if peers.is_empty() { String::new() } else { format!("--peers {}", peers.join(",")) };
        self.start(&format!(
            "node --identity venom-mesh/node-{number} --mesh-port 0 --http-port 0 --inject-port 0 {peers}"
        ))
    }

    pub fn run(&self, peers: &[&Process]) -> Process {
        let peers: Vec<String> = peers.iter().map(|it| format!("localhost:{}", it.mesh)).collect();
        self.start(&format!("run --mesh --mesh-port 0 --inject-port 0 --peers {}", peers.join(",")))
    }

    fn injections(&self) -> BTreeMap<String, (u64, String)> {
        let mut found = BTreeMap::new();
        for line in self.ok("ledger export venom-ledger").lines() {
            let entry = Entry::from_line(line).unwrap();
            if let Data::Injection(injection) = entry.data().unwrap() {
                let twice = found.insert(injection.id, (entry.index, injection.from.unwrap()));
                assert_eq!(twice, None, "an id is in the ledger twice");
            }
        }
        found
    }
}

impl Process {
    /// Resident memory, in KiB.
    pub fn resident_kib(&self) -> i64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.inject)
    }

    fn end(&mut self, signal: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &id]).status().unwrap().success());
        self.child.wait().unwrap();
    }
}

fn parse_injected(output: &str) -> (String, u64) {
    let output = output.trim().strip_prefix("injected: ").unwrap();
    let (id, entry) = output.split_once(" is entry ").unwrap();
    (id.to_owned(), entry.parse().unwrap())
}

#[test]
fn three_nodes_without_a_cluster() {
    let workspace = Workspace::new();
    workspace.ok("mesh init venom-mesh --nodes 2");
    let first = workspace.node(1, &[]);
    let second = workspace.node(2, &[&first]);
    let mut run = workspace.run(&[&first, &second]);
    let mut acknowledged = BTreeMap::new();
    for (process, origin) in [
        (&first, "spiffe://venom/org/local/pod/node-1"),
        (&second, "spiffe://venom/org/local/pod/node-2"),
        (&run, "spiffe://venom/operator"),
    ] {
        let (id, entry) = parse_injected(
            &workspace.ok(&format!("inject --anoms 7 --ml-weight 0.2 --url {}", process.url())),
        );
        acknowledged.insert(id, (entry, origin.to_owned()));
    }
    // Retries through another node return the same entries.
    for (id, (entry, _)) in &acknowledged {
        let line = format!("inject --anoms 7 --ml-weight 0.2 --id {id} --url {}", second.url());
        assert_eq!(parse_injected(&workspace.ok(&line)), (id.clone(), *entry));
    }
    let wrong = |line: &str, code: i32, what: &str| {
        let done = workspace.venom(line);
        let said = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(code), "{line}: {said}");
        assert!(said.contains(what) && said.lines().count() == 1, "{line}: {said}");
    };
    let url = first.url();
    wrong(&format!("inject --ml-weight 7 --url {url}"), 1, "mlWeight must be 0.01 to 1");
    wrong(&format!("inject --anoms 1000001 --url {url}"), 1, "anoms must be 0 to 1000000");
    wrong(&format!("inject --anoms 1 --id a_b --url {url}"), 1, "letters, digits and -");
    let old = "inject --anoms 1 --id 01890a5d-ac96-774b-bcce-b302099a8057";
    wrong(&format!("{old} --url {url}"), 1, "look in the ledger");
    wrong("inject", 2, "nothing to inject");
    let used = format!("inject --anoms 8 --id {} --url {url}", acknowledged.keys().next().unwrap());
    wrong(&used, 1, "the id was used for another injection");

    wrong("run --mesh --mesh-identity venom-mesh/node-1 --ledger other", 1, "use the operator's certificate");

    run.end("TERM");
    assert_eq!(workspace.injections(), acknowledged);
    workspace.ok("ledger verify venom-ledger");
    let replayed = workspace.ok("ledger replay venom-ledger");
    assert!(replayed.contains("QUARANTINE"), "21 anoms at a weight of 0.2: {replayed}");

    // A restarted collector continues its ledger and recognizes the injected ids.
    let run = workspace.run(&[&first, &second]);
    for (id, (entry, _)) in &acknowledged {
        let line = format!("inject --anoms 7 --ml-weight 0.2 --id {id} --url {}", run.url());
        assert_eq!(parse_injected(&workspace.ok(&line)), (id.clone(), *entry));
    }
    drop(run);
    workspace.ok("ledger replay venom-ledger");
}

/// The collector is killed again and again while clients inject through the nodes and retry.
#[test]
fn injections_are_recorded_exactly_once_through_kills() {
    let workspace = Workspace::new();
    workspace.ok("mesh init venom-mesh --nodes 2");
    let first = workspace.node(1, &[]);
    let second = workspace.node(2, &[&first]);
    let mut run = workspace.run(&[&first, &second]);
    let clients: Vec<_> = [first.url(), second.url()]
        .into_iter()
        .enumerate()
        .map(|(client, url)| {
            let folder: PathBuf = workspace.0.path().into();
            std::thread::spawn(move || {
                let mut acknowledged = BTreeMap::new();
                for number in 0..8 {
                    let id = format!("client-{client}-{number}");
                    let done = Command::new(VENOM)
                        .args(["inject", "--anoms", "1", "--id", &id, "--url", &url])
                        .current_dir(&folder)
                        .output()
                        .unwrap();
                    assert!(done.status.success(), "{done:?}");
                    let (said, entry) = parse_injected(&String::from_utf8(done.stdout).unwrap());
                    assert_eq!(said, id);
                    acknowledged.insert(id, entry);
                }
                acknowledged
            })
        })
        .collect();
    let mut kills = 0;
    let end = Instant::now() + PATIENCE * 5;
    while clients.iter().any(|client| !client.is_finished()) {
        assert!(Instant::now() < end, "{:?}", run.lines.try_iter().collect::<Vec<_>>());
        std::thread::sleep(Duration::from_millis(300 + 170 * kills % 700));
        if kills < 4 {
            run.end("KILL");
            kills += 1;
            run = workspace.run(&[&first, &second]);
        }
    }
    let mut acknowledged = BTreeMap::new();
    for client in clients {
        acknowledged.extend(client.join().unwrap());
    }
    run.end("TERM");
    let found: BTreeMap<String, u64> =
        workspace.injections().into_iter().map(|(id, (entry, _))| (id, entry)).collect();
    assert_eq!(found, acknowledged);
    workspace.ok("ledger verify venom-ledger");
    workspace.ok("ledger replay venom-ledger");
}

/// Mesh, probes and injection API answer on IPv6, as in a cluster that has nothing else.
#[test]
fn a_node_is_reachable_over_ipv6() {
    let workspace = Workspace::new();
    workspace.ok("mesh init venom-mesh --nodes 1");
    let node = workspace.node(1, &[]);
    let over_ipv6 = format!("run --mesh --mesh-port 0 --inject-port 0 --peers [::1]:{}", node.mesh);
    let mut run = workspace.start(&over_ipv6);
    let mut entries = BTreeMap::new();
    for address in ["127.0.0.1", "[::1]"] {
        let line = format!("inject --anoms 1 --url http://{address}:{}", node.inject);
        let (id, entry) = parse_injected(&workspace.ok(&line));
        entries.insert(id, entry);
    }
    run.end("TERM");
    let found: BTreeMap<String, u64> =
        workspace.injections().into_iter().map(|(id, (entry, _))| (id, entry)).collect();
    assert_eq!(found, entries);
}

/// The mission's command line needs no preparation.
#[test]
fn run_creates_a_missing_mesh_directory() {
    let workspace = Workspace::new();
    let mut run = workspace.start("run --mesh --mesh-port 0 --inject-port 0 --beats -1");
    let node = workspace.node(1, &[&run]);
    let (id, entry) = parse_injected(&workspace.ok(&format!("inject --anoms 5 --url {}", node.url())));
    // The injection takes effect with the next pulse.
    run.end("INT");
    assert_eq!(workspace.injections()[&id].0, entry);
    let text = workspace.ok("ledger export venom-ledger");
    let mut after = text.lines().skip(entry as usize + 1);
    let threat = after.find(|line| line.contains(r#""flow":"E""#)).unwrap();
    assert!(threat.contains(r#""total_anoms":5"#), "{threat}");
    workspace.ok("ledger replay venom-ledger");
}
