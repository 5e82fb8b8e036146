//! The writer of a ledger's folder: one at a time, with atomic commits.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::Head;
use super::super::head::{Contents, LARGEST_MERGE, SegmentRef};
use super::{
    At, Folder, FolderError, FolderErrorKind, HEAD_TEMP, Stray, TEMP_EXTENSION, file_hash, head_file,
};
use crate::files::NewFile;
use crate::ledger::entry::{Origin, Record};
use crate::ledger::replay::Replay;
use crate::ledger::sealed::{MergeError, SealError, VisitError};
use crate::ledger::{Chain, SealedSegment};
use crate::organism::State;
use crate::organism::input::ResumeReason;

/// `venom ledger verify` holds the lock for an instant to see whether there is a writer. So a writer retries before it
/// reports that the folder is in use.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(25);

/// The point from which a ledger continues.
#[derive(Debug)]
pub struct ResumePoint {
    /// The state after the last entry.
    pub state: State,
    /// The end of the chain.
    pub chain: Chain,
}

/// The only writer of a folder.
#[derive(Debug)]
pub struct Writer {
    folder: Folder,
    /// Locked until this is dropped. The kernel releases the lock if the process is killed.
    _lock: File,
    head: Head,
    end: Chain,
    origin: Option<Origin>,
    merges: bool,
}

impl Writer {
    /// Locks the folder at `path`, which is created if it is missing, and verifies its ledger: every file is compared
    /// with the head, and every entry from the newest genesis or snapshot on is re-derived. Returns the point to
    /// continue from; `None` for a new ledger. No existing file is changed before [`Self::take_over`].
    ///
    /// # Errors
    /// [`FolderError`].
    pub fn open(path: &Path) -> Result<(Self, Option<ResumePoint>), FolderError> {
        let folder = Folder::new(path);
        // Before anything is created: the folder may belong to something else.
        existing(&folder)?;
        fs::create_dir_all(folder.segments_path()).at(path)?;
        let lock = lock(&folder.lock_path())?;
        let Some(head) = existing(&folder)? else {
            let head = Head::empty("", 1, 0, "");
            let writer =
                Self { folder, _lock: lock, head, end: Chain::default(), origin: None, merges: true };
            return Ok((writer, None));
        };
        let end = head.chain().ok_or_else(|| {
            FolderErrorKind::Altered("its peaks, size and root are inconsistent".into())
                .at(folder.head_path())
        })?;
        let (point, origin) = resume_point(&folder, &head, &end)?;
        Ok((Self { folder, _lock: lock, head, end, origin, merges: true }, point))
    }

    /// Makes `holder` the writer: increments the epoch and removes the leftovers of a killed writer. Returns the reason
    /// for the `resume` entry.
    ///
    /// # Errors
    /// [`FolderError`].
    pub fn take_over(&mut self, holder: &str) -> Result<ResumeReason, FolderError> {
        let mut head = self.head.clone();
        let reason = head.take_over(holder);
        self.put(head)?;
        for stray in self.folder.strays(&self.head)? {
            if let Stray::Leftover(path) = stray {
                fs::remove_file(&path).at(&path)?;
            }
        }
        Ok(reason)
    }

    /// The committed head.
    #[must_use]
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Commits `records` as one segment and merges small segments. `injections` are index and timestamp of the
    /// injections among the records.
    ///
    /// # Errors
    /// [`FolderError`]. If writing the segment or the head failed, nothing is committed and the caller may retry with
    /// the same records.
    pub fn commit(&mut self, records: &[Record], injections: &[(u64, f64)]) -> Result<(), FolderError> {
        if records.is_empty() {
            return Ok(());
        }
        let mut end = self.end.clone();
        for record in records {
            end.record(record).map_err(SealError::from).at(self.folder.path())?;
        }
        let sealed =
            SealedSegment::seal(self.origin.as_ref(), &self.end, &end, records).at(self.folder.path())?;
        let listed = self.write_segment(&sealed, 0)?;
        let mut head = self.head.clone();
        head.append(listed, &end, Contents { injections: injections.to_vec(), ..Contents::default() });
        self.put(head)?;
        self.end = end;
        self.merge()
    }

