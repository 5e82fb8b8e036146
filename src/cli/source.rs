//! Where a ledger is read from: a folder, JSON lines, or the cluster.
//!
//! A [`Store`] is a head and segments, checkable side by side. [`Lines`] can only be read once, from the
//! front. [`walk`] gives the entries of either in order, one segment in memory at a time.

mod folder;
mod lines;
mod live;
mod walk;

use std::path::PathBuf;

pub use lines::Lines;
pub use walk::{From, end_at, walk};

use super::Error;
use crate::ledger::SealedSegment;
use crate::store::directory::Folder;
use crate::store::{Head, Listed};
use live::Live;

/// Which ledger to read.
#[derive(Debug, clap::Args)]
#[group(id = "ledger")]
pub struct Args {
    /// A folder, a file of JSON lines, - for stdin, or organism/NAME for the cluster's
    #[arg(value_name = "SOURCE")]
    source: String,
    #[command(flatten)]
    cluster: Cluster,
}

/// Which cluster, as kubectl has it.
#[derive(Debug, clap::Args)]
pub struct Cluster {
    /// Namespace of the Organism [default: the context's]
    #[arg(long, short, value_name = "NAME")]
    namespace: Option<String>,
    /// Context of the kubeconfig [default: the current one]
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// The kubeconfig [default: $KUBECONFIG, ~/.kube/config, or the pod's own account]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

/// A ledger kept as a head and segments.
pub trait Store: Sync {
    /// What to call it in messages.
    fn name(&self) -> String;
    /// Reads the head.
    ///
    /// # Errors
    /// [`Error`], one line.
    fn head(&self) -> Result<Head, Error>;
    /// Reads a segment and checks that it is the one that the head lists.
    ///
    /// # Errors
    /// [`Error`], one line that names it.
    fn load(&self, listed: &Listed) -> Result<SealedSegment, Error>;
    /// What to call a segment in messages.
    fn segment_name(&self, listed: &Listed) -> String;
    /// For each segment of `head` whether it is there; where that is cheap, whether it is intact.
    ///
    /// # Errors
    /// [`Error`] when that cannot be found out.
    fn present(&self, head: &Head) -> Result<Vec<bool>, Error>;
    /// One line for each thing beside the ledger that has no business there.
    ///
    /// # Errors
    /// [`Error`] when that cannot be found out.
    fn strays(&self, head: &Head) -> Result<Vec<String>, Error>;
}

/// No ledger has nearly as many entries: an index beyond is not believed, and no sum of two overflows.
pub const INDEX_BOUND: u64 = 1 << 60;

/// Reads the head of `store`. Its numbers are such that one can count with them.
///
/// # Errors
/// [`Error`], one line.
pub fn head(store: &dyn Store) -> Result<Head, Error> {
    let head = store.head()?;
    let small = |it: &Listed| it.first < INDEX_BOUND && it.count < INDEX_BOUND && it.end() <= head.size;
    if head.size < INDEX_BOUND && head.floor <= head.size && head.segments.iter().all(small) {
        Ok(head)
    } else {
        Err(Error::Failed(format!(
            "{}: the head's numbers make no sense; restore it from a copy",
            store.name()
        )))
    }
}

/// An opened source.
pub enum Source {
    /// A head and segments.
    Store(Box<dyn Store>),
    /// JSON lines.
    Lines(Lines),
}

impl Source {
    /// What to call it in messages.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Store(store) => store.name(),
            Self::Lines(lines) => lines.name().to_owned(),
        }
    }
}

impl Args {
    /// Opens the source.
    ///
    /// # Errors
    /// [`Error`].
    pub fn open(&self) -> Result<Source, Error> {
        if self.source == "-" {
            return Ok(Source::Lines(Lines::stdin()));
        }
        let live = ["organism/", "organisms/", "org/"].iter().find_map(|it| self.source.strip_prefix(it));
        if let Some(name) = live {
            return Ok(Source::Store(Box::new(Live::open(name, &self.cluster)?)));
        }
        let path = PathBuf::from(&self.source);
        match std::fs::metadata(&path) {
            Ok(found) if found.is_dir() => Ok(Source::Store(Box::new(Folder::new(path)))),
            Ok(_) => Ok(Source::Lines(Lines::file(&path)?)),
            Err(error) => Err(Error::Failed(format!(
                "{}: {error}; name a folder, a file, - or organism/NAME",
                path.display()
            ))),
        }
    }
}
