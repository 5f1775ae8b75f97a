//! Temporary files, which become the files that a command writes; and those that killed processes left behind.
//!
//! A process holds a lock on each of its temporary files. A file without a lock is of a process that has ended.

use super::Obstacle;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use tempfile::{Builder, NamedTempFile};

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

/// Makes a temporary file in a folder. The first one in a folder removes those of processes that have ended.
pub(super) fn create(folder: &Path, builder: &mut Builder) -> io::Result<NamedTempFile> {
    builder.prefix(PARTIAL.0).suffix(PARTIAL.1).rand_bytes(RANDOM);
    if WRITTEN.lock().unwrap_or_else(PoisonError::into_inner).insert(folder.to_path_buf()) {
        remove_stale(folder);
    }
    loop {
        let file = builder.tempfile_in(folder)?;
        if lock(&file)? {
            return Ok(file);
        }
    }
}

/// Locks a temporary file. Returns whether it is still there: another process may have removed it before it was locked.
#[cfg(unix)]
fn lock(file: &NamedTempFile) -> io::Result<bool> {
    use rustix::fs::{FlockOperation, flock};
    // On a file system without locks, other processes leave the file alone.
    let _ = flock(file.as_file(), FlockOperation::LockExclusive);
    Ok(std::os::unix::fs::MetadataExt::nlink(&file.as_file().metadata()?) > 0)
}

#[cfg(not(unix))]
fn lock(_: &NamedTempFile) -> io::Result<bool> {
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
        let alive = create(folder.path(), &mut Builder::new()).unwrap();
        for name in [".wgoal-partial-x1y2z3X1Y2Z3.tmp", ".wgoal-partial-mine.tmp", "notes.tmp"] {
            fs::write(folder.path().join(name), "half").unwrap();
        }
        remove_stale(folder.path());
        let mut names: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        let mut expected: Vec<_> = [".wgoal-partial-mine.tmp", "notes.tmp"].map(Into::into).to_vec();
        expected.push(alive.path().file_name().unwrap().to_os_string());
        expected.sort();
        assert_eq!(names, expected);
    }
}
