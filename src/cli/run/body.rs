//! The node beside the heart, on a thread of its own: what other nodes inject wakes the heart.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use tokio_util::sync::CancellationToken;

use super::super::{Error, complain, node::listening};
use super::Args;
use super::heart::Wake;
use crate::mesh::identity::LIFE;
use crate::mesh::{Answers, Known};
use crate::node::source::Source;
use crate::node::{Node, Options, folder};
use crate::store::directory::Writer;
use crate::store::injections::RecentInjections;

/// Where the mesh of a folder's ledger is, unless somebody says otherwise.
const FOLDER: &str = "venom-mesh";
/// Nodes that there are certificates for when it is made here.
const NODES: u32 = 5;

/// A node that holds the ledger. Ends when this is dropped.
pub(super) struct Body {
    answers: Answers,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Body {
    /// Joins the mesh. `writer` holds the ledger, and has what it knows of injections.
    pub(super) fn start(args: &Args, writer: &Writer, wake: Sender<Wake>) -> Result<Self, Error> {
        let options = Options {
            peers: args.peers.clone(),
            mesh_port: args.mesh_port.unwrap_or(9000),
            http_port: None,
            inject_port: args.inject_port.unwrap_or(8001),
            source: Source::Folder(identity(args.mesh_identity.as_deref())?),
            injectable: args.injectable,
        };
        let known = known(writer)?;
        let stop = CancellationToken::new();
        let (ready, started) = channel();
        let asked = stop.clone();
        let failed = |error: io::Error| Error::Failed(format!("threads: {error}"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let thread = std::thread::Builder::new().name("venom-mesh".into()).spawn(move || {
            runtime.block_on(live(options, known, wake, asked, |told| drop(ready.send(told))));
        });
        let thread = thread.map_err(failed)?;
        let told = started.recv().unwrap_or_else(|_| Err("the mesh's thread ended".into()));
        let (answers, listening) = told.map_err(Error::Failed)?;
        complain(&listening);
        Ok(Self { answers, stop, thread: Some(thread) })
    }

    /// Where the ledger says what became of injections.
    pub(super) fn answers(&self) -> Answers {
        self.answers.clone()
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // One that panicked has nothing more to deliver.
            let _ = thread.join();
        }
    }
}

async fn live(
    options: Options,
    known: Vec<Known>,
    wake: Sender<Wake>,
    stop: CancellationToken,
    ready: impl FnOnce(Result<(Answers, String), String>),
) {
    let (node, mut collected) = match Node::start(options, Some(known)).await {
        Ok((node, Some(collected))) => (node, collected),
        Ok((_, None)) => return ready(Err("the mesh: no ledger to collect for".into())),
        Err(error) => return ready(Err(error.to_string())),
    };
    let answers = collected.answers();
    ready(Ok((answers, listening(&node))));
    while let Some(Some(event)) = stop.run_until_cancelled(collected.next()).await {
        if wake.send(Wake::Inject(event)).is_err() {
            // The heart has stopped; it will be told again when somebody continues this ledger.
            stop.cancelled().await;
        }
    }
    node.stop().await;
}

/// The injections that a retry must not bring in again.
fn known(writer: &Writer) -> Result<Vec<Known>, Error> {
    let head = writer.head();
    let Some(mut recent) = RecentInjections::of(head) else { return Ok(vec![]) };
    for listed in head.segments.iter().rev() {
        if !recent.read(&writer.folder().open(listed, None)?.entries) {
            break;
        }
    }
    Ok(recent.known())
}

/// The operator's folder: the one that is named, or one that is made.
fn identity(named: Option<&Path>) -> Result<PathBuf, Error> {
    if let Some(named) = named {
        return Ok(named.to_owned());
    }
    let (mesh, operator) = (Path::new(FOLDER), Path::new(FOLDER).join(folder::OPERATOR));
    if !mesh.exists() {
        folder::init(mesh, NODES, LIFE).map_err(|error| Error::Failed(error.to_string()))?;
        complain(&format!("{FOLDER}: made, with certificates for node-1 to node-{NODES}, good for 24h"));
    }
    Ok(operator)
}
