//! Writing to a folder: one writer at a time, each commit whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::Head;
use super::super::head::{LARGEST_MERGE, Listed};
use super::{At, Folder, FolderError, HEAD_TEMP, Stray, Why, file_hash, head_file};
use crate::ledger::entry::{Origin, Record};
use crate::ledger::replay::Replay;
use crate::ledger::sealed::{MergeError, SealError};
use crate::ledger::{Chain, SealedSegment};
use crate::organism::State;
use crate::organism::input::ResumeReason;

/// A check of the folder holds its lock for an instant: a writer that meets one tries again.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(25);

/// What a folder's ledger goes on from.
#[derive(Debug)]
pub struct Past {
    /// The state after the last entry.
    pub state: State,
    /// The end of the chain.
    pub chain: Chain,
}

/// The one writer of a folder.
#[derive(Debug)]
pub struct Writer {
    folder: Folder,
    /// Held for as long as this lives; the system frees it even after a kill.
    _lock: File,
    head: Head,
    end: Chain,
    origin: Option<Origin>,
    merges: bool,
}

impl Writer {
    /// Locks the folder at `path`, which is made if there is nothing, and reads what it has to go on from:
    /// each file is compared with the head, and from the newest genesis or snapshot on every entry is derived
    /// anew. Nothing that is there is changed: that begins with [`Self::take_over`].
    ///
    /// # Errors
    /// [`FolderError`].
    pub fn open(path: &Path) -> Result<(Self, Option<Past>), FolderError> {
        let folder = Folder::new(path);
        // Before anything is made: this may be no ledger, or somebody else's.
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
            Why::Altered("its peaks, size and root do not fit".into()).at(folder.head_path())
        })?;
        let (past, origin) = past(&folder, &head, &end)?;
        Ok((Self { folder, _lock: lock, head, end, origin, merges: true }, past))
    }

    /// Makes `holder` the writer: raises the epoch, and removes what a killed writer left. Returns what a
    /// `resume` has to say.
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

    /// The head as it is committed.
    #[must_use]
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Commits `records` as one segment, with the index and the moment of each injection among them, and merges
    /// small ones.
    ///
    /// # Errors
    /// [`FolderError`]; then nothing is committed, and the same records may be tried again.
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
        head.add(listed, &end, injections);
        self.put(head)?;
        self.end = end;
        self.merge()
    }

    /// Makes one segment of eight small ones, as long as there are eight.
    fn merge(&mut self) -> Result<(), FolderError> {
        while let Some(range) = self.head.mergeable(LARGEST_MERGE, |_| true).filter(|_| self.merges) {
            let parts = self.head.segments[range.clone()].to_vec();
            let sealed: Vec<SealedSegment> =
                parts.iter().map(|part| self.folder.load(part)).collect::<Result<_, _>>()?;
            let merged = match SealedSegment::merge(self.origin.as_ref(), &sealed) {
                Ok(merged) => merged,
                // Too much for one segment: the parts stand as they are.
                Err(MergeError::Seal(_)) => {
                    self.merges = false;
                    return Ok(());
                }
                Err(error) => {
                    let path = self.folder.segment_path(&parts[0]);
                    return Err(Why::Altered(format!("cannot be merged: {error}")).at(path));
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

    fn write_segment(&self, sealed: &SealedSegment, level: u8) -> Result<Listed, FolderError> {
        let text = sealed.head_text().map_err(SealError::from).at(self.folder.path())?;
        let mut bytes = text.into_bytes();
        bytes.push(b'\n');
        bytes.extend_from_slice(&sealed.entries);
        let listed = Listed::new(sealed, self.head.epoch, file_hash(&bytes), level);
        let path = self.folder.segment_path(&listed);
        // One that is there already is of a commit that failed half-way, or its name would be listed.
        write_durably(&path, &bytes)?;
        sync(&self.folder.segments_path())?;
        Ok(listed)
    }

    /// Replaces the head. This is what commits.
    fn put(&mut self, head: Head) -> Result<(), FolderError> {
        let path = self.folder.head_path();
        let temp = self.folder.path().join(HEAD_TEMP);
        let text = head_file::text(&head).map_err(SealError::from).at(&path)?;
        write_durably(&temp, text.as_bytes())?;
        fs::rename(&temp, &path).at(&path)?;
        sync(self.folder.path())?;
        self.head = head;
        Ok(())
    }
}

/// The head that is there; nothing where there is no ledger and one may be made.
fn existing(folder: &Folder) -> Result<Option<Head>, FolderError> {
    match folder.head() {
        Ok(head) => Ok(Some(head)),
        Err(FolderError { why: Why::NoLedger, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads what there is to go on from; nothing where no entry is committed.
fn past(folder: &Folder, head: &Head, end: &Chain) -> Result<(Option<Past>, Option<Origin>), FolderError> {
    if head.size == 0 {
        return Ok((None, None));
    }
    let from = head.segments.iter().rposition(|it| it.start.is_some());
    let from = from.ok_or_else(|| Why::NoStart.at(folder.path()))?;
    let mut origin = None;
    for listed in &head.segments[..from] {
        folder.load(listed)?;
    }
    let mut replay = Replay::default();
    let mut chain: Option<Chain> = None;
    for listed in &head.segments[from..] {
        let opened = folder.open(listed, chain.as_ref())?;
        for entry in opened.entries {
            replay.feed(entry).at(&folder.segment_path(listed))?;
        }
        chain = Some(opened.after);
        origin = opened.origin;
    }
    if chain.is_none_or(|chain| chain != *end) {
        return Err(Why::Altered("its segments do not end where it says".into()).at(folder.head_path()));
    }
    let state = replay.finish().at(folder.path())?.ok_or_else(|| Why::NoStart.at(folder.path()))?;
    Ok((Some(Past { state, chain: end.clone() }), origin))
}

fn lock(path: &PathBuf) -> Result<File, FolderError> {
    let file = File::options().create(true).truncate(false).write(true).open(path).at(path)?;
    for attempt in 1.. {
        match file.try_lock() {
            Ok(()) => break,
            Err(fs::TryLockError::WouldBlock) if attempt < LOCK_TRIES => std::thread::sleep(LOCK_PAUSE),
            Err(fs::TryLockError::WouldBlock) => return Err(Why::InUse.at(path)),
            Err(fs::TryLockError::Error(error)) => return Err(Why::from(error).at(path)),
        }
    }
    Ok(file)
}

fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), FolderError> {
    let write = || -> io::Result<()> {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().at(path)
}

/// Makes what was created, renamed or removed in a folder last.
fn sync(folder: &Path) -> Result<(), FolderError> {
    File::open(folder).and_then(|folder| folder.sync_all()).at(folder)
}
