//! A ledger in a folder.
//!
//! ```text
//! head.json                                   the head, canonical JSON
//! segments/<epoch>-<first>-<count>.segment    a segment: its head, a line break, its entries
//! lock                                        empty; locked while somebody writes
//! ```
//!
//! `head.json` holds the fields of [`Head`], with the SHA3-256 of each segment file as what proves it, the
//! `format` of the folder, and under `sha3` the SHA3-256 over the canonical JSON of all its other fields. So
//! every byte of the folder hangs on `head.json`, which checks itself.
//!
//! Replacing `head.json` is what commits. A segment that it does not list was being written when its writer
//! was killed, or was merged into another: it is no part of the ledger. The next writer removes it; until
//! then a check of the folder reports it, like any other file that has no business there.

mod head_file;
mod writer;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha3::{Digest, Sha3_256};

use super::{Head, Listed, Opened};
use crate::ledger::replay::Mismatch;
use crate::ledger::sealed::SealError;
use crate::ledger::{SealedSegment, hex};

pub use writer::{Past, Writer};

const HEAD: &str = "head.json";
const HEAD_TEMP: &str = "head.json.tmp";
const SEGMENTS: &str = "segments";
const LOCK: &str = "lock";
/// A segment's readable head is some hundred bytes: no file may be larger than its entries and this.
const SEGMENT_HEAD_BOUND: u64 = 64 * 1024;

/// What is wrong with a folder, or with a file in it.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}", path.display())]
pub struct FolderError {
    /// The file or folder.
    pub path: PathBuf,
    /// What is wrong, and what to do.
    pub why: Why,
}

/// What is wrong, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Why {
    /// The system refused.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// There is no folder, or it is empty.
    #[error("no ledger here; name a folder that holds head.json")]
    NoLedger,
    /// There are files, but no head.
    #[error("not empty, and not a ledger: head.json is missing; name another folder")]
    Strange,
    /// Segments without a head.
    #[error("missing, but there are segments; restore it from a copy, or name another folder")]
    HeadLost,
    /// The head was written by a later version.
    #[error("format {0} is not known to this version; use a newer venom")]
    Newer(u64),
    /// The file is not what was written.
    #[error("{0}; restore it from a copy")]
    Altered(String),
    /// A file that the head lists is not there.
    #[error("missing; restore it from a copy")]
    Missing,
    /// The entries do not follow from one another.
    #[error("{0}; this ledger cannot be continued, name another folder")]
    Mismatch(#[from] Mismatch),
    /// No genesis or snapshot is left.
    #[error("no snapshot to continue from; name another folder")]
    NoStart,
    /// Another process writes here.
    #[error("in use by another venom; stop it, or name another folder")]
    InUse,
    /// Cannot be written as a segment.
    #[error(transparent)]
    Seal(#[from] SealError),
}

impl Why {
    fn at(self, path: impl Into<PathBuf>) -> FolderError {
        FolderError { path: path.into(), why: self }
    }
}

/// Gives errors of the system the path that they are about.
trait At<T> {
    fn at(self, path: &Path) -> Result<T, FolderError>;
}

impl<T, E: Into<Why>> At<T> for Result<T, E> {
    fn at(self, path: &Path) -> Result<T, FolderError> {
        self.map_err(|error| error.into().at(path))
    }
}

/// A file that has no business in the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stray {
    /// Left by a writer that was killed; the next writer removes it.
    Leftover(PathBuf),
    /// Not from here.
    Foreign(PathBuf),
}

