//! A ledger in a folder.
//!
//! ```text
//! head.json                                   the head, canonical JSON
//! segments/<epoch>-<first>-<count>.segment    a segment: its head, a line break, its entries
//! lock                                        empty; locked by the writer
//! ```
//!
//! `head.json` contains the fields of [`Head`], the `format` of the folder, and under `sha3` the SHA3-256 of the
//! canonical JSON of all its other fields. It lists each segment with the SHA3-256 of its file. So `head.json` covers
//! every byte of the folder, its own included.
//!
//! Replacing `head.json` commits. A segment that it does not list is left from a writer that was killed during a commit
//! or a merge, and does not belong to the ledger. The next writer removes it. Until then verification reports it, like
//! every other unexpected file.

mod head_file;
mod writer;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha3::{Digest, Sha3_256};

use super::{Head, HeadError, SegmentRef};
use crate::ledger::replay::Mismatch;
use crate::ledger::sealed::SealError;
use crate::ledger::{SealedSegment, hex};

pub use writer::{ResumePoint, Writer};

const HEAD: &str = "head.json";
const HEAD_TEMP: &str = "head.json.tmp";
/// Extension of a segment's temporary file, instead of `segment`.
const TEMP_EXTENSION: &str = "tmp";
const SEGMENTS: &str = "segments";
const LOCK: &str = "lock";
/// Upper bound for the readable head of a segment, which has a few hundred bytes. A larger file is not read.
const SEGMENT_HEAD_BOUND: u64 = 64 * 1024;

/// An error about a ledger's folder, or a file in it.
#[derive(Debug, thiserror::Error)]
#[error("{}: {kind}", path.display())]
pub struct FolderError {
    /// The file or folder.
    pub path: PathBuf,
    /// The cause and the remedy.
    pub kind: FolderErrorKind,
}

/// The cause of a [`FolderError`] and its remedy.
#[derive(Debug, thiserror::Error)]
pub enum FolderErrorKind {
    /// An error of the file system.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The folder is missing or empty.
    #[error("no ledger here; name a folder that holds head.json")]
    NoLedger,
    /// The folder contains files but no ledger.
    #[error("not empty, and not a ledger: head.json is missing; name another folder")]
    Strange,
    /// The folder contains segments but no head.
    #[error("missing, but there are segments; restore it from a backup, or name another folder")]
    HeadLost,
    /// The head has a format that a later version introduced.
    #[error(transparent)]
    Newer(HeadError),
    /// The file was altered, truncated or replaced.
    #[error("{0}; restore it from a backup")]
    Altered(String),
    /// A file that the head lists is missing.
    #[error("missing; restore it from a backup")]
    Missing,
    /// An entry does not follow from those before it.
    #[error("{0}; this ledger cannot be continued, name another folder")]
    Mismatch(#[from] Mismatch),
    /// The ledger contains no genesis and no snapshot.
    #[error("no snapshot to continue from; name another folder")]
    NoStart,
    /// Another process is writing to the folder.
    #[error("in use by another venom process; stop it, or name another folder")]
    InUse,
    /// The entries cannot be encoded as a segment.
    #[error(transparent)]
    Seal(#[from] SealError),
}

impl FolderErrorKind {
    fn at(self, path: impl Into<PathBuf>) -> FolderError {
        FolderError { path: path.into(), kind: self }
    }
}

/// Adds the path to an error.
trait At<T> {
    fn at(self, path: &Path) -> Result<T, FolderError>;
}

impl<T, E: Into<FolderErrorKind>> At<T> for Result<T, E> {
    fn at(self, path: &Path) -> Result<T, FolderError> {
        self.map_err(|error| error.into().at(path))
    }
}

/// An unexpected file in the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stray {
    /// Left by a writer that was killed. The next writer removes it.
    Leftover(PathBuf),
    /// Not a file of a ledger.
    Foreign(PathBuf),
}

/// Read access to a ledger's folder.
#[derive(Clone, Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// The folder at `path`, which need not exist.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The path of the folder.
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

    /// The path of a segment's file.
    #[must_use]
    pub fn segment_path(&self, segment: &SegmentRef) -> PathBuf {
        self.segments_path().join(segment_name(segment.epoch, segment.first, segment.count))
    }

