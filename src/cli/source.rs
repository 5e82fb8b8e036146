//! Sources of a ledger: a folder, JSON lines, or a cluster.
//!
//! A [`Store`] has a head and segments that can be verified in parallel. [`Lines`] can be read only once and in order.
//! [`walk`] iterates over the entries of both, with one segment in memory at a time.

mod connect;
mod folder;
mod lines;
mod live;
mod walk;

use std::path::{Path, PathBuf};

pub use connect::Cluster;
pub(super) use connect::{Connection, failed, organism_name};
pub use lines::Lines;
pub use walk::{WalkFrom, Walked, end_at, walk};

use super::Error;
use crate::files;
use crate::ledger::SealedSegment;
use crate::ledger::merkle::MAX_SIZE;
use crate::store::directory::Folder;
use crate::store::{Head, SegmentRef};
use live::Live;

/// Arguments that select a ledger.
#[derive(Debug, clap::Args)]
#[group(id = "ledger")]
pub struct Args {
    /// A folder, a file of JSON lines, - for stdin, or organism/NAME for an Organism in the cluster
    #[arg(value_name = "SOURCE")]
    source: String,
    #[command(flatten)]
    cluster: Cluster,
}

/// A ledger stored as a head and segments.
pub trait Store: Sync {
    /// The name of the store in messages.
    fn name(&self) -> String;
    /// Reads the head.
    ///
    /// # Errors
    /// [`Error`] in one line.
    fn head(&self) -> Result<Head, Error>;
    /// Reads a segment and checks it against its entry in the head.
    ///
    /// # Errors
    /// [`Error`] in one line that names the segment.
    fn load(&self, listed: &SegmentRef) -> Result<SealedSegment, Error>;
    /// The name of a segment in messages.
    fn segment_name(&self, listed: &SegmentRef) -> String;
    /// Whether each segment of `head` exists and, if that is cheap to find out, is intact.
    ///
    /// # Errors
    /// [`Error`] if the store cannot be listed.
    fn present(&self, head: &Head) -> Result<Vec<bool>, Error>;
    /// One line for each unexpected object in the store.
    ///
    /// # Errors
    /// [`Error`] if the store cannot be listed.
    fn strays(&self, head: &Head) -> Result<Vec<String>, Error>;
}

/// Indices from here on are rejected: no tree has a place for them.
pub const INDEX_BOUND: u64 = MAX_SIZE;

/// Reads the head of `store` and checks that its numbers are below [`INDEX_BOUND`] and consistent.
///
/// # Errors
/// [`Error`] in one line.
pub fn head(store: &dyn Store) -> Result<Head, Error> {
    let head = store.head()?;
    let small = |it: &SegmentRef| it.first < INDEX_BOUND && it.count < INDEX_BOUND && it.end() <= head.size;
    if head.size < INDEX_BOUND && head.floor <= head.size && head.segments.iter().all(small) {
        Ok(head)
    } else {
        Err(Error::Failed(format!(
            "{}: the head's numbers are invalid; restore it from a backup",
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
    /// The name of the source in messages.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Store(store) => store.name(),
            Self::Lines(lines) => lines.name().to_owned(),
        }
    }
}

impl Args {
    /// Why a file at `target` must not be written while this source is read: it is the source, or part of it.
    #[must_use]
    pub fn contains(&self, target: &Path) -> Option<&'static str> {
        let source = Path::new(if self.source == "-" { "/dev/stdin" } else { &self.source });
        let is_part = |path: &Path| files::is_same(path, target);
        let metadata = std::fs::metadata(source).ok()?;
        if metadata.is_file() && is_part(source) {
            return Some("is the source");
        }
        let folder = metadata.is_dir().then(|| Folder::new(source))?;
        let is_inside = files::is_within(source, target) || folder.files().iter().any(|it| is_part(it));
        is_inside.then_some("is in the folder of the source")
    }

    /// Whether the source can be read only once.
    #[must_use]
    pub fn is_stdin(&self) -> bool {
        self.source == "-"
    }

    /// The arguments that select this source again, for a shell.
    #[must_use]
    pub fn for_shell(&self) -> String {
        let mut words = quote(&self.source);
        if organism_name(&self.source).is_some() {
            for (flag, value) in self.cluster.flags() {
                words += &format!(" {flag} {}", quote(&value));
            }
        }
        words
    }

    /// Opens the source.
    ///
    /// # Errors
    /// [`Error`] if the source does not exist or the cluster cannot be reached.
    pub fn open(&self) -> Result<Source, Error> {
        open(&self.source, &self.cluster)
    }
}

/// Opens `source`: a folder, a file of JSON lines, - for stdin, or organism/NAME.
///
/// # Errors
/// [`Error`] if the source does not exist or the cluster cannot be reached.
pub fn open(source: &str, cluster: &Cluster) -> Result<Source, Error> {
    if source == "-" {
        return Ok(Source::Lines(Lines::stdin()));
    }
    if let Some(name) = organism_name(source) {
        return Ok(Source::Store(Box::new(Live::open(name, cluster)?)));
    }
    let path = PathBuf::from(source);
    match std::fs::metadata(&path) {
        Ok(found) if found.is_dir() => Ok(Source::Store(Box::new(Folder::new(path)))),
        Ok(_) => Ok(Source::Lines(Lines::file(&path)?)),
        Err(error) => Err(Error::Failed(format!(
            "{}: {error}; name a folder, a file, - or organism/NAME",
            path.display()
        ))),
    }
}

/// `word` as a shell reads it as one word.
fn quote(word: &str) -> String {
    let is_plain = |it: char| it.is_ascii_alphanumeric() || "-_./:@%+=,".contains(it);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}