    /// Merges neighbouring segments until none are left to merge.
    fn merge(&mut self) -> Result<(), FolderError> {
        while let Some(range) = self.head.mergeable(LARGEST_MERGE, |_| true).filter(|_| self.merges) {
            let parts = self.head.segments[range.clone()].to_vec();
            let sealed: Vec<SealedSegment> =
                parts.iter().map(|part| self.folder.load(part)).collect::<Result<_, _>>()?;
            let merged = match SealedSegment::merge(self.origin.as_ref(), &sealed) {
                Ok(merged) => merged,
                // Too large for one segment. Merging stops, because it would fail again at every commit.
                Err(MergeError::Seal(_)) => {
                    self.merges = false;
                    return Ok(());
                }
                Err(error) => {
                    let path = self.folder.segment_path(&parts[0]);
                    return Err(FolderErrorKind::Altered(format!("cannot merge segments: {error}")).at(path));
                }
            };
            let listed = self.write_segment(&merged, parts[0].level + 1)?;
            let mut head = self.head.clone();
            head.segments.splice(range, [listed]);
            self.put(head)?;
            for part in &parts {
                let path = self.folder.segment_path(part);
                fs::remove_file(&path).at(&path)?;
            }
        }
        Ok(())
    }

    fn write_segment(&self, sealed: &SealedSegment, level: u8) -> Result<SegmentRef, FolderError> {
        let text = sealed.head_text().map_err(SealError::from).at(self.folder.path())?;
        let mut bytes = text.into_bytes();
        bytes.push(b'\n');
        bytes.extend_from_slice(&sealed.entries);
        let listed = SegmentRef::new(sealed, self.head.epoch, file_hash(&bytes), level);
        let path = self.folder.segment_path(&listed);
        // An existing file is left from a failed commit: the head lists no segment of this name.
        replace(path.with_extension(TEMP_EXTENSION), &path, &bytes)?;
        Ok(listed)
    }

    /// Replaces the head atomically, which commits.
    fn put(&mut self, head: Head) -> Result<(), FolderError> {
        let path = self.folder.head_path();
        let temp = self.folder.path().join(HEAD_TEMP);
        let text = head_file::text(&head).map_err(SealError::from).at(&path)?;
        replace(temp, &path, text.as_bytes())?;
        self.head = head;
        Ok(())
    }
}

/// The head of the folder; `None` if a ledger may be created in it.
fn existing(folder: &Folder) -> Result<Option<Head>, FolderError> {
    match folder.head() {
        Ok(head) => Ok(Some(head)),
        Err(FolderError { kind: FolderErrorKind::NoLedger, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Verifies the ledger and returns the point to continue from; `None` if no entry is committed.
fn resume_point(
    folder: &Folder,
    head: &Head,
    end: &Chain,
) -> Result<(Option<ResumePoint>, Option<Origin>), FolderError> {
    if head.size == 0 {
        return Ok((None, None));
    }
    let from = head.segments.iter().rposition(|it| it.start.is_some());
    let from = from.ok_or_else(|| FolderErrorKind::NoStart.at(folder.path()))?;
    let mut origin = None;
    for listed in &head.segments[..from] {
        folder.load(listed)?;
    }
    let mut replay = Replay::default();
    let mut chain: Option<Chain> = None;
    for listed in &head.segments[from..] {
        let (path, sealed) = (folder.segment_path(listed), folder.load(listed)?);
        if let Some(end) = chain.filter(|end| sealed.chain_before().ok().as_ref() != Some(end)) {
            let what = format!("does not continue the chain after entry {}", end.size().saturating_sub(1));
            return Err(FolderErrorKind::Altered(what).at(&path));
        }
        let visited = sealed.visit(|entry| replay.feed(entry)).map_err(|error| match error {
            VisitError::Open(error) => FolderErrorKind::Altered(error.to_string()),
            VisitError::Each(mismatch) => mismatch.into(),
        });
        chain = Some(visited.at(&path)?);
        origin = sealed.head.origin;
    }
    if chain.is_none_or(|chain| chain != *end) {
        return Err(FolderErrorKind::Altered("its last entry is not that of its segments".into())
            .at(folder.head_path()));
    }
    let state =
        replay.finish().at(folder.path())?.ok_or_else(|| FolderErrorKind::NoStart.at(folder.path()))?;
    Ok((Some(ResumePoint { state, chain: end.clone() }), origin))
}

fn lock(path: &PathBuf) -> Result<File, FolderError> {
    let file = File::options().create(true).truncate(false).write(true).open(path).at(path)?;
    for attempt in 1.. {
        match file.try_lock() {
            Ok(()) => break,
            Err(fs::TryLockError::WouldBlock) if attempt < LOCK_TRIES => std::thread::sleep(LOCK_PAUSE),
            Err(fs::TryLockError::WouldBlock) => return Err(FolderErrorKind::InUse.at(path)),
            Err(fs::TryLockError::Error(error)) => return Err(FolderErrorKind::from(error).at(path)),
        }
    }
    Ok(file)
}

fn replace(temp: PathBuf, path: &Path, content: &[u8]) -> Result<(), FolderError> {
    let write = || -> io::Result<()> {
        let mut file = NewFile::create_as(temp, path.to_owned())?;
        file.write_all(content)?;
        file.commit()
    };
    write().at(path)
}
