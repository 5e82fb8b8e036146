//! Nodes: the time until many are linked, and the resources of an idle one.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::watch;
use venom::mesh::identity::{Authority, CERTIFICATE_LIFETIME};
use venom::mesh::{DialPolicy, Injectable, LinkLimits, Mesh, Metrics, Options};

use super::{Fallible, credentials, print_process};

/// Time limit for links to come up.
const TIMEOUT: Duration = Duration::from_secs(60);
const NODES: u32 = 10;

/// Measures the time from when nodes get each other's addresses until all are linked. They share one runtime with
/// one thread per core.
pub fn full_mesh(authority: &Authority, count: usize) -> Fallible<()> {
    // Dropping the runtime ends all nodes.
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let (mut meshes, mut counted, mut found, mut kept) = (vec![], vec![], vec![], vec![]);
        for at in 0..count {
            let (current, credentials) = watch::channel(credentials(authority, at)?);
            let (sender, addresses) = watch::channel(vec![]);
            let metrics = Arc::new(Metrics::new()?);
            let mesh = Mesh::join(Options {
                credentials,
                addresses,
                dial: DialPolicy::AllPeers,
                listener: Some(TcpListener::bind("127.0.0.1:0").await?),
                injectable: Injectable::default(),
                metrics: metrics.clone(),
                limits: LinkLimits::default(),
                paced: true,
            })?;
            meshes.push(mesh);
            counted.push(metrics);
            found.push(sender);
            kept.push(current);
        }
        let addresses: Vec<SocketAddr> = meshes.iter().filter_map(Mesh::local_addr).collect();
        let began = Instant::now();
        for sender in &found {
            sender.send_replace(addresses.clone());
        }
        let links = || counted.iter().map(|it| it.links()).sum::<i64>() / 2;
        let complete = || counted.iter().all(|it| it.links() == count as i64 - 1);
        while !complete() && began.elapsed() < TIMEOUT {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let incomplete = if complete() { "" } else { ", incomplete" };
        println!(
            "{:<34} {} links after {:.2?}{incomplete}",
            format!("{count} nodes"),
            links(),
            began.elapsed()
        );
        Ok(())
    })
}

/// A node's process that is killed when dropped.
struct Node {
    child: Child,
    mesh_port: u16,
    http_port: u16,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Node {
    fn start(identity: &std::path::Path, peers: &str) -> Fallible<Self> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_venom"));
        child.arg("node").arg("--identity").arg(identity);
        child.args(["--mesh-port", "0", "--http-port", "0", "--inject-port", "0"]);
        if !peers.is_empty() {
            child.args(["--peers", peers]);
        }
        let mut child = child.stderr(Stdio::piped()).spawn()?;
        let stderr = child.stderr.take();
        let mut node = Self { child, mesh_port: 0, http_port: 0 };
        let mut lines = BufReader::new(stderr.ok_or("no stderr")?).lines();
        // mesh on ADDRESS, injections on ADDRESS, http on ADDRESS
        let said = lines.find(|line| line.as_ref().is_ok_and(|it| it.contains("mesh on ")));
        let said = said.ok_or("the node did not start")??;
        let port = |after: &str| -> Option<u16> {
            said.split_once(after)?.1.split(',').next()?.parse::<SocketAddr>().ok().map(|it| it.port())
        };
        node.mesh_port = port("mesh on ").ok_or("no mesh port in the output")?;
        node.http_port = port("http on ").ok_or("no HTTP port in the output")?;
        // Discard later output, so that the pipe never fills.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(node)
    }

    fn links(&self) -> Fallible<u32> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.http_port))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let links = text.lines().find_map(|line| line.strip_prefix("venom_mesh_links "));
        Ok(links.ok_or("no links in the metrics")?.parse()?)
    }
}

/// Measures one of ten idle processes, each linked to the others.
pub fn at_rest() -> Fallible<()> {
    let directory = tempfile::tempdir()?;
    venom::node::directory::init(directory.path(), NODES, CERTIFICATE_LIFETIME)?;
    let mut nodes: Vec<Node> = vec![];
    for at in 1..=NODES {
        let peers: Vec<String> = nodes.iter().map(|it| format!("127.0.0.1:{}", it.mesh_port)).collect();
        nodes.push(Node::start(&directory.path().join(format!("node-{at}")), &peers.join(","))?);
    }
    let began = Instant::now();
    for node in &nodes {
        while node.links()? < NODES - 1 {
            if began.elapsed() > TIMEOUT {
                return Err("the nodes did not link".into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    print_process("venom node", nodes[0].child.id())
}