    /// Reads and checks the head.
    ///
    /// # Errors
    /// [`FolderError`], with [`FolderErrorKind::NoLedger`] if the folder is missing or empty.
    pub fn head(&self) -> Result<Head, FolderError> {
        let path = self.head_path();
        match fs::read(&path) {
            Ok(bytes) => head_file::parse(&bytes).map_err(|kind| kind.at(path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(self.missing_head_error()?),
            Err(error) => Err(FolderErrorKind::from(error).at(path)),
        }
    }

    /// The error for a folder without a head.
    fn missing_head_error(&self) -> Result<FolderError, FolderError> {
        if !self.0.try_exists().at(&self.0)? {
            return Ok(FolderErrorKind::NoLedger.at(&self.0));
        }
        // A writer stores the head before the first segment, so segments prove that there was a head.
        if self.segments_path().is_dir() && !names(&self.segments_path())?.is_empty() {
            return Ok(FolderErrorKind::HeadLost.at(self.head_path()));
        }
        let ours = |name: &String| [SEGMENTS, LOCK, HEAD_TEMP].contains(&name.as_str());
        let kind = if names(&self.0)?.iter().all(ours) {
            FolderErrorKind::NoLedger
        } else {
            FolderErrorKind::Strange
        };
        Ok(kind.at(&self.0))
    }

    /// Reads a segment and checks it against its entry in the head.
    ///
    /// # Errors
    /// [`FolderError`] naming the file.
    pub fn load(&self, segment: &SegmentRef) -> Result<SealedSegment, FolderError> {
        let path = self.segment_path(segment);
        self.load_at(&path, segment).map_err(|kind| kind.at(path))
    }

    fn load_at(&self, path: &Path, segment: &SegmentRef) -> Result<SealedSegment, FolderErrorKind> {
        let missing = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => FolderErrorKind::Missing,
            _ => error.into(),
        };
        let altered = |what: &str| FolderErrorKind::Altered(what.to_owned());
        let size = fs::metadata(path).map_err(missing)?.len();
        if size > segment.bytes.saturating_add(SEGMENT_HEAD_BOUND) {
            return Err(altered("larger than head.json states"));
        }
        let mut bytes = fs::read(path).map_err(missing)?;
        if file_hash(&bytes) != segment.object {
            return Err(altered("its SHA3-256 differs from the one in head.json"));
        }
        let line = bytes
            .iter()
            .position(|&byte| byte == b'\n')
            .ok_or_else(|| altered("no line break after its head"))?;
        let entries = bytes.split_off(line + 1);
        let text = std::str::from_utf8(&bytes[..line]).map_err(|_| altered("its head is not UTF-8"))?;
        let sealed = SealedSegment::from_parts(text, entries)
            .map_err(|error| FolderErrorKind::Altered(error.to_string()))?;
        if sealed.head_text().is_ok_and(|canonical| canonical != text) {
            return Err(altered("its head is not in canonical form"));
        }
        let head = &sealed.head;
        let found = (head.first, head.count, head.start, sealed.entries.len() as u64);
        if found != (segment.first, segment.count, segment.start, segment.bytes) {
            return Err(altered("its head differs from its entry in head.json"));
        }
        Ok(sealed)
    }

    /// The unexpected files in this folder, whose head is `head`.
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
            strays.push(if is_segment_or_temp(&name) { Stray::Leftover(path) } else { Stray::Foreign(path) });
        }
        Ok(strays)
    }

    /// The files in this folder and in that of its segments, as far as they can be listed.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let folders = [self.0.clone(), self.segments_path()];
        let list =
            |folder: &PathBuf| fs::read_dir(folder).into_iter().flatten().flatten().map(|it| it.path());
        folders.iter().flat_map(list).filter(|path| path.is_file()).collect()
    }

    /// Whether a writer holds the lock.
    #[must_use]
    pub fn is_written(&self) -> bool {
        fs::File::open(self.lock_path())
            .is_ok_and(|lock| matches!(lock.try_lock_shared(), Err(fs::TryLockError::WouldBlock)))
    }

    /// Size of all files in bytes.
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

/// The names in a folder, sorted. A name that is not UTF-8 is converted lossily: it cannot be a name of this layout.
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

/// Whether this is the name of a segment or of its temporary file.
fn is_segment_or_temp(name: &str) -> bool {
    let Some((numbers, "segment" | TEMP_EXTENSION)) = name.rsplit_once('.') else { return false };
    let numbers: Vec<_> = numbers.split('-').collect();
    numbers.len() == 3 && numbers.iter().all(|it| it.parse::<u64>().is_ok())
}

/// The SHA3-256 of a file in hexadecimal, by which the head identifies it.
fn file_hash(bytes: &[u8]) -> String {
    hex(&Sha3_256::digest(bytes).into())
}
