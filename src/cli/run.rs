//! `venom run`: one organism, beating here, without a cluster.
//!
//! 1. [`spec`]: read flags and file; reject them before anything is created.
//! 2. Open the ledger's folder, and replay what it holds.
//! 3. [`beat_loop`]: drive the engine by the clock, while the [`committer`] stores batches on a thread of its own.
//!    With `--mesh`, a [`mesh_node`] beside it passes on the injections of other nodes.
//! 4. [`summary`]: read the folder again, verify it, and print the figures of the run.

mod beat_loop;
mod committer;
mod mesh_node;
mod progress;
mod spec;
mod summary;
mod tally;

use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::time::Duration;

use self::beat_loop::{BeatLoop, Message};
use self::committer::Committer;
use self::mesh_node::MeshNode;
use self::spec::RunSpec;
use self::tally::Tally;
use super::output::complain;
use super::{Error, host_name, signals};
use crate::runtime::{Engine, History, StartParams};
use crate::store::directory::Writer;

/// What `venom run` takes.
///
/// A flag that is not given has its default, or the file's value, also where the ledger is continued: a
/// command line means the same every time. What differs from what the ledger last recorded becomes an entry.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A flag goes before the same field of the file. Without a file and without a flag the \
default holds, also when a ledger is continued: what differs from what it last recorded becomes an entry."
)]
pub struct Args {
    /// Beats to make from here on, -1 until it is stopped [default: -1, or what spec.beats leaves]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = spec::beats)]
    beats: Option<i64>,
    /// k, parallel flows [default: 4]
    #[arg(long, value_name = "K")]
    k_flows: Option<u64>,
    /// P, nodes [default: 5]
    #[arg(long, value_name = "P")]
    p_nodes: Option<u64>,
    /// Base time in seconds [default: 0.001]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = spec::finite)]
    t1: Option<f64>,
    /// The T_Λ that the PID controller steers towards, in seconds [default: 0.02]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = spec::finite)]
    t_threshold: Option<f64>,
    /// YAML or JSON with an Organism and its Genome, - for stdin; P is spec.nodes.replicas, at least 1
    #[arg(long, short = 'f', value_name = "FILE")]
    file: Option<PathBuf>,
    /// The ledger's folder, which is made, or continued if it holds one
    #[arg(long, value_name = "DIR", default_value = "venom-ledger")]
    ledger: PathBuf,
    /// Join a mesh, as the one who holds the ledger
    #[arg(long)]
    mesh: bool,
    /// Where peers are let in [default: 9000]
    #[arg(long, value_name = "PORT", requires = "mesh")]
    mesh_port: Option<u16>,
    /// Peers; a host may stand for many addresses
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', requires = "mesh", value_parser = super::node::peer)]
    peers: Vec<String>,
    /// The operator's folder of venom mesh init [default: venom-mesh/operator, made if it is missing]
    #[arg(long, value_name = "DIR", requires = "mesh")]
    mesh_identity: Option<PathBuf>,
    /// Where injections are taken, on 127.0.0.1 and ::1 [default: 8001]
    #[arg(long, value_name = "PORT", requires = "mesh")]
    inject_port: Option<u16>,
    /// Weights of the model that may be injected
    #[arg(long, value_name = "MIN..MAX", default_value = "0.01..1", requires = "mesh", value_parser = super::node::injectable)]
    injectable: crate::mesh::Injectable,
}

/// Beats, and prints a summary.
///
/// # Errors
/// [`Error`]; also [`Error::Failed`] when the ledger does not verify afterwards.
pub fn run(args: &Args) -> Result<(), Error> {
    let RunSpec { mut desired, until } = spec::read(args)?;
    let (mut writer, past) = Writer::open(&args.ledger)?;
    let beat = past.as_ref().map_or(0, |past| past.state.beat);
    desired.beats = until.limit(beat);
    let shown = args.ledger.display();
    if past.is_some() && desired.beats.is_some_and(|limit| beat >= limit) {
        complain(&format!(
            "{shown}: has the beats that spec.beats asks for ({beat}); --beats N makes N more"
        ));
        return Ok(());
    }
    let (sender, messages) = channel();
    let stop = sender.clone();
    // The loop may have ended: then there is nothing to stop.
    signals::on_stop(move || drop(stop.send(Message::Stop)))
        .map_err(|error| Error::Failed(format!("signals: {error}")))?;
    let operator = host_name().unwrap_or_else(|| "venom run".into());
    let reason = writer.take_over(&operator)?;
    let node = args.mesh.then(|| MeshNode::start(args, &writer, sender.clone())).transpose()?;
    let mut tally = Tally { entries: writer.head().size, ..Tally::default() };
    let history = match past {
        None => History::Empty { origin: None, continues: None },
        Some(past) => {
            let last = tally.entries.saturating_sub(1);
            complain(&format!("{shown}: continued after entry {last}, beat {beat}"));
            History::Recovered { state: Box::new(past.state), chain: past.chain, decision: None, reason }
        }
    };
    let params = StartParams {
        enforcement: None,
        desired,
        epoch: writer.head().epoch,
        operator: operator.into(),
        history,
        batch_spacing: Duration::ZERO,
        min_period: Duration::ZERO,
        publishes: false,
    };
    let mut engine = Engine::new(params, std::time::Instant::now());
    let committer =
        Committer::start(writer, sender).map_err(|error| Error::Failed(format!("threads: {error}")))?;
    let beats = BeatLoop {
        engine: &mut engine,
        committer: &committer,
        messages: &messages,
        outcomes: node.as_ref().map(MeshNode::outcomes),
        tally: &mut tally,
    };
    let beaten = beats.run();
    // A committer that failed has the error; the loop only found it gone.
    let writer = committer.finish()?;
    // Last, so that clients of the injection API still get the outcomes of what was committed.
    drop(node);
    beaten?;
    summary::print(engine.state(), &tally, writer.folder())
}
