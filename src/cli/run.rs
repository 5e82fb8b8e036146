//! `venom run`: one organism, beating here, without a cluster.
//!
//! 1. [`wanted`]: what flags and file ask for, refused before anything is made;
//! 2. open the ledger's folder: genesis, or resume and what differs from what was last recorded;
//! 3. [`heart`]: beat at the organism's pace, while the [`keeper`] commits on a thread of its own;
//!    With `--mesh`, the [`body`] is a node beside it, which takes injections from other nodes and hands them in;
//! 4. [`summary`]: read the folder again, check it, and say what came out.

mod body;
mod heart;
mod keeper;
mod progress;
mod summary;
mod wanted;

use std::path::PathBuf;
use std::sync::mpsc::channel;

use self::body::Body;
use self::heart::{Heart, Wake};
use self::keeper::Keeper;
use super::{Error, complain, host_name, signals};
use crate::organism::input::Resume;
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
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = wanted::beats)]
    beats: Option<i64>,
    /// k, parallel flows [default: 4]
    #[arg(long, value_name = "K")]
    k_flows: Option<u64>,
    /// P, nodes [default: 5]
    #[arg(long, value_name = "P")]
    p_nodes: Option<u64>,
    /// Base time in seconds [default: 0.001]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = wanted::finite)]
    t1: Option<f64>,
    /// The T_Λ that the PID controller steers towards, in seconds [default: 0.02]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = wanted::finite)]
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
    /// Where injections are taken, on 127.0.0.1 [default: 8001]
    #[arg(long, value_name = "PORT", requires = "mesh")]
    inject_port: Option<u16>,
    /// Weights of the model that may be injected
    #[arg(long, value_name = "MIN..MAX", default_value = "0.01..1", requires = "mesh", value_parser = super::node::injectable)]
    injectable: crate::mesh::Injectable,
}

/// Beats.
///
/// # Errors
/// [`Error`]; [`Error::Failed`] too when the ledger does not check afterwards.
pub fn run(args: &Args) -> Result<(), Error> {
    let wanted = wanted::wanted(args)?;
    let (mut writer, past) = Writer::open(&args.ledger)?;
    let beat = past.as_ref().map_or(0, |past| past.state.beat);
    let limit = wanted.until.limit(beat);
    let shown = args.ledger.display();
    if past.is_some() && limit.is_some_and(|limit| beat >= limit) {
        complain(&format!(
            "{shown}: has the beats that spec.beats asks for ({beat}); --beats N makes N more"
        ));
        return Ok(());
    }
    let (wake, woken) = channel();
    let stop = wake.clone();
    // The heart may be gone: then it has stopped already.
    signals::on_stop(move || drop(stop.send(Wake::Stop)))
        .map_err(|error| Error::Failed(format!("signals: {error}")))?;
    let operator = host_name().unwrap_or_else(|| "venom run".into());
    let reason = writer.take_over(&operator)?;
    let body = args.mesh.then(|| Body::start(args, &writer, wake.clone())).transpose()?;
    let size = writer.head().size;
    let mut heart = match past {
        None => Heart::new(&wanted)?,
        Some(past) => {
            complain(&format!("{shown}: continued after entry {}, beat {beat}", size.saturating_sub(1)));
            let resume = Resume { epoch: writer.head().epoch, operator, reason };
            Heart::again(past.state, size, &wanted, resume)?
        }
    };
    let answers = body.as_ref().map(Body::answers);
    let mut keeper =
        Keeper::start(writer, answers).map_err(|error| Error::Failed(format!("threads: {error}")))?;
    let beaten = heart.beat_on(limit, wanted.commit_interval, &mut keeper, &woken);
    // A keeper that stopped knows better why than the heart, which only found it gone.
    let writer = keeper.finish()?;
    // Last, so that whoever waits still hears what was committed.
    drop(body);
    beaten?;
    summary::print(&heart, writer.folder())
}
