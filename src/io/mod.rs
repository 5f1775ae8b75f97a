//! Files: only regular ones are read, and what is written appears whole or not at all.

mod matrix;
mod place;
mod read;
mod words;

use crate::{Error, ErrorKind, Result};
use place::{Place, place};
use safetensors::tensor::{Dtype, TensorView};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

pub use matrix::{write_matrix_fbin, write_matrix_fvecs, write_matrix_npy};
pub use place::{is_standard_output, same_file};
pub use read::{LINES, SMALL, open, read, read_text};
pub(crate) use read::{MAX_SAFETENSORS_HEADER, read_safetensors};
pub use words::Obstacle;

/// Around the random part of a temporary name.
const PARTIAL: (&str, &str) = (".wgoal-partial-", ".tmp");
const RANDOM: usize = 12;

/// Whether a file's name is one that files have here while they are written: what a killed process leaves.
fn is_partial(name: &OsStr) -> bool {
    let random = name.to_str().and_then(|name| name.strip_prefix(PARTIAL.0)?.strip_suffix(PARTIAL.1));
    random.is_some_and(|random| random.len() == RANDOM && random.bytes().all(|b| b.is_ascii_alphanumeric()))
}

/// Removes what killed processes have left half written in a folder. Only for one that no other process writes into.
///
/// # Errors
/// A folder that cannot be listed.
pub fn remove_partial(folder: &Path) -> Result<(), Obstacle> {
    for entry in fs::read_dir(folder)?.flatten() {
        if is_partial(&entry.file_name()) && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

/// What a path may lead to besides a regular file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Streams {
    /// Pipes and devices, `/dev/stdout` among them, which are written as they are.
    Written,
    /// Nothing: the file is to be read again.
    Refused,
}

/// Writes a file under a temporary name in the same folder, syncs it and renames it into place. A link stays: what it leads
/// to is written.
///
/// # Errors
/// Any failure to write; a file that was there is then still the old one, and no other is left behind.
pub(crate) fn write_whole(
    path: &Path,
    streams: Streams,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    let attempt = || match place(path)? {
        Place::File(path, there) => replace(&path, there, write),
        Place::Stream(path) if streams == Streams::Written => write_stream(&path, write),
        Place::Output if streams == Streams::Written => match write_to(io::stdout().lock(), write) {
            // That its reader has gone is no concern of ours.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            written => Ok(written?),
        },
        Place::Stream(_) | Place::Output => {
            Err(Obstacle::new("a pipe or a device", Some("remove it, or choose another folder")))
        }
    };
    attempt().map_err(|obstacle: Obstacle| {
        let advice = "check that the folder exists, its space and its rights";
        obstacle.error(ErrorKind::Data, path.display(), "a file that can be written", advice)
    })
}

fn write_to<W: Write>(out: W, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut out = BufWriter::new(out);
    write(&mut out)?;
    out.flush()
}

fn replace(
    path: &Path,
    there: Option<fs::Metadata>,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), Obstacle> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(PARTIAL.0).suffix(PARTIAL.1).rand_bytes(RANDOM);
    #[cfg(unix)]
    if there.is_some() {
        // A rename needs no right to the file that it replaces.
        rustix::fs::access(path, rustix::fs::Access::WRITE_OK).map_err(io::Error::from)?;
    } else {
        // A temporary file is private by default; this one is to get the rights of any new file.
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    }
    let mut file = builder.tempfile_in(folder).map_err(|e| match Obstacle::from(e) {
        missing if missing.is_missing() => Obstacle::new("no such folder", Some("make the folder first")),
        other => other,
    })?;
    write_to(file.as_file_mut(), write)?;
    if let Some(there) = there {
        // Where the system lets it, the new file has the owner and the rights of the old one.
        #[cfg(unix)]
        {
            use std::os::unix::fs::{MetadataExt, fchown};
            let _ = fchown(file.as_file(), Some(there.uid()), Some(there.gid()));
        }
        let _ = file.as_file().set_permissions(there.permissions());
    }
    file.as_file().sync_all()?;
    file.persist(path).map_err(|e| e.error)?;
    // The rename itself lasts once the folder is synced; not every system can sync a folder.
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
    Ok(())
}

/// Writes into a pipe, a device, or an open file of this process, at its end.
fn write_stream(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Obstacle> {
    let mut options = fs::OpenOptions::new();
    options.append(true);
    #[cfg(unix)]
    {
        use rustix::fs::OFlags;
        // A pipe that nobody reads would make this wait for ever.
        let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32;
        std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, flags);
        let file = options.open(path)?;
        let flags = rustix::fs::fcntl_getfl(&file).map_err(io::Error::from)?;
        rustix::fs::fcntl_setfl(&file, flags - OFlags::NONBLOCK).map_err(io::Error::from)?;
        Ok(write_to(file, write)?)
    }
    #[cfg(not(unix))]
    Ok(write_to(options.open(path)?, write)?)
}

/// Writes `bytes` as a file that appears whole or not at all. A link stays, and what it leads to is written; a pipe or a
/// device is written into, and `/dev/stdout` is standard output.
///
/// # Errors
/// Any failure to write; a file that was there is then still the old one.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    write_whole(path, Streams::Written, |out| out.write_all(bytes))
}

/// [`write_file`] of a file that is to be read again: a pipe or a device is an error.
///
/// # Errors
/// Those of [`write_file`].
pub fn write_regular(path: &Path, bytes: &[u8]) -> Result<()> {
    write_whole(path, Streams::Refused, |out| out.write_all(bytes))
}

/// The values of a tensor to be written.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Values<'a> {
    /// Features, embeddings, scores.
    F32(&'a [f32]),
    /// Row numbers.
    U32(&'a [u32]),
}

/// Writes tensors (name, shape, values) as a safetensors file, as [`write_file`] does.
///
/// # Errors
/// A shape that is not that of its values, and any failure to write; a file that was there is then still the old one.
pub fn write_tensors(path: &Path, tensors: &[(&str, &[usize], Values)]) -> Result<()> {
    let unwritable = |e: safetensors::SafeTensorError| {
        Error::data(path.display(), "tensors that can be written", e, "give the shapes of the values")
    };
    let mut views = Vec::new();
    for &(name, shape, values) in tensors {
        let (dtype, bytes): (_, &[u8]) = match values {
            Values::F32(values) => (Dtype::F32, bytemuck::cast_slice(values)),
            Values::U32(values) => (Dtype::U32, bytemuck::cast_slice(values)),
        };
        views.push((name, TensorView::new(dtype, shape.to_vec(), bytes).map_err(unwritable)?));
    }
    write_file(path, &safetensors::serialize(views, None).map_err(unwritable)?)
}
