//! Reads regular files, up to a size that suits their use.

use super::kind::kind_of;
use super::{MAX_SAFETENSORS_HEADER, Obstacle, may_fail};
use safetensors::SafeTensorError;
use safetensors::tensor::Metadata;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::path::Path;

/// Most bytes of a text about one thing: weights, a configuration, a cache of kernel choices.
pub const SMALL: u64 = 1 << 24;
/// Most bytes of a text with one line per item.
pub const LINES: u64 = 1 << 30;

/// Opens a file for reading and returns its length in bytes. Never waits.
///
/// # Errors
/// The file is missing or may not be read, or it is not a regular file: a folder, a pipe, a device, a socket.
pub fn open(path: &Path) -> Result<(File, u64), Obstacle> {
    // Check before opening, because opening alone may affect a device.
    regular(&fs::metadata(path)?)?;
    let mut options = OpenOptions::new();
    options.read(true);
    // Check again after opening, because another file may have taken its place. NONBLOCK keeps a pipe from making this
    // wait.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(
        &mut options,
        (rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY).bits() as i32,
    );
    let file = options.open(path)?;
    let metadata = file.metadata()?;
    regular(&metadata)?;
    Ok((file, metadata.len()))
}

fn regular(metadata: &fs::Metadata) -> Result<(), Obstacle> {
    if metadata.is_file() {
        return Ok(());
    }
    let advice = match metadata.is_dir() {
        true => None,
        false => Some("save what it gives as a file first, and give that file"),
    };
    Err(Obstacle::new(kind_of(metadata.file_type()), advice))
}

/// Reads a whole file of at most `most` bytes.
///
/// # Errors
/// Those of [`open`], a longer file, and any failure to read.
pub fn read(path: &Path, most: u64) -> Result<Vec<u8>, Obstacle> {
    let (file, length) = open(path)?;
    let mut bytes = Vec::new();
    if length <= most {
        // One byte more, to notice a file that has grown or does not report its length.
        file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    }
    if length > most || bytes.len() as u64 > most {
        let found = format!("a file of more than {most} bytes");
        return Err(Obstacle::new(
            found,
            Some("check that it is the right file: such a one is never so large"),
        ));
    }
    Ok(bytes)
}

/// Like [`read`], for a text in UTF-8.
///
/// # Errors
/// Those of [`read`], and another encoding.
pub fn read_text(path: &Path, most: u64) -> Result<String, Obstacle> {
    String::from_utf8(read(path, most)?).map_err(|e| {
        let found = format!("another encoding at byte {}", e.utf8_error().valid_up_to());
        Obstacle::new(found, Some("save the file as UTF-8"))
    })
}

/// Reads a whole safetensors file. Its header must be valid and match the length of the file. Otherwise the values are
/// not read.
///
/// # Errors
/// Those of [`open`], any failure to read, an invalid header, and a length that does not match the header.
pub(crate) fn read_safetensors(path: &Path) -> Result<Vec<u8>, Obstacle> {
    let (mut file, length) = open(path)?;
    let mut bytes = Vec::new();
    let not_whole = |e: SafeTensorError| Obstacle::new(e.to_string(), None);
    read_on(&mut file, &mut bytes, 8)?;
    let header = <[u8; 8]>::try_from(&bytes[..]).map_err(|_| not_whole(SafeTensorError::HeaderTooSmall))?;
    let header = u64::from_le_bytes(header);
    if header > MAX_SAFETENSORS_HEADER {
        return Err(not_whole(SafeTensorError::HeaderTooLarge));
    }
    if header > length - 8 {
        return Err(not_whole(SafeTensorError::InvalidHeaderLength));
    }
    read_on(&mut file, &mut bytes, header)?;
    let metadata: Metadata = serde_json::from_slice(&bytes[8..])
        .map_err(|e| not_whole(SafeTensorError::InvalidHeaderDeserialization(e)))?;
    let rest = length - 8 - header;
    if metadata.data_len() as u64 != rest {
        return Err(not_whole(SafeTensorError::MetadataIncompleteBuffer));
    }
    read_on(&mut file, &mut bytes, rest)?;
    Ok(bytes)
}

/// The first bytes of a file; fewer if the file is shorter.
///
/// # Errors
/// Those of [`open`], and any failure to read.
pub(crate) fn read_start(path: &Path, bytes: usize) -> Result<Vec<u8>, Obstacle> {
    let (mut file, _) = open(path)?;
    let mut start = Vec::new();
    read_on(&mut file, &mut start, bytes as u64)?;
    Ok(start)
}

/// Appends the next bytes of a file.
fn read_on(file: &mut File, bytes: &mut Vec<u8>, more: u64) -> io::Result<()> {
    let more_bytes = more.try_into().unwrap_or(usize::MAX);
    may_fail(|| bytes.try_reserve_exact(more_bytes)).map_err(|_| io::ErrorKind::OutOfMemory)?;
    file.take(more).read_to_end(bytes).map(drop)
}
