//! Writes files that appear whole or not at all.

use super::partial::Partial;
use super::place::{Place, place};
use super::{Obstacle, RowList};
use crate::{Error, ErrorKind, Result};
use safetensors::tensor::{Dtype, TensorView};
use std::borrow::Cow;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// What a path may lead to, other than a regular file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Streams {
    /// Pipes and devices, including `/dev/stdout`. They are written directly.
    Written,
    /// Nothing, because the file will be read again.
    Refused,
}

/// Writes a temporary file in the same folder, syncs it and gives it its name. A link stays, and its target is written.
///
/// # Errors
/// Any failure to write. An existing file then stays unchanged, and no temporary file is left behind.
pub(crate) fn write_whole(
    path: &Path,
    streams: Streams,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    let attempt = || match place(path)? {
        Place::File(path, there) => replace(&path, there, write),
        Place::Stream(path) if streams == Streams::Written => write_stream(&path, write),
        Place::Output if streams == Streams::Written => match write_to(io::stdout().lock(), write) {
            // A reader that closed its pipe is no error.
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
    #[cfg(unix)]
    if there.is_some() {
        // A rename needs no permission to write the file that it replaces, so this checks it.
        rustix::fs::access(path, rustix::fs::Access::WRITE_OK).map_err(io::Error::from)?;
    }
    // In place of another file, it gets the permissions of that one below.
    let partial = Partial::new(folder, there.is_none()).map_err(|e| match Obstacle::from(e) {
        missing if missing.is_missing() => Obstacle::new("no such folder", Some("make the folder first")),
        other => other,
    })?;
    write_to(&partial.file, write)?;
    if let Some(there) = there {
        // The new file gets the owner and the permissions of the old one, if the system allows it.
        #[cfg(unix)]
        {
            use std::os::unix::fs::{MetadataExt, fchown};
            let _ = fchown(&partial.file, Some(there.uid()), Some(there.gid()));
        }
        let _ = partial.file.set_permissions(there.permissions());
    }
    partial.file.sync_all()?;
    partial.persist(path)?;
    // The rename survives a crash only after the folder is synced. Not every system can sync a folder.
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
    Ok(())
}

/// Appends to a pipe, a device, or an open file of this process.
fn write_stream(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Obstacle> {
    let mut options = fs::OpenOptions::new();
    options.append(true);
    #[cfg(unix)]
    {
        use rustix::fs::OFlags;
        // Without NONBLOCK, opening a pipe that nobody reads would wait forever.
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

/// Writes `bytes` as a file that appears whole or not at all. A link stays, and its target is written. A pipe or a
/// device is written directly, and `/dev/stdout` is standard output.
///
/// # Errors
/// Any failure to write. An existing file then stays unchanged.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    write_whole(path, Streams::Written, |out| out.write_all(bytes))
}

/// Like [`write_file`], for a file that will be read again: a pipe or a device is an error.
///
/// # Errors
/// Those of [`write_file`].
pub fn write_regular(path: &Path, bytes: &[u8]) -> Result<()> {
    write_whole(path, Streams::Refused, |out| out.write_all(bytes))
}

/// The values of a tensor to write.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Values<'a> {
    /// Features, embeddings, scores.
    F32(&'a [f32]),
    /// Row numbers. The file holds them as I64, the type of indices in PyTorch and NumPy.
    Rows(&'a RowList),
    /// Positions within a batch, also as I64.
    Positions(&'a [u32]),
}

/// Writes tensors (name, shape, values) as a safetensors file, like [`write_file`].
///
/// # Errors
/// A shape does not match its values, or the file cannot be written. An existing file then stays unchanged.
pub fn write_tensors(path: &Path, tensors: &[(&str, &[usize], Values)]) -> Result<()> {
    let unwritable = |e: safetensors::SafeTensorError| {
        Error::data(path.display(), "tensors that can be written", e, "give the shapes of the values")
    };
    let mut parts = Vec::new();
    for &(name, shape, values) in tensors {
        let (dtype, bytes): (_, Cow<[u8]>) = match values {
            Values::F32(values) => (Dtype::F32, bytemuck::cast_slice(values).into()),
            Values::Positions(positions) => {
                (Dtype::I64, positions.iter().flat_map(|&at| i64::from(at).to_le_bytes()).collect())
            }
            Values::Rows(rows) => {
                (Dtype::I64, rows.iter().flat_map(|row| (row as i64).to_le_bytes()).collect())
            }
        };
        parts.push((name, dtype, shape, bytes));
    }
    let views = parts.iter().map(|(name, dtype, shape, bytes)| {
        TensorView::new(*dtype, shape.to_vec(), bytes).map(|view| (*name, view))
    });
    let views = views.collect::<std::result::Result<Vec<_>, _>>().map_err(unwritable)?;
    write_file(path, &safetensors::serialize(views, None).map_err(unwritable)?)
}
