//! Temporary files, which become the files that a command writes; and those that killed processes left behind.
//!
//! On Linux a temporary file has no name, so a process that is killed leaves none. Elsewhere, and on file systems that
//! cannot do this, it has a temporary name. A process holds a lock on each file with such a name. A file without a lock is
//! of a process that has ended.

use super::Obstacle;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use tempfile::{Builder, NamedTempFile, TempPath};

/// The start and the end of a temporary name, around its random part.
const PARTIAL: (&str, &str) = (".wgoal-partial-", ".tmp");
const RANDOM: usize = 12;

/// The folders that this process has written to.
static WRITTEN: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Whether this is the name of a temporary file. A killed process may leave such files behind.
fn is_partial(name: &OsStr) -> bool {
    let random = name.to_str().and_then(|name| name.strip_prefix(PARTIAL.0)?.strip_suffix(PARTIAL.1));
    random.is_some_and(|random| random.len() == RANDOM && random.bytes().all(|b| b.is_ascii_alphanumeric()))
}

/// The temporary files in a folder.
fn partials(folder: &Path) -> io::Result<impl Iterator<Item = PathBuf>> {
    let is_ours = |entry: &fs::DirEntry| {
        is_partial(&entry.file_name()) && entry.file_type().is_ok_and(|kind| kind.is_file())
    };
    Ok(fs::read_dir(folder)?.flatten().filter(is_ours).map(|entry| entry.path()))
}

/// Removes all temporary files in a folder, also where files cannot be locked. No other process may write into the
/// folder at the same time.
///
/// # Errors
/// The folder cannot be listed.
pub fn remove_partial(folder: &Path) -> Result<(), Obstacle> {
    partials(folder)?.for_each(|path| drop(fs::remove_file(path)));
    Ok(())
}

/// A file that is being written.
pub(super) struct Partial {
    pub file: File,
    folder: PathBuf,
    /// Its temporary name. `None` for a file without a name.
    name: Option<TempPath>,
}

impl Partial {
    /// Makes a temporary file in a folder. The first one in a folder removes those of processes that have ended. With
    /// `shared` it has the permissions of any new file. Otherwise it is private.
    pub fn new(folder: &Path, shared: bool) -> io::Result<Self> {
        if WRITTEN.lock().unwrap_or_else(PoisonError::into_inner).insert(folder.to_path_buf()) {
            remove_stale(folder);
        }
        let (file, name) = match unnamed(folder, shared)? {
            Some(file) => (file, None),
            None => {
                let (file, name) = named(folder, shared)?.into_parts();
                (file, Some(name))
            }
        };
        Ok(Self { file, folder: folder.into(), name })
    }

    /// Gives the file its name. It takes the place of a file that has this name.
    pub fn persist(self, path: &Path) -> io::Result<()> {
        let Self { file, folder, name } = self;
        let named = match name {
            Some(name) => NamedTempFile::from_parts(file, name),
            None => match link(&file, path) {
                Ok(()) => return Ok(()),
                // A link cannot take the place of a file, but a renamed file can.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => linked(file, &folder)?,
                Err(_) => copied(file, &folder)?,
            },
        };
        named.persist(path).map(drop).map_err(|error| error.error)
    }
}

fn builder() -> Builder<'static, 'static> {
    let mut builder = Builder::new();
    builder.prefix(PARTIAL.0).suffix(PARTIAL.1).rand_bytes(RANDOM);
    builder
}

/// Permissions of a new file, before the system takes away those that the user does not want.
#[cfg(unix)]
fn mode(shared: bool) -> u32 {
    if shared { 0o666 } else { 0o600 }
}

#[cfg(unix)]
fn permit(builder: &mut Builder, shared: bool) {
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(mode(shared)));
}

/// Only Unix has such permissions.
#[cfg(not(unix))]
fn permit(_: &mut Builder, _: bool) {}

/// A file with a temporary name.
fn named(folder: &Path, shared: bool) -> io::Result<NamedTempFile> {
    let mut builder = builder();
    permit(&mut builder, shared);
    loop {
        let file = builder.tempfile_in(folder)?;
        if lock(file.as_file())? {
            return Ok(file);
        }
    }
}

/// A file without a name, where the system has such files.
#[cfg(target_os = "linux")]
fn unnamed(folder: &Path, shared: bool) -> io::Result<Option<File>> {
    use rustix::fs::OFlags;
    use rustix::io::Errno;
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).mode(mode(shared)).custom_flags(OFlags::TMPFILE.bits() as i32);
    match options.open(folder) {
        Ok(file) => Ok(Some(file)),
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT) => Ok(None),
            _ => Err(error),
        },
    }
}

#[cfg(not(target_os = "linux"))]
fn unnamed(_: &Path, _: bool) -> io::Result<Option<File>> {
    Ok(None)
}

