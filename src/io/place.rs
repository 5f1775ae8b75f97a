//! Finds where a path leads for writing, and whether two paths lead to the same file.

use super::Obstacle;
use super::kind::kind_of;
use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};

/// Where bytes written to a path go.
pub(super) enum Place {
    /// A regular file, which need not exist yet: its path after all links.
    File(PathBuf, Option<Metadata>),
    /// A pipe, a device, or an open file of this process. These are written directly.
    Stream(PathBuf),
    /// Standard output.
    Output,
}

/// Follows links to their target, which need not exist.
pub(super) fn place(path: &Path) -> Result<Place, Obstacle> {
    const LINKS: usize = 40;
    let mut path = path.to_path_buf();
    for _ in 0..=LINKS {
        if cfg!(unix)
            && ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"].iter().any(|it| path == Path::new(it))
        {
            return Ok(Place::Output);
        }
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Place::File(path, None)),
            Err(e) => return Err(e.into()),
        };
        if !metadata.is_symlink() {
            return match is_stream(&metadata)? {
                true => Ok(Place::Stream(path)),
                false => Ok(Place::File(path, Some(metadata))),
            };
        }
        if names_open_file(&path) {
            is_stream(&fs::metadata(&path)?)?;
            return Ok(Place::Stream(path));
        }
        let target = fs::read_link(&path)?;
        path = path.parent().map(|folder| folder.join(&target)).unwrap_or(target);
    }
    Err(Obstacle::new("links that lead in a circle", Some("remove the link, or give the file itself")))
}

/// Whether the file is written directly, like a pipe, and not replaced, like a regular file.
fn is_stream(metadata: &Metadata) -> Result<bool, Obstacle> {
    let kind = metadata.file_type();
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if kind.is_fifo() || kind.is_char_device() {
            return Ok(true);
        }
    }
    match kind.is_file() {
        true => Ok(false),
        false => Err(Obstacle::new(kind_of(kind), Some("choose another file"))),
    }
}

/// Whether a path is in a folder whose links stand for open files. Such a link may show any path.
fn names_open_file(path: &Path) -> bool {
    let folder = path.parent().unwrap_or(path);
    folder == Path::new("/dev/fd") || (folder.starts_with("/proc") && folder.ends_with("fd"))
}

/// Whether bytes written to this path go to standard output.
pub fn is_standard_output(path: &Path) -> bool {
    matches!(place(path), Ok(Place::Output))
}

/// Whether both paths lead to the same existing file, in any spelling and through any links.
pub fn same_file(one: &Path, other: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let id = |path| fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()));
        id(one).is_some_and(|found| Some(found) == id(other))
    }
    #[cfg(not(unix))]
    {
        let real = |path: &Path| path.canonicalize().ok();
        real(one).is_some_and(|found| Some(found) == real(other))
    }
}
