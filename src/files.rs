//! Files: what is written appears whole or not at all; what else the core must not do in a browser.

use crate::objective::BYTES;
use crate::{CustomWeights, Error, ErrorKind, Result};
use safetensors::tensor::{Dtype, TensorView};
use std::io::{BufWriter, Read, Write};
use std::path::Path;

/// Writes a file under a temporary name in the same folder, syncs it and renames it into place.
///
/// # Errors
/// Any failure to write; a file that was there is then still the old one, and no other is left behind.
pub(crate) fn write_whole(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let attempt = || {
        let mut builder = tempfile::Builder::new();
        // A temporary file is private by default; this one is to get the rights of any new file.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let file = builder.prefix(".wgoal-").tempfile_in(folder);
        // The kind alone: the text names the temporary file, which means nothing to anyone.
        let mut out = BufWriter::new(file.map_err(|e| e.kind())?);
        write(&mut out)?;
        let file = out.into_inner().map_err(|e| e.into_error())?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        // The rename itself lasts once the folder is synced; not every system can sync a folder.
        if let Ok(folder) = std::fs::File::open(folder) {
            let _ = folder.sync_all();
        }
        Ok(())
    };
    attempt().map_err(|e: std::io::Error| {
        let advice = "check that the folder exists, its space and its rights";
        Error::new(ErrorKind::Data, path.display(), "a file that can be written", e, advice)
    })
}

/// Writes `bytes` as a file that appears whole or not at all.
///
/// # Errors
/// Any failure to write; a file that was there is then still the old one.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    write_whole(path, |out| out.write_all(bytes))
}

/// The values of a tensor to be written.
#[derive(Debug, Clone, Copy)]
pub enum Values<'a> {
    /// Features, embeddings, scores.
    F32(&'a [f32]),
    /// Row numbers.
    U32(&'a [u32]),
}

/// Writes tensors (name, shape, values) as a safetensors file that appears whole or not at all.
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

/// What waits for a disk, apart from the core that runs in a browser.
impl CustomWeights {
    /// [`CustomWeights::new`] on a file.
    ///
    /// # Errors
    /// A file that cannot be read, and those of [`CustomWeights::new`].
    pub fn open<'a>(
        path: impl AsRef<Path>,
        parameters: impl IntoIterator<Item = (&'a str, f32)>,
    ) -> Result<Self> {
        let path = path.as_ref();
        let unreadable = |found: &dyn std::fmt::Display| {
            let advice = "give --weights a WGSL file with triplet_weight and pair_weights";
            Error::config(path.display(), "a text file that can be read", found, advice)
        };
        let mut source = Vec::new();
        let file = std::fs::File::open(path).map_err(|e| unreadable(&e))?;
        // A file of another kind may be of any size; one more byte than is accepted tells.
        file.take(BYTES as u64 + 1).read_to_end(&mut source).map_err(|e| unreadable(&e))?;
        let source = match source.len() > BYTES {
            true => String::from_utf8_lossy(&source).into_owned(),
            false => String::from_utf8(source).map_err(|e| unreadable(&e.utf8_error()))?,
        };
        // What editors on Windows write first.
        let source = source.strip_prefix('\u{feff}').unwrap_or(&source);
        Self::new(&path.display().to_string(), source, parameters)
    }
}