/// A folder, to be read.
#[derive(Clone, Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// The folder at `path`, which need not exist.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    fn head_path(&self) -> PathBuf {
        self.0.join(HEAD)
    }

    fn segments_path(&self) -> PathBuf {
        self.0.join(SEGMENTS)
    }

    fn lock_path(&self) -> PathBuf {
        self.0.join(LOCK)
    }

    /// Where a segment is.
    #[must_use]
    pub fn segment_path(&self, listed: &Listed) -> PathBuf {
        self.segments_path().join(segment_name(listed.epoch, listed.first, listed.count))
    }

    /// Reads and checks the head.
    ///
    /// # Errors
    /// [`FolderError`]; [`Why::NoLedger`] where there is nothing at all.
    pub fn head(&self) -> Result<Head, FolderError> {
        let path = self.head_path();
        match fs::read(&path) {
            Ok(bytes) => head_file::parse(&bytes).map_err(|why| why.at(path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(self.without_head()?),
            Err(error) => Err(Why::from(error).at(path)),
        }
    }

    /// What a folder without a head is.
    fn without_head(&self) -> Result<FolderError, FolderError> {
        if !self.0.try_exists().at(&self.0)? {
            return Ok(Why::NoLedger.at(&self.0));
        }
        // The head comes before the first segment: where there are segments, there was one.
        if self.segments_path().is_dir() && !names(&self.segments_path())?.is_empty() {
            return Ok(Why::HeadLost.at(self.head_path()));
        }
        let ours = |name: &String| [SEGMENTS, LOCK, HEAD_TEMP].contains(&name.as_str());
        let why = if names(&self.0)?.iter().all(ours) { Why::NoLedger } else { Why::Strange };
        Ok(why.at(&self.0))
    }

    /// Reads a segment and checks it against what the head lists.
    ///
    /// # Errors
    /// [`FolderError`] naming the file.
    pub fn load(&self, listed: &Listed) -> Result<SealedSegment, FolderError> {
        let path = self.segment_path(listed);
        self.load_at(&path, listed).map_err(|why| why.at(path))
    }

    fn load_at(&self, path: &Path, listed: &Listed) -> Result<SealedSegment, Why> {
        let missing = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => Why::Missing,
            _ => error.into(),
        };
        let altered = |what: &str| Why::Altered(what.to_owned());
        let size = fs::metadata(path).map_err(missing)?.len();
        if size > listed.bytes.saturating_add(SEGMENT_HEAD_BOUND) {
            return Err(altered("larger than head.json says"));
        }
        let mut bytes = fs::read(path).map_err(missing)?;
        if file_hash(&bytes) != listed.object {
            return Err(altered("not the file that head.json lists, its SHA3-256 differs"));
        }
        let line = bytes.iter().position(|&byte| byte == b'\n').ok_or_else(|| altered("no line break"))?;
        let entries = bytes.split_off(line + 1);
        let text = std::str::from_utf8(&bytes[..line]).map_err(|_| altered("its head is not text"))?;
        let sealed =
            SealedSegment::from_parts(text, entries).map_err(|error| Why::Altered(error.to_string()))?;
        if sealed.head_text().is_ok_and(|canonical| canonical != text) {
            return Err(altered("its head is not in canonical form"));
        }
        let head = &sealed.head;
        let found = (head.first, head.count, head.start, sealed.entries.len() as u64);
        if found != (listed.first, listed.count, listed.start, listed.bytes) {
            return Err(altered("its head is not what head.json says of it"));
        }
        Ok(sealed)
    }

    /// Reads a segment, decodes it, and checks that it begins where `end` stands, if that is known.
    ///
    /// # Errors
    /// [`FolderError`] naming the file.
    pub fn open(&self, listed: &Listed, end: Option<&crate::ledger::Chain>) -> Result<Opened, FolderError> {
        let opened = Opened::open(&self.load(listed)?)
            .map_err(|error| Why::Altered(error.to_string()).at(self.segment_path(listed)))?;
        match end {
            Some(end) if *end != opened.before => {
                let what = format!("does not begin where entry {} ends", end.size().saturating_sub(1));
                Err(Why::Altered(what).at(self.segment_path(listed)))
            }
            _ => Ok(opened),
        }
    }

    /// The files that have no business in this folder, whose head is `head`.
    ///
    /// # Errors
    /// [`FolderError`] when the folder cannot be listed.
    pub fn strays(&self, head: &Head) -> Result<Vec<Stray>, FolderError> {
        let mut strays = vec![];
        for name in names(&self.0)? {
            let path = self.0.join(&name);
            let expected = match name.as_str() {
                HEAD => path.is_file(),
                SEGMENTS => path.is_dir(),
                LOCK => fs::metadata(&path).at(&path)?.is_file() && fs::metadata(&path).at(&path)?.len() == 0,
                _ => false,
            };
            match name.as_str() {
                _ if expected => {}
                HEAD_TEMP => strays.push(Stray::Leftover(path)),
                _ => strays.push(Stray::Foreign(path)),
            }
        }
        let listed: std::collections::BTreeSet<String> =
            head.segments.iter().map(|it| segment_name(it.epoch, it.first, it.count)).collect();
        let segments = self.segments_path();
        let found = if segments.is_dir() { names(&segments)? } else { vec![] };
        for name in found.into_iter().filter(|name| !listed.contains(name)) {
            let path = segments.join(&name);
            strays.push(if is_segment_name(&name) { Stray::Leftover(path) } else { Stray::Foreign(path) });
        }
        Ok(strays)
    }

    /// Whether somebody writes to this folder at this moment.
    #[must_use]
    pub fn is_written(&self) -> bool {
        fs::File::open(self.lock_path())
            .is_ok_and(|lock| matches!(lock.try_lock_shared(), Err(fs::TryLockError::WouldBlock)))
    }

    /// Bytes of all files.
    ///
    /// # Errors
    /// [`FolderError`] when the folder cannot be listed.
    pub fn size(&self) -> Result<u64, FolderError> {
        let mut bytes = 0;
        for folder in [&self.0, &self.segments_path()] {
            for name in names(folder)? {
                let found = fs::metadata(folder.join(name)).at(folder)?;
                bytes += if found.is_file() { found.len() } else { 0 };
            }
        }
        Ok(bytes)
    }
}

/// The names in a folder, sorted. One that is no text cannot be ours and is listed as it prints.
fn names(folder: &Path) -> Result<Vec<String>, FolderError> {
    let mut names = fs::read_dir(folder)
        .and_then(|found| {
            found.map(|it| Ok(it?.file_name().to_string_lossy().into_owned())).collect::<io::Result<Vec<_>>>()
        })
        .at(folder)?;
    names.sort();
    Ok(names)
}

fn segment_name(epoch: u64, first: u64, count: u64) -> String {
    format!("{epoch}-{first}-{count}.segment")
}

fn is_segment_name(name: &str) -> bool {
    let numbers = name.strip_suffix(".segment").map(|numbers| numbers.split('-').collect::<Vec<_>>());
    numbers.is_some_and(|numbers| numbers.len() == 3 && numbers.iter().all(|it| it.parse::<u64>().is_ok()))
}

/// What proves that a file is the one meant.
fn file_hash(bytes: &[u8]) -> String {
    hex(&Sha3_256::digest(bytes).into())
}
