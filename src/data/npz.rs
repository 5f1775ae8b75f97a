//! `.npz` archives, as `numpy.savez` and `numpy.savez_compressed` write them.
//!
//! Stored members are read in place. Compressed members are decompressed when the dataset is opened.

use super::held::Held;
use super::npy::npy_in;
use super::parts::Parts;
use super::positioned::{Header, PositionedFile};
use crate::{Error, Result};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use zip::ZipArchive;

/// An open archive.
#[derive(Debug)]
pub(super) struct Archive {
    label: String,
    file: Arc<PositionedFile>,
    zip: ZipArchive<Reader>,
}

const ADVICE: &str = "write the archive again with numpy.savez";

impl Archive {
    pub fn open(path: &Path, file: PositionedFile) -> Result<Self> {
        let label = path.display().to_string();
        let file = Arc::new(file);
        let reader = Reader { file: Arc::clone(&file), position: 0 };
        let zip = ZipArchive::new(reader)
            .map_err(|e| Error::data(&label, "an .npz archive", format!("another file ({e})"), ADVICE))?;
        Ok(Self { label, file, zip })
    }

    /// The array's name in messages.
    pub fn label(&self, name: &str) -> String {
        format!("{} array {name}", self.label)
    }

    /// Whether there is an array of this name.
    pub fn has(&self, name: &str) -> bool {
        self.zip.index_for_name(&format!("{name}.npy")).is_some()
    }

    /// The header of an array.
    pub fn header(&self, name: &str) -> Result<Header> {
        let label = self.label(name);
        let Some(index) = self.zip.index_for_name(&format!("{name}.npy")) else {
            let mut names: Vec<_> = self.zip.file_names().map(|name| name.trim_end_matches(".npy")).collect();
            names.sort_unstable();
            let names = names.join(", ").chars().take(100).collect::<String>();
            let found = if names.is_empty() { "an empty archive".into() } else { format!("only {names}") };
            let advice = "save it under this name: numpy.savez(FILE, images=..., texts=..., text_to_image=..., split_train=...)";
            return Err(Error::data(label, "this array", found, advice));
        };
        let damaged = |found: String| Error::data(&label, "an array in the archive", found, ADVICE);
        // The members share the bytes of the archive, but each has its own place in it.
        let mut zip = self.zip.clone();
        let mut member = zip.by_index(index).map_err(|e| damaged(format!("a damaged one ({e})")))?;
        let size = member.size();
        if member.compression() == zip::CompressionMethod::Stored {
            let start = member.data_start().unwrap_or(u64::MAX);
            if start.checked_add(size).is_none_or(|end| end > self.file.bytes) {
                return Err(damaged(format!("{size} bytes at byte {start} of {}", self.file.bytes)));
            }
            let member = Parts::window(Arc::clone(&self.file), start, size);
            return npy_in(PositionedFile::parts(member), label);
        }
        let mut held = Held::new(&label);
        held.read_from(&mut member, size, "an array in the archive", ADVICE)?;
        npy_in(held.finish(), label)
    }
}

/// Reads an open file from its own position.
#[derive(Debug, Clone)]
struct Reader {
    file: Arc<PositionedFile>,
    position: u64,
}

impl Read for Reader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let left = self.file.bytes.saturating_sub(self.position);
        let count = out.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        self.file.read_exact_at(&mut out[..count], self.position)?;
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for Reader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(offset) => self.file.bytes.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}
