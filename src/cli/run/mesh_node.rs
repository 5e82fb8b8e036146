//! A node of the mesh beside the beat loop, on a thread of its own: it passes on what other nodes inject.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use tokio_util::sync::CancellationToken;

use super::super::output::complain;
use super::super::{Error, node::listening};
use super::Args;
use super::beat_loop::Message;
use crate::mesh::identity::CERTIFICATE_LIFETIME;
use crate::mesh::{CommittedInjection, OutcomeSender};
use crate::node::certificate_source::CertificateSource;
use crate::node::{Node, Options, directory};
use crate::store::directory::Writer;
use crate::store::recent::RecentInputs;

/// The mesh folder where no flag names one.
const FOLDER: &str = "venom-mesh";
/// Nodes that get certificates when it is created here.
const NODES: u32 = 5;

/// The node of the process that writes the ledger. Dropping it ends the node.
pub(super) struct MeshNode {
    answers: OutcomeSender,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl MeshNode {
    /// Joins the mesh. The ledger of `writer` holds the injections that retries must not record again.
    pub(super) fn start(args: &Args, writer: &Writer, messages: Sender<Message>) -> Result<Self, Error> {
        let options = Options {
            peers: args.peers.clone(),
            mesh_port: args.mesh_port.unwrap_or(9000),
            http_port: None,
            inject_port: args.inject_port.unwrap_or(8001),
            certificate_source: CertificateSource::Directory(identity(args.mesh_identity.as_deref())?),
            injectable: args.injectable,
        };
        let known = known(writer)?;
        let stop = CancellationToken::new();
        let (ready, started) = channel();
        let asked = stop.clone();
        let failed = |error: io::Error| Error::Failed(format!("threads: {error}"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let thread = std::thread::Builder::new().name("venom-mesh".into()).spawn(move || {
            runtime.block_on(live(options, known, messages, asked, |told| drop(ready.send(told))));
        });
        let thread = thread.map_err(failed)?;
        let told = started.recv().unwrap_or_else(|_| Err("the mesh's thread ended".into()));
        let (answers, listening) = told.map_err(Error::Failed)?;
        complain(&listening);
        Ok(Self { answers, stop, thread: Some(thread) })
    }

    /// Sends the outcomes of injections to the nodes that took them in.
    pub(super) fn outcomes(&self) -> OutcomeSender {
        self.answers.clone()
    }
}

impl Drop for MeshNode {
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
    known: Vec<CommittedInjection>,
    messages: Sender<Message>,
    stop: CancellationToken,
    ready: impl FnOnce(Result<(OutcomeSender, String), String>),
) {
    let (node, mut collected) = match Node::start(options, Some(known)).await {
        Ok((node, Some(collected))) => (node, collected),
        Ok((_, None)) => return ready(Err("the mesh: no ledger to collect for".into())),
        Err(error) => return ready(Err(error.to_string())),
    };
    let answers = collected.outcomes();
    ready(Ok((answers, listening(&node))));
    while let Some(Some(event)) = stop.run_until_cancelled(collected.next()).await {
        if messages.send(Message::Inject(event)).is_err() {
            // The beat loop has ended. The nodes offer the event again to the next writer of this ledger.
            stop.cancelled().await;
        }
    }
    node.stop().await;
}

/// The injections that retries must not record again.
fn known(writer: &Writer) -> Result<Vec<CommittedInjection>, Error> {
    let head = writer.head();
    let Some(mut recent) = RecentInputs::of(head, None) else { return Ok(vec![]) };
    for listed in head.segments.iter().rev() {
        let path = writer.folder().segment_path(listed);
        let read = recent.read(&writer.folder().load(listed)?);
        if !read.map_err(|error| Error::Failed(format!("{}: {error}", path.display())))? {
            break;
        }
    }
    Ok(recent.known().injections)
}

/// The operator's folder: the one that a flag names, or the default one, which is created if it is missing.
fn identity(named: Option<&Path>) -> Result<PathBuf, Error> {
    if let Some(named) = named {
        return Ok(named.to_owned());
    }
    let (mesh, operator) = (Path::new(FOLDER), Path::new(FOLDER).join(directory::OPERATOR_DIRECTORY));
    if !mesh.exists() {
        directory::init(mesh, NODES, CERTIFICATE_LIFETIME)
            .map_err(|error| Error::Failed(error.to_string()))?;
        complain(&format!("{FOLDER}: made, with certificates for node-1 to node-{NODES}, good for 24h"));
    }
    Ok(operator)
}
