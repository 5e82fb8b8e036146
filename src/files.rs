//! Files that are replaced as a whole or not at all.
//!
//! The new content goes to a temporary file in the same folder, which is synced and then renamed. Until then an existing
//! file keeps its content, and a failure removes the temporary file.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Mode of a new file whose content is no secret, before the umask is applied.
pub const PUBLIC: u32 = 0o666;

/// A file in the making. It is removed when dropped before [`Self::commit`].
#[derive(Debug)]
pub struct NewFile {
    content: BufWriter<File>,
    path: PathBuf,
    /// `None` for a target that cannot be replaced, such as a pipe or /dev/null: it is written directly.
    temp: Option<PathBuf>,
}

impl NewFile {
    /// Starts the file that will replace `path`. A symbolic link is followed, and the mode of an existing file is kept;
    /// `mode` is that of a new one.
    ///
    /// # Errors
    /// If the folder does not exist or cannot be written, or `path` is a folder.
    pub fn create(path: &Path, mode: u32) -> io::Result<Self> {
        let existing = match fs::metadata(path) {
            Ok(existing) => Some(existing),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        if existing.as_ref().is_some_and(|it| !it.is_file()) {
            let file = OpenOptions::new().write(true).open(path)?;
            return Ok(Self { content: buffered(file), path: path.to_owned(), temp: None });
        }
        if existing.is_none() && path.is_symlink() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "a symbolic link to a missing file"));
        }
        let path = if existing.is_some() { fs::canonicalize(path)? } else { path.to_owned() };
        let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::IsADirectory))?;
        let mut temp = std::ffi::OsString::from(".");
        temp.push(name);
        temp.push(format!(".{}.tmp", std::process::id()));
        Self::create_at(path.with_file_name(temp), path, mode, existing)
    }

    /// As [`Self::create`], with a temporary file of this name, which is overwritten. For folders with a single writer.
    pub(crate) fn create_as(temp: PathBuf, path: PathBuf) -> io::Result<Self> {
        Self::create_at(temp, path, PUBLIC, None)
    }

    fn create_at(temp: PathBuf, path: PathBuf, mode: u32, existing: Option<Metadata>) -> io::Result<Self> {
        // Not through a link that somebody has put there, and with the mode of a new file.
        match fs::remove_file(&temp) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temp)?;
        let new = Self { content: buffered(file), path, temp: Some(temp) };
        if let Some(existing) = existing {
            new.content.get_ref().set_permissions(existing.permissions())?;
        }
        Ok(new)
    }

    /// Makes the content durable and replaces the file at the path.
    ///
    /// # Errors
    /// If that fails; the existing file then has its old content.
    pub fn commit(mut self) -> io::Result<()> {
        self.content.flush()?;
        let Some(temp) = &self.temp else { return Ok(()) };
        self.content.get_ref().sync_all()?;
        fs::rename(temp, &self.path)?;
        // From here on there is no temporary file to remove.
        self.temp = None;
        sync_folder(folder_of(&self.path))
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.content.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.content.flush()
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(temp) = &self.temp {
            let _ = fs::remove_file(temp);
        }
    }
}

fn buffered(file: File) -> BufWriter<File> {
    BufWriter::with_capacity(1 << 16, file)
}

/// Replaces the file at `path` by one with this content. `mode` is that of a new file.
///
/// # Errors
/// If the file cannot be written; an existing one then has its old content.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut file = NewFile::create(path, mode)?;
    file.write_all(content)?;
    file.commit()
}

/// Makes creations, renames and removals in a folder durable.
///
/// # Errors
/// If the folder cannot be opened or synced.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Whether both paths exist and lead to the same file or folder, by whatever name or link.
#[must_use]
pub fn is_same(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| fs::metadata(path).map(|it| (it.dev(), it.ino())).ok();
    identity(one).is_some_and(|it| Some(it) == identity(other))
}

/// Whether the file at `path`, which need not exist, is in `folder` or below it.
#[must_use]
pub fn is_within(folder: &Path, path: &Path) -> bool {
    let resolved =
        fs::canonicalize(path).or_else(|_| fs::canonicalize(folder_of(path)).map(|it| it.join("_")));
    resolved.is_ok_and(|it| it.ancestors().skip(1).any(|above| is_same(above, folder)))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_when_it_is_committed_and_only_then() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("file");
        fs::write(&path, "old").unwrap();
        let mut dropped = NewFile::create(&path, PUBLIC).unwrap();
        dropped.write_all(&[b'x'; 1 << 17]).unwrap();
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), names(place.path()).len()), ("old", 2));
        drop(dropped);
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), names(place.path()).len()), ("old", 1));
        replace(&path, b"new", PUBLIC).unwrap();
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), names(place.path()).len()), ("new", 1));
    }

    #[test]
    fn links_are_followed_and_modes_kept() {
        use std::os::unix::fs::PermissionsExt;
        let place = tempfile::tempdir().unwrap();
        let (path, link) = (place.path().join("file"), place.path().join("link"));
        replace(&path, b"secret", 0o600).unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        replace(&link, b"new", 0o644).unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::os::unix::fs::symlink("nowhere", place.path().join("dangling")).unwrap();
        assert!(replace(&place.path().join("dangling"), b"new", PUBLIC).is_err());
    }

    #[test]
    fn devices_are_written_and_not_replaced() {
        replace(Path::new("/dev/null"), b"text", PUBLIC).unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
        assert!(replace(Path::new("/proc"), b"text", PUBLIC).is_err());
    }

    #[test]
    fn files_are_told_apart_by_what_they_are_and_not_by_name() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        fs::create_dir_all(at("folder/inner")).unwrap();
        fs::write(at("file"), "").unwrap();
        fs::hard_link(at("file"), at("hard")).unwrap();
        std::os::unix::fs::symlink("file", at("soft")).unwrap();
        std::os::unix::fs::symlink("folder/inner", at("short")).unwrap();
        for other in ["file", "hard", "soft", "./folder/../file"] {
            assert!(is_same(&at("file"), &at(other)), "{other}");
        }
        assert!(!is_same(&at("file"), &at("missing")));
        for inside in ["folder/new", "folder/inner", "folder/inner/new", "short/new", "folder/../folder/new"]
        {
            assert!(is_within(&at("folder"), &at(inside)), "{inside}");
        }
        for outside in ["new", "folder", "folder/../new", "missing/new"] {
            assert!(!is_within(&at("folder"), &at(outside)), "{outside}");
        }
    }
}