/// Gives a file without a name a name that no file has.
#[cfg(target_os = "linux")]
fn link(file: &File, path: &Path) -> io::Result<()> {
    use rustix::fs::{AtFlags, CWD, linkat};
    let open = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file));
    Ok(linkat(CWD, open.as_str(), CWD, path, AtFlags::SYMLINK_FOLLOW)?)
}

#[cfg(not(target_os = "linux"))]
fn link(_: &File, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Gives a file without a name a temporary one.
fn linked(file: File, folder: &Path) -> io::Result<NamedTempFile> {
    // Before it has a name, so that no other process takes it for one that was left behind.
    lock(&file)?;
    let (_, name) = builder().make_in(folder, |path| link(&file, path))?.into_parts();
    Ok(NamedTempFile::from_parts(file, name))
}

/// A copy with a temporary name, where a file without a name cannot get one: for example where `/proc` is missing.
fn copied(mut file: File, folder: &Path) -> io::Result<NamedTempFile> {
    let mut copy = named(folder, false)?;
    io::Seek::rewind(&mut file)?;
    io::copy(&mut file, copy.as_file_mut())?;
    let there = file.metadata()?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::{MetadataExt, fchown};
        let _ = fchown(copy.as_file(), Some(there.uid()), Some(there.gid()));
    }
    copy.as_file().set_permissions(there.permissions())?;
    copy.as_file().sync_all()?;
    Ok(copy)
}

/// Locks a temporary file. Returns whether it is still there: another process may have removed it before it was locked.
#[cfg(unix)]
fn lock(file: &File) -> io::Result<bool> {
    use rustix::fs::{FlockOperation, flock};
    // On a file system without locks, other processes leave the file alone.
    let _ = flock(file, FlockOperation::LockExclusive);
    Ok(std::os::unix::fs::MetadataExt::nlink(&file.metadata()?) > 0)
}

#[cfg(not(unix))]
fn lock(_: &File) -> io::Result<bool> {
    Ok(true)
}

/// Removes the temporary files that no process has locked. A file that cannot be checked stays.
#[cfg(unix)]
fn remove_stale(folder: &Path) {
    use rustix::fs::{FlockOperation, flock};
    for path in partials(folder).into_iter().flatten() {
        let Ok(file) = fs::File::open(&path) else { continue };
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = fs::remove_file(path);
        }
    }
}

/// Without locks, it is not known which files are in use.
#[cfg(not(unix))]
fn remove_stale(_: &Path) {}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    /// A file of this process stays, one of a killed process goes, and so does none of the user's.
    #[test]
    fn only_files_of_processes_that_have_ended_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let alive = named(folder.path(), true).unwrap();
        for name in [".wgoal-partial-x1y2z3X1Y2Z3.tmp", ".wgoal-partial-mine.tmp", "notes.tmp"] {
            fs::write(folder.path().join(name), "half").unwrap();
        }
        remove_stale(folder.path());
        let mut expected: Vec<_> = [".wgoal-partial-mine.tmp", "notes.tmp"].map(String::from).to_vec();
        expected.push(alive.path().file_name().unwrap().to_str().unwrap().into());
        expected.sort();
        assert_eq!(names(folder.path()), expected);
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Each way gives a new file and one that takes the place of another the same content and the same permissions.
    #[test]
    fn every_way_to_name_a_file_gives_the_same_file() {
        use std::io::Write;
        use std::os::unix::fs::PermissionsExt;
        type Way = fn(&Path, bool) -> io::Result<Partial>;
        let named_file: Way = |folder, shared| {
            let (file, name) = named(folder, shared)?.into_parts();
            Ok(Partial { file, folder: folder.into(), name: Some(name) })
        };
        let copied_file: Way = |folder, shared| {
            let mut partial = Partial::new(folder, shared)?;
            partial.file.write_all(b"new")?;
            let (file, name) = copied(partial.file, folder)?.into_parts();
            Ok(Partial { file, folder: folder.into(), name: Some(name) })
        };
        for (way, make) in [Partial::new as Way, named_file, copied_file].into_iter().enumerate() {
            for (older, shared) in [(false, true), (true, false)] {
                let folder = tempfile::tempdir().unwrap();
                let (path, plain) = (folder.path().join("file"), folder.path().join("plain"));
                if older {
                    fs::write(&path, "older").unwrap();
                }
                let mut partial = make(folder.path(), shared).unwrap();
                if way < 2 {
                    partial.file.write_all(b"new").unwrap();
                }
                partial.persist(&path).unwrap();
                assert_eq!(
                    (fs::read_to_string(&path).unwrap().as_str(), names(folder.path())),
                    ("new", vec!["file".to_string()])
                );
                fs::write(&plain, "").unwrap();
                let [found, of_new] =
                    [&path, &plain].map(|path| path.metadata().unwrap().permissions().mode());
                assert_eq!(
                    found,
                    if shared { of_new } else { of_new & !0o77 },
                    "way {way}, in place of one: {older}"
                );
            }
        }
    }
}
